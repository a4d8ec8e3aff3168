"""Questions for people, and their answers: a SQLite file in the session folder.

The loop never waits for it: questions arrive on the writer's thread, and whoever answers works in a
process of their own.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from controller.core.decision import Question
from controller.core.errors import RecordingError, SessionFolderError

LABELS_NAME = "labels.sqlite"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS question (
    id INTEGER PRIMARY KEY,          -- the index of the cycle that asked
    question TEXT NOT NULL,          -- Question as JSON
    asked_utc TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS answer (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    question_id INTEGER NOT NULL REFERENCES question(id),
    annotator TEXT NOT NULL,
    answer TEXT NOT NULL,            -- JSON: a choice, a list of points, or null for 'unsure'
    answer_s REAL NOT NULL CHECK (answer_s >= 0),
    answered_utc TEXT NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """A question in the queue, with the number that an answer refers to."""

    number: int
    question: Question
    asked_utc: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What one person answered to one question, and the seconds it took."""

    question_number: int
    annotator: str
    answer: str | list[list[float]] | None
    answer_s: float
    answered_utc: str


class LabelStore:
    """The questions and answers of one session; append-only, safe for several processes."""

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self._path = folder / LABELS_NAME
        if not create and not self._path.exists():
            raise SessionFolderError(
                f"{folder}: there is no {LABELS_NAME}; nothing was asked in this session"
            )
        with self._connection() as connection:
            # WAL: who answers and who asks do not wait for each other. FULL: an answer survives a crash.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)

    def put(self, number: int, question: Question) -> None:
        """Store a question under the number of its cycle; the same one again changes nothing."""
        with self._connection() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO question VALUES (?, ?, ?)",
                (number, question.model_dump_json(), datetime.now(UTC).isoformat(timespec="seconds")),
            )

    def questions(self) -> list[AskedQuestion]:
        """Return all questions, in the order they were asked."""
        with self._connection() as connection:
            rows = connection.execute("SELECT id, question, asked_utc FROM question ORDER BY id").fetchall()
        return [
            AskedQuestion(number, Question.model_validate_json(text), asked) for number, text, asked in rows
        ]

    def unanswered(self) -> list[AskedQuestion]:
        """Return the questions that nobody has answered yet."""
        answered = {answer.question_number for answer in self.answers()}
        return [asked for asked in self.questions() if asked.number not in answered]

    def answers(self) -> list[Answer]:
        """Return all answers, in the order they were given; a later one does not replace an earlier."""
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT question_id, annotator, answer, answer_s, answered_utc FROM answer ORDER BY id"
            ).fetchall()
        return [Answer(number, who, json.loads(text), float(s), when) for number, who, text, s, when in rows]

    def answer(
        self, number: int, answer: str | Sequence[Sequence[float]] | None, *, annotator: str, answer_s: float
    ) -> None:
        """Store an answer; it is on disk when this returns.

        Raises
        ------
        ValueError
            If there is no such question, or the answer is not one of its choices.
        """
        asked = next((asked for asked in self.questions() if asked.number == number), None)
        if asked is None:
            raise ValueError(f"there is no question {number}")
        choices = asked.question.choices
        if asked.question.kind in {"tag", "choice"} and answer is not None and answer not in choices:
            raise ValueError(f"{answer!r} is not one of the choices {list(choices)}")
        with self._connection() as connection:
            connection.execute(
                "INSERT INTO answer (question_id, annotator, answer, answer_s, answered_utc) "
                "VALUES (?, ?, ?, ?, ?)",
                (
                    number,
                    annotator,
                    json.dumps(answer),
                    answer_s,
                    datetime.now(UTC).isoformat(timespec="seconds"),
                ),
            )

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = sqlite3.connect(self._path, timeout=10.0)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                with connection:
                    yield connection
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise RecordingError(f"{self._path}: {error}") from error
