"""Spikes to fluorescence: what neurons fire, and how bright their indicator is at any time.

Spikes are a Poisson cluster process, which is what a linear Hawkes process is (Hawkes & Oakes,
J. Appl. Prob. 11:493, 1974): bursts begin at random, each neuron's own and those that a whole group of
neurons joins. Chance is drawn in blocks of a second, each with a stream of its own, so the activity of
any time is the same whatever was asked before, and goes on for ever.

Each spike adds a response to calcium, and a non-linearity makes fluorescence of calcium:

- GCaMP6f: calcium at rest 50 nM and the Hill curve 25.2 / (1 + (290 nM / c)^2.7) (Badura et al.,
  Neurophotonics 1:025008, 2014, as in NAOMi, Song et al., J. Neurosci. Methods 358:109173, 2021). The
  response is set so that one spike gives what Chen et al. (Nature 499:295, 2013) measured in the
  visual cortex: 19 %, a peak after 45 ms, half of it after another 142 ms. These three are quoted from
  memory.
- jGCaMP8f, m, s: the spike-to-fluorescence model of Zhang et al. (Nature 615:884, 2023), fitted to
  simultaneous recordings in the visual cortex (its form is Wei et al., PLoS Comput. Biol. 16:e1008198,
  2020): two decays, one rise, a sigmoid.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.settings import NonNegative, Positive, Settings

IndicatorName = Literal["gcamp6f", "jgcamp8f", "jgcamp8m", "jgcamp8s"]
Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

#: Chance is drawn anew for each stretch of so many seconds.
BLOCK_S = 1.0
#: A burst may spill over the end of its block; one longer than this many blocks is cut off.
_SPILL_BLOCKS = 2
#: Blocks before time 0 have seeds, too: a session may begin with neurons that are active already.
_BLOCK_ZERO = 2**32
_BLOCKS_KEPT = 64


class Curve(Protocol):
    """Fluorescence of calcium, relative to the one at rest, minus 1 (ΔF/F)."""

    def dff(self, calcium: Floats) -> Floats: ...


@dataclass(frozen=True, slots=True)
class Hill:
    """``calcium`` counts in responses to one spike, of ``spike_nm`` nanomolar each, above rest."""

    spike_nm: float
    rest_nm: float = 50.0
    half_nm: float = 290.0
    power: float = 2.7
    largest: float = 25.2

    def dff(self, calcium: Floats) -> Floats:
        """Return ΔF/F."""
        rest = 1 + self.largest / (1 + (self.half_nm / self.rest_nm) ** self.power)
        bound = 1 + (self.half_nm / (self.rest_nm + self.spike_nm * calcium)) ** self.power
        return np.asarray((1 + self.largest / bound) / rest - 1)


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """Zhang et al. 2023: a sigmoid of calcium, less its value at rest."""

    largest: float
    half: float
    slope: float

    def dff(self, calcium: Floats) -> Floats:
        """Return ΔF/F."""
        rest = self.largest / (1 + np.exp(self.slope * self.half))
        return np.asarray(self.largest / (1 + np.exp(self.slope * (self.half - calcium))) - rest)


@dataclass(frozen=True, slots=True)
class Indicator:
    """A calcium indicator: response to one spike, and brightness.

    The response is the sum over the ``decays`` (time constant in s, weight) of
    ``weight * exp(-t / decay) * (1 - exp(-t / rise_s))``.
    """

    rise_s: float
    decays: tuple[tuple[float, float], ...]
    curve: Curve

    @property
    def memory_s(self) -> float:
        """Return after how long a spike is forgotten: what is left of it is below one in 2000."""
        return 8 * max(decay_s for decay_s, _ in self.decays)

    def exponentials(self) -> tuple[Floats, Floats]:
        """Return the same response as a sum of exponentials: their rates in 1/s, and their weights."""
        rates, weights = [], []
        for decay_s, weight in self.decays:
            rates += [1 / decay_s, 1 / decay_s + 1 / self.rise_s]
            weights += [weight, -weight]
        return np.array(rates), np.array(weights)


INDICATORS: dict[IndicatorName, Indicator] = {
    "gcamp6f": Indicator(17.464e-3, ((212.24e-3, 1.0),), Hill(spike_nm=20.9225)),
    "jgcamp8f": Indicator(
        1.85e-3, ((34.07e-3, 1.0), (263.70e-3, 0.48)), Sigmoid(6.10438, 4.170575, 0.390533)
    ),
    "jgcamp8m": Indicator(
        2.46e-3, ((41.64e-3, 1.0), (245.80e-3, 0.28)), Sigmoid(7.454645, 2.691117, 0.360008)
    ),
    "jgcamp8s": Indicator(
        5.65e-3, ((86.26e-3, 1.0), (465.45e-3, 0.19)), Sigmoid(7.455792, 1.282417, 0.343721)
    ),
}


class ActivityOptions(Settings):
    """How much neurons fire. Chosen for lively movies, not measured in a brain.

    Attributes
    ----------
    indicator
        What makes spikes visible.
    burst_rate_hz
        Mean rate of a neuron's own bursts; rates of neurons are gamma distributed about it.
    burst_spikes
        Mean number of spikes of a burst (geometric).
    spike_interval_s
        Mean time between the spikes of a burst.
    silent_fraction
        Neurons that never fire (0.2 in NAOMi).
    group_neurons, group_rate_hz, group_join
        Mean size of the groups that fire together, how often each does, and the chance of each neuron
        to take part.
    neuropil
        ΔF/F of the neuropil for the ΔF/F of one spike of every neuron nearby. 0 keeps it still.
    """

    indicator: IndicatorName = "gcamp6f"
    burst_rate_hz: NonNegative = 0.08
    burst_spikes: Annotated[float, Field(ge=1)] = 4.0
    spike_interval_s: Positive = 15e-3
    silent_fraction: Annotated[float, Field(ge=0, le=1)] = 0.2
    group_neurons: Annotated[float, Field(ge=1)] = 40.0
    group_rate_hz: NonNegative = 0.05
    group_join: Annotated[float, Field(ge=0, le=1)] = 0.5
    neuropil: NonNegative = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Spikes:
    """Spikes in the order of time: ``times_s`` in seconds and the ``neurons`` that fired, shape ``(n,)``."""

    times_s: Floats
    neurons: Indices


class Activity:
    """The spikes and the fluorescence of a population, at any time on the session's clock.

    Parameters
    ----------
    neurons
        How many there are.
    options
        How much they fire.
    seed
        Entropy of everything here, as :class:`numpy.random.SeedSequence` takes it.
    """

    def __init__(self, neurons: int, options: ActivityOptions, seed: Sequence[int]) -> None:
        self._count = neurons
        self._options = options
        self._seed = list(seed)
        self.indicator = INDICATORS[options.indicator]
        rng = np.random.default_rng(np.random.SeedSequence([*self._seed, 0]))
        # Shape 1 is as wide as rates of cortical neurons are: many that are nearly silent, a few busy ones.
        self.rates_hz = rng.gamma(1.0, options.burst_rate_hz, neurons)
        is_silent = rng.random(neurons) < options.silent_fraction
        self.rates_hz[is_silent] = 0.0
        self._groups = max(1, round(neurons / options.group_neurons))
        self.group_of: Indices = rng.integers(self._groups, size=neurons)
        self.group_of[is_silent] = -1
        self._blocks: OrderedDict[int, Spikes] = OrderedDict()

    def spikes(self, start_s: float, end_s: float) -> Spikes:
        """Return all spikes with ``start_s <= time < end_s``."""
        first = int(np.floor(start_s / BLOCK_S)) - _SPILL_BLOCKS
        blocks = [self._block(index) for index in range(first, int(np.floor(end_s / BLOCK_S)) + 1)]
        times_s = np.concatenate([block.times_s for block in blocks])
        neurons = np.concatenate([block.neurons for block in blocks])
        inside = np.flatnonzero((times_s >= start_s) & (times_s < end_s))
        inside = inside[np.argsort(times_s[inside], kind="stable")]
        return Spikes(times_s[inside], neurons[inside])

    def dff(self, neurons: Indices, times_s: Floats) -> Floats:
        """Return ΔF/F of some neurons, shape ``(neurons, times)``; ``times_s`` must not fall."""
        row_of = np.full(self._count, -1, np.intp)
        row_of[neurons] = np.arange(len(neurons))
        spikes = self.spikes(times_s[0] - self.indicator.memory_s, times_s[-1])
        rows = row_of[spikes.neurons]
        known = rows >= 0
        calcium = self._calcium(rows[known], spikes.times_s[known], None, len(neurons), times_s)
        return self.indicator.curve.dff(calcium).T

    def neuropil_dff(self, weights: Floats, times_s: Floats) -> Floats:
        """Return ΔF/F of the neuropil of some places, shape ``(places, times)``.

        ``weights`` of shape ``(places, neurons)`` say how much each neuron has to do with each place.
        What is far below the resolution of the microscope adds up, so the response is linear.
        """
        spikes = self.spikes(times_s[0] - self.indicator.memory_s, times_s[-1])
        calcium = [
            self._calcium(np.zeros_like(spikes.neurons), spikes.times_s, row[spikes.neurons], 1, times_s)[
                :, 0
            ]
            / max(float(row.sum()), 1e-12)
            for row in weights
        ]
        one_spike = float(self.indicator.curve.dff(np.array(1.0)))
        return self._options.neuropil * one_spike * np.array(calcium)

    def _calcium(
        self, rows: Indices, spikes_s: Floats, weights: Floats | None, count: int, times_s: Floats
    ) -> Floats:
        """Return the sum of the responses to spikes, shape ``(times, count)``."""
        rates, amplitudes = self.indicator.exponentials()
        # A spike enters at the first time after it, decayed until then; from there on all decay together.
        entry = np.searchsorted(times_s, spikes_s)
        age_s = times_s[entry] - spikes_s
        if weights is None:
            weights = np.ones(len(spikes_s))
        total = np.zeros((len(times_s), count))
        for rate, amplitude in zip(rates, amplitudes, strict=True):
            entered = amplitude * weights * np.exp(-rate * age_s)
            # Of nothing at all numpy counts in integers.
            sums = np.bincount(entry * count + rows, entered, len(times_s) * count).astype(np.float64)
            sums = sums.reshape(len(times_s), count)
            decay = np.exp(-rate * np.diff(times_s))
            for step in range(1, len(times_s)):
                sums[step] += sums[step - 1] * decay[step - 1]
            total += sums
        return total

    def _block(self, index: int) -> Spikes:
        """Return the spikes of the bursts that begin in one block, from memory or drawn again."""
        if index in self._blocks:
            self._blocks.move_to_end(index)
            return self._blocks[index]
        spikes = self._draw(index)
        self._blocks[index] = spikes
        if len(self._blocks) > _BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        return spikes

    def _draw(self, index: int) -> Spikes:
        options = self._options
        rng = np.random.default_rng(np.random.SeedSequence([*self._seed, 1, index + _BLOCK_ZERO]))
        own = np.repeat(np.arange(self._count), rng.poisson(self.rates_hz * BLOCK_S))
        events = np.repeat(
            np.arange(self._groups), rng.poisson(options.group_rate_hz * BLOCK_S, self._groups)
        )
        event_s = rng.random(len(events)) * BLOCK_S
        joins = (self.group_of == events[:, None]) & (
            rng.random((len(events), self._count)) < options.group_join
        )
        event, together = np.nonzero(joins)
        neurons = np.concatenate([own, together])
        begin_s = np.concatenate(
            [rng.random(len(own)) * BLOCK_S, event_s[event] + rng.exponential(0.05, len(event))]
        )
        sizes = rng.geometric(1 / options.burst_spikes, len(neurons))
        burst = np.repeat(np.arange(len(neurons)), sizes)
        # Gamma intervals of shape 3: no two spikes of a burst come together.
        waits_s = np.cumsum(rng.gamma(3.0, options.spike_interval_s / 3, len(burst)))
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.intp)
        times_s = (
            index * BLOCK_S + begin_s[burst] + waits_s - waits_s[starts[burst]] if len(burst) else waits_s
        )
        return Spikes(times_s, neurons[burst])
