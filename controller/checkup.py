"""What ``stedfast check`` says of a microscope of real devices, as text and for scripts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from controller.assemble import open_bench
from controller.config import Experiment
from controller.core.checking import OfflineCheck, Reading, Step
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


def check_devices(
    experiment: Experiment, offline: OfflineCheck, tell: Callable[[str], None], *, exercise: bool
) -> Checkup:
    """Connect to the devices, read them and, if asked, exercise them; tell each line as it is known."""
    bench = open_bench(experiment)
    if bench is None:
        raise TypeError("a driver that can be checked offline can be connected to")
    steps = []
    try:
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
    finally:
        bench.close()
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
