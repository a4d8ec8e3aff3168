from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray

from controller.core.frame import Denoised
from controller.denoising.causal_unet import CausalUNetDenoiser
from controller.denoising.held_out import WIDER, HeldOutError
from tests.denoising.test_adaptive_kalman import calcium_movie, frame

CONDITIONS = np.log(np.array([0.5, 0.4, 0.3, 0.2, 0.1], np.float32))
Image = NDArray[np.float32]


def estimate_of_wrong_size(scale: float) -> tuple[HeldOutError, Image, float]:
    """Return the error after 40 frames whose true squared error is ``scale`` times what is expected."""
    rng = np.random.default_rng(0)
    held_out = HeldOutError()
    truth = rng.uniform(0.3, 3.0, (64, 64))
    expected = (held_out.std(truth.astype(np.float32), CONDITIONS) / WIDER) ** 2
    for _ in range(40):
        estimate = (truth + rng.normal(0, np.sqrt(scale * expected))).astype(np.float32)
        target = (truth + rng.normal(0, 0.4, truth.shape)).astype(np.float32)
        known = np.full(truth.shape, 0.16, np.float32)
        held_out.add(estimate, target, known, np.ones_like(target), CONDITIONS)
    found = (held_out.std(truth.astype(np.float32), CONDITIONS) / WIDER) ** 2
    return held_out, found / expected, float(expected.mean())


@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_an_error_that_is_another_than_usual_is_found(scale: float) -> None:
    _, factor, _ = estimate_of_wrong_size(scale)
    assert float(factor.mean()) == pytest.approx(scale, rel=0.3)


def test_what_was_measured_can_be_forgotten() -> None:
    held_out, _, usual = estimate_of_wrong_size(4.0)
    held_out.forget()
    truth = np.random.default_rng(0).uniform(0.3, 3.0, (64, 64)).astype(np.float32)
    assert float(((held_out.std(truth, CONDITIONS) / WIDER) ** 2).mean()) == pytest.approx(usual)


def test_pixels_that_do_not_count_change_nothing() -> None:
    held_out = HeldOutError()
    image = np.ones((32, 32), np.float32)
    weight = np.zeros_like(image)
    before = held_out.std(image, CONDITIONS)
    held_out.add(image, image + 100, np.zeros_like(image), weight, CONDITIONS)
    # Nothing was seen; only that nothing was seen is part of the doubt.
    assert 1.0 <= float((held_out.std(image, CONDITIONS) / before).max()) <= 1.5


def spots_movie(seed: int) -> NDArray[np.float64]:
    """Return spots that drift and bleach, on a ground; expected photons ``(t, y, x)``."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(6, 90, (40, 2))
    rows, columns = np.indices((96, 96))
    movie = []
    for index in range(40):
        moved = places + 0.03 * index
        near = [np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 3.5) for y, x in moved]
        movie.append(0.5 + 12 * np.exp(-index / 80) * np.sum(near, axis=0))
    return np.asarray(movie)


MOVIES: dict[str, Callable[[int], NDArray[np.float64]]] = {
    "calcium": lambda seed: calcium_movie(seed, frames=40),
    "calcium with more light": lambda seed: 4 * calcium_movie(seed, frames=40),
    "spots": spots_movie,
}


@lru_cache
def answers(name: str) -> tuple[NDArray[np.float64], list[Denoised]]:
    truth = MOVIES[name](5)
    rng = np.random.default_rng(6)
    denoiser = CausalUNetDenoiser(CausalUNetDenoiser.Options(learn=False))
    return truth, [denoiser.step(frame(rng.poisson(image), i)) for i, image in enumerate(truth)]


def covered(name: str, frames: slice) -> float:
    """Return the share of pixels whose truth is inside their 95 % interval."""
    truth, found = answers(name)
    inside = [
        np.abs(one.mean - image) <= 1.96 * one.std
        for one, image in zip(found[frames], truth[frames], strict=True)
    ]
    return float(np.mean(inside))


@pytest.mark.parametrize("name", ["calcium", "calcium with more light"])
def test_after_ten_frames_the_95_percent_interval_holds_the_truth_in_95_percent(name: str) -> None:
    assert 0.92 <= covered(name, slice(10, None)) <= 0.98


def test_of_sparse_spots_it_may_be_too_wide_but_not_too_narrow() -> None:
    assert covered("spots", slice(10, None)) >= 0.92


@pytest.mark.parametrize("name", MOVIES)
def test_in_the_first_frame_it_does_in_most(name: str) -> None:
    assert covered(name, slice(1)) >= 0.8
