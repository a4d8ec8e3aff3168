"""The benchmark of real polygons, on small images that are made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.labels_real import (
    NETWORK,
    READINGS,
    Judged,
    figures,
    fractions,
    leave_places_out,
    overlapping,
    place_of,
    places,
    prepared,
    trained,
)
from controller.core.frame import FloatImage
from controller.learning.annotations import ImageAnnotations, LabelSchema
from controller.segmentation.labelled_image import LabelledImage

SIDE = 64
BOTH = "both are rings"


def judged(photons: FloatImage, truth: NDArray[np.int16], name: str = "one") -> Judged:
    rows, columns = photons.shape
    said = ImageAnnotations(
        shape_yx=(rows, columns), label_schema=LabelSchema(classes=("rings",)), annotations=()
    )
    return Judged(name, LabelledImage(photons, said), truth)


def structure(rng: np.random.Generator, side: int = SIDE) -> FloatImage:
    """Photons of a random pattern as coarse as neurites."""
    smooth = ndimage.gaussian_filter(rng.normal(size=(side, side)), 4)
    expected = 3 + 3 * np.clip(smooth / smooth.std(), -1, 3)
    return np.asarray(rng.poisson(expected), np.float32)


def neurite(rng: np.random.Generator, row: int) -> NDArray[np.int64]:
    """Photons of a neurite with a lattice, 20 pixels high from ``row`` on, in what is nearly dark."""
    y, x = np.mgrid[:SIDE, :SIDE]
    inside = (y >= row) & (y < row + 20)
    lattice = 10 * (1 + 0.6 * np.cos(2 * np.pi * x / 9.5))
    return rng.poisson(np.where(inside, lattice, 0.5) + structure(rng) / 20)


def written(
    folder: Path, name: str, photons: NDArray[np.int64], polygons: str | None, offset: int = 0
) -> None:
    folder.mkdir(exist_ok=True)
    tifffile.imwrite(folder / f"{name}.tif", (photons + offset).astype(np.uint16))
    if polygons is not None:
        (folder / f"{name}.polys.txt").write_text(polygons)


def outline(number: int, row: int, left: int = 0, right: int = SIDE) -> str:
    return f"{number} ({left}, {row}), ({right}, {row}), ({right}, {row + 20}), ({left}, {row + 20})\n"


#: Of a neurite that goes down at column 36.
UPRIGHT = f"1 (36, 0), (56, 0), (56, {SIDE}), (36, {SIDE})\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two outlined images, one without rings, and one that nobody outlined."""
    rng, folder = np.random.default_rng(5), tmp_path / "source"
    written(folder, "along", neurite(rng, 8), outline(0, 8, 0, 30) + outline(1, 8, 34, SIDE))
    written(folder, "upright", neurite(rng, 36).T, UPRIGHT, offset=32768)
    written(folder, "empty", rng.poisson(0.5, (SIDE, SIDE)), "")
    written(folder, "unknown", neurite(rng, 20), None, offset=32768)
    return folder


