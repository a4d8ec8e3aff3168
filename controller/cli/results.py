"""``stedfast report`` and ``export``: what is done with a recorded session."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from controller.cli.reporting import report_of
from controller.cli.terminal import JsonOption, SessionArgument, app, errors_told
from controller.core.errors import StedfastError


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
    """Write the answers of people as a table, where there are any."""
    try:
        from controller.labels.database import LABELS_NAME
        from controller.labels.formats.exporting import write_answers
        from controller.labels.store import LabelStore
    except ImportError:
        return []  # without the extra nobody can have answered here
    if not (folder / LABELS_NAME).exists():
        return []
    try:
        return [write_answers(LabelStore.open(folder), target / "answers.csv")]
    except StedfastError as error:
        typer.echo(f"people's answers are not exported: {error}", err=True)
        return []
