"""A simulated STED microscope: a sample that bleaches, a stage, an injected clock and stoppable light.

Coordinates: the sample is centred on (0, 0). Its map has pixels of 20 nm; a scan starts on the
nearest one, so it lies at most 10 nm from where it was asked for, and even multiples of 20 nm put
the beam another 10 nm below and right of each pixel's middle.

Chance: one integer is drawn when the microscope is made. Every stream is hashed from it, from what
the stream is for and from the number of the acquisition, so that frame 7 has the same noise whatever
happened to the generators of others in between, and in a session that was resumed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from controller.core.clock import SimulatedClock
from controller.core.errors import (
    AcquisitionStoppedError,
    ConfigurationError,
    DeviceError,
    InvalidRequestError,
)
from controller.core.frame import Frame
from controller.core.limits import SafeValues
from controller.core.protocols import Capabilities, Clock, Resources
from controller.core.settings import (
    MAX_PIXELS,
    Modality,
    NonNegative,
    Positive,
    Region,
    ScanSettings,
    Settings,
)
from simulator.detector import Detector
from simulator.photophysics import DYES, DyeName
from simulator.pysted_reference import PystedEngine
from simulator.scanning import Exposure, Molecules, Scanned, ScanningEngine, Seeds
from simulator.specimens import MAP_PIXEL_SIZE_M, Specimen, SpecimenName, make_specimen
from simulator.sted import STEDEngine

#: How long it may take until a stop from another thread ends a wait.
_STOP_LATENCY_S = 0.05

_MODALITIES: tuple[Modality, ...] = ("overview", "confocal", "sted")


class _Purpose(IntEnum):
    """What a stream of random numbers is for. Numbers are part of every seed: never renumber."""

    SPECIMEN = 1
    BLEACHING = 2
    PHOTONS = 3


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a scan lies on the map: its first map pixel, and its image pixels and their stride."""

    first_yx: tuple[int, int]
    shape_yx: tuple[int, int]
    stride_px: int


