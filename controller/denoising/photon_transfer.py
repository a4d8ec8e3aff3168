"""What one photon is in a detector's units, found in the frames of the session themselves.

Shot noise gives it away: where light gives ``mean = offset + gain * photons``, its variance is
``gain² * photons``, so the slope of variance over mean is the gain (the photon transfer curve [1]_), and an
amplifier adds a constant. A detector with excess noise has the larger slope ``gain * excess``; that is what
is wanted here, because values divided by it have the mean and the variance of photons again.

Two things can make the frames say something else, and both are measured: neighbours that share noise
(an amplifier slower than a pixel, interpolation, a filter), and variance that does not follow a line. What
cannot be known from frames is said, too: ``offset`` and read noise enter the line as one number, so they are
told apart only where the sample has dark places.

References
----------
.. [1] J. R. Janesick, Photon Transfer, SPIE Press 2007.
.. [2] A. Foi et al., Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data,
   IEEE Trans. Image Process. 17, 1737 (2008).
.. [3] F. Huang et al., Nat. Methods 10, 653 (2013): read variance in photons² acts as so many photons more.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from controller.core.frame import FloatImage
from controller.denoising.grey_levels import GreyLevels
from controller.denoising.noise_tiles import (
    SIDE,
    Floats,
    Mask,
    NoiseTiles,
    VarianceLine,
    correlation_in_time,
    correlations,
    difference_tiles,
    filtered_tiles,
    fit_line,
    unfiltered,
)

Trust = Literal["counts", "line", "gain only", "assumed", "processed"]

#: Neighbours whose noise is correlated more than this must not predict each other.
CORRELATED = 0.1

#: More pixels say nothing more: the newest frames that hold so many are used, but at least so many.
_PIXELS_MAX = 2_000_000
_FRAMES_MIN = 8

#: Fewer tiles than this give no line.
_TILES_MIN = 16

#: A correlation of neighbours above this is not chance, and what masks must cover.
_SHARED = 0.05

#: Digital zeros of cameras and of converters whose signed numbers were moved to unsigned ones.
_USUAL_ZEROS = (0.0, 32768.0)


@dataclass(frozen=True, slots=True)
class PhotonTransfer:
    """How a detector writes photons down.

    Attributes
    ----------
    units_per_photon
        Detector units by which the variance grows with the mean; photons in the sense that their variance
        is their mean, each worth as many real ones as the detector's excess noise factor.
    offset_units
        What the detector reads at no light.
    read_noise_units
        Standard deviation at no light. Variance in units² is
        ``units_per_photon * (mean - offset_units) + read_noise_units²``.
    correlation_y, correlation_x
        Of the noise of neighbours along each axis.
    saturated_units
        From here on, a value says "at least". ``None`` if nothing was saturated.
    trust
        ``counts``: whole photons, exactly. ``line``: variance follows mean, and dark places show the
        offset. ``gain only``: variance follows mean, but how it is shared between offset and read
        noise is assumed. ``assumed``: variance does not follow mean; the scale is only a guess.
        ``processed``: noise was smoothed or cut before it came here; the scale is only a guess.
    reach_y, reach_x
        How many pixels away noise is still shared, 0 to 4.
    reason
        How that was found, in one sentence.
    mean_photons
        In the frames it was found in; infinity if that is not known.
    """

    units_per_photon: float
    offset_units: float
    read_noise_units: float
    correlation_y: float
    correlation_x: float
    saturated_units: float | None
    trust: Trust
    reach_y: int = 0
    reach_x: int = 0
    reason: str = ""
    mean_photons: float = np.inf

    def __post_init__(self) -> None:
        numbers = (self.units_per_photon, self.offset_units, self.read_noise_units)
        if not (np.isfinite(numbers).all() and self.units_per_photon > 0 and self.read_noise_units >= 0):
            raise ValueError(f"a positive gain, an offset and a read noise >= 0 are needed, got {numbers}")
        if self.trust not in get_args(Trust):
            raise ValueError(f"trust={self.trust!r} is not one of {get_args(Trust)}")

    @property
    def read_noise_photons(self) -> float:
        """Return the standard deviation at no light in photons."""
        return self.read_noise_units / self.units_per_photon

    @property
    def saturated_photons(self) -> float:
        """Return from how many photons on a value says "at least"; infinity if never."""
        if self.saturated_units is None:
            return np.inf
        return (self.saturated_units - self.offset_units) / self.units_per_photon

    @property
    def splits(self) -> bool:
        """Tell whether a frame can be taken apart into two whose noise is independent beyond doubt."""
        shared = max(abs(self.correlation_y), abs(self.correlation_x))
        return self.trust in {"counts", "line", "gain only"} and shared <= CORRELATED

    @property
    def _is_identity(self) -> bool:
        return self.units_per_photon == 1 and self.offset_units == 0

    def as_photons(self, frame: NDArray[Any]) -> FloatImage:
        """Return detector units as photons, float32; below 0 where noise pulls a value below the offset."""
        if self._is_identity:
            return np.asarray(frame, np.float32)
        # In float64 first: at an offset of 32768 float32 has lost part of a small signal.
        return ((np.asarray(frame, np.float64) - self.offset_units) / self.units_per_photon).astype(
            np.float32
        )

    def as_units(self, photons: NDArray[Any]) -> FloatImage:
        """Return photons as detector units, float32."""
        if self._is_identity:
            return np.asarray(photons, np.float32)
        units = np.asarray(photons, np.float64) * self.units_per_photon + self.offset_units
        return units.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Finding:
    """A photon transfer or ``None``, and why."""

    transfer: PhotonTransfer | None
    reason: str


def estimate_photon_transfer(frames: NDArray[Any]) -> PhotonTransfer | None:
    """Estimate the photon transfer from frames; see :func:`find_photon_transfer`."""
    return find_photon_transfer(frames).transfer


def find_photon_transfer(frames: NDArray[Any]) -> Finding:
    """Estimate the photon transfer from frames of a session, and say how, or why not.

    Parameters
    ----------
    frames
        In detector units, ``(t, y, x)`` or one image ``(y, x)``, of one field and one setting. 8 to 64
        frames are enough; one image of 128 x 128 pixels is worth less, because its structure looks like
        noise.

    Raises
    ------
    ValueError
        If ``frames`` is not a movie or an image of real numbers.
    """
    stack = _newest(frames)
    valid = np.isfinite(stack)
    levels = GreyLevels.of(stack[valid])
    if len(levels.values) < 2:
        return Finding(None, "every pixel of every frame has the same value, so no noise is seen")
    saturated_units = levels.saturation()
    if saturated_units is not None:
        valid &= stack < saturated_units
    stack = np.where(valid, stack, levels.floor)
    side = SIDE if min(stack.shape[1:]) >= 6 * SIDE else SIDE // 2
    seen = _Seen.of(stack, valid, side)
    while seen and np.mean(seen.tiles.variance == 0) > 0.02 and side * 8 <= min(stack.shape[1:]):
        side *= 2  # photons are so few that many tiles have none
        seen = _Seen.of(stack, valid, side)
    if seen is None:
        why = "with a photon " if side > SIDE else ""
        return Finding(
            None, f"fewer than {_TILES_MIN} tiles of {side} x {side} unsaturated pixels {why}are left"
        )
    if seen.variance <= 0:
        return Finding(None, "nearly all pixels keep the same value, so no noise is seen")
    transfer = _as_counts(seen, levels)
    transfer = transfer or _as_line(seen, levels)
    mean_photons = float(transfer.as_photons(np.array(stack[valid].mean())))
    transfer = replace(transfer, saturated_units=saturated_units, mean_photons=mean_photons)
    return Finding(transfer, transfer.reason)


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What the tiles say: the line that is believed, and correlations in y, x and t."""

    tiles: NoiseTiles
    line: VarianceLine
    correlation_yx: tuple[float, float]
    reach_yx: tuple[int, int]
    correlation_t: float
    frames: int

    @property
    def variance(self) -> float:
        """Return the variance of the noise at the mean brightness, in units²."""
        return float(self.line.at(self.mean)) if self.line.kept.any() else 0.0

    @property
    def mean(self) -> float:
        """Return the mean brightness of the tiles that follow the line."""
        return float(self.tiles.mean[self.line.kept].mean())

    @property
    def source(self) -> str:
        """Return what it was seen in, in words."""
        return f"{self.frames} frames" if self.frames > 1 else "one image"

    @classmethod
    def of(cls, stack: Floats, valid: Mask, side: int) -> _Seen | None:
        """Measure by filtered frames and, given two frames, by their differences."""
        fine = filtered_tiles(stack, valid, side)
        if len(fine.mean) < _TILES_MIN:
            return None
        fine_line = fit_line(fine)
        fine_y, fine_x, factor = unfiltered(fine, fine_line)
        white = max(abs(fine_y), abs(fine_x)) < 2 * _SHARED
        if white:  # a correlation that is not there must not change the variance
            factor = 1.0
        fine_t = correlation_in_time(fine, fine_line)
        fine = replace(fine, variance=fine.variance * factor)
        fine_line = replace(
            fine_line,
            intercept=fine_line.intercept * factor,
            slope=fine_line.slope * factor,
            slope_error=fine_line.slope_error * factor,
        )
        reach = (_reach_alone(fine_y), _reach_alone(fine_x))
        alone = cls(fine, fine_line, (fine_y, fine_x), reach, fine_t, len(stack))
        if len(stack) < 2:
            return alone
        coarse = difference_tiles(stack, valid, side)
        line = fit_line(coarse)
        along_y, along_x = correlations(coarse, line)
        along_t = correlation_in_time(coarse, line)
        reach = (_reach(along_y), _reach(along_x))
        found = cls(coarse, line, (float(along_y[0]), float(along_x[0])), reach, along_t, len(stack))
        # Motion and activity only add to a difference, and what they add is shared by neighbours. So where
        # the finest detail shows less noise, it is nearer to the truth; unless noise is shared further than
        # its filter allows for, and then it disagrees about the sharing, too.
        agree = max(abs(fine_y - along_y[0]), abs(fine_x - along_x[0])) < 2 * _SHARED
        bright = float(np.quantile(coarse.mean, 0.9))
        if not (white or agree) or fine_line.at(bright) > 0.95 * line.at(bright):
            return found
        return alone if white and fine_t < 2 * _SHARED else replace(alone, reach_yx=reach)


