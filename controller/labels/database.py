"""Opens the label database: a SQLite file beside the images, or a lab's PostgreSQL by its URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from controller.core.errors import ConfigurationError, RecordingError, SessionFolderError
from controller.labels import tables

LABELS_NAME = "labels.sqlite"

#: Writers of one SQLite file wait so long for each other.
_PATIENCE_S = 10.0


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
            If the URL cannot be used, or the database is of another version.
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
        """Tell whether rows can be locked one by one."""
        return self._engine.dialect.name == "postgresql"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Read in one transaction: what others write meanwhile is not seen."""
        with self._transaction(writes=False) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Write in one transaction: all of it is on disk when this ends, or nothing."""
        with self._transaction(writes=True) as connection:
            yield connection

    @contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[Connection]:
        try:
            with self._engine.connect().execution_options(writes=writes) as connection, connection.begin():
                yield connection
        except SQLAlchemyError as error:
            raise RecordingError(f"{self.name}: {_why(error)}") from error

    def _prepare(self, *, create: bool) -> None:
        with self.writing() as connection:
            is_there = inspect(connection).has_table(tables.layout.name)
            if not is_there and not create:
                raise SessionFolderError(f"{self.name}: there is no label store; nothing was asked there")
            if not is_there:
                tables.metadata.create_all(connection)
                connection.execute(insert(tables.layout).values(version=tables.LAYOUT))
                for table in tables.APPEND_ONLY:
                    _forbid_changes(connection, table.name)
                return
            found = connection.execute(select(tables.layout.c.version)).scalar_one()
        if found != tables.LAYOUT:
            raise ConfigurationError(
                f"{self.name}: the label store has layout {found}, this version of Stedfast reads "
                f"{tables.LAYOUT}"
            )


def _engine(where: Path | str, *, create: bool) -> tuple[Engine, str]:
    if isinstance(where, str) and "://" in where:
        try:
            engine = create_engine(where, pool_pre_ping=True)
        except (SQLAlchemyError, ImportError) as error:
            raise ConfigurationError(f"label database {_without_password(where)}: {error}") from error
        return engine, str(engine.url)  # SQLAlchemy hides the password
    path = Path(where) / LABELS_NAME
    if not create and not path.exists():
        raise SessionFolderError(f"{where}: there is no {LABELS_NAME}; nothing was asked there")
    # No pool: a connection of another thread or of a forked process is never used.
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool, connect_args={"timeout": _PATIENCE_S})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine, str(path)


def _set_up_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions begin as _begin_sqlite says
    for setting in (
        # WAL: who answers and who asks do not wait for each other. FULL: an answer survives a crash.
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {setting}")


def _begin_sqlite(connection: Connection) -> None:
    # Who reads before it writes would otherwise find the database locked in between.
    is_writing = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")


def _forbid_changes(connection: Connection, table: str) -> None:
    """Let the database itself refuse to change or delete rows."""
    if connection.dialect.name == "postgresql":
        connection.execute(
            text(
                "CREATE OR REPLACE FUNCTION stedfast_append_only() RETURNS trigger AS $$ "
                "BEGIN RAISE EXCEPTION 'rows of % are only ever added', TG_TABLE_NAME; END; $$ "
                "LANGUAGE plpgsql"
            )
        )
        connection.execute(
            text(
                f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
                f"FOR EACH ROW EXECUTE FUNCTION stedfast_append_only()"
            )
        )
        return
    for verb in ("UPDATE", "DELETE"):
        connection.execute(
            text(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, 'rows of {table} are only ever added'); END"
            )
        )


def _why(error: SQLAlchemyError) -> str:
    """Return the database's own words, without the statement and its values."""
    origin = getattr(error, "orig", None)
    return str(origin if origin is not None else error).strip().partition("\n")[0]


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
