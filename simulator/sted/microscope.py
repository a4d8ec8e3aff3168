"""A simulated STED microscope: a sample that bleaches, a stage, an injected clock and stoppable light.

Coordinates: the sample is centred on (0, 0). Its map has pixels of 20 nm; a scan starts on the
nearest one, so it lies at most 10 nm from where it was asked for, and even multiples of 20 nm put
the beam another 10 nm below and right of each pixel's middle.

Chance: one integer is drawn when the microscope is made. Every stream is hashed from it, from what
the stream is for and from the number of the acquisition, so that frame 7 has the same noise whatever
happened to the generators of others in between, and in a session that was resumed.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import (
    ConfigurationError,
    DeviceError,
    InvalidRequestError,
)
from controller.core.frame import Frame
from controller.core.limits import SafeValues
from controller.core.protocols import Capabilities, Clock, Resources
from controller.core.settings import Modality, ScanSettings
from simulator.scan_control import ScanControl
from simulator.specimens import MAP_PIXEL_SIZE_M, Specimen, make_specimen
from simulator.stage import Place, Stage
from simulator.sted.detector import Detector
from simulator.sted.diffusion import Diffusion
from simulator.sted.engine import STEDEngine
from simulator.sted.motion import StagePath
from simulator.sted.optics import Optics
from simulator.sted.photophysics import DYES
from simulator.sted.pysted_reference import PystedEngine
from simulator.sted.sample import Sample, moving_engine
from simulator.sted.scanning import (
    AdaptiveExposure,
    Exposure,
    Molecules,
    Scanned,
    ScanningEngine,
    Seeds,
    Step,
)
from simulator.sted.setup import STEDOptions
from simulator.sted.species import SecondLabel, SpeciesEngine

_MODALITIES: tuple[Modality, ...] = ("overview", "confocal", "sted")


class _Purpose(IntEnum):
    """What a stream of random numbers is for. Numbers are part of every seed: never renumber."""

    SPECIMEN = 1
    BLEACHING = 2
    PHOTONS = 3
    STAGE = 4
    DIFFUSION = 5
    SECOND_SPECIMEN = 6


class SimulatedMicroscope:
    """A STED microscope and its sample, for tests, teaching and the training of policies.

    Implements the roles ``Microscope``, ``Plugin`` and ``RemembersLight``. Making one computes the
    light's kernels, so that no scan waits for them.

    Parameters
    ----------
    options
        See :class:`~simulator.sted.setup.STEDOptions`.
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

    Options: ClassVar[type[STEDOptions]] = STEDOptions

    def __init__(
        self,
        options: STEDOptions,
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
        field_px = round(options.field_size_m / MAP_PIXEL_SIZE_M)
        rows, columns = options.fields_yx
        shape_yx = (rows * field_px, columns * field_px)
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
            options.specimen_options,
        )
        self._path = StagePath(
            options.drift_m_per_s,
            options.vibration_m,
            options.vibration_hz,
            self._stream(_Purpose.STAGE, 0),
        )
        self._moving_engine = None if self._path.rests else moving_engine(self._engine)
        self._specimens = [self._specimen]
        if options.second_label is not None:
            self._specimens.append(self._second_specimen(options.second_label, shape_yx))
        maps = [specimen.molecules for specimen in self._specimens]
        self._sample = Sample(np.stack(maps) if len(maps) > 1 else maps[0], self._engine.margin_px)
        self._diffusions = [
            Diffusion(specimen.molecules, specimen.structures, options.diffusing)
            for specimen in self._specimens
            if options.diffusion_m2_per_s > 0
        ]
        self._made_s = self._moved_s = clock.now_s()
        self._stage = Stage(
            shape_yx,
            MAP_PIXEL_SIZE_M,
            options.field_size_m,
            speed_m_per_s=options.stage_speed_m_per_s,
            settle_s=options.stage_settle_s,
        )
        self._control = ScanControl(clock)
        self._next_index = 0
        self._steps_made: NDArray[np.uint8] | None = None

    @classmethod
    def from_options(cls, options: STEDOptions, resources: Resources) -> Self:
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
    def specimens(self) -> tuple[Specimen, ...]:
        """The same of each label, first the one that :attr:`specimen` is."""
        return tuple(self._specimens)

    @property
    def molecules(self) -> Molecules:
        """The molecules that still fluoresce: a copy, on the specimen's grid.

        With a second label the shape is ``(2, y, x)``, a map of each.
        """
        return self._sample.molecules.copy()

    def shift_m(self, time_s: float) -> tuple[float, float]:
        """Return how far the stage has carried the sample at a time of the clock, y and x: the truth.

        Something at a place of the specimen is seen at that place plus this.
        """
        y, x = self._path.shift_m(np.array([time_s - self._made_s]))[0].tolist()
        return y, x

    @property
    def steps_made(self) -> NDArray[np.uint8] | None:
        """How many steps each pixel of the last adaptive scan made, shape ``(y, x)``; None before one.

        For rewards and figures, as :attr:`molecules`.
        """
        return self._steps_made

    @property
    def displacements_m(self) -> tuple[NDArray[np.float64], ...]:
        """How far what diffuses was from its first place in the last scan: the truth.

        For each label a shape of ``(2, things)``, y and x. Things are the structures by their labels, 0
        what has none, or the molecules in the order of the map. Empty if nothing diffuses.
        """
        return tuple(
            np.asarray(each.displacement_px * MAP_PIXEL_SIZE_M, np.float64) for each in self._diffusions
        )

    def capabilities(self) -> Capabilities:
        """Return what this microscope can do."""
        height_m, width_m = self._stage.sample.size_yx_m
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
                "labels": len(self._specimens),
                "engine": type(self._engine).__name__,
                "seed": self._seed,
            },
            # pySTED makes two kinds of adaptive scans, and they cannot be stopped.
            adaptive=isinstance(self._engine, STEDEngine),
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
        with self._control.scanning():
            return self._scan(settings, self._control.wait_until)

    def expose_again(self, settings: ScanSettings) -> None:
        """Apply the light of one earlier scan, in the order of acquisition.

        The next frame is then bit-identical to the one of an uninterrupted run. A simulated clock is
        moved on as if it had been that run; a real one is not waited for, so what moves is elsewhere then.

        Raises
        ------
        InvalidRequestError, DeviceError
            As :meth:`acquire`.
        """
        with self._control.scanning():
            self._scan(settings, self._control.wait_in_hindsight)

    def stop(self) -> None:
        """Put the light out, from any thread; a running acquisition raises at the next line it can."""
        self._control.stop()

    def is_dark(self) -> bool:
        """Tell whether the light is off."""
        return not self._control.is_lit

    def close(self) -> None:
        """Stop and take no more requests."""
        self._control.close()

    def _stream(self, purpose: _Purpose, acquisition: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([self._seed, int(purpose), acquisition])

    def _scan(self, settings: ScanSettings, wait_until: Callable[[float], bool]) -> Frame:
        """Move, scan at the pace of the clock, and count the frame."""
        place = self._place(settings)
        # Each scan has its own number and so its own chance, also one that is stopped: expose_again
        # counts it, too.
        index, self._next_index = self._next_index, self._next_index + 1
        move_s = self._stage.move(settings.region)
        if move_s > 0:
            wait_until(self._clock.now_s() + move_s)
        started_s = self._clock.now_s()
        lines = place.shape_yx[0]

        def pace(lines_done: int) -> bool:
            return wait_until(started_s + settings.duration_s * (lines_done / lines))

        with self._control.light():
            scanned = self._expose(settings, place, index, started_s, pace)
        self._control.raise_if_stopped(f"acquisition {index} was stopped before its frame was complete")
        return Frame(scanned.photons, self._stage.as_scanned(settings, place), index, started_s)

    def _expose(
        self,
        settings: ScanSettings,
        place: Place,
        index: int,
        started_s: float,
        go_on: Callable[[int], bool],
    ) -> Scanned:
        """Scan with the chance of this acquisition; what it bleaches is missing from the sample."""
        self._diffuse(index, started_s)
        exposure = _exposure(settings, place.stride_px)
        seeds = Seeds(
            self._stream(_Purpose.BLEACHING, index),
            self._stream(_Purpose.PHOTONS, index),
        )
        if self._moving_engine is None:
            scanned = self._sample.scan(self._engine, place, exposure, seeds, go_on)
        else:
            lines = place.shape_yx[0]
            middle_s = started_s - self._made_s + settings.duration_s * (np.arange(lines) + 0.5) / lines
            shift_px = self._path.shift_m(middle_s) / MAP_PIXEL_SIZE_M
            scanned = self._sample.scan_moving(
                self._moving_engine, place, exposure, seeds, go_on, shift_px=shift_px
            )
        if scanned.steps is not None:
            self._steps_made = scanned.steps
        return scanned

    def _diffuse(self, index: int, now_s: float) -> None:
        """Let what diffuses move until now."""
        if self._diffusions:
            passed_s, self._moved_s = now_s - self._moved_s, now_s
            variance_px2 = 2 * self._options.diffusion_m2_per_s * passed_s / MAP_PIXEL_SIZE_M**2
            rng = np.random.default_rng(self._stream(_Purpose.DIFFUSION, index))
            maps = self._sample.molecules
            for molecules, diffusion in zip(
                maps if maps.ndim == 3 else maps[None], self._diffusions, strict=True
            ):
                diffusion.move(molecules, variance_px2, rng)

    def _second_specimen(self, label: SecondLabel, shape_yx: tuple[int, int]) -> Specimen:
        return make_specimen(
            label.specimen,
            shape_yx,
            label.molecules_per_pixel,
            np.random.default_rng(self._stream(_Purpose.SECOND_SPECIMEN, 0)),
            label.specimen_options,
        )

    def _place(self, settings: ScanSettings) -> Place:
        """Return where a scan lies on the map, or say why it cannot be made."""
        if settings.modality not in _MODALITIES:
            raise DeviceError(
                f"modality={settings.modality!r} is asked of a simulated STED microscope, "
                f"which does {', '.join(_MODALITIES)}"
            )
        if settings.adaptive is not None and not self.capabilities().adaptive:
            raise InvalidRequestError(
                'an adaptive scan is asked, allowed is that with engine = "exact" and one dye '
                "(microscope.options.engine, second_label)"
            )
        return self._stage.place(settings)


def _exposure(settings: ScanSettings, stride_px: int) -> Exposure | AdaptiveExposure:
    """Return the light of a scan as an engine takes it."""
    adaptive = settings.adaptive
    if adaptive is None:
        return Exposure(
            stride_px,
            settings.pixel_time_s,
            settings.excitation_w,
            settings.sted_w,
            settings.line_averages,
        )
    steps = tuple(
        Step(*light, step.fewest_photons, step.enough_photons)
        for light, step in zip(settings.pixel_lights, adaptive.steps, strict=True)
    )
    part = adaptive.scaled_to_fraction
    scaled_to_s = None if part is None else part * settings.dwell_s
    return AdaptiveExposure(stride_px, steps, adaptive.sums, adaptive.dark_is_zero, scaled_to_s)


def _engine(options: STEDOptions) -> ScanningEngine:
    """Return the engine that the options name."""
    dye = DYES[options.dye].bleaching_faster(options.bleaching)
    detector = Detector(background_hz=options.background_hz)
    if options.engine == "pysted":
        return PystedEngine(dye=dye, detector=detector)
    optics = Optics(excitation_m=dye.excitation_m, sted_m=dye.sted_m, aberrations=options.aberrations)
    if options.second_label is not None:
        second = DYES[options.second_label.dye].bleaching_faster(options.bleaching)
        return SpeciesEngine([dye, second], optics, detector, windows=[options.detection_m])
    # One dye in one window is dimmer and nothing else.
    collected = detector.collected * dye.emitted_within(options.detection_m)
    return STEDEngine(optics, dye, detector.replace(collected=collected))
