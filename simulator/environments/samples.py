"""Where the fields of an episode come from: drawn samples under a simulated microscope, or a real one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, sqrt
from typing import Annotated, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from controller.core.clock import SimulatedClock
from controller.core.errors import ConfigurationError
from controller.core.guard import GuardedMicroscope
from controller.core.limits import SafetyLimits
from controller.core.settings import NonNegative, Positive, Region, Settings
from simulator.environments.mosaic import Field as SampleField
from simulator.environments.mosaic import mosaic
from simulator.specimens import (
    MAP_PIXEL_SIZE_M,
    Specimen,
    SpecimenName,
    SpecimenOptions,
    TruthPoints,
    make_specimen,
)
from simulator.sted.detector import Detector
from simulator.sted.engine import STEDEngine
from simulator.sted.microscope import SimulatedMicroscope
from simulator.sted.optics import Optics
from simulator.sted.photophysics import RED

Range = tuple[Positive, Positive]

#: Sides of the maps that small and large fields are cut from, and how many there are of each kind.
_MAP_PX = (512, 1024)
_MAPS = 3
_MOLECULES_PER_PIXEL = 5.0

#: Seeds of the maps. Part of every episode: never change them.
_MAP_SEEDS = {"train": 20_000, "held_out": 90_000}
_KIND_NUMBERS: dict[str, int] = {
    "synapses": 1,
    "filaments": 2,
    "microtubules": 3,
    "vesicles": 4,
    "beads": 5,
    "neurons": 6,
}


class SampleDistribution(Settings):
    """What samples are drawn from. Ranges are log-uniform; each episode has one sample."""

    kinds: Annotated[tuple[SpecimenName, ...], Field(min_length=1)] = (
        "filaments",
        "microtubules",
        "vesicles",
        "synapses",
    )
    """Kinds of sample, each as likely as the others."""
    maps: Literal["train", "held_out"] = "train"
    """Which set of maps the fields are cut from; nothing of one set is in the other."""
    bleaching: Range = (0.3, 3.0)
    """Bleaching rate of the dye, relative to ``simulator.sted.photophysics.RED``."""
    brightness: Range = (0.3, 1.2)
    """Quantum yield of the dye, relative to ``RED``; at most 1.5."""
    background_hz: Range = (1000.0, 4000.0)
    """Counts per second without any sample."""
    specimen: SpecimenOptions = SpecimenOptions()
    """How crowded the maps are, and which part of their things is rare."""

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> Self:
        for name in ("bleaching", "brightness", "background_hz"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name}: low={low:g} must not be above high={high:g}")
        if not self.brightness[1] <= 1.5:
            raise ValueError(f"brightness: {self.brightness[1]:g} would give more photons than excitations")
        unknown = set(self.kinds) - set(_KIND_NUMBERS)
        if unknown:
            raise ValueError(f"kinds: {sorted(unknown)} cannot be drawn, known are {list(_KIND_NUMBERS)}")
        return self


#: Distributions by name. ``held_out`` has kinds, maps and dyes that none of the others has.
TASKS: dict[str, SampleDistribution] = {
    "easy": SampleDistribution(
        kinds=("filaments",), bleaching=(1.0, 1.0), brightness=(1.0, 1.0), background_hz=(2000.0, 2000.0)
    ),
    "mid": SampleDistribution(),
    "hard": SampleDistribution(bleaching=(2.0, 6.0), brightness=(0.1, 0.4), background_hz=(2000.0, 8000.0)),
    "held_out": SampleDistribution(
        kinds=("beads",), maps="held_out", bleaching=(3.2, 6.0), brightness=(0.15, 0.28)
    ),
}
TaskName = Literal["easy", "mid", "hard", "held_out"]

_BRIGHT, _DIM = (0.8, 1.2), (0.1, 0.3)
_STABLE, _FRAGILE = (0.3, 0.8), (3.0, 6.0)
#: Dyes by name, on the samples of ``mid``: gym-sted's hslb, hshb, lslb and lshb, in this order.
DYE_CLASSES: dict[str, SampleDistribution] = {
    "bright_stable": SampleDistribution(brightness=_BRIGHT, bleaching=_STABLE),
    "bright_fragile": SampleDistribution(brightness=_BRIGHT, bleaching=_FRAGILE),
    "dim_stable": SampleDistribution(brightness=_DIM, bleaching=_STABLE),
    "dim_fragile": SampleDistribution(brightness=_DIM, bleaching=_FRAGILE),
}


@dataclass(frozen=True, slots=True)
class Truth:
    """What only a simulator knows. For rewards and figures; no observation holds any of it."""

    microscope: SimulatedMicroscope

    def molecules(self, region: Region) -> NDArray[np.int32]:
        """Return the molecules of a region that still fluoresce, on the map's pixels of 20 nm."""
        return self._cut(self.microscope.molecules, region)

    def molecules_at_start(self, region: Region) -> NDArray[np.int32]:
        """Return the molecules that a region had before any light."""
        return self._cut(self.microscope.specimen.molecules, region)

    def classes(self, region: Region) -> NDArray[np.int32]:
        """Return what the map's pixels of a region are, as indices into ``class_names``."""
        return self._cut(self.microscope.specimen.classes, region)

    def structures(self, region: Region) -> NDArray[np.int32]:
        """Return the label image of a region: 0 background, structures 1, 2, …, as in the whole sample."""
        return self._cut(self.microscope.specimen.structures, region)

    def points(self, region: Region) -> TruthPoints:
        """Return the small things in a region, in sample coordinates."""
        return self.microscope.specimen.points.inside(region)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes; the first is the background."""
        return self.microscope.specimen.class_names

    @staticmethod
    def _cut(image: NDArray[np.int32], region: Region) -> NDArray[np.int32]:
        y0, x0, y1, x1 = (round(bound / MAP_PIXEL_SIZE_M) for bound in region.bounds_yx_m)
        row, column = image.shape[0] // 2, image.shape[1] // 2
        return image[y0 + row : y1 + row, x0 + column : x1 + column]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A microscope with something under it.

    Attributes
    ----------
    microscope
        Behind its guard; the environment never sees the driver.
    fields
        Where to scan: at least as many as were asked for, all of one size.
    truth
        What is there, if it is simulated.
    drawn
        What was drawn from the distribution, by name.
    """

    microscope: GuardedMicroscope
    fields: tuple[Region, ...]
    truth: Truth | None
    drawn: dict[str, float]


