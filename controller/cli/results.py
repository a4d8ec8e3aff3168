"""``stedfast report``, ``export`` and ``label``: what is done with a recorded session."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli.reporting import report_of
from controller.cli.terminal import JsonOption, SessionArgument, app, errors_told

if TYPE_CHECKING:
    from rich.console import Console


@app.command("report")
def make_report(
    folder: SessionArgument,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML file to write.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the report of a session: one self-contained HTML page."""
    with errors_told(as_json):
        from controller.recording.reader import SessionReader

        path = report_of(folder, output or folder / "report.html")
        changes = SessionReader(folder).changes
        if as_json:
            learned = [change.model_dump(exclude={"type", "uid"}) for change in changes]
            typer.echo(json.dumps({"status": "ok", "report": str(path), "learned": learned}))
            return
        typer.echo(f"report: {path}")
        for change in changes:
            typer.echo(
                f"{change.role} from cycle {change.cycle}: score {change.score_before:.4g} -> "
                f"{change.score_after:.4g}, {change.reason}"
            )


@app.command()
def export(  # noqa: PLR0917  # one argument an option
    what: Annotated[Path, typer.Argument(help="A session folder, or weights of a model (.safetensors).")],
    target: Annotated[Path | None, typer.Argument(help="Folder to make, for a session.")] = None,
    bioimageio: Annotated[
        Path | None, typer.Option(help="Zip to write, for a model: a package of the BioImage Model Zoo.")
    ] = None,
    author: Annotated[list[str] | None, typer.Option(help="Of the model; as often as needed.")] = None,
    licence: Annotated[str | None, typer.Option(help="SPDX identifier, if the card names none.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the model in its package.")] = None,
) -> None:
    """Write a session as OME-TIFF images and CSV tables, for Fiji and spreadsheets; or a model for others."""
    with errors_told(as_json=False):
        if bioimageio is not None:
            _export_model(str(what), bioimageio, tuple(author or ()), licence, name)
            return
        from controller.core.errors import ConfigurationError

        if what.suffix in {".safetensors", ".json"}:
            raise ConfigurationError(f"{what} is a model: say --bioimageio OUT.zip")
        if target is None:
            raise ConfigurationError(f"name the folder to make: stedfast export {what} FOLDER")
        from controller.recording.export import export_session
        from controller.recording.reader import SessionReader

        paths = export_session(SessionReader(what), target)
        paths += _export_answers(what, target)
        typer.echo(f"{len(paths)} files in {target}")


@app.command()
def label(
    folder: SessionArgument,
    annotator: Annotated[str, typer.Option(help="Your name or pseudonym.")] = "me",
) -> None:
    """Answer the open questions of a session, in the terminal."""
    with errors_told(as_json=False):
        from rich.console import Console

        from controller.core.decision import AskLabel
        from controller.labels.store import LabelStore
        from controller.recording.reader import SessionReader

        reader, console = SessionReader(folder), Console()
        store = LabelStore(folder, create=True)
        for cycle in reader.cycles:
            # The journal holds every question, also one that its queue could not take at the time.
            if isinstance(cycle.decision, AskLabel) and cycle.refused is None:
                store.put(cycle.index, cycle.decision.question)
        waiting = store.unanswered()
        for position, asked in enumerate(waiting, start=1):
            choices = asked.question.choices
            if not choices:
                console.print(f"question {asked.number} needs a drawing ({asked.question.kind}); skipped")
                continue
            _show_question(console, folder, asked.question.frame_index)
            console.print(f"[bold]{position} of {len(waiting)}: {asked.question.text}[/bold]")
            console.print("  ".join(f"[cyan]{n}[/cyan] {c}" for n, c in enumerate(choices, start=1)))
            start_s = time.monotonic()
            key = _ask_key(len(choices))
            if key == "q":
                break
            answer = None if key == "u" else choices[int(key) - 1]
            store.answer(asked.number, answer, annotator=annotator, answer_s=time.monotonic() - start_s)
        left = len(store.unanswered())
        console.print(
            f"{len(store.answers())} answered, {left} open; update the report: stedfast report {folder}"
        )


def _export_model(
    model: str, target: Path, authors: tuple[str, ...], licence: str | None, name: str | None
) -> None:
    from datetime import UTC, datetime

    from controller.core.errors import ConfigurationError

    try:
        from controller.model_export import export_bioimageio

        named = export_bioimageio(
            model, target, authors=authors, licence=licence, name=name, now=datetime.now(UTC)
        )
    except ImportError as error:
        raise ConfigurationError(
            f"{error}; models are exported with: pip install 'stedfast[learn]'"
        ) from error
    typer.echo(f"{named}: {target}")


def _export_answers(folder: Path, target: Path) -> list[Path]:
    import csv

    from controller.labels.store import LABELS_NAME, LabelStore

    if not (folder / LABELS_NAME).exists():
        return []
    path = target / "answers.csv"
    with path.open("x", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["cycle", "annotator", "answer", "answer_s", "answered_utc"])
        for a in LabelStore(folder).answers():
            answer = a.answer if isinstance(a.answer, str) or a.answer is None else json.dumps(a.answer)
            table.writerow([a.question_number, a.annotator, answer or "unsure", a.answer_s, a.answered_utc])
    return [path]


def _ask_key(choices: int) -> str:
    """Return the key that was pressed; the end of the input counts as q."""
    prompt, keys = "number, u = unsure, q = quit", {"u", "q", *(str(n) for n in range(1, choices + 1))}
    try:
        while (key := str(typer.prompt(prompt)).strip().lower()) not in keys:
            prompt = f"1 to {choices}, u or q"
    except (typer.Abort, EOFError):
        return "q"
    return key


def _show_question(console: Console, folder: Path, frame_index: int) -> None:
    from controller.display import image_for_terminal
    from controller.recording.reader import SessionReader

    if not console.is_terminal:
        return
    photons = SessionReader(folder).frame(frame_index).photons.astype(float)
    console.print(image_for_terminal(photons, columns=min(64, console.width)))
