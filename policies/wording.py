"""How places and settings are called in the reasons that people read."""

from __future__ import annotations

from collections.abc import Mapping

from controller.core.settings import Modality

#: The name, the unit and its size of each setting that may be tuned.
_SETTINGS = {
    "dwell_s": ("dwell", "µs", 1e-6),
    "excitation_w": ("excitation", "µW", 1e-6),
    "sted_w": ("STED", "mW", 1e-3),
    "pixel_size_m": ("pixels", "nm", 1e-9),
}

MODALITIES: Mapping[Modality, str] = {
    "overview": "overview",
    "confocal": "confocal",
    "sted": "STED",
    "two_photon": "two-photon",
}


def place_in_words(center_yx_m: tuple[float, float]) -> str:
    """Return a place as ``x 1.2 µm, y -3.4 µm``."""
    # Adding 0.0 turns -0.0 into 0.0.
    y, x = (round(1e6 * c, 1) + 0.0 for c in center_yx_m)
    return f"x {x:.1f} µm, y {y:.1f} µm"


def value_in_words(name: str, value: float) -> str:
    """Return the value of a tunable setting as ``31 mW``."""
    _, unit, size = _SETTINGS[name]
    shown = value / size
    return f"{shown:.{1 if 0 < shown < 9.95 else 0}f} {unit}"


def settings_in_words(values: Mapping[str, float]) -> str:
    """Return settings as ``dwell 42 µs, excitation 3.9 µW, STED 197 mW``."""
    return ", ".join(f"{_SETTINGS[name][0]} {value_in_words(name, value)}" for name, value in values.items())
