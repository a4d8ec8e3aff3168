"""How far to trust a denoised image, in one number that stands beside it."""

from __future__ import annotations

import numpy as np

from controller.core.frame import LEVELS, Denoised
from controller.recording.pictures import contrast
from controller.recording.units import number


def error_share(denoised: Denoised) -> float | None:
    """Return the root mean square of ``std`` as a share of the range of ``mean``.

    The range is the one that the colours of a picture span, from 0.5 % to 99.7 % of the values. ``None``
    if the image is flat or the denoiser gave no error.
    """
    shown = contrast(denoised.mean)
    variance = np.square(denoised.std, dtype=np.float64)
    known = np.isfinite(variance)
    if not known.any() or float(denoised.mean.max()) == float(denoised.mean.min()):
        return None
    return float(np.sqrt(variance[known].mean())) / (shown.high - shown.low)


def trust(denoised: Denoised, *, brief: bool = False) -> str:
    """Return that number in words, and the level if the image was not made by the declared models alone."""
    share = error_share(denoised)
    known = "unknown" if share is None else f"{number(100 * share, 2)}\N{NO-BREAK SPACE}%"
    error, level = f"error {known}", f"level {denoised.level}"
    if not brief:
        error, level = f"{error} of the range" if share else error, f"{level}: {LEVELS[denoised.level]}"
    return f"{error} · {level}" if denoised.level else error
