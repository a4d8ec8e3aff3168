"""Pictures lose nothing on their way, and show something from the first moment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from controller.labels.images import Picture, contrast_window
from controller.web import pictures
from controller.web.pictures import PictureShelf, to_send
from tests.web.support import Bench, DrawnImages


@pytest.mark.parametrize(
    ("dtype", "sent_as"),
    [
        ("bool", "uint16"),
        ("uint8", "uint16"),
        ("uint16", "uint16"),
        (">u2", "uint16"),
        ("int16", "float32"),
        ("uint32", "float32"),
        ("float16", "float32"),
        ("float32", "float32"),
        (">f4", "float32"),
        ("float64", "float32"),
    ],
)
def test_values_arrive_whatever_their_type(dtype: str, sent_as: str) -> None:
    pixels = np.array([[0, 1, 0], [1, 1, 0]], dtype)
    sent = to_send(Picture(pixels=pixels, origin_yx=(1, 2), window=(0, 1)))
    assert (sent.dtype, sent.shape_yx, sent.origin_yx, sent.window) == (sent_as, (2, 3), (1, 2), (0, 1))
    read = np.frombuffer(sent.content, {"uint16": "<u2", "float32": "<f4"}[sent_as]).reshape(2, 3)
    np.testing.assert_array_equal(read, pixels.astype(float))


def test_a_crop_that_is_a_view_of_a_larger_image_is_sent_row_by_row() -> None:
    whole = np.arange(100, dtype=np.uint16).reshape(10, 10)
    sent = to_send(Picture(pixels=whole[2:8:2, 1:9].T, origin_yx=(0, 0), window=(0, 1)))
    np.testing.assert_array_equal(
        np.frombuffer(sent.content, "<u2").reshape(sent.shape_yx), whole[2:8:2, 1:9].T
    )


@pytest.mark.parametrize("pixels", [np.zeros((2, 2, 2)), np.zeros((0, 3)), np.array([["a"]]), np.zeros(3)])
def test_what_is_no_picture_is_refused(pixels: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match="2-D image of numbers"):
        to_send(Picture(pixels=pixels, origin_yx=(0, 0), window=(0, 1)))


def test_a_few_hot_pixels_do_not_make_the_rest_dark() -> None:
    pixels = np.tile(np.arange(100, dtype=np.uint16), (100, 1))
    pixels[0, :5] = 65_535
    low, high = contrast_window(pixels)
    assert 0 <= low <= 1
    assert 98 <= high <= 100


@given(
    hnp.arrays(
        st.sampled_from([np.uint16, np.float32, np.float64]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    )
)
@example(np.array([[1.7e308]]))
@example(np.array([[-1.7e308, 1.7e308]]))
def test_the_window_is_always_one(pixels: NDArray[np.generic]) -> None:
    low, high = contrast_window(pixels)
    assert np.isfinite(low)
    assert np.isfinite(high)
    assert low < high


@pytest.mark.parametrize("window", [(5.0, 5.0), (9.0, 1.0), (np.nan, 1.0), (0.0, np.inf)])
def test_a_window_that_shows_nothing_gives_way_to_percentiles(window: tuple[float, float]) -> None:
    pixels = np.arange(12, dtype=np.float32).reshape(3, 4)
    picture = Picture(pixels=pixels, origin_yx=(0, 0), window=window)
    assert to_send(picture).window == contrast_window(pixels)


def test_the_window_of_the_source_is_shown_where_it_has_one() -> None:
    picture = Picture(pixels=np.eye(3, dtype=np.float32), origin_yx=(0, 0), window=(-2.0, 7.0))
    assert to_send(picture).window == (-2.0, 7.0)


def test_the_shelf_forgets_old_pictures(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_KEPT_BYTES", 5000)
    images = DrawnImages()
    shelf = PictureShelf(images, 0)
    samples = [bench.sample(number) for number in range(5)]
    for sample in samples:  # 24 by 32 pixels of 2 bytes each: three of them fit
        shelf.picture(sample, "raw")
    assert len(images.read) == 5
    shelf.picture(samples[4], "raw")
    assert len(images.read) == 5
    shelf.picture(samples[0], "raw")
    assert len(images.read) == 6
