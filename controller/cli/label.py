"""``stedfast label``: the page on which people answer questions about a session."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli.terminal import app, errors_told

if TYPE_CHECKING:
    from controller.labels.plan import LabelPlan

DatabaseOption = Annotated[
    str | None,
    typer.Option(help="A lab's PostgreSQL by URL; without it the labels are in the folder."),
]
FolderArgument = Annotated[Path, typer.Argument(help="A session folder, of a running session too.")]
NameOption = Annotated[str, typer.Option("--annotator", help="Your name or pseudonym.")]


@app.command()
def label(  # noqa: PLR0913, PLR0917  # one argument an option
    folder: FolderArgument,
    annotator: NameOption = "me",
    classes: Annotated[
        str | None, typer.Option(help="What to tell apart, with commas; if the experiment has no [labels].")
    ] = None,
    question: Annotated[str | None, typer.Option(help="What is asked, if not what [labels] says.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="tag, grades, points, scribble, box, polygon, mask.")
    ] = None,
    crop_px: Annotated[int | None, typer.Option(help="Side of the square that is asked about.")] = None,
    database: DatabaseOption = None,
    host: Annotated[
        str, typer.Option(help="Address to offer the page at; 0.0.0.0 lets others in, with a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 0,
    open_browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open it at once.")] = True,
) -> None:
    """Answer questions about a session in the browser, while it runs or afterwards."""
    with errors_told(as_json=False):
        needs_label_extra()
        from controller.core.errors import SessionFolderError
        from controller.labelling.service import LabelService, Where
        from controller.labelling.session_plan import write_plan
        from controller.labels.database import LABELS_NAME
        from controller.recording.journal import JOURNAL_NAME

        if not any((folder / name).exists() for name in (JOURNAL_NAME, LABELS_NAME)):
            raise SessionFolderError(f"{folder}: there is no session and nothing to label here")
        changes = {"question": question, "kind": kind, "crop_px": crop_px}
        plan = _changed_plan(folder, classes, {k: v for k, v in changes.items() if v is not None})
        if plan is not None:
            write_plan(folder, plan)

        service = LabelService(Where(folder, database, host, port))
        address = service.link(annotator)
        typer.echo(f"the label page: {address}")
        typer.echo(f"for others:     stedfast labels invite {folder} NAME --address {service.server.url}")
        typer.echo("Ctrl-C ends it; nothing that was answered is lost")
        if open_browser and _has_screen():
            import webbrowser

            webbrowser.open(address)
        service.run()


def _has_screen() -> bool:
    """Tell whether a browser would have somewhere to open; one in the terminal would take it over."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def needs_label_extra() -> None:
    """Say what is to be installed, if it is not."""
    from controller.core.errors import ConfigurationError

    try:
        import sqlalchemy
        import starlette
        import uvicorn
    except ImportError as error:
        raise ConfigurationError(
            f"{error}; people's labels need: pip install 'stedfast[label,learn]'"
        ) from error
    del sqlalchemy, starlette, uvicorn


def _changed_plan(folder: Path, classes: str | None, changes: dict[str, object]) -> LabelPlan | None:
    """Return the plan with what the command line says instead; ``None`` if it says nothing."""
    from pydantic import ValidationError

    from controller.core.errors import ConfigurationError
    from controller.labelling.session_plan import plan_of
    from controller.labels.plan import LabelPlan

    if classes is not None:
        changes["classes"] = tuple(name.strip() for name in classes.split(",") if name.strip())
    if not changes:
        return None
    before = plan_of(folder)
    if before is None and classes is None:
        raise ConfigurationError(
            f"{folder}: its experiment has no [labels]; say --classes, such as ring,fiber"
        )
    try:
        return LabelPlan.model_validate({**(dict(before) if before else {}), **changes})
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise ConfigurationError(
            *(f"--{'.'.join(map(str, p['loc']))}: {p['msg']} (got {p['input']!r})" for p in problems)
        ) from error