class SimulatedMicroscope:
    """A STED microscope and its sample, for tests, teaching and the training of policies.

    Implements the roles ``Microscope``, ``Plugin`` and ``RemembersLight``. Making one computes the
    light's kernels, so that no scan waits for them.

    Parameters
    ----------
    options
        See :class:`SimulatedMicroscope.Options`.
    clock
        Tells the time. A scan lasts ``settings.duration_s`` on it; a stage move costs time, too.
    seed
        Decides the sample and all noise.
    engine
        What turns molecules into images, the one that the options name if not given.
    specimen
        A sample that is made already, of the size that the options say. Their ``specimen`` and
        ``molecules_per_pixel`` are not looked at then.

    Raises
    ------
    ConfigurationError
        If the given sample has another size, or the options name one that cannot be made.
    """

    class Options(Settings):
        """The simulated sample and instrument, as a configuration states them."""

        specimen: SpecimenName = "synapses"
        """Kind of sample; what each looks like is in ``simulator/specimens/``."""
        molecules_per_pixel: Positive = 5.0
        """Expected fluorescent molecules in the brightest 20 nm pixels of the sample."""
        fields_yx: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (2, 2)
        """Size of the sample in fields of view, down and across."""
        field_size_m: Positive = 10.24e-6
        """Side of the field of view: what can be scanned without moving the stage. Multiple of 20 nm."""
        stage_speed_m_per_s: Positive = 1e-3
        """Speed of each axis of the stage."""
        stage_settle_s: NonNegative = 0.1
        """Wait after each move of the stage."""
        background_hz: NonNegative = 2000.0
        """Counts per second without any sample: dark counts and stray light."""
        bleaching: NonNegative = 1.0
        """Bleaching rate, relative to the dye's own. The default one loses about a fifth of its molecules
        in a STED scan of 10 µW, 150 mW and 10 µs at 20 nm, and about a seventieth in the same scan
        without the STED beam. 0 never bleaches."""
        dye: DyeName = "red"
        """What fluoresces; see ``simulator/photophysics.py``. The lasers have the dye's wavelengths."""
        engine: Literal["exact", "pysted"] = "exact"
        """``"exact"`` is Stedfast's own engine. ``"pysted"`` is the reference, about a hundred times
        slower: it needs pysted, and does not bleach without the STED beam."""

        @model_validator(mode="after")
        def _sample_is_a_map(self) -> Self:
            side_px = self.field_size_m / MAP_PIXEL_SIZE_M
            if not (side_px >= 1 and abs(side_px - round(side_px)) < 1e-6):
                raise ValueError(
                    f"field_size_m={self.field_size_m:g} is not a multiple of the map pixel, "
                    f"{MAP_PIXEL_SIZE_M:g} m"
                )
            if not self.fields_yx[0] * self.fields_yx[1] * side_px**2 <= MAX_PIXELS:
                raise ValueError(
                    f"{self.fields_yx} fields of {self.field_size_m:g} m have more than {MAX_PIXELS} "
                    f"map pixels of {MAP_PIXEL_SIZE_M:g} m: lower fields_yx or field_size_m"
                )
            return self

    def __init__(
        self,
        options: Options,
        *,
        clock: Clock,
        seed: int,
        engine: ScanningEngine | None = None,
        specimen: Specimen | None = None,
    ) -> None:
        self._options = options
        self._clock = clock
        self._seed = seed
        self._engine = engine or _engine(options)
        self._margin_px = self._engine.margin_px
        self._field_px = round(options.field_size_m / MAP_PIXEL_SIZE_M)
        rows, columns = options.fields_yx
        shape_yx = (rows * self._field_px, columns * self._field_px)
        if specimen is not None and specimen.molecules.shape != shape_yx:
            raise ConfigurationError(
                f"the given sample has {specimen.molecules.shape} map pixels, fields_yx={options.fields_yx} "
                f"of {options.field_size_m:g} m have {shape_yx}"
            )
        self._specimen = specimen or make_specimen(
            options.specimen,
            shape_yx,
            options.molecules_per_pixel,
            np.random.default_rng(self._stream(_Purpose.SPECIMEN, 0)),
        )
        # The map with a margin of empty glass all around: light reaches beyond a scan at its edge.
        self._molecules: Molecules = np.pad(self._specimen.molecules, self._margin_px)
        self._sample = Region(
            center_yx_m=(0.0, 0.0), size_yx_m=(rows * options.field_size_m, columns * options.field_size_m)
        )
        self._stage_yx_m = (0.0, 0.0)
        self._next_index = 0
        self._stop_requested = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._light = threading.Lock()
        self._is_lit = False
        self._is_closed = False

    @classmethod
    def from_options(cls, options: Options, resources: Resources) -> Self:
        """Make the microscope that a configuration describes.

        Raises
        ------
        ConfigurationError
            If a safe value is not 0 W, which is where simulated lights go.
        """
        if resources.safe != SafeValues():
            raise ConfigurationError(f"[safe]: simulated lights go to 0 W, asked is {resources.safe}")
        return cls(options, clock=resources.clock, seed=int(resources.rng.integers(2**63)))

    @property
    def specimen(self) -> Specimen:
        """The sample before any light, and the truth about it. For tests and figures, not for policies."""
        return self._specimen

    @property
    def molecules(self) -> Molecules:
        """The molecules that still fluoresce: a copy, on the specimen's grid."""
        margin = self._margin_px
        return self._molecules[margin:-margin, margin:-margin].copy()

    def capabilities(self) -> Capabilities:
        """Return what this microscope can do."""
        height_m, width_m = self._sample.size_yx_m
        return Capabilities(
            name="simulated STED microscope",
            modalities=_MODALITIES,
            fov_size_yx_m=(self._options.field_size_m, self._options.field_size_m),
            simulated=True,
            details={
                "specimen": self._specimen.name,
                "map_pixel_size_m": MAP_PIXEL_SIZE_M,
                "sample_height_m": height_m,
                "sample_width_m": width_m,
                "dye": self._options.dye,
                "excitation_nm": round(DYES[self._options.dye].excitation_m * 1e9),
                "sted_nm": round(DYES[self._options.dye].sted_m * 1e9),
                "engine": type(self._engine).__name__,
                "seed": self._seed,
            },
        )

    def acquire(self, settings: ScanSettings) -> Frame:
        """Scan the sample, which bleaches, and return detected photons as uint32.

        The frame's settings are those asked for; its region is replaced by the scanned one where an
        edge of it lies more than half a map pixel (10 nm) off, because the region is not a whole
        number of pixels.

        Raises
        ------
        InvalidRequestError
            If the pixel size, the size or the place of the region cannot be scanned.
        AcquisitionStoppedError
            If the scan was stopped. The lines scanned until then have bleached the sample.
        DeviceError
            If the modality is not one of this microscope's, it is closed or already scanning.
        """
        with self._scanning():
            return self._scan(settings, self._wait_until)

    def expose_again(self, settings: ScanSettings) -> None:
        """Apply the light of one earlier scan, in the order of acquisition.

        The next frame is then bit-identical to the one of an uninterrupted run. A simulated clock is
        moved on as if it had been that run; a real one is not waited for.

        Raises
        ------
        InvalidRequestError, DeviceError
            As :meth:`acquire`.
        """
        with self._scanning():
            is_free = isinstance(self._clock, SimulatedClock)
            self._scan(settings, self._wait_until if is_free else lambda _: True)

    def stop(self) -> None:
        """Put the light out, from any thread; a running acquisition raises at the next line it can."""
        self._stop_requested.set()
        with self._light:
            self._is_lit = False

    def is_dark(self) -> bool:
        """Tell whether the light is off."""
        return not self._is_lit

    def close(self) -> None:
        """Stop and take no more requests."""
        self._is_closed = True
        self.stop()

    def _stream(self, purpose: _Purpose, acquisition: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([self._seed, int(purpose), acquisition])

    @contextmanager
    def _scanning(self) -> Iterator[None]:
        """Hold the sample for one scan. A stop that came before it belongs to an earlier scan."""
        if not self._one_at_a_time.acquire(blocking=False):
            raise DeviceError("the simulated microscope is already scanning: wait for the frame or stop it")
        try:
            self._stop_requested.clear()
            if self._is_closed:
                raise DeviceError("the simulated microscope is closed: make a new one")
            yield
        finally:
            self._one_at_a_time.release()

    def _scan(self, settings: ScanSettings, wait_until: Callable[[float], bool]) -> Frame:
        """Move, scan at the pace of the clock, and count the frame."""
        place = self._place(settings)
        # Each scan has its own number and so its own chance, also one that is stopped: expose_again
        # counts it, too.
        index, self._next_index = self._next_index, self._next_index + 1
        move_s = self._move_stage(settings.region)
        if move_s > 0:
            wait_until(self._clock.now_s() + move_s)
        started_s = self._clock.now_s()
        lines = place.shape_yx[0]

        def pace(lines_done: int) -> bool:
            return wait_until(started_s + settings.duration_s * (lines_done / lines))

        try:
            self._switch_on()
            scanned = self._expose(settings, place, index, pace)
        finally:
            self._is_lit = False
        if self._stop_requested.is_set():
            raise AcquisitionStoppedError(f"acquisition {index} was stopped before its frame was complete")
        actual = _as_scanned(settings, self._region(place))
        return Frame(scanned.photons, actual, index, started_s)

    def _switch_on(self) -> None:
        # Together with the lock in stop(): a stop between the check and the light would be lost.
        with self._light:
            if self._stop_requested.is_set():
                raise AcquisitionStoppedError("the acquisition was stopped before the light")
            self._is_lit = True

    def _wait_until(self, due_s: float) -> bool:
        """Let time pass until ``due_s`` or a stop; tell whether to go on."""
        while not self._stop_requested.is_set() and (left_s := due_s - self._clock.now_s()) > 0:
            self._clock.sleep(min(left_s, _STOP_LATENCY_S))
        return not self._stop_requested.is_set()

    def _expose(
        self, settings: ScanSettings, place: _Place, index: int, go_on: Callable[[int], bool]
    ) -> Scanned:
        """Scan with the chance of the next acquisition and write the survivors back into the sample."""
        (y, x), (rows, columns) = place.first_yx, place.shape_yx
        height, width = (pixels * place.stride_px + 2 * self._margin_px for pixels in (rows, columns))
        lit = self._molecules[y : y + height, x : x + width]  # a view: survivors are written back to it
        # The last coarse pixel of a scan as large as the sample may lie partly beyond it.
        glass = ((0, height - lit.shape[0]), (0, width - lit.shape[1]))
        scanned = self._engine.scan(
            np.pad(lit, glass),
            Exposure(
                place.stride_px,
                settings.pixel_time_s,
                settings.excitation_w,
                settings.sted_w,
                settings.line_averages,
            ),
            Seeds(
                self._stream(_Purpose.BLEACHING, index),
                self._stream(_Purpose.PHOTONS, index),
            ),
            go_on,
        )
        lit[:] = scanned.survivors[: lit.shape[0], : lit.shape[1]]
        return scanned

    def _place(self, settings: ScanSettings) -> _Place:
        """Return where a scan lies on the map, or say why it cannot be made."""
        if settings.modality not in _MODALITIES:
            raise DeviceError(
                f"modality={settings.modality!r} is asked of a simulated STED microscope, "
                f"which does {', '.join(_MODALITIES)}"
            )
        stride = round(settings.pixel_size_m / MAP_PIXEL_SIZE_M)
        if stride < 1 or abs(settings.pixel_size_m / (stride * MAP_PIXEL_SIZE_M) - 1) > 1e-6:
            raise InvalidRequestError(
                f"pixel_size_m={settings.pixel_size_m:g} is not a multiple of the sample map's pixel; "
                f"allowed are {MAP_PIXEL_SIZE_M:g}, {2 * MAP_PIXEL_SIZE_M:g}, … m"
            )
        region, field_m = settings.region, self._options.field_size_m
        if not max(region.size_yx_m) <= field_m + 1e-12:
            raise InvalidRequestError(
                f"a region of {region.size_yx_m} m does not fit into the field of view of {field_m:g} m "
                f"(field_size_m of the microscope)"
            )
        if not self._sample.contains(region):
            y0, x0, y1, x1 = self._sample.bounds_yx_m
            raise InvalidRequestError(
                f"region centre {region.center_yx_m} m, size {region.size_yx_m} m is not inside the sample: "
                f"y {y0:g}..{y1:g} m, x {x0:g}..{x1:g} m (fields_yx of the microscope)"
            )
        return self._snapped(region, settings.shape_yx, stride)

    def _snapped(self, region: Region, shape_yx: tuple[int, int], stride_px: int) -> _Place:
        """Centre an image on a region, on the grid of the map and inside it."""
        first = []
        for centre_m, pixels, size in zip(
            region.center_yx_m, shape_yx, self._specimen.molecules.shape, strict=True
        ):
            start = round(centre_m / MAP_PIXEL_SIZE_M + size / 2 - pixels * stride_px / 2)
            # A region that is not a whole number of pixels may be scanned up to half of one beyond it.
            first.append(min(max(start, 0), max(0, size - pixels * stride_px)))
        return _Place((first[0], first[1]), shape_yx, stride_px)

    def _region(self, place: _Place) -> Region:
        """Return the region that a scan covers, in metres."""
        size = [pixels * place.stride_px for pixels in place.shape_yx]
        centre = [
            (start + extent / 2 - whole / 2) * MAP_PIXEL_SIZE_M
            for start, extent, whole in zip(place.first_yx, size, self._specimen.molecules.shape, strict=True)
        ]
        return Region(
            center_yx_m=(centre[0], centre[1]),
            size_yx_m=(size[0] * MAP_PIXEL_SIZE_M, size[1] * MAP_PIXEL_SIZE_M),
        )

    def _move_stage(self, region: Region) -> float:
        """Bring a region into the field of view; return how long the stage takes, 0 if it need not move."""
        field_m = self._options.field_size_m
        if Region(center_yx_m=self._stage_yx_m, size_yx_m=(field_m, field_m)).contains(region):
            return 0.0
        target = [
            float(np.clip(centre_m, -(size_m - field_m) / 2, (size_m - field_m) / 2))
            for centre_m, size_m in zip(region.center_yx_m, self._sample.size_yx_m, strict=True)
        ]
        way_m = max(abs(there - here) for there, here in zip(target, self._stage_yx_m, strict=True))
        self._stage_yx_m = (target[0], target[1])
        return way_m / self._options.stage_speed_m_per_s + self._options.stage_settle_s


def _engine(options: SimulatedMicroscope.Options) -> ScanningEngine:
    """Return the engine that the options name."""
    dye = DYES[options.dye].bleaching_faster(options.bleaching)
    detector = Detector(background_hz=options.background_hz)
    if options.engine == "pysted":
        return PystedEngine(dye=dye, detector=detector)
    return STEDEngine(dye=dye, detector=detector)


def _as_scanned(settings: ScanSettings, scanned: Region) -> ScanSettings:
    """Return the settings as they are, with the region replaced if it was not the one scanned."""
    asked = settings.region.bounds_yx_m
    off_m = max(abs(a - b) for a, b in zip(asked, scanned.bounds_yx_m, strict=True))
    return settings if off_m <= MAP_PIXEL_SIZE_M / 2 + 1e-12 else settings.replace(region=scanned)