def _as_counts(seen: _Seen, levels: GreyLevels) -> PhotonTransfer | None:
    """Return the photon transfer of a photon counter, ``None`` if it was none."""
    step = levels.step()
    y, x = seen.correlation_yx
    if step is None or max(abs(y), abs(x), seen.correlation_t) > 2 * _SHARED:
        return None
    zero = _zero_of_counts(seen, levels.floor, step)
    if zero is None:
        return None
    reason = f"{seen.source}: whole steps of {step:g} whose variance is their mean above {zero:g}"
    return PhotonTransfer(step, zero, 0.0, y, x, None, "counts", *seen.reach_yx, reason)


def _as_line(seen: _Seen, levels: GreyLevels) -> PhotonTransfer:
    """Turn the line into a photon transfer, and say how far to trust it."""
    line, floor, (shared_y, shared_x) = seen.line, levels.floor, seen.correlation_yx
    darkest = float(np.quantile(seen.tiles.mean, 0.02))
    flaw = _processing(seen, levels)
    guessed = flaw or _no_line(line)
    if guessed:
        floor = max(floor, darkest - 4 * float(np.sqrt(seen.variance)))  # a dead pixel is no zero
        gain = seen.variance / max(seen.mean - floor, 1e-6 * abs(seen.mean), 1e-12)
        trust: Trust = "processed" if flaw else "assumed"
        reason = f"{seen.source}: {guessed}"
        return PhotonTransfer(gain, floor, 0.0, shared_y, shared_x, None, trust, *seen.reach_yx, reason)
    root = -line.intercept / line.slope
    # No light is not darker than where the line has no variance left, nor brighter than the darkest tiles;
    # and of numbers without sign none is below 0.
    lowest = min(max(root, 0.0 if floor >= 0 else floor), darkest)
    known = darkest - lowest <= max(0.15 * (seen.mean - lowest), 0.5 * line.slope)
    offset = darkest if known and root < lowest else lowest
    read_noise = 0.0 if offset == root else float(np.sqrt(max(line.at(offset), 0.0)))
    trust = "line" if known else "gain only"
    reason = f"{seen.source}: variance grows by {line.slope:.3g} units per unit of the mean"
    reason += "" if known else f", and no light is somewhere between {lowest:.5g} and {darkest:.5g}"
    return PhotonTransfer(
        line.slope, offset, read_noise, shared_y, shared_x, None, trust, *seen.reach_yx, reason
    )


