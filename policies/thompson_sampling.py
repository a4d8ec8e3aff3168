"""Thompson sampling over the unit cube: learn noisy objectives, propose the next point to try."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.settings import Settings
from policies.gaussian_process import Array, GaussianProcess, KernelName

#: Takes objectives by name and the points that they belong to, returns how good each point is.
UtilityOf = Callable[[Mapping[str, Array], Array], Array]


class SamplerOptions(Settings):
    """How the sampler learns.

    Attributes
    ----------
    kernel
        Smoothness of what is learned.
    initial_trials
        Trials spread over the whole range before anything is modelled.
    candidates
        Points compared in each proposal.
    refit_every
        Measurements between two searches for hyper-parameters, once there are ten.
    """

    kernel: KernelName = "matern52"
    initial_trials: Annotated[int, Field(ge=1)] = 4
    candidates: Annotated[int, Field(ge=10, le=20_000)] = 1000
    refit_every: Annotated[int, Field(ge=1)] = 6


class ThompsonSampler:
    """Learns objectives over the unit cube and proposes points by Thompson sampling.

    Each objective has a Gaussian process. A proposal draws one function of each, applies the utility
    to the draws and takes the best of many candidates, so it explores in proportion to the
    probability that a point is the best (Thompson 1933; kernels: Durand et al. 2018). Measurements
    may lack single objectives.
    """

    def __init__(
        self, dimensions: int, objectives: Sequence[str], rng: np.random.Generator, options: SamplerOptions
    ) -> None:
        self._rng, self._options, self._dimensions = rng, options, dimensions
        self._models = {name: GaussianProcess(dimensions, kernel=options.kernel) for name in objectives}
        self._told: dict[str, tuple[list[Array], list[float]]] = {name: ([], []) for name in objectives}
        self.points: list[Array] = []
        # A Latin hypercube: each of n trials in its own n-th of each axis.
        count = options.initial_trials
        strata = np.stack([rng.permutation(count) for _ in range(dimensions)], axis=1)
        self._design = list((strata + rng.random((count, dimensions))) / count)

    def tell(self, point: Array, values: Mapping[str, float]) -> None:
        """Learn what was measured at ``point``: any of the objectives."""
        self.points.append(point)
        for turn, (name, model) in enumerate(self._models.items()):
            if name not in values:
                continue
            x, y = self._told[name]
            x.append(point)
            y.append(values[name])
            # The searches of the objectives take turns, so that no single decision pays for all.
            search = len(y) <= 10 or (len(y) + turn) % self._options.refit_every == 0
            model.fit(np.array(x), np.array(y), search=search)

    def ask(
        self,
        utility: UtilityOf,
        allowed: Callable[[Array], NDArray[np.bool_]],
        box: tuple[Array, Array] | None = None,
    ) -> Array | None:
        """Return the next point to try, shape ``(dimensions,)``; None if no candidate is allowed.

        ``utility`` and ``allowed`` take points of shape ``(n, dimensions)``. ``box`` holds the lowest and
        the highest corner of what can be reached now, the whole cube without it; the initial trials
        come as near to their places as it lets them.
        """
        low, high = box or (np.zeros(self._dimensions), np.ones(self._dimensions))
        while self._design and len(self.points) < self._options.initial_trials:
            point: Array = np.clip(self._design.pop(), low, high)
            if allowed(point[None, :])[0]:
                return point
        points = self._candidates(utility, low, high)
        points = points[allowed(points)]
        if not len(points):
            return None
        drawn = {name: model.draw(self._rng)(points) for name, model in self._models.items()}
        best: Array = points[int(np.argmax(utility(drawn, points)))]
        return best

    def predict(self, points: Array) -> dict[str, Array]:
        """Return the expected objectives at ``points``."""
        return {name: model.predict(points)[0] for name, model in self._models.items()}

    def best(self, utility: UtilityOf) -> Array | None:
        """Return the tried point of highest expected utility; None before the first."""
        if not self.points:
            return None
        tried = np.array(self.points)
        return np.asarray(tried[int(np.argmax(utility(self.predict(tried), tried)))])

    def _candidates(self, utility: UtilityOf, low: Array, high: Array) -> Array:
        """Return points all over the box, a quarter of them near the best so far."""
        count = self._options.candidates
        points = low + (high - low) * self._rng.random((count, self._dimensions))
        best = self.best(utility)
        if best is not None:
            near = count // 4
            points[:near] = best + 0.1 * self._rng.standard_normal((near, self._dimensions))
        return np.clip(points, low, high)
