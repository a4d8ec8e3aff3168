"""``stedfast label``: the page on which people answer questions about a session."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
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

#: Beside the plan: where the page was offered last.
_PORT_NAME = "port"


@app.command()
def label(  # noqa: PLR0913, PLR0917  # one argument an option
    folder: FolderArgument,
    annotator: NameOption = "me",
    classes: Annotated[
        str | None, typer.Option(help="What to tell apart, with commas; if the experiment has no \\[labels].")
    ] = None,
    question: Annotated[str | None, typer.Option(help="What is asked, if not what \\[labels] says.")] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="How it is answered: tag, grades, points, scribble, box, polygon or mask."),
    ] = None,
    crop_px: Annotated[int | None, typer.Option(help="Side of the square that is asked about.")] = None,
    database: DatabaseOption = None,
    host: Annotated[
        str, typer.Option(help="Address to offer the page at; 0.0.0.0 lets others in, with a token.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="0 takes a free one; without it that of last time, if it is free.")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Another name of the page, such as https://labels.lab.org of a proxy."),
    ] = None,
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

        asked_port = _port_of_last_time(folder, host) if port is None else port
        service = LabelService(Where(folder, database, host, asked_port, tuple(name or ())))
        _keep_port(folder, service.server.port)
        address = service.link(annotator)
        typer.echo(f"the label page: {address}")
        others = _address_for_others(service.server.url, host, name)
        typer.echo(f"for others:     stedfast labels invite {folder} NAME --address {others}")
        typer.echo("Ctrl-C ends it; nothing that was answered is lost")
        if open_browser and _has_screen():
            import webbrowser

            webbrowser.open(address)
        service.run()


def _port_of_last_time(folder: Path, host: str) -> int:
    """Return the port that the page had last if it is free, else 0.

    A browser keeps answers that were not stored yet for one address, and sends them there.
    """
    from controller.labelling.session_plan import LABELS_FOLDER

    try:
        port = int((folder / LABELS_FOLDER / _PORT_NAME).read_text(encoding="ascii"))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, ValueError, OverflowError):
        return 0
    return port


def _keep_port(folder: Path, port: int) -> None:
    from controller.labelling.session_plan import LABELS_FOLDER

    path = folder / LABELS_FOLDER / _PORT_NAME
    with suppress(OSError):  # a convenience; with --database the folder may be one that is only read
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{port}\n", encoding="ascii")


def _address_for_others(url: str, host: str, names: list[str] | None) -> str:
    """Return where others find the page: by its further name, else by that of this computer."""
    port = url.rpartition(":")[2]
    if names:
        return names[0] if "://" in names[0] else f"http://{names[0]}:{port}"
    is_everywhere = host in {"0.0.0.0", "::"}  # noqa: S104  # somebody asked for it
    return f"http://{socket.gethostname()}:{port}" if is_everywhere else url


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
