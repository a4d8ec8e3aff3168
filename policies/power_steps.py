"""Steps of power: how far each light may rise above its last use in the session.

The guard counts from the last frame that it delivered with this light on, and from 0 W at the start;
going down is free. A policy asks for no more than that, so that nothing is refused for it: what is
fixed has to lie within a step of what comes before it, what is tuned climbs step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from controller.core.limits import SafetyLimits
from controller.core.settings import ScanSettings

#: Lowest and highest power in watts, by the name of the setting.
PowerRanges = dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class LastUse:
    """The power of each light at its last use, in watts; 0 before the first."""

    excitation_w: float = 0.0
    sted_w: float = 0.0

    def after(self, scan: ScanSettings) -> LastUse:
        """Return the last use after ``scan`` was delivered; a light at 0 W was not used."""
        return LastUse(scan.excitation_w or self.excitation_w, scan.sted_w or self.sted_w)


def ranges_before(following: ScanSettings, last: LastUse, limits: SafetyLimits) -> PowerRanges:
    """Return the powers that a scan may have: within a step now, and the ``following`` scan after it."""
    ranges = {}
    for name, step_w in _steps_w(limits).items():
        next_w = getattr(following, name)
        lowest_w = max(0.0, next_w - step_w) if next_w > 0 else 0.0
        ranges[name] = (lowest_w, getattr(last, name) + step_w)
    return ranges


def problems_of_steps(plan: Sequence[tuple[str, ScanSettings]], limits: SafetyLimits) -> list[str]:
    """Return one sentence for each power in a plan that is too far above the scans before it.

    ``plan`` holds each scan with the option's key that it comes from, in the order of the session.
    """
    last = LastUse()
    found: dict[tuple[str, str], str] = {}
    for key, scan in plan:
        refused = False
        for name, step_w in _steps_w(limits).items():
            asked_w, last_w = getattr(scan, name), getattr(last, name)
            if asked_w <= last_w + step_w:
                continue
            refused = True
            message = (
                f"policy.options.{key}: {name}={asked_w:g} W is a step up of {asked_w - last_w:g} W from the "
                f"{last_w:g} W before it, allowed is {step_w:g} W ({name[:-2]}_step_w in the safety limits)"
            )
            found.setdefault((key, name), message)
        last = last if refused else last.after(scan)
    return list(found.values())


def _steps_w(limits: SafetyLimits) -> dict[str, float]:
    steps = {"excitation_w": limits.excitation_step_w, "sted_w": limits.sted_step_w}
    return {name: inf if step_w is None else step_w for name, step_w in steps.items()}
