"""When what was seen before still says something about the next frame."""

from __future__ import annotations

from controller.core.settings import ScanSettings

#: Light switched on or off, or so much more of it: nothing to learn from.
_LARGEST_RATIO = 1e3

_SAME = ("region", "focus_m", "pixel_size_m", "modality", "sted_w", "adaptive")


def brightness_ratio(old: ScanSettings, new: ScanSettings) -> float | None:
    """Return how many times the photons of ``old`` a scan with ``new`` expects of the same sample.

    ``None`` if the two scans show different images: another region, sampling, modality, STED power, or other
    steps of an adaptive scan.
    Photons go with excitation times pixel time, with its square for two photons.
    """
    if any(getattr(old, name) != getattr(new, name) for name in _SAME):
        return None
    before, now = _brightness(old), _brightness(new)
    if before == now:
        return 1.0
    ratio = now / before if before > 0 else 0.0
    return ratio if 1 / _LARGEST_RATIO <= ratio <= _LARGEST_RATIO else None


def _brightness(settings: ScanSettings) -> float:
    """Return what the expected photon count of a pixel is proportional to."""
    order = 2 if settings.modality == "two_photon" else 1
    return settings.excitation_w**order * settings.pixel_time_s