@pytest.mark.parametrize("shift", [(0, 0), (10, -6), (-12, 3)])
def test_two_views_of_one_place_are_found_with_their_shift(shift: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    scene = structure(rng, SIDE + 40)
    first = scene[20 : 20 + SIDE, 20 : 20 + SIDE]
    y, x = 20 + shift[0], 20 + shift[1]
    second = rng.poisson(scene[y : y + SIDE, x : x + SIDE]).astype(np.float32)
    correlation, found = place_of(first, second)
    assert correlation > 0.7
    assert np.abs(np.subtract(found, shift)).max() <= 1
    ours, theirs = overlapping(first, second, found)
    assert ours.shape == theirs.shape


def test_images_are_put_together_by_place_and_strangers_stay_alone() -> None:
    rng = np.random.default_rng(2)
    side = 2 * SIDE
    scene, truth = structure(rng, side + 10), np.zeros((side, side), np.int16)
    images = [
        judged(scene[:side, :side], truth, "a"),
        judged(structure(rng, side), truth, "b"),
        judged(scene[10:, 5 : side + 5], truth, "c"),
    ]
    groups = sorted(sorted(one.name for one in group) for group in places(images))
    assert groups == [["a", "c"], ["b"]]


@pytest.mark.parametrize(
    ("reading", "zero", "one"),
    [(BOTH, 1, 1), ("1 is clear, 0 left out", -1, 1), ("0 is clear, 1 left out", 1, -1)],
)
def test_what_the_numbers_mean_decides_what_is_learned(
    source: Path, tmp_path: Path, reading: str, zero: int, one: int
) -> None:
    assert set(READINGS) == {BOTH, "1 is clear, 0 left out", "0 is clear, 1 left out"}
    truth = {i.name: i.truth for i in prepared(source, tmp_path / "store", reading).learned}
    assert (truth["along"][12:24, 4:26] == zero).all()
    assert (truth["along"][12:24, 38:60] == one).all()
    assert (truth["along"][40:] == 0).all()
    assert (truth["empty"] == 0).all()


def test_an_image_that_judges_is_not_learned_from_and_its_offset_is_gone(
    source: Path, tmp_path: Path
) -> None:
    found = prepared(source, tmp_path / "store", BOTH, ["upright"])
    assert [image.name for image in found.learned] == ["along", "empty"]
    (judge,) = found.judges
    assert judge.photons.max() < 100
    assert judge.is_rings.mean() == pytest.approx(20 / SIDE, abs=0.02)
    assert "32768 is subtracted" in "".join(found.notes)


def test_perfect_empty_and_blind_answers_get_the_figures_that_they_should() -> None:
    rng = np.random.default_rng(3)
    photons = neurite(rng, 20).astype(np.float32)
    photons[20:40] += 20
    truth = np.zeros((SIDE, SIDE), np.int16)
    truth[20:40, :32] = 1
    truth[50:] = -1
    image = judged(photons, truth)
    perfect = figures((truth > 0).astype(np.float32), truth > 0, image)
    assert (perfect["IoU"], perfect["Dice"], perfect["regions found, %"]) == (1, 1, 100)
    assert perfect["AUC in neurites"] == 1
    nothing = figures(np.zeros_like(photons), truth > 5, image)
    assert (nothing["IoU"], nothing["regions found, %"], nothing["AUC in neurites"]) == (0, 0, 0.5)
    score = rng.random(photons.shape).astype(np.float32)
    blind = figures(score, score > 0.5, image)
    assert blind["IoU"] == pytest.approx(blind["IoU by chance"], abs=0.03)
    assert blind["AUC in neurites"] == pytest.approx(0.5, abs=0.06)


def test_rings_of_a_place_that_was_left_out_are_found_better_than_by_chance(
    source: Path, tmp_path: Path
) -> None:
    (source / "empty.polys.txt").unlink()
    rows = leave_places_out(source, tmp_path / "stores", BOTH, steps=10, seed=0)
    for name in ("along", "upright"):
        row = rows[f"{name}: network"]
        assert row["IoU"] > 1.5 * row["IoU by chance"]
        assert row["regions found, %"] == 100
    assert len(rows) == 4


def test_an_empty_image_tells_what_is_found_where_nothing_is_or_is_learned_from(
    source: Path, tmp_path: Path
) -> None:
    rows = leave_places_out(source, tmp_path / "stores", BOTH, steps=1, seed=0)
    assert len(rows) == 6
    assert 0 <= rows["along: network"]["found in empty, %"] <= 100
    taught = rows["along: network, taught empty images too"]
    assert "found in empty, %" not in taught
    assert taught["AUC in neurites"] != rows["along: network"]["AUC in neurites"]


def test_images_without_outlines_are_shown_to_the_network_less_their_offset(
    source: Path, tmp_path: Path
) -> None:
    learned = prepared(source, tmp_path / "store", BOTH).learned
    rows = fractions(source, trained(learned, 1, 0))
    assert list(rows) == ["unknown"]
    assert rows["unknown"]["offset"] == 32768
    assert 0 <= rows["unknown"]["rings, % of neurites"] <= 100
    assert NETWORK.classes == ("background", "rings")
