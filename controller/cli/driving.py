"""Runs a session from a terminal: progress, signals, the report, the exit code."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from controller.cli.reporting import write_session_report
from controller.cli.terminal import EXIT_CODE, EXIT_INTERRUPTED

if TYPE_CHECKING:
    from rich.console import Console

    from controller.assemble import Hooks
    from controller.serving import Serving
    from controller.session import Outcome, Session

_SIGNALS_TO_QUIT = 5


def drive(
    make: Callable[[Hooks], Session | Serving],
    folder: Path,
    energy_j: float,
    report: bool,
    as_json: bool,
    *,
    can_go_on: bool = True,
) -> None:
    """Run a session to its end, write its report, tell how it ended, and exit with its code."""
    outcome = play(make, energy_j, as_json)
    written = write_session_report(folder) if report else None
    tell_outcome(outcome, folder, written, as_json, can_go_on=can_go_on)
    raise typer.Exit(EXIT_CODE[outcome.status])


def play(make: Callable[[Hooks], Session | Serving], energy_j: float, as_json: bool) -> Outcome:
    """Run a session to its end, with its progress and under signals; return how it ended."""
    from rich.console import Console

    from controller.assemble import Hooks
    from controller.display import SessionProgress

    console = Console(stderr=True, quiet=as_json)
    stopper = _Stopper(console)
    with SessionProgress(console, energy_j) as progress, stopper.listening():
        hooks = Hooks(progress.cycle, progress.acknowledged, lambda _: progress.waiting("clients"))
        session = make(hooks)
        return stopper.run(session)


class _Stopper:
    """Turns signals into an orderly end.

    First signal: stop after this frame. Second: abort. While the light is being put out and the record
    closed, three more are needed to end the process at once. A closed terminal counts like Ctrl-C.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._session: Session | Serving | None = None
        self._count = 0

    def run(self, session: Session | Serving) -> Outcome:
        self._session = session
        if self._count:
            session.stop_after_this_frame("stopped by the user before the first frame")
        return session.run()

    @contextmanager
    def listening(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
        before = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _: object) -> None:
        self._count += 1
        session = self._session
        if session is None:
            raise KeyboardInterrupt  # still connecting: there is nothing to end in order
        if session.is_ending:
            if self._count >= _SIGNALS_TO_QUIT:
                os._exit(EXIT_INTERRUPTED)  # the disk hangs, and the light has been put out
            return
        if self._count == 1:
            session.stop_after_this_frame(f"stopped by the user ({signal.Signals(number).name})")
            with suppress(Exception, SystemExit):  # the terminal may be what has gone
                self._console.print("[yellow]stopping after this frame; once more aborts[/yellow]")
        else:
            raise KeyboardInterrupt


def tell_outcome(
    outcome: Outcome,
    folder: Path,
    report: Path | None,
    as_json: bool,
    *,
    can_go_on: bool = True,
    **more: Any,
) -> None:
    """Say how a session ended and where it is."""
    if as_json:
        told = {
            "status": outcome.status,
            "reason": outcome.reason,
            "cycles": outcome.cycles,
            "frames": outcome.frames,
            "faults": outcome.faults,
            "session": str(folder),
            "report": str(report) if report else None,
        }
        typer.echo(json.dumps(told | more))
        return
    typer.echo(f"{outcome.status}: {outcome.reason}")
    typer.echo(f"{outcome.cycles} cycles, {outcome.frames} frames, {outcome.faults} faults")
    typer.echo(f"session: {folder}")
    if outcome.status != "completed" and can_go_on:
        typer.echo(f"go on:   stedfast resume {folder}")
    if report:
        typer.echo(f"report:  {report}")
