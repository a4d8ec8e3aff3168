"""Labelled images: what a simulated microscope would show, what it shows without noise, and the truth.

Chance: every stream is hashed from the seed of the data set, from what it is for, and from the number of
the item. So an item is the same whoever makes it, and in whatever order.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cached_property
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr, model_validator

from controller.core.dataset import DatasetItem
from controller.core.settings import MAX_PIXELS, NonNegative, Positive, Region, ScanSettings, Settings
from simulator.specimens import (
    MAP_PIXEL_SIZE_M,
    SHIPPED,
    Specimen,
    SpecimenName,
    SpecimenOptions,
    make_specimen,
)
from simulator.sted.detector import Detector
from simulator.sted.engine import STEDEngine
from simulator.sted.optics import Optics
from simulator.sted.photophysics import RED
from simulator.sted.scanning import Exposure, FloatImage, Seeds

#: Map pixels beyond the image in which there is a sample, too; more than the light of any scan reaches.
_SURROUNDINGS_PX = 64


class _Purpose(IntEnum):
    """What a stream of random numbers is for. Numbers are part of every seed: never renumber."""

    SPECIMEN = 1
    BLEACHING = 2
    PHOTONS = 3


class STEDDatasetOptions(Settings):
    """What a data set of STED or confocal images is made of."""

    specimens: Annotated[tuple[SpecimenName, ...], Field(min_length=1)] = ("synapses",)
    """Kinds of sample, in turn."""
    size_px: Annotated[int, Field(ge=8, le=4096)] = 128
    """Side of an image in pixels."""
    pixel_size_m: Positive = MAP_PIXEL_SIZE_M
    """Multiple of 20 nm."""
    excitation_w: NonNegative = 10e-6
    """Mean power at the sample."""
    sted_w: NonNegative = 150e-3
    """Mean power at the sample; 0 makes confocal images."""
    dwell_s: Positive = 10e-6
    """Time on a pixel in one pass."""
    line_averages: Annotated[int, Field(ge=1, le=100_000)] = 1
    """How often each line is scanned."""
    molecules_per_pixel: Annotated[float, Field(gt=0, le=1e6)] = 5.0
    """Expected molecules in the brightest 20 nm pixels."""
    background_hz: NonNegative = 2000.0
    """Counts per second without any sample."""
    bleaching: NonNegative = 1.0
    """Relative bleaching rate, as for the simulated microscope. 0 never bleaches."""
    sample: SpecimenOptions = SpecimenOptions()
    """``density``, ``rare_fraction``, ``unspecific``."""

    @property
    def stride_px(self) -> int:
        """Return the pixel size in pixels of the map."""
        return round(self.pixel_size_m / MAP_PIXEL_SIZE_M)

    @model_validator(mode="after")
    def _is_a_scan_of_a_map(self) -> Self:
        if self.stride_px < 1 or abs(self.pixel_size_m / (self.stride_px * MAP_PIXEL_SIZE_M) - 1) > 1e-6:
            raise ValueError(
                f"pixel_size_m={self.pixel_size_m:g} is not a multiple of the map pixel, "
                f"{MAP_PIXEL_SIZE_M:g} m"
            )
        side_px = self.size_px * self.stride_px + 2 * _SURROUNDINGS_PX
        if not side_px**2 <= MAX_PIXELS:
            raise ValueError(
                f"size_px={self.size_px} pixels of pixel_size_m={self.pixel_size_m:g} are {side_px} x "
                f"{side_px} map pixels of {MAP_PIXEL_SIZE_M:g} m, allowed are {MAX_PIXELS} in all"
            )
        if not (self.excitation_w <= 1 and self.sted_w <= 10):
            raise ValueError(
                f"excitation_w={self.excitation_w:g} W, sted_w={self.sted_w:g} W are more than lasers have; "
                f"microwatts are e-6, milliwatts e-3"
            )
        return self

    def scan(self) -> ScanSettings:
        """Return the scan of every item: its sample is centred on (0, 0)."""
        side_m = self.size_px * self.pixel_size_m
        return ScanSettings(
            modality="sted" if self.sted_w > 0 else "confocal",
            region=Region(center_yx_m=(0.0, 0.0), size_yx_m=(side_m, side_m)),
            pixel_size_m=self.pixel_size_m,
            dwell_s=self.dwell_s,
            excitation_w=self.excitation_w,
            sted_w=self.sted_w,
            line_averages=self.line_averages,
        )


class STEDDataset:
    """Simulates images of a sample of their own each. Implements the role ``DatasetMaker``.

    Parameters
    ----------
    options
        See :class:`STEDDatasetOptions`.
    seed
        Decides all samples and all noise.
    """

    Options: ClassVar[type[STEDDatasetOptions]] = STEDDatasetOptions

    def __init__(self, options: STEDDatasetOptions, seed: int) -> None:
        self._options = options
        self._seed = seed
        for name in set(options.specimens) & set(SHIPPED):
            make_specimen(name, (1, 1), 1.0, np.random.default_rng(0))  # is its package installed?

    def item(self, index: int) -> DatasetItem:
        """Simulate item number ``index``.

        Images are ``photons`` (what was counted), ``expected`` (its mean: these molecules, bleaching as
        they did, without the noise of counting) and ``molecules`` (per pixel, before the scan).
        """
        options, stride = self._options, self._options.stride_px
        around, whole = self._specimen(index)
        margin = self._engine.margin_px
        skip = _SURROUNDINGS_PX - margin
        lit = around.molecules[
            skip : around.molecules.shape[0] - skip, skip : around.molecules.shape[1] - skip
        ]
        settings = options.scan()
        exposure = Exposure(
            stride, settings.pixel_time_s, options.excitation_w, options.sted_w, options.line_averages
        )
        seeds = Seeds(self._stream(_Purpose.BLEACHING, index), self._stream(_Purpose.PHOTONS, index))
        self._detector.seen.clear()
        photons = self._engine.scan(lit, exposure, seeds).photons
        on_beams = np.s_[stride // 2 :: stride, stride // 2 :: stride]
        blocks = whole.molecules.reshape(options.size_px, stride, options.size_px, stride)
        return DatasetItem(
            settings=settings,
            images={
                "photons": photons,
                "expected": np.concatenate(self._detector.seen).astype(np.float32),
                "molecules": blocks.sum(axis=(1, 3), dtype=np.uint32),
            },
            labels={"structures": whole.structures[on_beams], "classes": whole.classes[on_beams]},
            tables={"points": _points(whole)},
            group=whole.name if whole.name in SHIPPED else f"{index:06d}",
            # Maps that pysted ships come under its licence; what is drawn here is given away.
            licence="MIT" if whole.name in SHIPPED else "CC0-1.0",
            details={
                "specimen": whole.name,
                "class_names": list(whole.class_names),
                "structure_classes": {str(label): cls for label, cls in whole.structure_classes.items()},
                "map_pixel_size_m": MAP_PIXEL_SIZE_M,
                "seeds": {purpose.name.lower(): [self._seed, int(purpose), index] for purpose in _Purpose},
            },
        )

    @cached_property
    def _detector(self) -> _WatchedDetector:
        return _WatchedDetector(background_hz=self._options.background_hz)

    @cached_property
    def _engine(self) -> STEDEngine:
        # Its kernels take a second: not before an item is made, and once in a process.
        engine = STEDEngine(Optics(), RED.bleaching_faster(self._options.bleaching), self._detector)
        assert engine.margin_px <= _SURROUNDINGS_PX  # noqa: S101  # optics are fixed here
        return engine

    def _specimen(self, index: int) -> tuple[Specimen, Specimen]:
        """Return a sample that goes on beyond the image, and the part of it that is in the image."""
        options = self._options
        inside = options.size_px * options.stride_px
        side = inside + 2 * _SURROUNDINGS_PX
        around = make_specimen(
            options.specimens[index % len(options.specimens)],
            (side, side),
            options.molecules_per_pixel,
            np.random.default_rng(self._stream(_Purpose.SPECIMEN, index)),
            options.sample,
        )
        return around, around.crop((_SURROUNDINGS_PX, _SURROUNDINGS_PX), (inside, inside))

    def _stream(self, purpose: _Purpose, index: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([self._seed, int(purpose), index])


class _WatchedDetector(Detector):
    """A detector that also tells what it expected to count, which is the image without noise."""

    _seen: list[FloatImage] = PrivateAttr(default_factory=list)

    @property
    def seen(self) -> list[FloatImage]:
        """The means of what was counted, a few lines each, in the order of the scan."""
        return self._seen

    def counts(
        self,
        photons_hz: FloatImage,
        dwell_s: FloatImage | float,
        rng: np.random.Generator,
        *,
        whole_rates: bool = False,
    ) -> NDArray[np.int64]:
        self._seen.append((photons_hz * self.efficiency + self.background_hz) * dwell_s)
        return super().counts(photons_hz, dwell_s, rng, whole_rates=whole_rates)


def _points(specimen: Specimen) -> dict[str, NDArray[Any]]:
    points = specimen.points
    return {
        "y_m": points.center_yx_m[:, 0],
        "x_m": points.center_yx_m[:, 1],
        "size_m": points.size_m,
        "class": points.classes,
        "structure": points.structures,
    }
