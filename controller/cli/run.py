"""``stedfast run``, ``serve``, ``resume`` and ``replay``: everything that makes a session."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli.check import check_and_decide
from controller.cli.driving import drive, play, tell_outcome
from controller.cli.reporting import write_session_report
from controller.cli.terminal import (
    EXIT_CODE,
    EXIT_FAILURE,
    ConfigArgument,
    JsonOption,
    OutputOption,
    SessionArgument,
    app,
    errors_told,
    fresh_folder,
)

if TYPE_CHECKING:
    from controller.assemble import Hooks
    from controller.config import Experiment
    from controller.plugins import Server
    from controller.recording.documents import StartDocument
    from controller.serving import Serving


@app.command()
def run(  # noqa: PLR0913, PLR0917  # one parameter for each option of the command
    config: ConfigArgument,
    output: OutputOption = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed, instead of the experiment's.")] = None,
    policy: Annotated[str | None, typer.Option(help="Policy, instead of the experiment's.")] = None,
    budget_energy: Annotated[
        float | None, typer.Option(help="Light energy on the sample, in joules.")
    ] = None,
    budget_cycles: Annotated[int | None, typer.Option(help="Number of cycles.")] = None,
    budget_duration: Annotated[float | None, typer.Option(help="Duration in seconds.")] = None,
    dry: Annotated[
        bool, typer.Option("--dry", help="Check, connect, decide once; no light, no files.")
    ] = False,
    report: Annotated[bool, typer.Option(help="Write report.html at the end.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Run a session. First Ctrl-C: stop after this frame, light off. Second: abort."""
    asked = {
        "seed": seed,
        "policy.name": policy,
        "budget.session_energy_j": budget_energy,
        "budget.cycles": budget_cycles,
        "budget.duration_s": budget_duration,
    }
    overrides = {key: value for key, value in asked.items() if value is not None}
    if dry:
        check_and_decide(config, overrides, as_json)
        return
    with errors_told(as_json):
        from controller.assemble import new_session
        from controller.config import load
        from controller.core.errors import ConfigurationError

        experiment = load(config, overrides)
        if experiment.is_hardware_alone and not experiment.hardware.config.experiment:
            raise ConfigurationError(
                f"{config}: a microscope alone says nothing to do; make an experiment with "
                f"'stedfast new DIR --hardware {config}', or add a table [experiment]"
            )
        folder = output or fresh_folder(experiment.session.config.name)
        energy_j = _energy_asked_j(experiment)
        drive(lambda hooks: new_session(experiment, folder, hooks=hooks), folder, energy_j, report, as_json)


@app.command()
def serve(  # noqa: PLR0913, PLR0917  # one parameter for each option of the command
    config: ConfigArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this computer; 0: a free one.")] = 4827,
    output: OutputOption = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed, instead of the experiment's.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder in which clients may save images as NDTiff.")
    ] = None,
    report: Annotated[bool, typer.Option(help="Write report.html at the end.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Serve a microscope to pycromanager scripts, and record what they do. Ctrl-C ends it."""
    with errors_told(as_json):
        from controller.assemble import new_serving
        from controller.config import load
        from controller.core.errors import ConfigurationError
        from controller.plugins import find_server

        if data is not None and not data.is_dir():
            raise ConfigurationError(f"--data {data}: there is no such folder; make it first")
        experiment = load(config, {} if seed is None else {"seed": seed})
        folder = output or fresh_folder(f"served {experiment.hardware.config.name}")
        make_server = find_server("micromanager")

        def make(hooks: Hooks) -> Serving:
            def ready(server: Server) -> None:
                _tell_serving(server, folder, data, as_json)
                if hooks.ready is not None:
                    hooks.ready(server)

            told = replace(hooks, ready=ready)
            return new_serving(experiment, folder, make_server, port=port, data_folder=data, hooks=told)

        energy_j = _energy_asked_j(experiment)
        drive(make, folder, energy_j, report, as_json, can_go_on=False)


@app.command()
def resume(folder: SessionArgument, report: bool = True, as_json: JsonOption = False) -> None:
    """Go on with a session that was cut off: same run, same seed, same dose ledger."""
    with errors_told(as_json):
        from controller.assemble import resumed_session
        from controller.recording.reader import SessionReader

        energy_j = _energy_budget_j(SessionReader(folder).start)
        drive(lambda hooks: resumed_session(folder, hooks=hooks), folder, energy_j, report, as_json)


@app.command()
def replay(
    folder: SessionArgument, output: OutputOption = None, report: bool = False, as_json: JsonOption = False
) -> None:
    """Run the same loop on the recorded frames of a session, and say whether it decides the same."""
    with errors_told(as_json):
        from controller.assemble import replayed_session
        from controller.recording.reader import SessionReader

        recorded = SessionReader(folder)
        energy_j = _energy_budget_j(recorded.start)
        target = output or fresh_folder(f"replay of {folder.name}")
        outcome = play(lambda hooks: replayed_session(folder, target, hooks=hooks), energy_j, as_json)
        ours = [cycle.decision for cycle in SessionReader(target).cycles]
        theirs = [cycle.decision for cycle in recorded.cycles]
        first = next(
            (i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None
        )
        same = first is None and len(ours) == len(theirs)
        written = write_session_report(target) if report else None
        tell_outcome(outcome, target, written, as_json, can_go_on=False, identical=same)
        if not as_json:
            where = (
                "" if same else f"; the first difference is in cycle {len(ours) if first is None else first}"
            )
            typer.echo(
                f"decisions: {'identical' if same else 'different'} ({len(ours)} of {len(theirs)}){where}"
            )
        raise typer.Exit(EXIT_CODE[outcome.status] or (0 if same else EXIT_FAILURE))


def _tell_serving(server: Server, folder: Path, data: Path | None, as_json: bool) -> None:
    """Say what clients can do now."""
    if as_json:
        typer.echo(json.dumps({"status": "serving", "port": server.port, "session": str(folder)}))
        return
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    arguments = "" if server.port == 4827 else f"port={server.port}"
    console.print(f"[green]serving on port {server.port}[/green] of this computer, until Ctrl-C")
    console.print(f"clients: [cyan]from pycromanager import Core; core = Core({arguments})[/cyan]")
    console.print(f"devices: {', '.join(server.devices)}")
    saving = f"in {data}" if data is not None else "in memory alone (--data DIR lets them save)"
    console.print(f"images:  recorded in {folder}; acquisitions of clients {saving}")


def _energy_asked_j(experiment: Experiment) -> float:
    asked_j = experiment.session.config.budget.session_energy_j or float("inf")
    return min(asked_j, experiment.hardware.config.limits.session_energy_max_j)


def _energy_budget_j(start: StartDocument) -> float:
    limit_j = float(start.hardware["limits"]["session_energy_max_j"])
    return min(limit_j, start.experiment["budget"]["session_energy_j"] or limit_j)
