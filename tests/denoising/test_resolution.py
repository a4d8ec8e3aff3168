"""Half the resolution and back."""

from __future__ import annotations

import numpy as np
import pytest

from controller.denoising.resolution import doubled, halved


@pytest.mark.parametrize("shape", [(6, 8), (5, 7), (1, 1), (1, 4)])
def test_half_of_any_size_has_the_mean_of_its_pixels(shape: tuple[int, int]) -> None:
    image = np.full(shape, 3.5, np.float32)
    half = halved(image)
    assert half.shape == ((shape[0] + 1) // 2, (shape[1] + 1) // 2)
    assert (half == 3.5).all()


def test_a_ramp_stays_a_ramp_but_at_its_ends() -> None:
    ramp = np.add.outer(np.arange(12.0), 2 * np.arange(16.0)).astype(np.float32)
    back = doubled(halved(ramp))
    assert back.shape == ramp.shape
    assert np.allclose(back[1:-1, 1:-1], ramp[1:-1, 1:-1], atol=1e-5)


def test_light_is_kept() -> None:
    image = np.random.default_rng(0).random((10, 14), np.float32)
    assert np.isclose(halved(image).mean(), image.mean())
    assert np.isclose(doubled(image).mean(), image.mean(), rtol=0.02)
