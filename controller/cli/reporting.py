"""Writes the report of a session, for whichever command wants one."""

from __future__ import annotations

from pathlib import Path

import typer


def write_session_report(folder: Path) -> Path | None:
    """Write the report at the end of a run; a session is not worse for a report that cannot be written."""
    try:
        return report_of(folder, folder / "report.html")
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # its outcome is what matters
        typer.echo(f"the report could not be written: {type(error).__name__} {error}", err=True)
        return None


def report_of(folder: Path, target: Path) -> Path:
    """Write the report of a session, with the answers that people gave; return where it is."""
    from controller.labels.store import LABELS_NAME, LabelStore
    from controller.recording.reader import SessionReader
    from controller.recording.report import write_report

    answers: dict[int, list[str]] = {}
    if (folder / LABELS_NAME).exists():
        for answer in LabelStore(folder).answers():
            told = f"{answer.answer or 'unsure'} ({answer.annotator}, {answer.answer_s:.1f} s)"
            answers.setdefault(answer.question_number, []).append(told)
    return write_report(SessionReader(folder), target, answers=answers)
