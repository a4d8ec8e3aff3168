"""From actions to scans: one specification of parameters, checked against the limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import ConfigurationError
from controller.core.limits import SafetyLimits
from controller.core.spaces import Parameter, ParameterSpace, Tunable

Floats32 = NDArray[np.float32]

#: What a policy may tune of a STED scan. The unit of each is the suffix of its name.
SCAN_PARAMETERS = (
    Parameter(name="sted_w", low=0.0, high=0.25),
    Parameter(name="excitation_w", low=0.5e-6, high=50e-6, scale="log"),
    Parameter(name="dwell_s", low=2e-6, high=100e-6, scale="log"),
)

# A float32 that stands for 1 may be this much above it.
_ROUNDING = 1e-6


class ActionMap:
    """Actions in -1..1 as settings in SI units, and back.

    Raises
    ------
    ConfigurationError
        If a parameter reaches beyond the limits: the guard would refuse part of the actions.
    """

    def __init__(self, parameters: Sequence[Tunable], limits: SafetyLimits) -> None:
        self.space = ParameterSpace(parameters)
        problems = [problem for parameter in parameters if (problem := _beyond(parameter, limits))]
        if problems:
            raise ConfigurationError(*problems)

    def __len__(self) -> int:
        return len(self.space)

    def settings(self, action: NDArray[np.floating]) -> dict[str, float]:
        """Return what an action stands for.

        Raises
        ------
        ValueError
            If it is not a point of the box: it is refused, never clipped.
        """
        return self.space.from_unit((as_point(action, self.space.names) + 1) / 2)

    def action(self, settings: Mapping[str, float]) -> Floats32:
        """Return the action that stands for these settings; ``ValueError`` if they are out of bounds."""
        action = (2 * self.space.to_unit(settings) - 1).astype(np.float32)
        self.settings(action)
        return action


def as_point(action: NDArray[np.floating], names: Sequence[str]) -> NDArray[np.float64]:
    """Return an action as a point of -1..1, one number for each name.

    Raises
    ------
    ValueError
        If it is not in the box: it is refused, never clipped.
    """
    point = np.asarray(action, dtype=np.float64)
    if point.shape != (len(names),) or not bool(np.all(np.abs(point) <= 1 + _ROUNDING)):
        raise ValueError(f"an action is {len(names)} numbers in -1..1 ({', '.join(names)}), got {action!r}")
    # What is left to clip is the rounding of a float32.
    return np.clip(point, -1.0, 1.0)


def _beyond(parameter: Tunable, limits: SafetyLimits) -> str | None:
    """Say how a parameter reaches beyond the limits, if it does."""
    allowed = {
        "sted_w": (0.0, limits.sted_max_w),
        "excitation_w": (0.0, limits.excitation_max_w),
        "dwell_s": (limits.dwell_min_s, limits.dwell_max_s),
        "pixel_size_m": (limits.pixel_size_min_m, limits.pixel_size_max_m),
    }
    if parameter.name not in allowed:
        return None  # the limits say nothing about it
    low, high = allowed[parameter.name]
    if low <= parameter.low and parameter.high <= high:
        return None
    return (
        f"{parameter.name}: {parameter.low:g}..{parameter.high:g} is asked of the policy, the limits allow "
        f"{low:g}..{high:g}"
    )
