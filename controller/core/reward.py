"""A reward that was learned from what a person picked: how good something is, and how sure that is.

It is a file of numbers, read and used with numpy alone, so any policy or environment can take it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from controller.core.errors import ConfigurationError
from controller.core.settings import NonNegative, Positive, Settings

Floats = NDArray[np.float64]

Row = Annotated[tuple[float, ...], Field(min_length=1, max_length=256)]


#: What the policies measure of a scan, for rewards to be learned from, and whether much or little is good.
#: Counts are described by log(1 + x), as they look: ten photons more matter to five, not to a thousand.
GOOD_WAYS: dict[str, Literal["high", "low"]] = {
    "detail_log": "high",
    "signal_log": "high",
    "bleached_fraction": "low",
    "dose_j_per_m2": "low",
    "duration_s": "low",
}


class RewardLayer(Settings):
    """One layer of a small network: ``weights`` has a row for each output."""

    weights: Annotated[tuple[Row, ...], Field(min_length=1, max_length=256)]
    bias: Row

    @model_validator(mode="after")
    def _has_a_shape(self) -> Self:
        if len({len(row) for row in self.weights}) != 1 or len(self.bias) != len(self.weights):
            raise ValueError("a layer needs rows of one length, and a bias for each of them")
        return self


class RewardMember(Settings):
    """One of the models that together say how sure they are: layers with tanh between them."""

    layers: Annotated[tuple[RewardLayer, ...], Field(min_length=1, max_length=8)]


class RewardCard(Settings):
    """Where a reward comes from, and how well it says what was not learned from.

    ``right`` of ``judged`` choices were foreseen by rewards that were learned from the others;
    ``right_by_chance`` is how many chance would have got right. ``answers_sha256`` names the answers.
    """

    annotators: dict[str, Annotated[int, Field(ge=1)]]
    """Choices of each person."""
    judged: Annotated[int, Field(ge=0)]
    right: NonNegative
    right_by_chance: NonNegative
    answers_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    dominated: tuple[str, ...] = ()
    """Answers that picked what another option was better than in everything; learned from as they are."""
    seed: Annotated[int, Field(ge=0)] = 0


class LearnedReward(Settings):
    """A reward as a function of named values.

    Outside the values that anybody was ever shown, each scaled distance adds ``doubt`` to the standard
    deviation and nothing to the mean.
    """

    kind: Literal["linear", "ensemble"]
    features: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)]
    center: tuple[float, ...]
    scale: tuple[Positive, ...]
    """Values are taken less ``center`` and over ``scale``."""
    low: tuple[float, ...]
    high: tuple[float, ...]
    """The least and the largest values that were shown, scaled."""
    members: Annotated[tuple[RewardMember, ...], Field(min_length=2, max_length=100)]
    doubt: NonNegative
    beta: NonNegative
    ceiling: float
    """Reward of the best that was ever picked; nothing is rewarded more."""
    choices: Annotated[int, Field(ge=1)]
    """How many choices it was learned from."""
    card: RewardCard | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        count = len(self.features)
        if len(set(self.features)) < count or not all(
            len(values) == count for values in (self.center, self.scale, self.low, self.high)
        ):
            raise ValueError(f"{count} features need different names and as many numbers each")
        if not all(low <= high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError("low must not be above high")
        for member in self.members:
            size = count
            for layer in member.layers:
                if len(layer.weights[0]) != size:
                    raise ValueError(f"a layer takes {len(layer.weights[0])} numbers, but gets {size}")
                size = len(layer.bias)
            if size != 1:
                raise ValueError(f"a member gives one number, not {size}")
        return self

    def predict(self, values: Mapping[str, float]) -> tuple[float, float]:
        """Return the mean utility of something, and its standard deviation among the members.

        Raises
        ------
        ValueError
            If a feature is missing or no finite number; further values are passed over.
        """
        missing = [name for name in self.features if name not in values]
        if missing:
            raise ValueError(f"the reward needs {', '.join(missing)}; there is {', '.join(sorted(values))}")
        found = np.array([float(values[name]) for name in self.features])
        if not np.isfinite(found).all():
            raise ValueError(
                f"the reward needs finite numbers, got {dict(zip(self.features, found, strict=True))}"
            )
        mean, std = self.predict_many(found[None])
        return float(mean[0]), float(std[0])

    def predict_many(self, values: Floats) -> tuple[Floats, Floats]:
        """Return mean and standard deviation of several; ``values`` has the shape ``(n, features)``."""
        scaled = (values - np.array(self.center)) / np.array(self.scale)
        inside = np.clip(scaled, self.low, self.high)
        utilities = self._utilities(inside)
        # hypot does not overflow where a distance is so far out that its square would.
        away = np.hypot.reduce(scaled - inside, axis=1)
        return utilities.mean(axis=0), np.hypot(utilities.std(axis=0, ddof=1), self.doubt * away)

    def utilities(self, values: Floats) -> Floats:
        """Return what each member says of each, shape ``(members, n)``; for where they disagree."""
        scaled = (values - np.array(self.center)) / np.array(self.scale)
        return self._utilities(np.clip(scaled, self.low, self.high))

    def reward(self, values: Mapping[str, float]) -> float:
        """Return the mean less ``beta`` standard deviations, and never more than what was best so far."""
        mean, std = self.predict(values)
        return min(mean - self.beta * std, self.ceiling)

    def _utilities(self, scaled: Floats) -> Floats:
        told = []
        for member in self.members:
            found = scaled
            for number, layer in enumerate(member.layers):
                found = (np.tanh(found) if number else found) @ np.array(layer.weights).T + np.array(
                    layer.bias
                )
            told.append(found[:, 0])
        return np.stack(told)

    @property
    def sha256(self) -> str:
        """Return the checksum that its file has as :meth:`write` leaves it, however it is laid out now."""
        return hashlib.sha256(self._as_json()).hexdigest()

    def write(self, path: Path) -> None:
        """Write it to a JSON file."""
        path.write_bytes(self._as_json())

    def _as_json(self) -> bytes:
        return self.model_dump_json(indent=1).encode()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read it from a JSON file.

        Raises
        ------
        ConfigurationError
            If there is none, or it is no reward.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise ConfigurationError(f"{path} is no learned reward: {where}: {first['msg']}") from error
