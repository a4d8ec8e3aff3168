"""A causal multi-scale Kalman filter that needs no training: the loop's first denoiser.

Each frame is split into bands of detail by the undecimated wavelet transform with the B3 spline [1]_.
In time, every coefficient is averaged by a scalar Kalman filter [2]_ whose gain a test on the local
energy of the innovation opens: where the sample changes, and only at the scales that show it, the past
is given up at once. In space, an empirical-Bayes Wiener filter (in the spirit of [3]_) shrinks what was
averaged, with the Poisson noise that is left after as many frames as each coefficient rests on. So the
first frame of a region is smoothed in space, and detail comes out as frames accumulate.

References
----------
.. [1] J.-L. Starck, F. Murtagh, A. Bijaoui, Image Processing and Data Analysis: the Multiscale
   Approach, Cambridge 1998: the "à trous" transform.
.. [2] R. K. Mehra, Approaches to adaptive filtering, IEEE Trans. Autom. Control 17, 693 (1972):
   process noise from the innovation.
.. [3] M. K. Mihçak et al., Low-complexity image denoising based on statistical modeling of wavelet
   coefficients, IEEE Signal Process. Lett. 6, 300 (1999): local Wiener gain from local energy.
.. [4] C. Stein, Estimation of the mean of a multivariate normal distribution, Ann. Stat. 9, 1135
   (1981): the risk of an estimate without the truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.continuity import brightness_ratio
from controller.core.frame import Denoised, FloatImage, Frame
from controller.core.protocols import Clock, Resources
from controller.core.settings import NonNegative, Positive, ScanSettings, Settings
from controller.denoising.raw import checked_photons

#: More in one pixel is a mistake in a unit, and its square would leave float32.
LARGEST_PHOTONS = 1e12

#: The bands from here on, added up, are the local mean that the Poisson variance is taken from, and the
#: coarser one that the error is calibrated with.
_MEAN_LEVEL = 2
_NEARBY_LEVEL = 3

#: Local energy above so many times the noise is signal, whatever the rest of the frame looks like.
_BEYOND_DOUBT = np.float32(8)

#: Part of the error that follows the light around a pixel, not the pixel: what a filter blurs out of
#: bright structures ends up in the dark next to them. Tuned on simulated frames.
_LEAK = np.float32(0.3)

#: What is left of a unit at its own pixel after smoothing once and twice, (.)² for both axes.
_SMOOTHED_CENTER = (6 / 16) ** 2
_TWICE_SMOOTHED_CENTER = (70 / 256) ** 2


@dataclass(slots=True)
class _State:
    """What is known of the region.

    Per band the averaged coefficients, the number of frames that they rest on and the share that the
    newest frame has in them; then the newest frame and the local mean, in photons.
    """

    settings: ScanSettings
    bands: list[FloatImage]
    frames: list[FloatImage]
    newest_share: list[FloatImage]
    newest: FloatImage
    mean: FloatImage


class AdaptiveKalmanDenoiser:
    """Averages in time where nothing changes, smooths in space where there is no past.

    It never looks at a later frame, and its state does not grow. It starts afresh by itself when the
    region, the sampling, the modality or the STED power change (another image). When only excitation
    or dwell time change, the photon scale does: the past is scaled by the ratio of excitation times
    pixel time (excitation squared for two-photon), and counts as so many fewer or more frames.
    """

    class Options(Settings):
        """How far to look in space and time, and what one photon is in the detector's units."""

        levels: Annotated[int, Field(ge=3, le=6)] = 4
        """Bands of detail; the coarsest smoothing reaches about 2**levels pixels."""
        memory_frames: Annotated[float, Field(ge=1)] = 20.0
        """Frames that an unchanging place is averaged over, at most."""
        change_margin: NonNegative = 1.0
        """Innovation energy, in units of that expected of noise, above 1 + margin means change."""
        prior_weight: Positive = 10.0
        """Trust in the frame-wide strength of each band, in units of the local estimate's."""
        noise_margin: Annotated[float, Field(ge=1)] = 1.3
        """Local energy must exceed this multiple of the noise energy to count as signal."""
        units_per_photon: Positive = 1.0
        """Detector units that one photon gives (1 for a photon counter)."""
        offset_units: float = 0.0
        """Detector units at no light."""
        read_noise_units: NonNegative = 0.0
        """Standard deviation of the detector at no light, in detector units."""

    def __init__(self, options: Options | None = None, clock: Clock | None = None) -> None:
        self.options = options or self.Options()
        self._clock = clock
        self._gram, self._centers = _band_noise(self.options.levels)
        self._floor = np.float32(0.5 * self._gram[_MEAN_LEVEL:, _MEAN_LEVEL:].sum())
        self._state: _State | None = None

    @classmethod
    def from_options(cls, options: Any, resources: Resources) -> Self:
        """Make the denoiser; ``options`` is an :class:`AdaptiveKalmanDenoiser.Options`."""
        return cls(cls.Options.model_validate(options), resources.clock)

    def reset(self, reason: str) -> None:  # noqa: ARG002 - the role's signature
        """Forget the past: the next frame is the first of its region."""
        self._state = None

    def observe(self, frame: Frame) -> None:
        """Take a frame into the average.

        Raises
        ------
        DeviceError
            If the frame holds something that cannot be a photon count; the state stays as it was.
        """
        options = self.options
        values = checked_photons(frame, LARGEST_PHOTONS * options.units_per_photon)
        photons = ((values - options.offset_units) / options.units_per_photon).astype(np.float32)
        bands = _split(photons, options.levels)
        mean = self._local_mean(bands)
        state = _carried_over(self._state, frame.settings, photons.shape)
        if state is None:
            ones = [np.ones_like(photons) for _ in bands]
            self._state = _State(frame.settings, bands, ones, list(ones), photons, mean)
            return
        variance = np.maximum(state.mean, mean) + self._read_variance
        for level, new in enumerate(bands):
            self._update(state, level, new, variance)
        state.settings, state.newest, state.mean = frame.settings, photons, self._local_mean(state.bands)
        self._state = state

    def step(self, frame: Frame) -> Denoised:
        """Take a frame into the average and return the estimate of its noise-free image.

        Returns
        -------
        ``mean`` and ``std`` in the unit of ``frame.photons``, shape ``(y, x)``, finite; ``mean`` never
        below the detector's value at no light.

        Raises
        ------
        DeviceError
            If the frame holds something that cannot be a photon count; the state stays as it was.
        """
        started_s = self._clock.now_s() if self._clock else 0.0
        self.observe(frame)
        mean, std = self._estimate()
        mean = mean * np.float32(self.options.units_per_photon) + np.float32(self.options.offset_units)
        std = std * np.float32(self.options.units_per_photon)
        latency_s = self._clock.now_s() - started_s if self._clock else 0.0
        return Denoised(mean, std, frame.index, latency_s=latency_s)

    @property
    def _read_variance(self) -> np.float32:
        return np.float32((self.options.read_noise_units / self.options.units_per_photon) ** 2)

    def _local_mean(self, bands: list[FloatImage], level: int = _MEAN_LEVEL) -> FloatImage:
        """Return a mean in photons that is never 0: half a photon within reach is always possible."""
        mean = bands[level].copy()
        for band in bands[level + 1 :]:
            mean += band
        return np.maximum(mean, self._floor)

    def _update(self, state: _State, level: int, new: FloatImage, variance: FloatImage) -> None:
        """Average one band of the newest frame into the state: a scalar Kalman filter per pixel."""
        noise = variance * np.float32(self._gram[level, level])
        innovation = new - state.bands[level]
        prior = noise / state.frames[level]
        expected = prior + noise
        energy = _smooth(innovation * innovation, 2**level)
        # Process noise from the innovation: as much as makes this energy the expected one.
        excess = np.maximum(energy / expected - np.float32(1 + self.options.change_margin), 0)
        prior += excess * expected
        frames = np.minimum(noise / prior + 1, np.float32(self.options.memory_frames))
        state.bands[level] = state.bands[level] + innovation / frames
        state.frames[level] = frames
        # d(innovation / frames) / d innovation: where the test opens the gain, the gain follows the noise.
        share = innovation / (prior + noise)
        opening = np.float32(2 * _SMOOTHED_CENTER) * share * share * noise
        state.newest_share[level] = 1 / frames + np.where(excess > 0, opening, np.float32(0))

    def _estimate(self) -> tuple[FloatImage, FloatImage]:
        """Return mean and standard deviation in photons, from the state alone."""
        state = self._state
        if state is None:  # observe() comes first, always
            raise RuntimeError("there is no estimate before the first frame")
        variance = state.mean + self._read_variance
        mean = state.bands[-1]
        gains: list[FloatImage] = []
        bias = np.zeros_like(mean)
        coupling = np.zeros_like(mean)
        for level, band in enumerate(state.bands[:-1]):
            noise = variance * np.float32(self._gram[level, level]) / state.frames[level]
            gain, slope = self._gain(state, level, noise)
            mean = mean + gain * band
            bias += gain * (1 - gain) * noise
            coupling += (gain + slope) * state.newest_share[level] * np.float32(self._centers[level])
            gains.append(gain)
        gains.append(np.ones_like(mean))
        coupling += state.newest_share[-1] * np.float32(self._centers[-1])
        mean = np.maximum(mean, 0)
        risk = bias + self._spread(gains, state.frames) * variance
        nearby = self._local_mean(state.bands, _NEARBY_LEVEL) + self._read_variance
        return mean, np.sqrt(_calibrated(risk, state.newest - mean, coupling, variance, nearby))

    def _gain(self, state: _State, level: int, noise: FloatImage) -> tuple[FloatImage, FloatImage]:
        """Return the Wiener gain of a band, 0..1, from its energy near each pixel and in the frame.

        The energy near a pixel is a poor estimate, that of the whole frame a good one of something
        else: signal whose contrast is alike everywhere, so that its energy goes with the squared mean.
        The second answer is ``band * d gain / d band``: a gain made from the data follows their noise,
        and the risk estimate has to know.
        """
        energy = np.square(state.bands[level])
        contrast = np.square(state.mean)
        nearby = _smooth(_smooth(energy, 2**level), 2**level)
        # Where the energy speaks for itself it must not speak for the rest of the frame too, and a place
        # that has just changed has more noise than the rest.
        weights = state.frames[level] * (nearby <= _BEYOND_DOUBT * noise)
        strength = float(np.sum(weights * (energy - noise)))
        strength /= max(float(np.sum(weights * contrast)), 1e-30)
        strength = max(strength, 0.0)
        local = nearby - np.float32(self.options.noise_margin) * noise
        weight = self.options.prior_weight
        signal = (np.float32(weight * strength) * contrast + local) / np.float32(1 + weight)
        signal = np.maximum(np.maximum(signal, nearby - _BEYOND_DOUBT * noise), 0)
        total = signal + noise
        slope = (energy / total) * (noise / total) * np.float32(2 * _TWICE_SMOOTHED_CENTER / (1 + weight))
        return signal / total, np.where(signal > 0, slope, np.float32(0))

    def _spread(self, gains: list[FloatImage], frames: list[FloatImage]) -> FloatImage:
        """Return the variance of the estimate per unit of a pixel's variance; bands share noise."""
        weights = [gain / np.sqrt(count) for gain, count in zip(gains, frames, strict=True)]
        spread = np.zeros_like(gains[0])
        for i, weight in enumerate(weights):
            row = np.float32(self._gram[i, i]) * weight
            for j in range(i):
                row += np.float32(2 * self._gram[i, j]) * weights[j]
            spread += weight * row
        return np.maximum(spread, 0)