class Samples(Protocol):
    """Where an episode's microscope and fields come from."""

    @property
    def limits(self) -> SafetyLimits:
        """What the microscopes may be asked for."""

    @property
    def is_simulated(self) -> bool:
        """Whether there is a truth."""

    def prepare(self, seeds: np.random.SeedSequence, fields: int, size_m: float) -> Prepared:
        """Return a microscope with so many square fields, for one episode."""

    def close(self) -> None:
        """Put the lights out and release what is held."""


def simulated_limits(session_energy_max_j: float) -> SafetyLimits:
    """Return the limits of the simulated STED microscope, with the budget of one episode."""
    return SafetyLimits(
        excitation_max_w=50e-6,
        sted_max_w=0.25,
        dwell_min_s=1e-6,
        dwell_max_s=100e-6,
        pixel_size_min_m=MAP_PIXEL_SIZE_M,
        pixel_size_max_m=200e-9,
        line_averages_max=8,
        pixels_max=2**18,
        frame_max_s=30.0,
        overrun_max_s=60.0,
        stage_box=Region(center_yx_m=(0.0, 0.0), size_yx_m=(1e-3, 1e-3)),
        pixel_dose_max_j_per_m2=1e13,
        session_energy_max_j=session_energy_max_j,
    )


class SimulatedSamples:
    """Draws a sample for each episode. Implements ``Samples``.

    Maps are made once in a process and fields cut from them, so only the first episode with a map
    takes the tenth of a second that it costs to make one.
    """

    def __init__(self, distribution: SampleDistribution, limits: SafetyLimits) -> None:
        self.distribution = distribution
        self.limits = limits
        self.is_simulated = True
        self._guard: GuardedMicroscope | None = None

    def prepare(self, seeds: np.random.SeedSequence, fields: int, size_m: float) -> Prepared:
        """Return a new sample; the one before is gone."""
        self.close()
        chance, noise = seeds.spawn(2)
        rng = np.random.default_rng(chance)
        drawn = self._drawn(rng)
        engine = _engine(drawn["bleaching"], drawn["brightness"], drawn["background_hz"])
        kind = self.distribution.kinds[int(drawn["kind"])]
        side_px = round(size_m / MAP_PIXEL_SIZE_M)
        cut = [self._field(kind, side_px, engine.margin_px, rng) for _ in range(fields)]
        columns = ceil(sqrt(fields))
        specimen, centers_yx_m = mosaic(cut, columns)
        tile_px = side_px + 2 * engine.margin_px
        microscope = SimulatedMicroscope(
            SimulatedMicroscope.Options(
                fields_yx=(ceil(fields / columns), columns), field_size_m=tile_px * MAP_PIXEL_SIZE_M
            ),
            clock=SimulatedClock(),
            seed=int(noise.generate_state(1, np.uint64)[0] >> np.uint64(1)),
            engine=engine,
            specimen=specimen,
        )
        self._guard = GuardedMicroscope(microscope, self.limits, source="limits of the environment")
        regions = tuple(Region(center_yx_m=center, size_yx_m=(size_m, size_m)) for center in centers_yx_m)
        return Prepared(self._guard, regions, Truth(microscope), drawn)

    def close(self) -> None:
        """Close the microscope of the last episode."""
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def _drawn(self, rng: np.random.Generator) -> dict[str, float]:
        ranges = self.distribution
        drawn = {"kind": float(rng.integers(len(ranges.kinds)))}
        for name in ("bleaching", "brightness", "background_hz"):
            low, high = getattr(ranges, name)
            drawn[name] = float(np.exp(rng.uniform(np.log(low), np.log(high)))) if low < high else low
        return drawn

    def _field(self, kind: str, side_px: int, margin_px: int, rng: np.random.Generator) -> SampleField:
        """Cut a field with its surroundings, at a place with something to see."""
        number = _MAP_SEEDS[self.distribution.maps] + int(rng.integers(_MAPS))
        tile_px = side_px + 2 * margin_px
        map_px = _MAP_PX[0] if tile_px <= _MAP_PX[0] // 2 else _MAP_PX[1]
        if tile_px > map_px:
            raise ConfigurationError(
                f"fields of {side_px} map pixels and {margin_px} around do not fit into maps of {map_px}: "
                f"lower their size"
            )
        specimen, places = _map(kind, number, map_px, self.distribution.specimen)
        middle = places[int(rng.integers(len(places)))] + rng.integers(-side_px // 4, side_px // 4 + 1, 2)
        first = np.clip(middle - tile_px // 2, 0, map_px - tile_px)
        return specimen.crop((int(first[0]), int(first[1])), (tile_px, tile_px))


class MicroscopeFields:
    """The fields of a microscope that is there already, real or not. Implements ``Samples``.

    Each episode takes the next fields of the list and, after its end, the first ones again. The dose
    ledger goes on from episode to episode: the budget is that of the session.
    """

    def __init__(self, microscope: GuardedMicroscope, fields: tuple[Region, ...]) -> None:
        if type(microscope) is not GuardedMicroscope:
            raise ConfigurationError(f"a GuardedMicroscope is needed, got {type(microscope).__name__}")
        if not fields:
            raise ConfigurationError("a microscope without fields has nothing to scan")
        self._microscope = microscope
        self._fields = fields
        self._next = 0
        self.limits = microscope.limits
        self.is_simulated = False

    def prepare(self, seeds: np.random.SeedSequence, fields: int, size_m: float) -> Prepared:  # noqa: ARG002
        """Return the microscope and its next fields; ``ConfigurationError`` if they have another size."""
        chosen = tuple(self._fields[(self._next + number) % len(self._fields)] for number in range(fields))
        self._next = (self._next + fields) % len(self._fields)
        for field in chosen:
            if not max(abs(size - size_m) for size in field.size_yx_m) <= 1e-9 + 1e-3 * size_m:
                raise ConfigurationError(
                    f"a field of {field.size_yx_m} m is given, needed is {size_m:g} m a side"
                )
        return Prepared(self._microscope, chosen, None, {})

    def close(self) -> None:
        """Put the lights out and release the microscope."""
        self._microscope.close()


@lru_cache(maxsize=16)
def _map(
    kind: SpecimenName, number: int, map_px: int, options: SpecimenOptions
) -> tuple[Specimen, NDArray[np.intp]]:
    """Return a map and the places of its structures, shape ``(n, 2)``."""
    rng = np.random.default_rng([number, _KIND_NUMBERS[kind]])
    specimen = make_specimen(kind, (map_px, map_px), _MOLECULES_PER_PIXEL, rng, options)
    places = np.argwhere(specimen.structures > 0)
    if not len(places):
        places = np.array([[map_px // 2, map_px // 2]])
    return specimen, places


@lru_cache(maxsize=16)
def _engine(bleaching: float, brightness: float, background_hz: NonNegative) -> STEDEngine:
    """Return an engine for a dye; light that is worked out once serves later episodes with this dye."""
    dye = RED.bleaching_faster(bleaching)
    dye = dye.replace(quantum_yield=dye.quantum_yield * brightness)
    return STEDEngine(_optics(), dye, Detector(background_hz=background_hz))


@lru_cache(maxsize=1)
def _optics() -> Optics:
    return Optics()
