"""What a configuration says of the simulated two-photon microscope, and where it may scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field, model_validator

from controller.core.errors import DeviceError, InvalidRequestError
from controller.core.settings import (
    MAX_PIXELS,
    Modality,
    NonNegative,
    Positive,
    ScanSettings,
    Settings,
)
from simulator.stage import Place, Stage
from simulator.two_photon.analog_detector import DetectorOptions, slowest_bandwidth_hz
from simulator.two_photon.brain import BrainOptions
from simulator.two_photon.focal_plane import MAP_PIXEL_M, MARGIN_M
from simulator.two_photon.laser_scanner import ScannerOptions, Timing, timing
from simulator.two_photon.optics import TwoPhotonOptics

MODALITIES: tuple[Modality, ...] = ("overview", "two_photon")

#: More than this through an objective is a mistake in a unit, whatever the limits say.
_IMPOSSIBLE_W = 2.0


class TwoPhotonOptions(Settings):
    """The simulated sample and instrument, as a configuration states them."""

    fields_yx: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (1, 1)
    """Size of the sample in fields of view, down and across."""
    field_size_m: Positive = 512e-6
    """Side of the field of view. Multiple of 0.5 µm."""
    focus_m: NonNegative = 150e-6
    """Depth of the focus below the surface, until a scan names another one."""
    stage_speed_m_per_s: Positive = 1e-3
    """Speed of each axis of the stage, and of the focus."""
    stage_settle_s: NonNegative = 0.1
    """Wait after each move of stage or focus."""
    brain: BrainOptions = BrainOptions()
    """The sample: ``tissue``, ``activity``, ``bleaching``, ``motion_m``."""
    optics: TwoPhotonOptics = TwoPhotonOptics()
    """Objective, laser, dye and depth."""
    scanner: ScannerOptions = ScannerOptions()
    """How lines are scanned."""
    detector: DetectorOptions = DetectorOptions()
    """What photons become."""

    @property
    def sample_size_yx_m(self) -> tuple[float, float]:
        """Return the size of the sample in metres."""
        return self.fields_yx[0] * self.field_size_m, self.fields_yx[1] * self.field_size_m

    @model_validator(mode="after")
    def _sample_is_a_map(self) -> Self:
        side_px = self.field_size_m / MAP_PIXEL_M
        if not (side_px >= 1 and abs(side_px - round(side_px)) < 1e-6):
            raise ValueError(
                f"field_size_m={self.field_size_m:g} is not a multiple of the map pixel, {MAP_PIXEL_M:g} m"
            )
        if not self.fields_yx[0] * self.fields_yx[1] * side_px**2 <= MAX_PIXELS / 4:
            raise ValueError(
                f"{self.fields_yx} fields of {self.field_size_m:g} m have more than {MAX_PIXELS // 4} map "
                f"pixels of {MAP_PIXEL_M:g} m: lower fields_yx or field_size_m"
            )
        if problem := self.brain.tissue.too_many(self.sample_size_yx_m):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        tissue = self.brain.tissue
        if not tissue.top_m <= self.focus_m <= tissue.bottom_m:
            raise ValueError(
                f"focus_m={self.focus_m:g} is outside the tissue, {tissue.top_m:g}..{tissue.bottom_m:g} m "
                f"(brain.tissue.top_m, bottom_m)"
            )
        if not self.brain.motion_m <= MARGIN_M / 6:
            raise ValueError(
                f"brain.motion_m={self.brain.motion_m:g} m is more than can be followed, allowed is "
                f"{MARGIN_M / 6:g} m"
            )
        return self


@dataclass(frozen=True, slots=True)
class Plan:
    """A scan that can be made: where on the map, how deep, and when each line."""

    place: Place
    depth_m: float
    timing: Timing


class Planner:
    """Says where and when a scan lies, or why it cannot be made."""

    def __init__(self, options: TwoPhotonOptions) -> None:
        self._options = options
        rows, columns = (round(size / MAP_PIXEL_M) for size in options.sample_size_yx_m)
        self.stage = Stage(
            (rows, columns),
            MAP_PIXEL_M,
            options.field_size_m,
            speed_m_per_s=options.stage_speed_m_per_s,
            settle_s=options.stage_settle_s,
            margin_px=round(MARGIN_M / MAP_PIXEL_M),
        )

    def plan(self, settings: ScanSettings, focus_m: float) -> Plan:
        """Plan a scan, with the focus at ``focus_m`` if it names none.

        Raises
        ------
        InvalidRequestError
            If its place, depth, power or timing cannot be.
        DeviceError
            If it is of another modality.
        """
        options = self._options
        if settings.modality not in MODALITIES:
            raise DeviceError(
                f"modality={settings.modality!r} is asked of a simulated two-photon microscope, "
                f"which does {', '.join(MODALITIES)}"
            )
        if not settings.excitation_w <= _IMPOSSIBLE_W:
            raise InvalidRequestError(
                f"excitation_w={settings.excitation_w:g} W is more than the laser has, {_IMPOSSIBLE_W:g} W; "
                f"milliwatts are e-3"
            )
        depth_m = focus_m if settings.focus_m is None else settings.focus_m
        tissue = options.brain.tissue
        if not tissue.top_m <= depth_m <= tissue.bottom_m:
            raise InvalidRequestError(
                f"focus_m={depth_m:g} m is outside the tissue, {tissue.top_m:g}..{tissue.bottom_m:g} m "
                f"(brain.tissue.top_m, bottom_m of the microscope)"
            )
        slowest_hz = slowest_bandwidth_hz(settings.dwell_s)
        if options.detector.kind == "pmt" and not options.detector.bandwidth_hz >= slowest_hz:
            raise InvalidRequestError(
                f"dwell_s={settings.dwell_s:g} s is too short for an amplifier of "
                f"{options.detector.bandwidth_hz:g} Hz, which would smear each pixel over many; allowed is "
                f"{slowest_hz:.3g} Hz or more (detector.bandwidth_hz of the microscope)"
            )
        return Plan(self.stage.place(settings), depth_m, timing(settings, options.scanner))
