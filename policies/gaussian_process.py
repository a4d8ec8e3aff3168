"""A small Gaussian process with function draws, in numpy.

It models one objective over the unit cube from up to a few hundred noisy measurements. Notation:
``C`` is the correlation matrix of the measured points, ``g`` the noise variance relative to the
signal variance ``s2``, and ``A = C + g I``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
KernelName = Literal["matern52", "rbf"]

# Weak log-normal beliefs in units of the unit cube. With five measurements the likelihood alone is
# happy with a length scale of nothing (all is noise-free) or of infinity (all is noise).
_LENGTH_SCALE = (np.log(0.5), 0.8)
_NOISE_RATIO = (np.log(0.05), 1.5)
_LOWEST = (np.log(0.05), np.log(1e-4))
_HIGHEST = (np.log(5.0), np.log(2.0))
# Weight, in measurements, of the belief that standardised values have variance 1.
_VARIANCE_WEIGHT = 4.0


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """What the marginal likelihood chooses: length scales in the unit cube, and noise over signal."""

    length_scales: tuple[float, ...]
    noise_ratio: float

    def log(self) -> Array:
        """Return the logarithms, length scales first."""
        return np.log([*self.length_scales, self.noise_ratio])


def correlation(kernel: KernelName, squared_distance: Array) -> Array:
    """Return the correlation of two points from their squared distance in length scales."""
    if kernel == "rbf":
        return np.asarray(np.exp(-0.5 * squared_distance))
    root = np.sqrt(5.0 * squared_distance)
    return np.asarray((1.0 + root + root * root / 3.0) * np.exp(-root))


class GaussianProcess:
    """Regression of one noisy objective over the unit cube.

    Values are standardised before they are modelled, so a prior draw has mean 0 and variance 1 in
    units of the measurements' own mean and standard deviation.

    Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), chapters 2
    and 5; draws by Wilson et al., Efficiently sampling functions from Gaussian process posteriors
    (2020), equation 11.
    """

    def __init__(self, dimensions: int, *, kernel: KernelName = "matern52") -> None:
        self.kernel: KernelName = kernel
        self.hyperparameters = Hyperparameters((0.5,) * dimensions, 0.05)
        self._x: Array = np.empty((0, dimensions))
        self._y: Array = np.empty(0)
        self._center, self._scale, self._s2 = 0.0, 1.0, 1.0
        self._inverse: Array = np.empty((0, 0))

    def fit(self, x: Array, y: Array, *, search: bool = True) -> None:
        """Condition on measurements ``y``, shape ``(n,)``, at points ``x``, shape ``(n, dimensions)``.

        ``search`` also chooses the hyper-parameters anew; without it those of the last fit stay.
        """
        self._x = np.array(x, dtype=float)
        values = np.array(y, dtype=np.float64)
        if not (np.all(np.isfinite(self._x)) and np.all(np.isfinite(values))):
            raise ValueError("a Gaussian process learns from finite numbers only")
        spread = float(values.std())
        self._center, self._scale = float(values.mean()), spread if spread > 1e-12 else 1.0
        self._y = np.asarray((values - self._center) / self._scale, dtype=np.float64)
        if search and len(values) > 1:
            self._search()
        hyper = self.hyperparameters
        matrix = correlation(self.kernel, self._squared_distance(self._x, self._x))
        noisy = matrix + hyper.noise_ratio * np.eye(len(values))
        self._inverse = np.asarray(np.linalg.inv(noisy), dtype=np.float64)
        self._s2 = (_VARIANCE_WEIGHT + float(self._y @ self._inverse @ self._y)) / (
            _VARIANCE_WEIGHT + len(values)
        )

    @property
    def noise_std(self) -> float:
        """Return the standard deviation of one measurement about the function."""
        return self._scale * float(np.sqrt(self._s2 * self.hyperparameters.noise_ratio))

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of the function (not of a measurement) at ``x``."""
        if not len(self._y):
            return np.zeros(len(x)), np.ones(len(x))
        cross = correlation(self.kernel, self._squared_distance(x, self._x))
        weighted = cross @ self._inverse
        variance = self._s2 * (1.0 - np.einsum("ij,ij->i", weighted, cross))
        return (
            self._center + self._scale * (weighted @ self._y),
            self._scale * np.sqrt(np.maximum(variance, 0.0)),
        )

    def draw(self, rng: np.random.Generator, *, frequencies: int = 128) -> Callable[[Array], Array]:
        """Return one function drawn from the posterior; it may be asked at any points, again and again.

        Pathwise conditioning: a prior draw from random Fourier features plus the exact kernel
        update towards the data. All points of one draw see the same function, which is what makes
        Thompson sampling explore as it should. Averaged over draws its mean and variance are exactly
        those of :meth:`predict`; only its higher moments feel the number of ``frequencies``.
        """
        dimensions = self._x.shape[1]
        omega = rng.standard_normal((dimensions, frequencies))
        if self.kernel == "matern52":
            # The spectrum of a Matern kernel of smoothness 5/2 is a Student t of 5 degrees of freedom.
            omega /= np.sqrt(rng.chisquare(5.0, frequencies) / 5.0)
        omega /= np.array(self.hyperparameters.length_scales)[:, None]
        weights = rng.standard_normal((2, frequencies)) * np.sqrt(self._s2 / frequencies)

        def prior(points: Array) -> Array:
            # Pairs of cosine and sine: the prior variance is then the same at all points.
            phase = points @ omega
            return np.asarray(np.cos(phase) @ weights[0] + np.sin(phase) @ weights[1])

        noise = rng.standard_normal(len(self._y)) * np.sqrt(self._s2 * self.hyperparameters.noise_ratio)
        update = self._inverse @ (self._y - prior(self._x) - noise)
        measured, center, scale = self._x, self._center, self._scale

        def function(points: Array) -> Array:
            cross = correlation(self.kernel, self._squared_distance(points, measured))
            return np.asarray(center + scale * (prior(points) + cross @ update))

        return function

    def _squared_distance(self, a: Array, b: Array) -> Array:
        scales = np.array(self.hyperparameters.length_scales)
        a, b = a / scales, b / scales
        distance = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2.0 * (a @ b.T)
        return np.asarray(np.maximum(distance, 0.0))

    def _search(self) -> None:
        """Climb the marginal likelihood from the present hyper-parameters and from the default ones."""
        dimensions = self._x.shape[1]
        gaps = (self._x[:, None, :] - self._x[None, :, :]) ** 2
        low = np.array([_LOWEST[0]] * dimensions + [_LOWEST[1]])
        high = np.array([_HIGHEST[0]] * dimensions + [_HIGHEST[1]])
        starts = (self.hyperparameters, Hyperparameters((0.5,) * dimensions, 0.05))
        scored = [(self._log_evidence(start.log(), gaps), start.log()) for start in starts]
        best, at = max(scored, key=lambda pair: pair[0])
        step = 0.8
        while step > 0.15:
            improved = False
            for axis in range(dimensions + 1):
                for direction in (step, -step):
                    trial = at.copy()
                    trial[axis] = np.clip(trial[axis] + direction, low[axis], high[axis])
                    evidence = self._log_evidence(trial, gaps)
                    if evidence > best + 1e-3:
                        best, at, improved = evidence, trial, True
                        break
            if not improved:
                step /= 2
        scales = np.exp(at)
        self.hyperparameters = Hyperparameters(tuple(map(float, scales[:-1])), float(scales[-1]))

    def _log_evidence(self, log_values: Array, gaps: Array) -> float:
        """Return the log marginal likelihood plus the log of the weak beliefs, up to a constant.

        The signal variance is integrated out under an inverse-gamma belief, which turns the
        Gaussian likelihood into a Student t (Rasmussen and Williams, section 9.9).
        """
        count = len(self._y)
        matrix = correlation(self.kernel, gaps @ np.exp(-2.0 * log_values[:-1]))
        matrix[np.diag_indices(count)] += np.exp(log_values[-1])
        root = np.linalg.cholesky(matrix)
        misfit = float(self._y @ np.linalg.solve(matrix, self._y))
        evidence = -float(np.log(np.diagonal(root)).sum())
        evidence -= 0.5 * (_VARIANCE_WEIGHT + count) * float(np.log(_VARIANCE_WEIGHT + misfit))
        for values, (middle, width) in ((log_values[:-1], _LENGTH_SCALE), (log_values[-1:], _NOISE_RATIO)):
            evidence -= 0.5 * float((((values - middle) / width) ** 2).sum())
        return evidence
