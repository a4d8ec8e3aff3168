"""What may be asked of a microscope: numbers from its configuration, checked as a whole."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from controller.core.settings import (
    MAX_PIXELS,
    MAX_WAIT_S,
    NonNegative,
    Positive,
    Region,
    ScanSettings,
    Settings,
)


class SafeValues(Settings):
    """Where ``stop`` puts the lights: powers at the sample, in watts, with the shutter closed.

    A modulator that cannot reach 0 W says here what it leaks.
    """

    excitation_w: NonNegative = 0.0
    sted_w: NonNegative = 0.0


class SafetyLimits(Settings):
    """Limits that protect the sample. Outside them a request is refused, never clipped.

    They are not the laser's safety interlock. Every key is explained in
    ``hardware_configs/README.md``.
    """

    excitation_max_w: NonNegative
    sted_max_w: NonNegative = 0.0
    excitation_step_w: Positive | None = None
    sted_step_w: Positive | None = None
    dwell_min_s: Positive
    dwell_max_s: Positive
    pixel_size_min_m: Positive
    pixel_size_max_m: Positive
    line_averages_max: Annotated[int, Field(ge=1)] = 1
    pixels_max: Annotated[int, Field(ge=1)]
    frame_max_s: Annotated[float, Field(gt=0, le=MAX_WAIT_S)]
    overrun_max_s: Annotated[float, Field(gt=0, le=MAX_WAIT_S)] = 10.0
    stage_box: Region
    focus_min_m: float | None = None
    focus_max_m: float | None = None
    count_rate_max_hz: Positive | None = None
    pixel_dose_max_j_per_m2: Positive
    session_energy_max_j: Positive
    dose_margin: Annotated[float, Field(ge=1)] = 1.0
    dose_cell_m: Positive = 2e-7

    @model_validator(mode="after")
    def _values_are_plausible(self) -> Self:
        """Refuse what only a mistaken unit explains: 250 for 250 mW would switch the protection off."""
        height, width = self.stage_box.size_yx_m
        for name, value, most, unit, hint in (
            ("excitation_max_w", self.excitation_max_w, 10.0, "W", "milliwatts are e-3"),
            ("sted_max_w", self.sted_max_w, 10.0, "W", "milliwatts are e-3"),
            ("dwell_max_s", self.dwell_max_s, 1.0, "s", "microseconds are e-6"),
            ("pixel_size_max_m", self.pixel_size_max_m, 1e-3, "m", "nanometres are e-9"),
            ("stage_box.size_yx_m", max(height, width), 0.5, "m", "micrometres are e-6"),
            ("focus_min_m", abs(self.focus_min_m or 0.0), 0.1, "m", "micrometres are e-6"),
            ("focus_max_m", abs(self.focus_max_m or 0.0), 0.1, "m", "micrometres are e-6"),
        ):
            if not value <= most:
                raise ValueError(
                    f"{name}={value:g} {unit} is implausible, allowed is {most:g} {unit}; {hint}"
                )
        return self

    @model_validator(mode="after")
    def _ranges_are_not_empty(self) -> Self:
        if (self.focus_min_m is None) != (self.focus_max_m is None):
            raise ValueError("focus_min_m and focus_max_m go together; without them the focus never moves")
        for name, low, high in (
            ("dwell", self.dwell_min_s, self.dwell_max_s),
            ("pixel_size", self.pixel_size_min_m, self.pixel_size_max_m),
            ("focus", self.focus_min_m or 0.0, self.focus_max_m or 0.0),
        ):
            if not low <= high:
                raise ValueError(f"{name}: the smallest allowed value {low:g} is above the largest {high:g}")
        cells = self.pixels_max * max(1.0, self.pixel_size_max_m / self.dose_cell_m) ** 2
        if not cells <= MAX_PIXELS:
            raise ValueError(
                f"dose_cell_m={self.dose_cell_m:g} m is too fine: the largest frame that pixels_max and "
                f"pixel_size_max_m allow covers {cells:.3g} cells, allowed are {MAX_PIXELS}"
            )
        return self

    def violations(self, settings: ScanSettings, source: str) -> list[str]:
        """Return one sentence for each limit that ``settings`` break, by themselves.

        ``source`` names the file (and table) where the limits are set. Limits that depend on what
        went before (steps of power, dose, count rate) are the guard's.
        """
        box, scanned = self.stage_box, settings.scanned_region
        rows, columns = settings.shape_yx
        bounded = (
            ("excitation_w", settings.excitation_w, 0.0, self.excitation_max_w, "W", "excitation_max_w"),
            ("sted_w", settings.sted_w, 0.0, self.sted_max_w, "W", "sted_max_w"),
            (
                "dwell_s",
                settings.dwell_s,
                self.dwell_min_s,
                self.dwell_max_s,
                "s",
                "dwell_min_s, dwell_max_s",
            ),
            (
                "pixel_size_m",
                settings.pixel_size_m,
                self.pixel_size_min_m,
                self.pixel_size_max_m,
                "m",
                "pixel_size_min_m, pixel_size_max_m",
            ),
            ("line_averages", settings.line_averages, 1, self.line_averages_max, "", "line_averages_max"),
            ("pixels", rows * columns, 1, self.pixels_max, "", "pixels_max"),
            ("frame time", settings.duration_s, 0.0, self.frame_max_s, "s", "frame_max_s"),
        )
        # "not low <= value <= high" instead of "value > high": nan fails too.
        found = [
            f"{name}={value:g} {unit}".rstrip()
            + f" is outside {low:g}..{high:g} {unit}".rstrip()
            + f" ({keys} in {source})"
            for name, value, low, high, unit, keys in bounded
            if not low <= value <= high
        ]
        if not box.contains(scanned):
            found.append(
                f"region centre {scanned.center_yx_m} m, size {scanned.size_yx_m} m "
                f"is not inside the stage box centre {box.center_yx_m} m, size {box.size_yx_m} m "
                f"(stage_box in {source})"
            )
        return found + self._focus_violations(settings.focus_m, source)

    def _focus_violations(self, focus_m: float | None, source: str) -> list[str]:
        if focus_m is None:
            return []
        low, high = self.focus_min_m, self.focus_max_m
        if low is None or high is None:
            unset = f"focus_min_m, focus_max_m are not set in {source}"
            return [f"focus_m={focus_m:g} m is asked, and the focus may not be moved ({unset})"]
        if low <= focus_m <= high:
            return []
        return [
            f"focus_m={focus_m:g} m is outside {low:g}..{high:g} m (focus_min_m, focus_max_m in {source})"
        ]
