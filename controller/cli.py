"""The ``stedfast`` command. Nothing heavy is imported before a subcommand runs.

Exit codes: 0 success, 1 failure, 2 bad configuration or usage, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from controller.assemble import Hooks
    from controller.config import Experiment
    from controller.core.checking import OfflineCheck
    from controller.plugins import Server
    from controller.recording.documents import StartDocument
    from controller.serving import Serving
    from controller.session import Outcome, Session

EXIT_FAILURE, EXIT_CONFIGURATION, EXIT_INTERRUPTED = 1, 2, 130
_SIGNALS_TO_QUIT = 5
_EXIT_CODE = {"completed": 0, "failed": EXIT_FAILURE, "interrupted": EXIT_INTERRUPTED}

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


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    hardware: Annotated[
        str, typer.Option(help="Hardware configuration: a file, or the name of a shipped one.")
    ] = "sim_sted.toml",
) -> None:
    """Make an experiment to start from: two commented TOML files."""
    with _errors_told(as_json=False):
        from controller.config import shipped_hardware
        from controller.core.errors import ConfigurationError

        template = shipped_hardware("experiment_template.toml")
        source = Path(hardware) if Path(hardware).exists() else shipped_hardware(hardware)
        if not source.exists():
            shipped = sorted(path.name for path in template.parent.glob("*.toml") if path != template)
            raise ConfigurationError(
                f"--hardware {hardware}: there is no such file, and none of that name comes with Stedfast: "
                f"{', '.join(shipped)}"
            )
        hardware = source.name
        copied = [source, *_companions(source)]
        for target in (*(folder / path.name for path in copied), folder / "experiment.toml"):
            if target.exists():
                raise ConfigurationError(f"{target} exists already; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        for path in copied:
            shutil.copyfile(path, folder / path.name)
        name = json.dumps(folder.resolve().name, ensure_ascii=False)
        text = template.read_text().replace('"NAME"', name)
        text = re.sub(
            r"^session_energy_j = .*$", lambda m: _energy_line(source, m[0]), text, flags=re.MULTILINE
        )
        (folder / "experiment.toml").write_text(text.replace('"HARDWARE"', json.dumps(hardware)))
        files = ", ".join(f"{folder}/{path.name}" for path in copied)
        typer.echo(f"{folder}/experiment.toml, {files} are yours to edit. Next:")
        typer.echo(f"  stedfast check {folder}\n  stedfast run {folder}")


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
    with _errors_told(as_json):
        from controller.assemble import check_offline
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
            _check(config, {}, as_json)


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
        _check(config, overrides, as_json)
        return
    with _errors_told(as_json):
        from controller.assemble import new_session
        from controller.config import load
        from controller.core.errors import ConfigurationError

        experiment = load(config, overrides)
        if experiment.is_hardware_alone and not experiment.hardware.config.experiment:
            raise ConfigurationError(
                f"{config}: a microscope alone says nothing to do; make an experiment with "
                f"'stedfast new DIR --hardware {config}', or add a table [experiment]"
            )
        folder = output or _fresh_folder(experiment.session.config.name)
        energy_j = _energy_asked_j(experiment)
        _drive(lambda hooks: new_session(experiment, folder, hooks=hooks), folder, energy_j, report, as_json)


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
    with _errors_told(as_json):
        from controller.assemble import new_serving
        from controller.config import load
        from controller.core.errors import ConfigurationError
        from controller.plugins import find_server

        if data is not None and not data.is_dir():
            raise ConfigurationError(f"--data {data}: there is no such folder; make it first")
        experiment = load(config, {} if seed is None else {"seed": seed})
        folder = output or _fresh_folder(f"served {experiment.hardware.config.name}")
        make_server = find_server("micromanager")

        def make(hooks: Hooks) -> Serving:
            def ready(server: Server) -> None:
                _tell_serving(server, folder, data, as_json)
                if hooks.ready is not None:
                    hooks.ready(server)

            told = replace(hooks, ready=ready)
            return new_serving(experiment, folder, make_server, port=port, data_folder=data, hooks=told)

        energy_j = _energy_asked_j(experiment)
        _drive(make, folder, energy_j, report, as_json, can_go_on=False)


@app.command()
def resume(folder: SessionArgument, report: bool = True, as_json: JsonOption = False) -> None:
    """Go on with a session that was cut off: same run, same seed, same dose ledger."""
    with _errors_told(as_json):
        from controller.assemble import resumed_session
        from controller.recording.reader import SessionReader

        energy_j = _energy_budget_j(SessionReader(folder).start)
        _drive(lambda hooks: resumed_session(folder, hooks=hooks), folder, energy_j, report, as_json)


@app.command()
def replay(
    folder: SessionArgument, output: OutputOption = None, report: bool = False, as_json: JsonOption = False
) -> None:
    """Run the same loop on the recorded frames of a session, and say whether it decides the same."""
    with _errors_told(as_json):
        from controller.assemble import replayed_session
        from controller.recording.reader import SessionReader

        recorded = SessionReader(folder)
        energy_j = _energy_budget_j(recorded.start)
        target = output or _fresh_folder(f"replay of {folder.name}")
        outcome = _play(lambda hooks: replayed_session(folder, target, hooks=hooks), energy_j, as_json)
        ours = [cycle.decision for cycle in SessionReader(target).cycles]
        theirs = [cycle.decision for cycle in recorded.cycles]
        first = next(
            (i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None
        )
        same = first is None and len(ours) == len(theirs)
        written = _write_report(target) if report else None
        _tell_outcome(outcome, target, written, as_json, can_go_on=False, identical=same)
        if not as_json:
            where = (
                "" if same else f"; the first difference is in cycle {len(ours) if first is None else first}"
            )
            typer.echo(
                f"decisions: {'identical' if same else 'different'} ({len(ours)} of {len(theirs)}){where}"
            )
        raise typer.Exit(_EXIT_CODE[outcome.status] or (0 if same else EXIT_FAILURE))


@app.command("report")
def make_report(
    folder: SessionArgument,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML file to write.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the report of a session: one self-contained HTML page."""
    with _errors_told(as_json):
        path = _report(folder, output or folder / "report.html")
        typer.echo(json.dumps({"status": "ok", "report": str(path)}) if as_json else f"report: {path}")


