"""``stedfast check``: what is wrong with a configuration, before anything moves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli.terminal import (
    EXIT_CONFIGURATION,
    EXIT_FAILURE,
    ConfigArgument,
    JsonOption,
    app,
    errors_told,
)

if TYPE_CHECKING:
    from controller.config import Experiment
    from controller.core.checking import OfflineCheck


@app.command()
def check(
    config: ConfigArgument,
    live: Annotated[bool, typer.Option("--live", help="Connect to the devices and read them.")] = False,
    exercise: Annotated[
        bool, typer.Option("--exercise", help="Connect, and move every setting a little, in the dark.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a configuration and its microscope; real devices are not connected to unless asked.

    Nothing is lit. Simulated microscopes are started, and their policy is asked for its first decision.
    """
    with errors_told(as_json):
        from controller.checkup import check_offline
        from controller.config import load
        from controller.core.errors import ConfigurationError

        experiment = load(config)
        offline = check_offline(experiment)
        if offline is not None:
            _check_devices(experiment, offline, as_json, live=live, exercise=exercise)
        elif exercise:
            driver = experiment.hardware.config.microscope.driver
            raise ConfigurationError(f"--exercise: the driver {driver!r} has no devices that could be moved")
        else:
            check_and_decide(config, {}, as_json)


def _check_devices(
    experiment: Experiment, offline: OfflineCheck, as_json: bool, *, live: bool, exercise: bool
) -> None:
    """Tell what the files say of real devices, and, if asked, what the devices say themselves."""
    from controller.checkup import Checkup, check_devices

    def tell(line: str) -> None:
        if not as_json:
            typer.echo(line)

    tell(f"{experiment.session.path}: ok")
    if not experiment.is_hardware_alone:
        tell(f"{experiment.hardware.path}: ok")
    if offline.summary:
        tell(offline.summary)
    tell(_limits_line(experiment))
    for note in offline.notes:
        tell(f"note: {note}")
    if live or exercise:
        found = check_devices(experiment, offline, tell, exercise=exercise)
        tell("the lights are at their safe values; the devices are released")
    else:
        found = Checkup(offline)
        tell("the devices were not connected to; --live reads them, --exercise moves them, in the dark;")
        tell("'stedfast run FILE --dry' asks the policy for its first decision, too")
    status = "failed" if found.has_failed else "ok"
    if as_json:
        name = experiment.hardware.config.name
        told = {"status": status, "microscope": name, "simulated": False, "is_connected": live or exercise}
        typer.echo(json.dumps(told | found.as_json()))
    if found.has_failed:
        raise typer.Exit(EXIT_FAILURE)


def check_and_decide(config: Path, overrides: dict[str, Any], as_json: bool) -> None:
    """Start a simulated microscope, and ask the policy for its first decision."""
    with errors_told(as_json):
        from controller.checkup import check_microscope
        from controller.config import load

        experiment = load(config, overrides)
        capabilities, decision, refusal = check_microscope(experiment)
        report = {
            "status": "refused" if refusal else "ok",
            "microscope": capabilities.name,
            "simulated": capabilities.simulated,
            "modalities": list(capabilities.modalities),
            "fov_size_yx_m": list(capabilities.fov_size_yx_m),
            "policy": experiment.session.config.policy.name,
            "first_decision": decision.model_dump(mode="json"),
            "refusal": refusal,
        }
        if as_json:
            typer.echo(json.dumps(report))
        else:
            height, width = (1e6 * size for size in capabilities.fov_size_yx_m)
            typer.echo(f"{experiment.session.path}: ok")
            typer.echo(f"{experiment.hardware.path}: ok")
            typer.echo(f"microscope: {capabilities.name}, {', '.join(capabilities.modalities)}")
            typer.echo(f"field of view: {height:g} x {width:g} um")
            typer.echo(_limits_line(experiment))
            typer.echo(f"first decision of {report['policy']!r}: {decision.reason}")
            if refusal:
                typer.echo(f"the guard would refuse it: {refusal}", err=True)
        if refusal:
            raise typer.Exit(EXIT_CONFIGURATION)


def _limits_line(experiment: Experiment) -> str:
    limits = experiment.hardware.config.limits
    return (
        f"limits: excitation {1e6 * limits.excitation_max_w:g} uW, "
        f"STED {1e3 * limits.sted_max_w:g} mW, session {limits.session_energy_max_j:g} J"
    )
