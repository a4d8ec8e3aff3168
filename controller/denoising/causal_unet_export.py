"""The causal network as other programs use it: one frame and its averages in, the estimate out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from controller.core.frame import FloatImage
from controller.denoising.averages import MovingAverages
from controller.denoising.causal_network import conditions_of, network_of
from controller.networks.bioimageio_export import ExportedNetwork
from controller.networks.weights import Weights

_SAMPLE_PX = 64
_SAMPLE_FRAMES = 12
_SEED = 0

_PAGE = """
## Input

All in photons (grey levels less the offset, divided by the gain), and divided by one number, the level: the
mean of the slowest average, once the newest frame is in it.

- Channel 1: the newest frame, x_t.
- The others: its moving averages before that frame, with time constants of {taus} frames. The first is
  a = x_0, then a = a + g (x_t - a) with g = max(1 / tau, 1 / (t + 1)).
- Conditions: for the frame and each average the natural logarithm of its relative noise, sqrt(v / level),
  within -6..4. v is 1 for a frame; for an average it begins with 1 and becomes (1 - g)² v + g². (With read
  noise of variance r, in photons², it is sqrt(v (level + r)) / level.)

The averages are made by the caller: they are all that it remembers of a movie.

## Output

The estimate of the newest frame without noise, in units of the level; values below 0 mean 0. It rests on no
later frame. It does not come with an error: Stedfast measures that on photons that it holds back.
"""


def exported_denoiser(weights: Weights) -> ExportedNetwork:
    """Return the network of these weights, and what there is to say of it.

    Raises
    ------
    WeightsError
        If they are of another kind of model, or do not fit their card.
    """
    network = network_of(weights)
    taus = network.options.taus_frames
    images, conditions = inputs_of(drawn_movie(), taus)
    averages = [f"average of {tau:g} frames" for tau in taus]
    return ExportedNetwork(
        network=network,
        summary="Denoises the newest frame of a movie of few photons from the past and the present alone.",
        page=_PAGE.format(taus=", ".join(f"{tau:g}" for tau in taus)),
        channels=["frame", *averages],
        conditions=["log noise of the frame", *(f"log noise of the {name}" for name in averages)],
        answers=["estimate"],
        images=images[None],
        numbers=conditions[None],
        tags=("denoising", "self-supervised", "movie", "stedfast"),
    )


def inputs_of(movie: FloatImage, taus: Sequence[float]) -> tuple[FloatImage, FloatImage]:
    """Return what the network sees at the last frame of a movie.

    Parameters
    ----------
    movie
        Photons, shape ``(t, y, x)``, at least two frames.
    taus
        Time constants of the averages, in frames.

    Returns
    -------
    Images ``(1 + len(taus), y, x)`` and conditions ``(1 + len(taus),)``, float32.
    """
    averages = MovingAverages(taus, (movie.shape[1], movie.shape[2]))
    for photons in movie[:-1]:
        averages.add(photons)
    level = averages.mean_with(movie[-1])
    images = np.concatenate((movie[-1:], averages.images)) * np.float32(1 / level)
    return images, conditions_of(np.concatenate(([1.0], averages.variances)), level)


def drawn_movie() -> FloatImage:
    """Return a movie of blobs that move, with photon noise, shape ``(12, 64, 64)``."""
    rng = np.random.default_rng(_SEED)
    y, x = np.mgrid[:_SAMPLE_PX, :_SAMPLE_PX]
    places, speeds = rng.uniform(8, _SAMPLE_PX - 8, (6, 2)), rng.uniform(-0.5, 0.5, (6, 2))
    movie = np.full((_SAMPLE_FRAMES, _SAMPLE_PX, _SAMPLE_PX), 0.5)
    for t in range(_SAMPLE_FRAMES):
        for row, column in places + t * speeds:
            movie[t] += 6 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 30)
    return rng.poisson(movie).astype(np.float32)
