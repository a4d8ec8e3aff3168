"""Choosers of STED settings: always the same ones, or those that Thompson sampling learns.

:class:`Utility` says what is wanted of a visit, :func:`make_chooser` makes the chooser that the options
ask for and refuses what lies outside the safety limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from controller.core.errors import ConfigurationError
from controller.core.limits import SafetyLimits
from controller.core.settings import NonNegative, Positive, ScanSettings, Settings
from controller.core.spaces import Parameter, ParameterSpace
from policies.gaussian_process import Array
from policies.objectives import Measured
from policies.power_steps import PowerRanges, problems_of_steps
from policies.preferences import LearnedUtility
from policies.requests import Reach, ScanStep
from policies.thompson_sampling import SamplerOptions, ThompsonSampler
from policies.visits import Choice, Chooser, Room, VisitOptions
from policies.wording import settings_in_words

#: What the sampler learns, each with its own Gaussian process. Counts are learned as log(1 + x).
OBJECTIVES = ("detail_log", "bleached_fraction", "signal_log")


class Utility(Settings):
    """How much each objective counts. It is applied to what was learned, so it may change at any time.

    ``w_detail * log(1 + detail_snr) + w_signal * log(1 + signal_photons) - w_bleaching *
    bleached_fraction - w_dose * dose / dose_ref - w_duration * duration / duration_ref``

    Attributes
    ----------
    w_detail, w_signal, w_bleaching, w_dose, w_duration
        Weights, pure numbers. With the defaults the loss of a third of the fluorescence costs as much
        as 2.7 times the detail is worth.
    dose_ref_j_per_m2, duration_ref_s
        Dose (J/m2) and duration (s) of one STED scan that cost one weight.
    """

    w_detail: NonNegative = 1.0
    w_signal: NonNegative = 0.0
    w_bleaching: NonNegative = 3.0
    w_dose: NonNegative = 0.1
    w_duration: NonNegative = 0.0
    dose_ref_j_per_m2: Positive = 1e10
    duration_ref_s: Positive = 1.0

    def of(self, objectives: Mapping[str, Array], dose_j_per_m2: Array, duration_s: Array) -> Array:
        """Return the utility of objectives (see ``OBJECTIVES``) at the cost of dose and time."""
        gain = self.w_detail * objectives["detail_log"] + self.w_signal * objectives["signal_log"]
        loss = self.w_bleaching * objectives["bleached_fraction"]
        loss = loss + self.w_dose * dose_j_per_m2 / self.dose_ref_j_per_m2
        return np.asarray(gain - loss - self.w_duration * duration_s / self.duration_ref_s)


class ThompsonSettings(SamplerOptions):
    """Settings learned by Thompson sampling.

    Attributes
    ----------
    parameters
        What is tuned, with bounds in SI units; they must lie inside the safety limits.
    utility
        How much each objective counts.
    reward
        File of a reward that was learned from choices (``stedfast labels reward``); it judges instead of
        ``utility``.
    """

    method: Literal["thompson"] = "thompson"
    parameters: Annotated[tuple[Parameter, ...], Field(min_length=1)] = (
        Parameter(name="dwell_s", low=5e-6, high=50e-6, scale="log"),
        Parameter(name="excitation_w", low=2e-6, high=12e-6, scale="log"),
        Parameter(name="sted_w", low=0.0, high=0.2),
    )
    utility: Utility = Utility()
    reward: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _parameters_are_distinct(self) -> Self:
        ParameterSpace(self.parameters)
        return self

    @model_validator(mode="after")
    def _judged_once(self) -> Self:
        if self.reward is not None and self.utility != Utility():
            raise ValueError(f"reward={self.reward!r} judges instead of utility; leave one of them out")
        return self


class FixedSettings(Settings):
    """The same settings at each visit: those of the visit's own STED scan."""

    method: Literal["fixed"] = "fixed"


class FixedChooser:
    """Always the settings of the visit's STED scan."""

    def __init__(self, sted: ScanStep) -> None:
        self._values = {"dwell_s": sted.dwell_s, "excitation_w": sted.excitation_w, "sted_w": sted.sted_w}

    def worst(self) -> Mapping[str, float]:
        return self._values

    def choose(self, room: Room, refused: Sequence[Choice]) -> Choice | None:
        del room  # there is nothing else to offer the guard
        return None if refused else Choice(self._values, "fixed settings")

    def learn(self, choice: Choice, measured: Measured) -> None:
        """Nothing: the settings are fixed."""

    def summary(self) -> str:
        return ""