@app.command()
def export(folder: SessionArgument, target: Annotated[Path, typer.Argument(help="Folder to make.")]) -> None:
    """Write OME-TIFF images and CSV tables, for Fiji and spreadsheets."""
    with _errors_told(as_json=False):
        from controller.recording.export import export_session
        from controller.recording.reader import SessionReader

        paths = export_session(SessionReader(folder), target)
        paths += _export_answers(folder, target)
        typer.echo(f"{len(paths)} files in {target}")


@app.command()
def label(
    folder: SessionArgument,
    annotator: Annotated[str, typer.Option(help="Your name or pseudonym.")] = "me",
) -> None:
    """Answer the open questions of a session, in the terminal."""
    with _errors_told(as_json=False):
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


def _toml(path: Path) -> dict[str, Any]:
    """Return what a configuration says; nothing, if it is not one: to say so is for 'check'."""
    import tomllib

    with suppress(tomllib.TOMLDecodeError, UnicodeDecodeError):
        return tomllib.loads(path.read_text())
    return {}


def _companions(hardware: Path) -> list[Path]:
    """Return the files beside a hardware configuration that it cannot do without."""
    with suppress(AttributeError):
        options = _toml(hardware).get("microscope", {}).get("options", {})
        path = hardware.parent / str(options.get("config_file", ""))
        if path.is_file() and path.parent == hardware.parent:
            return [path]
    return []


def _energy_line(hardware: Path, line: str) -> str:
    """Return the template's budget, or the microscope's own limit if that is less."""
    key, _, rest = line.partition(" = ")
    template_j, _, comment = rest.partition("#")
    with suppress(AttributeError, TypeError):
        limit_j = _toml(hardware).get("limits", {}).get("session_energy_max_j", template_j)
        return f"{key} = {min(float(template_j), limit_j):g}       #{comment}"
    return line


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


def _limits_line(experiment: Experiment) -> str:
    limits = experiment.hardware.config.limits
    return (
        f"limits: excitation {1e6 * limits.excitation_max_w:g} uW, "
        f"STED {1e3 * limits.sted_max_w:g} mW, session {limits.session_energy_max_j:g} J"
    )


def _check(config: Path, overrides: dict[str, Any], as_json: bool) -> None:
    with _errors_told(as_json):
        from controller.assemble import check_microscope
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


def main() -> None:
    """Run the command line."""
    # The matrices here are small: a second BLAS thread makes decisions slower, and less repeatable.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    app()


def _drive(
    make: Callable[[Hooks], Session | Serving],
    folder: Path,
    energy_j: float,
    report: bool,
    as_json: bool,
    *,
    can_go_on: bool = True,
) -> None:
    """Run a session to its end, write its report, tell how it ended, and exit with its code."""
    outcome = _play(make, energy_j, as_json)
    written = _write_report(folder) if report else None
    _tell_outcome(outcome, folder, written, as_json, can_go_on=can_go_on)
    raise typer.Exit(_EXIT_CODE[outcome.status])


def _play(make: Callable[[Hooks], Session | Serving], energy_j: float, as_json: bool) -> Outcome:
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


def _tell_outcome(
    outcome: Outcome,
    folder: Path,
    report: Path | None,
    as_json: bool,
    *,
    can_go_on: bool = True,
    **more: Any,
) -> None:
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


def _energy_asked_j(experiment: Experiment) -> float:
    asked_j = experiment.session.config.budget.session_energy_j or float("inf")
    return min(asked_j, experiment.hardware.config.limits.session_energy_max_j)


def _energy_budget_j(start: StartDocument) -> float:
    limit_j = float(start.hardware["limits"]["session_energy_max_j"])
    return min(limit_j, start.experiment["budget"]["session_energy_j"] or limit_j)


def _write_report(folder: Path) -> Path | None:
    """Write the report at the end of a run; a session is not worse for a report that cannot be written."""
    try:
        return _report(folder, folder / "report.html")
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # its outcome is what matters
        typer.echo(f"the report could not be written: {type(error).__name__} {error}", err=True)
        return None


def _report(folder: Path, target: Path) -> Path:
    from controller.labels.store import LABELS_NAME, LabelStore
    from controller.recording.reader import SessionReader
    from controller.recording.report import write_report

    answers: dict[int, list[str]] = {}
    if (folder / LABELS_NAME).exists():
        for answer in LabelStore(folder).answers():
            told = f"{answer.answer or 'unsure'} ({answer.annotator}, {answer.answer_s:.1f} s)"
            answers.setdefault(answer.question_number, []).append(told)
    return write_report(SessionReader(folder), target, answers=answers)


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


def _fresh_folder(name: str) -> Path:
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "session"
    return Path("sessions") / f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{slug}"


@contextmanager
def _errors_told(as_json: bool) -> Iterator[None]:
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