def _calibrated(
    risk: FloatImage, residual: FloatImage, coupling: FloatImage, variance: FloatImage, nearby: FloatImage
) -> FloatImage:
    """Return the modelled risk (squared error, photons²) brought to Stein's unbiased estimate of it.

    ``nearby`` is the light around each pixel: what a filter blurs away there it spreads into the dark.
    Stein's estimate of one pixel, ``residual² - variance + 2 * coupling * variance``, is hopelessly
    noisy, so only two numbers are fitted to all of them: a factor ``level + slope * nearby``. Weights
    and shapes come from the coarse ``nearby``, since anything that follows a pixel's own noise would
    bias the fit; the prior (1 +- 1 and 0 +- 1) makes a small frame keep the model.
    """
    stein = residual * residual - variance + 2 * coupling * variance
    relative = nearby / np.float32(np.mean(nearby))
    usual = np.float32(np.mean(risk))
    risk = (1 - _LEAK) * risk + _LEAK * usual * relative
    typical = usual * relative
    spread = 2 * nearby * nearby + nearby
    weighted = typical / spread
    square = weighted * typical
    cross = np.sum(square * relative)
    normal = np.array([[1 + np.sum(square), cross], [cross, 1 + np.sum(square * relative * relative)]])
    target = np.array([1 + np.sum(weighted * stein), np.sum(weighted * relative * stein)])
    level, slope = np.linalg.solve(normal, target)
    factor = np.float32(level) + np.float32(slope) * relative
    risk *= np.clip(factor, np.float32(1), np.float32(10))
    return risk