class ThompsonChooser:
    """Settings by Thompson sampling, from those the safety limits allow.

    Regions differ in brightness far more than good settings differ from bad ones, and detail and
    signal grow in proportion to it. So both are learned for a region as bright as the first one was:
    divided by the confocal signal of their own region, times that of the first.

    Where the safety limits allow a power to rise in steps only, the range that is searched ends one
    step above its last use: better settings beyond it are reached over several visits.
    """

    def __init__(
        self,
        options: ThompsonSettings,
        visit: VisitOptions,
        margin: float,
        rng: np.random.Generator,
        learned: LearnedUtility | None = None,
    ) -> None:
        self._options, self._visit, self._margin, self._learned = options, visit, margin, learned
        self._space = ParameterSpace(options.parameters)
        self._sampler = ThompsonSampler(len(self._space), OBJECTIVES, rng, options)
        self._reference_photons: float | None = None

    def worst(self) -> Mapping[str, float]:
        return _costliest(self._options.parameters)

    def choose(self, room: Room, refused: Sequence[Choice]) -> Choice | None:
        box = self._box(room.powers_w)
        if box is None:
            return None

        def allowed(points: Array) -> NDArray[np.bool_]:
            mask = np.asarray(self._costs(points)[0] * self._margin <= room.dose_max_j_per_m2)
            for choice in refused:
                if choice.point is not None:
                    mask &= ~self._asks_as_much(points, choice.point)
            return mask

        point = self._sampler.ask(self._utility, allowed, box)
        if point is None:
            return None
        trials = len(self._sampler.points)
        values = self._space.from_unit(point)
        if trials < self._options.initial_trials:
            return Choice(values, "exploring", point)
        expected = self._expected(point, room.confocal_photons)
        detail, bleaching = expected["expected_detail_snr"], 100 * expected["expected_bleached_fraction"]
        why = f"expects detail {detail:.2g}, bleaching {round(bleaching)} %"
        return Choice(values, why, point, expected)

    def learn(self, choice: Choice, measured: Measured) -> None:
        if choice.point is None:
            return
        if self._reference_photons is None and (measured.confocal_photons or 0.0) > 0:
            self._reference_photons = measured.confocal_photons
        if values := measured.objectives(self._relative_brightness(measured.confocal_photons)):
            self._sampler.tell(choice.point, values)

    def best(self) -> Mapping[str, float] | None:
        """Return the tried settings of highest expected utility; None before the first trial."""
        point = self._sampler.best(self._utility)
        return None if point is None else self._space.from_unit(point)

    def summary(self) -> str:
        best = self.best()
        return "" if best is None else f"best settings so far: {settings_in_words(best)}"

    def _expected(self, point: Array, confocal_photons: float | None) -> dict[str, float]:
        """Return what a visit to a region of this confocal signal is expected to show."""
        objectives = self._sampler.predict(point[None, :])
        utility = self._utility(objectives, point[None, :])
        scale = self._relative_brightness(confocal_photons)

        def counts(name: str) -> float:
            # Bounded, because an extrapolated logarithm may be that of infinity.
            return scale * max(0.0, float(np.expm1(min(float(objectives[name][0]), 50.0))))

        learned: dict[str, float] = {}
        if self._learned is not None:
            dose, duration = (float(cost[0]) for cost in self._costs(point[None, :]))
            values = {name: float(expected[0]) for name, expected in objectives.items()}
            told = self._learned.evidence({**values, "dose_j_per_m2": dose, "duration_s": duration})
            learned = {f"expected_{name}": value for name, value in told.items()}
        return {
            **learned,
            "expected_detail_snr": counts("detail_log"),
            "expected_bleached_fraction": float(objectives["bleached_fraction"][0]),
            "expected_signal_photons": counts("signal_log"),
            "expected_utility": float(utility[0]),
        }

    def _relative_brightness(self, confocal_photons: float | None) -> float:
        """Return how many times brighter than the first a region is; 1 where that is not known."""
        if confocal_photons is None or self._reference_photons is None:
            return 1.0
        # Bounded, because the brightness of a nearly dark region is mostly noise.
        return float(np.clip(confocal_photons / self._reference_photons, 0.1, 10.0))

    def _box(self, powers_w: PowerRanges) -> tuple[Array, Array] | None:
        """Return the corners of the part of the unit cube that keeps to these powers; None if none does."""
        low: dict[str, float] = {}
        high: dict[str, float] = {}
        for p in self._options.parameters:
            lowest, highest = powers_w.get(p.name, (-np.inf, np.inf))
            if not (p.low <= highest and lowest <= p.high):
                return None
            # A part in 1e9 inside: rounding on the way to the unit cube and back must not step over.
            high[p.name] = max(min(p.high, highest * (1 - 1e-9)), p.low)
            low[p.name] = min(max(p.low, lowest * (1 + 1e-9)), high[p.name])
        corners = np.clip([self._space.to_unit(low), self._space.to_unit(high)], 0.0, 1.0)
        return corners[0], corners[1]

    def _asks_as_much(self, points: Array, refused: Array) -> NDArray[np.bool_]:
        """Tell which points ask for about as much as a refused one, or more, of everything.

        What a guard refuses for power, dose or count rate it refuses for more of it, too.
        """
        sign = np.array([-1.0 if p.name == "pixel_size_m" else 1.0 for p in self._options.parameters])
        return np.asarray(((points - refused) * sign >= -0.1).all(axis=1))

    def _utility(self, objectives: Mapping[str, Array], points: Array) -> Array:
        return (self._learned or self._options.utility).of(objectives, *self._costs(points))

    def _costs(self, points: Array) -> tuple[Array, Array]:
        """Return dose in J/m2 and duration in s of a STED scan at each of ``points``."""
        sted = self._visit.sted
        names = ("dwell_s", "excitation_w", "sted_w", "pixel_size_m")
        values: dict[str, Array] = {name: np.full(len(points), getattr(sted, name)) for name in names}
        values |= self._space.from_unit_many(points)
        per_area = values["dwell_s"] * sted.line_averages / values["pixel_size_m"] ** 2
        dose = (values["excitation_w"] + values["sted_w"]) * per_area
        return dose, per_area * self._visit.size_m**2


