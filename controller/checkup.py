"""What ``stedfast check`` finds: of any microscope, and of one of real devices, as text and for scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from controller.builder import Builder
from controller.config import Experiment
from controller.core.checking import Bench, Checkable, OfflineCheck, Reading, Step
from controller.core.decision import Acquire, Decision, Observation
from controller.core.errors import ConfigurationError
from controller.core.protocols import Capabilities
from controller.recording.units import quantity

_WIDTHS = (13, 30, 26, 26)


@dataclass(frozen=True, slots=True)
class Checkup:
    """What was found of the devices; without a connection there are no readings."""

    offline: OfflineCheck
    readings: tuple[Reading, ...] = ()
    steps: tuple[Step, ...] = ()

    @property
    def has_failed(self) -> bool:
        """Tell whether a device did not do what it was told."""
        return any(step.has_failed for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """Return all of it, for scripts."""
        return {
            "summary": self.offline.summary,
            "notes": list(self.offline.notes),
            "readings": [asdict(reading) for reading in self.readings],
            "steps": [{**asdict(step), "has_failed": step.has_failed} for step in self.steps],
        }


def check_microscope(experiment: Experiment) -> tuple[Capabilities, Decision, str | None]:
    """Connect, ask, and let the policy decide once; move and light nothing.

    Returns
    -------
    What the microscope says of itself, the first decision, and the guard's refusal of it, if any.
    """
    parts = Builder.fresh(experiment).parts()
    try:
        microscope, budget = parts.microscope, parts.budget
        seen = Observation(None, None, None, microscope.dose, budget, now_s=0.0)
        decision = parts.policy.plugin.decide(seen)
        refusal = None
        if isinstance(decision, Acquire):
            try:
                microscope.ledger.cancel(microscope.ledger.reserve(microscope.check(decision.settings)))
            except Exception as error:  # noqa: BLE001  # reported, whatever it is
                refusal = str(error)
        return microscope.capabilities(), decision, refusal
    finally:
        parts.close()


def check_offline(experiment: Experiment) -> OfflineCheck | None:
    """Check a microscope of real devices by its files alone; ``None`` if its driver is not one of those.

    Raises
    ------
    ConfigurationError
        Naming every problem with file, line and key.
    """
    builder = Builder.fresh(experiment)
    driver, options = builder.driver()
    if not isinstance(driver, Checkable):
        return None
    found = driver.check_offline(options, builder.resources("microscope", None))
    if found.problems:
        raise ConfigurationError(*(builder.placed(problem, "microscope") for problem in found.problems))
    return found


@contextmanager
def open_bench(experiment: Experiment) -> Iterator[Bench]:
    """Connect to real devices for a check, dark and without a session, and release them at the end.

    Raises
    ------
    ConfigurationError
        Naming what does not fit the devices, with file, line and key.
    """
    builder = Builder.fresh(experiment)
    driver, options = builder.driver()
    if not isinstance(driver, Checkable):
        raise TypeError("only a driver that can be checked offline can be connected to for a check")
    with ExitStack() as undo:
        undo.enter_context(builder.claimed())
        with builder.problems_placed("microscope"):
            bench = driver.open_bench(options, builder.resources("microscope", None))
        undo.callback(bench.close)
        yield bench


def check_devices(
    experiment: Experiment, offline: OfflineCheck, tell: Callable[[str], None], *, exercise: bool
) -> Checkup:
    """Connect to the devices, read them and, if asked, exercise them; tell each line as it is known."""
    steps = []
    with open_bench(experiment) as bench:
        readings = bench.readings()
        tell(_line("setting", "device", "reads", "in SI"))
        for reading in readings:
            tell(_reading_line(reading))
        if exercise:
            tell("")
            tell(_line("setting", "device", "set to", "reads", "took"))
            for step in bench.exercise():
                steps.append(step)
                tell(_step_line(step))
    return Checkup(offline, tuple(readings), tuple(steps))


def _reading_line(reading: Reading) -> str:
    si = _quantities(reading.si, reading.unit) or "beyond its calibration"
    return _line(reading.setting, reading.place, ", ".join(_short(told) for told in reading.told), si)


def _step_line(step: Step) -> str:
    if not step.wanted:
        return _line(step.setting, step.place, step.problem or "")
    verdict = {True: "ok", False: "OUTSIDE its tolerance", None: "no tolerance"}[step.is_inside]
    return _line(
        step.setting,
        step.place,
        _quantities(step.wanted, step.unit),
        _quantities(step.read, step.unit) or "beyond its calibration",
        f"{quantity(step.write_s, 's')}, {'FAILED: ' + step.problem if step.problem else verdict}",
    )


def _quantities(values: tuple[float, ...], unit: str) -> str:
    return ", ".join(quantity(value, unit) for value in values)


def _short(told: str) -> str:
    try:
        return f"{float(told) + 0.0:g}"  # no minus before a zero
    except ValueError:
        return told


def _line(*words: str) -> str:
    widths = (*_WIDTHS, 0)
    return "  ".join(word.ljust(width) for word, width in zip(words, widths, strict=False)).rstrip()