def _carried_over(state: _State | None, settings: ScanSettings, shape: tuple[int, ...]) -> _State | None:
    """Return what the past says about a frame with ``settings``, ``None`` if it says nothing."""
    if state is None or state.mean.shape != shape:
        return None
    ratio = brightness_ratio(state.settings, settings)
    if ratio is None or ratio == 1:
        return state if ratio else None
    scale = np.float32(ratio)
    # n frames of v photons become n / scale frames of v * scale photons: the same counts behind them.
    return _State(
        settings,
        [band * scale for band in state.bands],
        [count / scale for count in state.frames],
        state.newest_share,
        state.newest,
        state.mean * scale,
    )


def _split(image: FloatImage, levels: int) -> list[FloatImage]:
    """Return ``levels`` bands of detail, fine to coarse, and the rest; their sum is the image."""
    bands = []
    for level in range(levels):
        smooth = _smooth(image, 2**level)
        bands.append(image - smooth)
        image = smooth
    return [*bands, image]


def _smooth(image: FloatImage, spacing: int) -> FloatImage:
    """Smooth with the B3 spline (1, 4, 6, 4, 1) / 16 at ``spacing`` pixels, mirrored at the border.

    Four additions of neighbours along each axis: in float32 a fifth of the time of
    ``scipy.ndimage.correlate1d``, and independent of the spacing.
    """
    reach = 2 * spacing
    image = _mirrored(image, reach)
    for _ in range(4):
        image = image[:-spacing] + image[spacing:]
    image = _mirrored(image.T, reach).T
    for _ in range(4):
        image = image[:, :-spacing] + image[:, spacing:]
    return image * np.float32(1 / 256)


def _mirrored(image: FloatImage, reach: int) -> FloatImage:
    """Extend the first axis by ``reach`` mirrored rows on both sides, again and again if it is short."""
    rows = image.shape[0]
    if reach <= rows:
        ends = image[:reach][::-1], image[rows - reach :][::-1]
        return np.concatenate((ends[0], image, ends[1]))
    index = np.arange(-reach, rows + reach) % (2 * rows)
    mirrored: FloatImage = image.take(np.where(index < rows, index, 2 * rows - 1 - index), axis=0)
    return mirrored


def _band_noise(levels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how white noise of variance 1 comes out of :func:`_split`.

    Returns
    -------
    The covariance of the bands at one pixel, shape ``(levels + 1, levels + 1)``, and each band's
    response at the pixel itself to a unit there, shape ``(levels + 1,)``.
    """
    size = 4 * 2**levels + 1
    impulse = np.zeros((size, size), dtype=np.float32)
    impulse[size // 2, size // 2] = 1
    responses = np.stack([band.ravel() for band in _split(impulse, levels)]).astype(np.float64)
    return responses @ responses.T, responses[:, size * size // 2]