def make_chooser(
    options: ThompsonSettings | FixedSettings,
    visit: VisitOptions,
    reach: Reach,
    rng: np.random.Generator,
    *,
    overview: ScanSettings | None = None,
    learned: LearnedUtility | None = None,
) -> Chooser:
    """Return the chooser that ``options`` ask for; scans outside the limits are a ConfigurationError.

    ``overview`` is the scan before the first visit, if there is one: the powers rise from there.
    ``learned`` judges settings instead of the declared weights.
    """
    square = visit.square(reach.limits.stage_box.center_yx_m)
    parameters = () if isinstance(options, FixedSettings) else options.parameters
    problems = reach.problems(visit.confocal.at(square), "visit.confocal")
    if isinstance(options, FixedSettings):
        key = "visit.sted"
        problems += reach.problems(visit.sted.at(square), key)
    else:
        key = "settings.parameters, as gentle as can be"
        ranges = _problems_of_ranges(parameters, reach.limits)
        problems += ranges or _problems_of_extremes(parameters, visit, reach)
    if not problems:
        confocal = ("visit.confocal", visit.confocal.at(square))
        sted = (key, visit.sted.replace(**_least_steps(parameters, visit)).at(square))
        plan = [] if overview is None else [("overview", overview)]
        problems += problems_of_steps([*plan, confocal, sted, confocal, sted], reach.limits)
    if problems:
        raise ConfigurationError(*problems)
    if isinstance(options, FixedSettings):
        return FixedChooser(visit.sted)
    return ThompsonChooser(options, visit, reach.limits.dose_margin, rng, learned)


def learned_utility(options: ThompsonSettings | FixedSettings, folder: Path) -> LearnedUtility | None:
    """Return the learned reward that settings are to be judged by, if the options name one."""
    if isinstance(options, FixedSettings) or options.reward is None:
        return None
    return LearnedUtility.read(options.reward, folder)


def _problems_of_ranges(parameters: Sequence[Parameter], limits: SafetyLimits) -> list[str]:
    """Return one sentence for each parameter whose range leaves the safety limits."""
    pixel_size = (limits.pixel_size_min_m, limits.pixel_size_max_m)
    allowed = {
        "dwell_s": (limits.dwell_min_s, limits.dwell_max_s, "s", "dwell_min_s, dwell_max_s"),
        "excitation_w": (0.0, limits.excitation_max_w, "W", "excitation_max_w"),
        "sted_w": (0.0, limits.sted_max_w, "W", "sted_max_w"),
        "pixel_size_m": (*pixel_size, "m", "pixel_size_min_m, pixel_size_max_m"),
    }
    return [
        f"policy.options.settings.parameters: {p.name} from {p.low:g} to {p.high:g} {unit} is asked, "
        f"allowed is {low:g} to {high:g} {unit} ({keys} in the safety limits)"
        for p, (low, high, unit, keys) in ((p, allowed[p.name]) for p in parameters)
        if not low <= p.low <= p.high <= high
    ]


def _problems_of_extremes(parameters: Sequence[Parameter], visit: VisitOptions, reach: Reach) -> list[str]:
    """Return what is wrong with the STED scans at both ends of what may be chosen.

    The dose is judged at the gentlest end only: the chooser itself keeps to the dose.
    """
    square = visit.square(reach.limits.stage_box.center_yx_m)
    costliest = visit.sted.replace(**_costliest(parameters)).at(square)
    gentlest = visit.sted.replace(**_gentlest(parameters)).at(square)
    key = "settings.parameters, all at their"
    problems = [
        f"policy.options.{key} costliest: {p}"
        for p in reach.limits.violations(costliest, "the safety limits")
    ]
    return problems + reach.problems(gentlest, f"{key} gentlest")


# Finer pixels are more pixels for the same square: the costly end of that axis is the low one.
def _costliest(parameters: Sequence[Parameter]) -> dict[str, float]:
    return {p.name: p.low if p.name == "pixel_size_m" else p.high for p in parameters}


def _least_steps(parameters: Sequence[Parameter], visit: VisitOptions) -> dict[str, float]:
    """Return the values with the smallest steps of power to and from the confocal scans."""
    near = {"excitation_w": visit.confocal.excitation_w, "sted_w": 0.0}
    return {p.name: min(max(near[p.name], p.low), p.high) for p in parameters if p.name in near}


def _gentlest(parameters: Sequence[Parameter]) -> dict[str, float]:
    return {p.name: p.high if p.name == "pixel_size_m" else p.low for p in parameters}
