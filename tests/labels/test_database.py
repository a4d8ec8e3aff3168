"""The database is made once, by whoever comes first, and refuses to forget."""

from __future__ import annotations

import os
import sqlite3
import warnings
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Executable, insert, select, text

from controller.core.errors import ConfigurationError, RecordingError, SessionFolderError
from controller.labels import tables
from controller.labels.database import LABELS_NAME, Database
from controller.labels.queue import LabelQueue
from controller.labels.records import Consensus, ModelRecord
from controller.labels.store import LabelStore
from tests.labels.support import Place, add_person, ask, at_once, claimed, submission


def open_and_look(place: Place) -> int:
    database = Database.open(place, create=True)
    with database.reading() as connection:
        version: int = connection.execute(select(tables.layout.c.version)).scalar_one()
    database.close()
    return version


def test_several_processes_make_the_same_database_at_once(place: Place) -> None:
    assert at_once(open_and_look, [(place,)] * 5) == [tables.LAYOUT] * 5


def test_a_place_without_questions_is_said_so(place: Place) -> None:
    with pytest.raises(SessionFolderError, match="nothing was asked there"):
        LabelStore.open(place)


def test_a_damaged_file_is_said_so(tmp_path: Path) -> None:
    (tmp_path / LABELS_NAME).write_bytes(b"not a database, but long enough to be taken for one" * 50)
    with pytest.raises(RecordingError, match="not a database"):
        LabelStore.open(tmp_path)


def test_a_file_that_was_begun_and_never_finished_has_no_questions_and_can_be_made(tmp_path: Path) -> None:
    (tmp_path / LABELS_NAME).touch()
    with pytest.raises(SessionFolderError, match="nothing was asked there"):
        LabelStore.open(tmp_path)
    assert open_and_look(str(tmp_path)) == tables.LAYOUT


def test_a_folder_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="unable to open"):
        LabelStore.open(tmp_path / "gone", create=True)


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "50 % äöü? & #1"
    folder.mkdir()
    assert open_and_look(str(folder)) == tables.LAYOUT
    assert (folder / LABELS_NAME).exists()


def test_a_database_of_another_version_is_refused(place: Place) -> None:
    database = Database.open(place, create=True)
    with database.writing() as connection:
        connection.execute(text("UPDATE layout SET version = version + 1"))
    database.close()
    with pytest.raises(ConfigurationError, match="has layout 2, this version of Stedfast reads 1"):
        Database.open(place)


