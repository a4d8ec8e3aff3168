"""Writes the report of a session, for whichever command wants one."""

from __future__ import annotations

from pathlib import Path

import typer

from controller.core.errors import StedfastError


def write_session_report(folder: Path) -> Path | None:
    """Write the report at the end of a run; a session is not worse for a report that cannot be written."""
    try:
        return report_of(folder, folder / "report.html")
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # its outcome is what matters
        typer.echo(f"the report could not be written: {type(error).__name__} {error}", err=True)
        return None


def report_of(folder: Path, target: Path) -> Path:
    """Write the report of a session, with the answers that people gave; return where it is."""
    from controller.recording.reader import SessionReader
    from controller.recording.report import write_report

    reader = SessionReader(folder)
    return write_report(reader, target, answers=_answers(folder, reader.start.run_id))


def _answers(folder: Path, run_id: str) -> dict[int, list[str]]:
    """Return what people answered, by the cycle that asked; nothing, where nobody was asked."""
    try:
        from controller.labels.database import LABELS_NAME
        from controller.labels.store import LabelStore
        from controller.labels.wording import answers_of_cycles
    except ImportError:
        return {}  # without the extra nobody can have answered here
    if not (folder / LABELS_NAME).exists():
        return {}
    try:
        return answers_of_cycles(LabelStore.open(folder), run_id)
    except StedfastError as error:
        # What was imaged is told in any case.
        typer.echo(f"the report is without people's answers: {error}", err=True)
        return {}
