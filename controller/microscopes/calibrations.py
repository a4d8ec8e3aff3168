"""Between SI values at the sample and what a device is told: lines, tables, lists of what there is."""

from __future__ import annotations

import math
from datetime import date, timedelta
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from controller.core.settings import Positive, Settings

#: What a device is told or tells: a number in its own unit, or a text.
Told = float | str


class _Calibration(Settings):
    """When and where it was measured; what is common to all.

    A light may have been measured at the objective's back aperture: ``transmission`` is the fraction
    of it that reaches the sample, and all values that go in and come out are at the sample.
    """

    measured_on: str | None = None
    valid_days: Annotated[int, Field(ge=1)] | None = None
    where: Literal["sample", "back_aperture"] = "sample"
    transmission: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if (self.measured_on is None) != (self.valid_days is None):
            raise ValueError("measured_on and valid_days go together")
        if self.measured_on is not None:
            date.fromisoformat(self.measured_on)
        if (self.where == "back_aperture") != (self.transmission is not None):
            raise ValueError(
                "where = 'back_aperture' and transmission, from there to the sample, go together"
            )
        return self

    def expired_on(self, today: date) -> str | None:
        """Return why the calibration no longer holds, or ``None``."""
        if self.measured_on is None or self.valid_days is None:
            return None
        last = date.fromisoformat(self.measured_on) + timedelta(days=self.valid_days)
        return None if today <= last else f"the calibration of {self.measured_on} held until {last}"

    def to_device(self, value: float) -> Told:
        """Return what the device is told for an SI value.

        Raises
        ------
        ValueError
            If the calibration does not know that value.
        """
        return self._device(value / (self.transmission or 1.0))

    def to_si(self, told: Told) -> float:
        """Return the SI value of what a device tells.

        Raises
        ------
        ValueError
            If the calibration does not know it.
        """
        return self._measured(told) * (self.transmission or 1.0)

    def covers(self, low: float, high: float) -> bool:
        """Tell whether it holds from ``low`` to ``high``, in SI units."""
        return self._covers(low / (self.transmission or 1.0), high / (self.transmission or 1.0))

    def achievable(self, value: float) -> float:
        """Return the SI value that the device takes for ``value``: itself, but for lists that round down."""
        return value

    def _device(self, value: float) -> Told:
        raise NotImplementedError

    def _measured(self, told: Told) -> float:
        raise NotImplementedError

    def _covers(self, low: float, high: float) -> bool:  # noqa: ARG002  # a line has no ends
        return True


class Linear(_Calibration):
    """Device value = ``scale`` times SI value + ``offset``."""

    kind: Literal["linear"] = "linear"
    scale: float
    offset: float = 0.0

    @model_validator(mode="after")
    def _can_be_inverted(self) -> Self:
        if self.scale == 0:
            raise ValueError("scale must not be 0")
        return self

    def _device(self, value: float) -> Told:
        return self.scale * value + self.offset

    def _measured(self, told: Told) -> float:
        return (float(told) - self.offset) / self.scale


class Reciprocal(_Calibration):
    """Device value = ``scale`` / SI value, as of a pixel rate and a dwell time."""

    kind: Literal["reciprocal"] = "reciprocal"
    scale: Positive

    def _device(self, value: float) -> Told:
        if not value > 0:
            raise ValueError(f"{value:g} has no reciprocal that could be set")
        return self.scale / value

    def _measured(self, told: Told) -> float:
        if not float(told) > 0:
            raise ValueError(f"{told} has no reciprocal")
        return self.scale / float(told)

    def _covers(self, low: float, high: float) -> bool:
        return 0 < low <= high


class Table(_Calibration):
    """Pairs of SI and device values, both strictly monotone; straight lines between, nothing beyond."""

    kind: Literal["table"] = "table"
    value: Annotated[tuple[float, ...], Field(min_length=2)]
    device: Annotated[tuple[float, ...], Field(min_length=2)]

    @model_validator(mode="after")
    def _is_strictly_monotone(self) -> Self:
        if len(self.value) != len(self.device):
            raise ValueError(f"{len(self.value)} values and {len(self.device)} device values do not pair")
        if not all(a < b for a, b in pairwise(self.value)):
            raise ValueError("value must rise from each entry to the next")
        steps = [b - a for a, b in pairwise(self.device)]
        if not (all(step > 0 for step in steps) or all(step < 0 for step in steps)):
            raise ValueError("device must rise, or fall, from each entry to the next")
        return self

    def _device(self, value: float) -> Told:
        return _between(value, self.value, self.device)

    def _measured(self, told: Told) -> float:
        if self.device[0] < self.device[-1]:
            return _between(float(told), self.device, self.value)
        return _between(float(told), self.device[::-1], self.value[::-1])

    def _covers(self, low: float, high: float) -> bool:
        return self.value[0] <= low and high <= self.value[-1]


class Choice(_Calibration):
    """A device that knows certain values only, numbers or texts, each with its SI value.

    ``pick`` says what happens to an SI value between them: ``exact`` refuses it, ``down`` takes the next
    smaller one, which the frame then reports.
    """

    kind: Literal["choice"] = "choice"
    value: Annotated[tuple[float, ...], Field(min_length=1)]
    device: Annotated[tuple[Told, ...], Field(min_length=1)]
    pick: Literal["exact", "down"] = "exact"

    @model_validator(mode="after")
    def _pairs_up(self) -> Self:
        if len(self.value) != len(self.device):
            raise ValueError(f"{len(self.value)} values and {len(self.device)} device values do not pair")
        if not all(a < b for a, b in pairwise(self.value)):
            raise ValueError("value must rise from each entry to the next")
        if len(set(self.device)) != len(self.device):
            raise ValueError("each device value must stand there once")
        return self

    def achievable(self, value: float) -> float:
        """Return the entry for an SI value: the same one, or, with ``pick = "down"``, the next below."""
        scale = self.transmission or 1.0
        return self.value[self._position(value / scale)] * scale

    def _device(self, value: float) -> Told:
        return self.device[self._position(value)]

    def _measured(self, told: Told) -> float:
        for value, known in zip(self.value, self.device, strict=True):
            if _is_same(told, known):
                return value
        raise ValueError(f"{told!r} is none of {list(self.device)}")

    def _covers(self, low: float, high: float) -> bool:
        return self.value[0] <= low and high <= self.value[-1]

    def _position(self, value: float) -> int:
        same = [n for n, known in enumerate(self.value) if math.isclose(value, known, rel_tol=1e-6)]
        below = [n for n, known in enumerate(self.value) if known <= value]
        if same:
            return same[0]
        if self.pick == "down" and below:
            return below[-1]
        raise ValueError(f"{value:g} is none of {', '.join(f'{known:g}' for known in self.value)}")


Calibration = Annotated[Linear | Reciprocal | Table | Choice, Field(discriminator="kind")]


def _is_same(told: Told, known: Told) -> bool:
    """Compare what a device tells with an entry: as numbers, if both are, since 5 may come as "5.0000"."""
    try:
        return math.isclose(float(told), float(known), rel_tol=1e-6)
    except ValueError:
        return told == known


def _between(value: float, known: tuple[float, ...], answer: tuple[float, ...]) -> float:
    if not known[0] <= value <= known[-1]:
        raise ValueError(f"{value:g} is outside the calibration, {known[0]:g}..{known[-1]:g}")
    for (a, b), (u, v) in zip(pairwise(known), pairwise(answer), strict=True):
        if value <= b:
            return u + (v - u) * (value - a) / (b - a)
    return answer[-1]