def _zero_of_counts(seen: _Seen, floor: float, step: float) -> float | None:
    """Return the level above which the variance is ``step`` times the mean, in the dark and in the light."""
    kept = seen.line.kept
    mean, variance = seen.tiles.mean[kept], seen.tiles.variance[kept]
    bright = mean > np.median(mean)
    for zero in _USUAL_ZEROS:  # above another one, the next frame could hold less than none
        if zero > floor:
            continue
        above = np.maximum(mean - zero, 0.0)
        # Halves that hold less than this are told apart by chance.
        few = above[~bright].sum() * SIDE**2 < 20 * step * np.count_nonzero(~bright)
        parts = (np.ones_like(bright),) if few else (~bright, bright)
        ratios = [float(variance[part].sum() / max(step * above[part].sum(), 1e-300)) for part in parts]
        chance = 3 * float(np.sqrt(2 / (seen.tiles.samples * min(np.count_nonzero(part) for part in parts))))
        # Fine structure and motion add to the variance of what is bright, and nothing takes away.
        if (
            zero == floor
            and zero in _USUAL_ZEROS
            and -0.12 < ratios[0] - 1 < 0.2
            and -0.12 < ratios[-1] - 1 < 0.6
        ):
            return float(zero)
        # If no pixel was as dark as zero, an offset could be hidden, and the ratio be 1 by chance. Then
        # photons are not what was counted, but noise of these counts splits like that of photons.
        overall = float(variance.sum() / max(step * above.sum(), 1e-300))
        if abs(overall - 1) < 0.07 and all(abs(ratio - 1) < 0.05 + chance for ratio in ratios):
            return float(zero)
    return None


