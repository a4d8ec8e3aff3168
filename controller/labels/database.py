"""Opens the label database: a SQLite file beside the images, or a lab's PostgreSQL by its URL."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Table,
    create_engine,
    event,
    func,
    insert,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from controller.core.errors import ConfigurationError, RecordingError, SessionFolderError
from controller.labels import tables

LABELS_NAME = "labels.sqlite"

#: Writers wait so long for each other.
_PATIENCE_S = 10.0

#: PostgreSQL ends a transaction whose program has gone silent, so that it does not keep the others waiting.
_SILENCE_S = 30.0

#: Threads that may be at work at once, beyond the five connections that are kept.
_AT_WORK = 40

#: Connections of the process that this one was forked from; closing them would disturb it.
_INHERITED: list[Any] = []

#: A table of the label stores that had no version yet.
_EARLIER = "question"

#: Names the lock of PostgreSQL that is held by whoever writes; any number that nobody else uses.
_TURN = 0x53746564_6661_7374


class Database:
    """One label database, and the transactions in it.

    Raises
    ------
    RecordingError
        By every transaction that fails; then nothing of it is stored.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine, self.name = engine, name

    @classmethod
    def open(cls, where: Path | str, *, create: bool = False) -> Database:
        """Open the database in a folder, or at a URL such as ``postgresql+psycopg://lab@host/labels``.

        Raises
        ------
        SessionFolderError
            If there is none and ``create`` is false.
        ConfigurationError
            If the URL cannot be used, or the database is of another or an earlier version.
        """
        engine, name = _engine(where, create=create)
        database = cls(engine, name)
        try:
            database._prepare(create=create)
        except BaseException:
            engine.dispose()
            raise
        return database

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    @property
    def is_postgresql(self) -> bool:
        """Tell whether it is a lab's PostgreSQL, not a file."""
        return self._engine.dialect.name == "postgresql"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Read in one transaction: what others write meanwhile is not seen."""
        with self._transaction(writes=False) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Write in one transaction: all of it is on disk when this ends, or nothing.

        One writes at a time, whatever the database: what was read in here holds until the end of it.
        """
        with self._transaction(writes=True) as connection:
            yield connection

    @contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[Connection]:
        options: dict[str, Any] = {"writes": writes}
        if self.is_postgresql and not writes:
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        try:
            with self._engine.connect().execution_options(**options) as connection, connection.begin():
                if writes:
                    _wait_for_turn(connection)
                yield connection
        except SQLAlchemyError as error:
            raise RecordingError(f"{self.name}: {_why(error)}") from error

    def _prepare(self, *, create: bool) -> None:
        with self.reading() as connection:
            self._refuse_other_encodings(connection)
            is_there = inspect(connection).has_table(tables.layout.name)
            is_earlier = not is_there and inspect(connection).has_table(_EARLIER)
        if is_earlier:
            raise ConfigurationError(
                f"{self.name}: these are questions and answers of an earlier version of Stedfast, which this "
                "one cannot read; move the file aside, and what the session asked can be answered anew"
            )
        if not is_there and not create:
            raise SessionFolderError(f"{self.name}: there is no label store; nothing was asked there")
        if not is_there:
            with self.writing() as connection:
                if not inspect(connection).has_table(tables.layout.name):  # nobody was faster
                    _create_tables(connection)
        with self.reading() as connection:
            found = connection.execute(select(tables.layout.c.version)).scalar_one()
        if found != tables.LAYOUT:
            raise ConfigurationError(
                f"{self.name}: the label store has layout {found}, this version of Stedfast reads "
                f"{tables.LAYOUT}"
            )

    def _refuse_other_encodings(self, connection: Connection) -> None:
        if not self.is_postgresql:
            return
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding != "UTF8":
            raise ConfigurationError(
                f"{self.name}: the database has the encoding {encoding}, which cannot hold every name; make "
                f"one with: createdb --encoding=UTF8 --template=template0"
            )


def insert_new(connection: Connection, table: Table, by: Sequence[str], **values: Any) -> bool:
    """Insert a row unless there is one with the same values in the columns ``by``.

    Returns
    -------
    Whether it is new.
    """
    column = table.c[by[0]]
    if connection.dialect.name == "postgresql":
        done = connection.execute(
            postgresql.insert(table)
            .values(**values)
            .on_conflict_do_nothing(index_elements=by)
            .returning(column)
        )
    else:
        done = connection.execute(
            sqlite.insert(table).values(**values).on_conflict_do_nothing(index_elements=by).returning(column)
        )
    return done.first() is not None


def next_number(connection: Connection, table: Table) -> int:
    """Return the number of the next row: they count from 1, without gaps, in the order of arrival.

    Clocks tie and go backwards, and a sequence of the database leaves gaps; numbers do neither.
    """
    newest: int | None = connection.execute(select(func.max(table.c.number))).scalar()
    return 1 + (newest or 0)


