"""What all commands share: the application, options, exit codes, and how errors are told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

EXIT_FAILURE, EXIT_CONFIGURATION, EXIT_INTERRUPTED = 1, 2, 130
EXIT_CODE = {"completed": 0, "failed": EXIT_FAILURE, "interrupted": EXIT_INTERRUPTED}

app = typer.Typer(
    name="stedfast",
    help="Smart microscopy that watches every photon it spends.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)

ConfigArgument = Annotated[
    Path, typer.Argument(help="An experiment, its folder, or a hardware configuration (TOML).")
]
SessionArgument = Annotated[Path, typer.Argument(help="A session folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, for scripts.")]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="Session folder to make.")]


def fresh_folder(name: str) -> Path:
    """Return a new place for a session, named after the time and what it is."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "session"
    return Path("sessions") / f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{slug}"


@contextmanager
def errors_told(as_json: bool) -> Iterator[None]:
    """Say what is wrong without a traceback, and exit with the code that tells what kind it is."""
    from controller.core.errors import ConfigurationError, SessionFolderError, StedfastError

    def end(status: str, code: int, *problems: str, cause: BaseException) -> None:
        if as_json:
            typer.echo(json.dumps({"status": status, "problems": problems}))
        else:
            for problem in problems:
                typer.echo(problem, err=True)
        raise typer.Exit(code) from cause

    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except (ConfigurationError, SessionFolderError) as error:
        problems = getattr(error, "problems", (str(error),))
        end("bad configuration", EXIT_CONFIGURATION, *problems, cause=error)
    except (StedfastError, OSError) as error:
        end("failed", EXIT_FAILURE, str(error), cause=error)
    except KeyboardInterrupt as error:
        end("interrupted", EXIT_INTERRUPTED, "interrupted", cause=error)
    except Exception as error:  # noqa: BLE001  # a plug-in may raise anything
        end("failed", EXIT_FAILURE, f"unexpected {type(error).__name__}: {error}", cause=error)