def test_the_answers_of_an_earlier_version_are_left_as_they_are(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / LABELS_NAME)
    connection.executescript(
        "CREATE TABLE question (id INTEGER PRIMARY KEY, question TEXT);"
        "CREATE TABLE answer (id INTEGER PRIMARY KEY, question_id INTEGER, answer TEXT);"
        "INSERT INTO answer VALUES (1, 3, '\"ring\"');"
    )
    connection.close()
    for create in (False, True):
        with pytest.raises(ConfigurationError, match="earlier version of Stedfast"):
            Database.open(tmp_path, create=create)
    connection = sqlite3.connect(tmp_path / LABELS_NAME)
    tables_there = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    assert sorted(name for (name,) in tables_there) == ["answer", "question"]
    assert connection.execute("SELECT * FROM answer").fetchall() == [(1, 3, '"ring"')]
    connection.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://lab:secret@host/labels", "begins with 'mysql'; allowed"),
        ("sqlite:////tmp/labels.sqlite", "begins with 'sqlite'; allowed"),
        ("postgresql://lab:secret@host:port/labels", "label database postgresql://host"),
        ("nonsense://", "label database nonsense://"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_its_password_is_not_shown(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        Database.open(url)
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_said_so_without_the_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install stedfast[postgresql]")
    with pytest.raises(RecordingError, match="connection") as caught:
        Database.open(f"postgresql://lab:secret@/labels?host={tmp_path}&password=secret")
    assert "secret" not in str(caught.value)


def write_events(store: LabelStore, *names: str | None) -> None:
    with store.database.writing() as connection:
        for name in names:
            connection.execute(insert(tables.event).values(what=name, content="{}", created_s=0))


def test_a_failed_transaction_leaves_nothing(store: LabelStore) -> None:
    with pytest.raises(RecordingError):
        write_events(store, "half", None)
    assert store.events() == []
    write_events(store, "first", "second")
    assert [event.what for event in store.events()] == ["first", "second"]


def test_what_others_write_meanwhile_is_not_seen(store: LabelStore) -> None:
    count = select(tables.event.c.id)
    with store.database.reading() as connection:
        before = connection.execute(count).all()
        store.log("meanwhile")
        assert connection.execute(count).all() == before == []
    assert len(store.events()) == 1


def test_a_postgresql_of_another_encoding_is_refused(postgresql_url: str) -> None:
    import psycopg

    with psycopg.connect(
        postgresql_url.replace("+psycopg", "").partition("&")[0], autocommit=True
    ) as connection:
        connection.execute("CREATE DATABASE old ENCODING 'LATIN1' TEMPLATE template0")
    with pytest.raises(ConfigurationError, match="encoding LATIN1, which cannot hold every name"):
        Database.open(postgresql_url.replace("/postgres?", "/old?"), create=True)


def test_a_forked_process_uses_no_connection_of_its_parent(store: LabelStore) -> None:
    store.log("parent")
    with warnings.catch_warnings():  # the threads of a parallel test run are none of the store's
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:  # whatever happens, this process must not go on with the tests
        status = 1
        try:
            store.log("child")
            status = 0 if len(store.events()) == 2 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    store.log("parent again")
    assert [event.what for event in store.events()] == ["parent", "child", "parent again"]


@pytest.fixture
def full(store: LabelStore, queue: LabelQueue) -> LabelStore:
    """Return a store with a row in every table that nothing may be taken from."""
    request, person = ask(store), add_person(store)
    store.split_of("monday", "field 0", lambda: "train")
    queue.answer(person, submission(claimed(queue.claim(person))))
    store.add_consensus(
        [
            Consensus(
                sample_id=request.items[0].sample_id,
                schema_id=request.schema_id,
                method="majority",
                version=1,
                inputs=(),
                confidence=1.0,
            )
        ]
    )
    snapshot = store.add_snapshot({"answers": [1]})
    store.add_model(
        ModelRecord(
            sha256="a" * 64,
            role="segmenter",
            parent=None,
            snapshot_sha256=snapshot.sha256,
            verdict="published",
            reason="better",
            metrics={},
            answers=1,
            answer_s=1.5,
        )
    )
    store.log("trained")
    return store


def rows(store: LabelStore, table: str) -> list[Any]:
    with store.database.reading() as connection:
        return list(connection.execute(tables.metadata.tables[table].select()))


def test_the_database_refuses_to_change_or_take_away_what_was_said_or_asked(full: LabelStore) -> None:
    names = [*(table.name for table in tables.APPEND_ONLY), "request"]
    before = {name: rows(full, name) for name in names}
    assert all(before.values())
    refused = []
    for name in names:
        table = tables.metadata.tables[name]
        column = "position" if name == "answer_sample" else "created_s"
        statements: list[Executable] = [table.update().values({column: table.c[column] + 1}), table.delete()]
        if full.database.name.startswith("postgresql"):
            statements.append(text(f"TRUNCATE {name} CASCADE"))
        else:
            replacing = table.insert().prefix_with("OR REPLACE")
            statements.append(replacing.from_select(table.c.keys(), select(table)))
        for statement in statements:
            with pytest.raises(RecordingError, match="are only ever added"):
                execute(full, statement)
            refused.append(statement)
    assert len(refused) == 3 * len(names)
    assert {name: rows(full, name) for name in names} == before


def execute(store: LabelStore, statement: Executable) -> None:
    with store.database.writing() as connection:
        connection.execute(statement)