def _processing(seen: _Seen, levels: GreyLevels) -> str:
    """Return what shows that noise was changed before it came here, empty if nothing does."""
    y, x = seen.correlation_yx
    if min(y, x) > 0.3 or (min(y, x) > 2 * _SHARED and min(seen.reach_yx) > 1):
        return f"noise is shared in all directions ({y:.2f} along y, {x:.2f} along x): it was smoothed"
    if seen.correlation_t > 2 * _SHARED:
        return f"noise is shared by successive frames ({seen.correlation_t:.2f}): they were averaged"
    step = levels.step()
    least = 0.0 if step is None else min(0.25 * step**2, 0.5 * step * (seen.mean - levels.floor))
    if seen.variance < least:
        return f"noise is less than half a step of {step:g}: it was rounded off"
    darkest = float(np.quantile(seen.tiles.mean, 0.02))
    noise = float(np.sqrt(max(seen.line.at(darkest), 0.0)))
    if levels.piled_up_at_floor() and darkest - levels.floor < 4 * noise:  # further away, pixels are dead
        return f"values are cut off at {levels.floor:g}, and so is the noise in the dark"
    return ""


def _no_line(line: VarianceLine) -> str:
    """Return why the variance says nothing of photons, empty if it does."""
    if not line.slope > 3 * line.slope_error:
        return "variance does not grow with the mean"
    if line.bend > 0.3:
        return f"variance leaves the best line by {line.bend:.0%}"
    return ""


def _reach(along: Floats) -> int:
    """Return how many lags it takes until noise is no longer shared."""
    shared = along > _SHARED
    shared[0] |= along[0] < -_SHARED
    return len(shared) if shared.all() else int(np.argmin(shared))


def _reach_alone(neighbours: float) -> int:
    """Return the same from the correlation of neighbours, as if a short filter had shared the noise."""
    return sum(abs(neighbours) > limit for limit in (2 * _SHARED, 0.35, 0.48))


def _newest(frames: NDArray[Any]) -> Floats:
    """Return the newest frames as float64 ``(t, y, x)``, no more than needed, of large ones the middle."""
    stack = np.asarray(frames)
    if stack.ndim == 2:
        stack = stack[None]
    if stack.ndim != 3 or not stack.size or stack.dtype.kind not in "buif":
        raise ValueError(
            f"frames must be numbers of shape (t, y, x) or (y, x), got {stack.dtype} {stack.shape}"
        )
    count = min(len(stack), _FRAMES_MIN)
    height, width = (min(size, int((_PIXELS_MAX / count) ** 0.5)) for size in stack.shape[1:])
    top, left = (stack.shape[1] - height) // 2, (stack.shape[2] - width) // 2
    count = max(count, _PIXELS_MAX // (height * width))
    newest = stack[-count:, top : top + height, left : left + width].astype(np.float64)
    # A frame that is shown again has no noise of its own, and would hide that of the others.
    new = [True, *(not np.array_equal(one, other) for one, other in itertools.pairwise(newest))]
    return newest[new]
