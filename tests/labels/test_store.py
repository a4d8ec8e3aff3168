"""Questions and answers survive, whoever writes when."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from controller.core.decision import Question
from controller.core.errors import RecordingError, SessionFolderError
from controller.labels.store import LABELS_NAME, LabelStore
from controller.testing import CONFOCAL

QUESTION = Question(
    frame_index=3, region=CONFOCAL.region, kind="choice", text="What is it?", choices=("synapse", "shaft")
)


def test_a_question_is_answered_once_for_each_person_and_nothing_is_replaced(tmp_path: Path) -> None:
    store = LabelStore(tmp_path, create=True)
    store.put(5, QUESTION)
    store.put(5, QUESTION)
    assert [asked.number for asked in store.unanswered()] == [5]
    store.answer(5, "synapse", annotator="a", answer_s=1.5)
    store.answer(5, None, annotator="b", answer_s=0.5)
    again = LabelStore(tmp_path)
    assert again.unanswered() == []
    assert [(a.annotator, a.answer, a.answer_s) for a in again.answers()] == [
        ("a", "synapse", 1.5),
        ("b", None, 0.5),
    ]
    assert again.questions()[0].question == QUESTION


def test_an_answer_that_is_no_choice_or_has_no_question_is_refused(tmp_path: Path) -> None:
    store = LabelStore(tmp_path, create=True)
    store.put(5, QUESTION)
    with pytest.raises(ValueError, match="not one of the choices"):
        store.answer(5, "'; DROP TABLE answer; --", annotator="a", answer_s=1)
    with pytest.raises(ValueError, match="no question 6"):
        store.answer(6, "synapse", annotator="a", answer_s=1)
    with pytest.raises(RecordingError, match="CHECK"):
        store.answer(5, "synapse", annotator="a", answer_s=-1)
    assert store.answers() == []


def test_people_and_the_session_write_at_the_same_time(tmp_path: Path) -> None:
    LabelStore(tmp_path, create=True)

    def ask(offset: int) -> None:
        for number in range(offset, offset + 20):
            LabelStore(tmp_path).put(number, QUESTION)
            LabelStore(tmp_path).answer(number, "shaft", annotator=str(offset), answer_s=0.1)

    threads = [threading.Thread(target=ask, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(LabelStore(tmp_path).questions()) == len(LabelStore(tmp_path).answers()) == 80


def test_a_folder_without_questions_or_with_a_damaged_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SessionFolderError, match="nothing was asked"):
        LabelStore(tmp_path)
    (tmp_path / LABELS_NAME).write_bytes(b"not a database, but long enough to be taken for one" * 50)
    with pytest.raises(RecordingError, match="not a database"):
        LabelStore(tmp_path)