def _engine(where: Path | str, *, create: bool) -> tuple[Engine, str]:
    if isinstance(where, str) and "://" in where:
        return _postgresql(where)
    path = Path(where) / LABELS_NAME
    if not create and not path.exists():
        raise SessionFolderError(f"{where}: there is no {LABELS_NAME}; nothing was asked there")
    # A pool: closing the last connection moves the log into the file, which takes longer than an answer.
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        max_overflow=_AT_WORK,
        connect_args={"timeout": _PATIENCE_S},
    )
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    event.listen(engine, "checkout", _leave_to_its_process)
    return engine, str(path)


def _postgresql(where: str) -> tuple[Engine, str]:
    try:
        url = make_url(where)
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        if url.drivername != "postgresql+psycopg":
            raise ConfigurationError(
                f"label database {_without_password(where)}: the URL begins with {url.drivername!r}; allowed "
                f"are 'postgresql' and, for SQLite, a folder"
            )
        engine = create_engine(
            url,
            pool_pre_ping=True,
            max_overflow=_AT_WORK,
            isolation_level="READ COMMITTED",
            connect_args={} if "connect_timeout" in url.query else {"connect_timeout": int(_PATIENCE_S)},
        )
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise ConfigurationError(f"label database {_without_password(where)}: {error}") from error
    event.listen(engine, "connect", _set_up_postgresql)
    event.listen(engine, "checkout", _leave_to_its_process)
    return engine, str(url.difference_update_query(["password"]))  # SQLAlchemy hides the other one


def _set_up_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # transactions begin as _begin_sqlite says
    _write_ahead(connection)
    for setting in (
        "synchronous = FULL",  # an answer survives a crash
        "foreign_keys = ON",
        # Without it, INSERT OR REPLACE takes rows away behind the back of the triggers.
        "recursive_triggers = ON",
    ):
        connection.execute(f"PRAGMA {setting}")


def _leave_to_its_process(connection: Any, record: ConnectionPoolEntry, proxy: PoolProxiedConnection) -> None:
    """Use no connection of the process that this one was forked from, nor close it."""
    if record.info.setdefault("process", os.getpid()) != os.getpid():
        _INHERITED.append(connection)
        record.dbapi_connection = proxy.dbapi_connection = None  # type: ignore[misc]
        raise DisconnectionError("this connection belongs to another process")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Let those who ask and those who answer not wait for each other.

    SQLite does not wait its timeout here, if another process does the same to a new file.
    """
    end_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end_s:
                raise
        time.sleep(0.01)


def _set_up_postgresql(connection: Any, _: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = on")  # an answer survives a crash
        cursor.execute(f"SET lock_timeout = {round(1000 * _PATIENCE_S)}")
        cursor.execute(f"SET idle_in_transaction_session_timeout = {round(1000 * _SILENCE_S)}")
    connection.commit()


def _wait_for_turn(connection: Connection) -> None:
    """Let one transaction write at a time, as SQLite does by itself.

    What is right in SQLite is then right in PostgreSQL, and answers become visible in the order of their
    numbers: whoever asks for those after the last one it saw misses none.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_TURN)))


def _begin_sqlite(connection: Connection) -> None:
    # Who reads before it writes would otherwise find the database locked in between.
    is_writing = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")


def _create_tables(connection: Connection) -> None:
    tables.metadata.create_all(connection)
    connection.execute(insert(tables.layout).values(version=tables.LAYOUT))
    is_postgresql = connection.dialect.name == "postgresql"
    if is_postgresql:
        connection.execute(text(_REFUSE_IN_POSTGRESQL))
    for table in tables.APPEND_ONLY:
        for statement in _triggers(table.name, "", is_postgresql=is_postgresql):
            connection.execute(text(statement))
    asked = ", ".join(column.name for column in tables.request.c if column.name != "state")
    for statement in _triggers(tables.request.name, f" OF {asked}", is_postgresql=is_postgresql):
        connection.execute(text(statement))


_REFUSE_IN_POSTGRESQL = """
CREATE OR REPLACE FUNCTION stedfast_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'rows of % are only ever added', TG_TABLE_NAME; END; $$
"""


def _triggers(table: str, columns: str, *, is_postgresql: bool) -> list[str]:
    """Return statements that let the database itself refuse to change (``columns`` of) or delete rows."""
    if is_postgresql:
        begin, refuse = f"CREATE TRIGGER {table}", "EXECUTE FUNCTION stedfast_append_only()"
        return [
            f"{begin}_no_update BEFORE UPDATE{columns} ON {table} FOR EACH ROW {refuse}",
            f"{begin}_no_delete BEFORE DELETE ON {table} FOR EACH ROW {refuse}",
            f"{begin}_no_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT {refuse}",
        ]
    refuse = f"BEGIN SELECT RAISE(ABORT, 'rows of {table} are only ever added'); END"
    return [
        f"CREATE TRIGGER {table}_no_update BEFORE UPDATE{columns} ON {table} {refuse}",
        f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} {refuse}",
    ]


def _why(error: SQLAlchemyError) -> str:
    """Return the database's own words, without the statement and its values."""
    origin = getattr(error, "orig", None)
    return str(origin if origin is not None else error).strip().partition("\n")[0]


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
