"""What people answered, in words: for reports and tables."""

from __future__ import annotations

from controller.labels.records import AnswerRecord
from controller.labels.store import LabelStore


def in_words(answer: AnswerRecord) -> str:
    """Return what somebody said, in a few words."""
    reply = answer.reply
    if reply.outcome != "answered":
        return reply.outcome
    if reply.chosen is not None:
        return f"option {reply.chosen + 1}"
    if reply.score is not None:
        return f"score {reply.score:.2g}"
    said = []
    for annotation in reply.annotations:
        if annotation.kind == "tag":
            said.append(", ".join(annotation.present))
        elif annotation.kind == "grades":
            said.append(", ".join(f"{name} {grade:.2g}" for name, grade in annotation.grades.items()))
        elif annotation.kind == "points":
            said.append(f"{len(annotation.points_yx)} points of {annotation.class_name}")
        else:
            said.append(f"{annotation.kind} of {', '.join(dict.fromkeys(annotation.class_names))}")
    return "; ".join(said)


def answers_of_cycles(store: LabelStore, run_id: str) -> dict[int, list[str]]:
    """Return what people answered to the questions of a session's own policy, by the cycle that asked."""
    names = {one.id: one.name for one in store.annotators()}
    prefix = f"{run_id}/cycle/"
    cycle_of = {
        request.id: int(request.key.removeprefix(prefix))
        for request in store.requests()
        if request.key.startswith(prefix)
    }
    found: dict[int, list[str]] = {}
    for answer in store.answers():
        if answer.request_id in cycle_of:
            told = f"{in_words(answer)} ({names[answer.annotator_id]}, {answer.elapsed_s:.1f} s)"
            found.setdefault(cycle_of[answer.request_id], []).append(told)
    return found
