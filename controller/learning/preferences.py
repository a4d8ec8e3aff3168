"""Learns a reward from choices among options: what a person prefers, and where that is not known yet.

Few choices are fitted by a utility that is linear, many by an ensemble of small networks: these need more,
but say more than a line can (``benchmarks/preferences.py``). Both say how probable each pick is, as Plackett
and Luce do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.choosing import choice_probabilities, fit_weights
from controller.core.errors import ConfigurationError
from controller.core.reward import LearnedReward, RewardLayer, RewardMember
from controller.core.settings import NonNegative, Positive, Settings

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Parameters = list[Floats]

_HIDDEN = 10


class PreferenceOptions(Settings):
    """How a reward is learned."""

    networks_from: Annotated[int, Field(ge=2)] = 100
    """With as many choices networks take over from the linear utility."""
    members: Annotated[int, Field(ge=2, le=20)] = 5
    """Models, each of which learns from its own sample of the choices; they say how sure the reward is."""
    beta: NonNegative = 1.0
    """Standard deviations that are taken off the mean."""
    ridge: Positive = 0.1
    """Prior that nothing matters, of the linear utility."""
    decay: NonNegative = 0.01
    """The same of networks, for each choice."""
    steps: Annotated[int, Field(ge=1, le=10_000)] = 400
    step_size: Positive = 0.02


@dataclass(frozen=True, slots=True)
class Choice:
    """What was known of each option by name, and which one was picked."""

    options: tuple[Mapping[str, float], ...]
    chosen: int


@dataclass(frozen=True, slots=True, eq=False)
class _Choices:
    """Choices as arrays; see :mod:`controller.core.choosing`."""

    features: tuple[str, ...]
    center: Floats
    scale: Floats
    options: Floats
    is_there: Bools
    chosen: NDArray[np.intp]

    def only(self, which: Bools) -> _Choices:
        """Return some of the choices."""
        parts = self.options[which], self.is_there[which], self.chosen[which]
        return _Choices(self.features, self.center, self.scale, *parts)


def fit_reward(
    choices: Sequence[Choice], rng: np.random.Generator, options: PreferenceOptions | None = None
) -> LearnedReward:
    """Learn a reward from choices; the same choices and ``rng`` give the same reward.

    Raises
    ------
    ConfigurationError
        If there are no choices, one is of fewer than two options, options are not described alike, or
        nothing differs between any of them.
    """
    how = options or PreferenceOptions()
    data = _as_arrays(choices)
    kind: Literal["linear", "ensemble"] = "linear" if len(choices) < how.networks_from else "ensemble"
    shown = data.options[data.is_there]
    members = []
    for child in rng.spawn(how.members):
        # Each learns from as many choices, drawn with repetition: where few tell the same, they disagree.
        weight = child.multinomial(len(choices), np.full(len(choices), 1 / len(choices))).astype(np.float64)
        if kind == "linear":
            found = [
                fit_weights(data.options, data.is_there, data.chosen, weight, how.ridge)[None],
                np.zeros(1),
            ]
        else:
            found = _trained_network(data, weight, child, how)
        # Choices do not tell the utility of anything, only differences; so that members can be compared:
        found[-1] = found[-1] - _network(found, shown)[1].mean()
        members.append(_member(found))
    return _reward(data, tuple(members), kind, how)


def dominated_by(choice: Choice, is_better: Mapping[str, Literal["high", "low"]]) -> int | None:
    """Return an option that is at least as good in everything as the one picked, and better in something.

    Such a pick is worth a look, whether it was a slip or something else counted; it is learned from as it is.

    Parameters
    ----------
    is_better
        The values that are compared, and whether a high or a low one is good.
    """
    signs = {name: 1.0 if way == "high" else -1.0 for name, way in is_better.items()}
    goods = [[sign * option[name] for name, sign in signs.items()] for option in choice.options]
    picked = np.array(goods[choice.chosen])
    for number, other in enumerate(goods):
        if np.all(np.array(other) >= picked) and np.any(np.array(other) > picked):
            return number
    return None


def _as_arrays(choices: Sequence[Choice]) -> _Choices:
    if not choices:
        raise ConfigurationError("there are no choices to learn a preference from")
    features = tuple(sorted(choices[0].options[0])) if choices[0].options else ()
    most = max(len(choice.options) for choice in choices)
    options = np.zeros((len(choices), most, len(features)))
    is_there = np.zeros((len(choices), most), np.bool_)
    for number, choice in enumerate(choices):
        if len(choice.options) < 2 or not 0 <= choice.chosen < len(choice.options):
            raise ConfigurationError(
                f"choice {number}: option {choice.chosen} of {len(choice.options)}; a choice has two or more"
            )
        for place, option in enumerate(choice.options):
            if tuple(sorted(option)) != features or not features:
                raise ConfigurationError(
                    f"choice {number}: option {place} has {', '.join(sorted(option)) or '(none)'}; "
                    f"others have {', '.join(features) or '(none)'}; all need the same"
                )
            options[number, place] = [option[name] for name in features]
            is_there[number, place] = True
    if not np.isfinite(options).all():
        raise ConfigurationError("an option is described by a number that is not finite")
    shown = options[is_there]
    center, spread = shown.mean(axis=0), shown.std(axis=0)
    if not (np.ptp(shown, axis=0) > 0).any():
        raise ConfigurationError("no choice tells what is preferred: all options are alike")
    scale = np.where(spread > 0, spread, 1.0)
    scaled = np.where(is_there[..., None], (options - center) / scale, 0.0)
    chosen = np.array([choice.chosen for choice in choices])
    return _Choices(features, center, scale, scaled, is_there, chosen)


def _network(parameters: Parameters, inputs: Floats) -> tuple[list[Floats], Floats]:
    """Return what goes into each layer, and what comes out at the end, shape ``(n,)``."""
    goes_in = [inputs]
    for number in range(0, len(parameters), 2):
        out = goes_in[-1] @ parameters[number].T + parameters[number + 1]
        goes_in.append(np.tanh(out))
    return goes_in[:-1], out[:, 0]


def _trained_network(
    data: _Choices, weight: Floats, rng: np.random.Generator, how: PreferenceOptions
) -> Parameters:
    """Train a network of two hidden layers by Adam, with all choices at each step."""
    sizes = (data.options.shape[-1], _HIDDEN, _HIDDEN, 1)
    parameters: Parameters = []
    for fan_in, fan_out in pairwise(sizes):
        parameters += [rng.normal(0, fan_in**-0.5, (fan_out, fan_in)), np.zeros(fan_out)]
    momentum = [np.zeros_like(p) for p in parameters]
    power = [np.zeros_like(p) for p in parameters]
    drawn = data.only(weight > 0)
    share = weight[weight > 0] / weight.sum()
    for step in range(1, how.steps + 1):
        slopes = _slopes(parameters, drawn, share, how.decay / len(weight))
        rate = how.step_size * (1 - (step - 1) / how.steps)
        for number, slope in enumerate(slopes):
            momentum[number] = 0.9 * momentum[number] + 0.1 * slope
            power[number] = 0.999 * power[number] + 0.001 * slope**2
            scale = np.sqrt(power[number] / (1 - 0.999**step)) + 1e-8
            parameters[number] = parameters[number] - rate * momentum[number] / (1 - 0.9**step) / scale
    return parameters


def _slopes(parameters: Parameters, data: _Choices, share: Floats, decay: float) -> Parameters:
    """Return the gradient of the mean surprise at the choices, and of the decay of the weights."""
    goes_in, utilities = _network(parameters, data.options.reshape(-1, data.options.shape[-1]))
    error = choice_probabilities(utilities.reshape(data.is_there.shape), data.is_there)
    error[np.arange(len(error)), data.chosen] -= 1.0
    back = (error * share[:, None]).reshape(-1, 1)
    slopes: Parameters = []
    for number in range(len(goes_in) - 1, -1, -1):
        matrix = parameters[2 * number]
        slopes = [back.T @ goes_in[number] + decay * matrix, back.sum(axis=0), *slopes]
        if number:
            back = (back @ matrix) * (1 - goes_in[number] ** 2)
    return slopes


def _member(parameters: Parameters) -> RewardMember:
    layers = tuple(
        RewardLayer(
            weights=tuple(tuple(row) for row in parameters[number].tolist()),
            bias=tuple(parameters[number + 1].tolist()),
        )
        for number in range(0, len(parameters), 2)
    )
    return RewardMember(layers=layers)


def _reward(
    data: _Choices,
    members: tuple[RewardMember, ...],
    kind: Literal["linear", "ensemble"],
    how: PreferenceOptions,
) -> LearnedReward:
    shown = data.options[data.is_there]
    low, high = shown.min(axis=0), shown.max(axis=0)
    bare = LearnedReward(
        kind=kind,
        features=data.features,
        center=tuple(data.center.tolist()),
        scale=tuple(data.scale.tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        members=members,
        doubt=0.0,
        beta=how.beta,
        ceiling=0.0,
        choices=len(data.chosen),
    )
    mean, _ = bare.predict_many(shown * data.scale + data.center)
    picked = data.options[np.arange(len(data.chosen)), data.chosen]
    best, unsure = bare.predict_many(picked * data.scale + data.center)
    # One unit away from all that was shown, anything between the best and the worst of it may be true.
    return bare.replace(doubt=float(np.ptp(mean)), ceiling=float((best - how.beta * unsure).max()))
