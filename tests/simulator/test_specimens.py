from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import ndimage

from controller.core.errors import ConfigurationError
from controller.core.settings import Region
from simulator.specimens import (
    GENERATED,
    SHIPPED,
    Specimen,
    SpecimenName,
    SpecimenOptions,
    TruthPoints,
    make_specimen,
)
from simulator.specimens.actin import ACTIN_PERIOD_M, draw_axon
from simulator.specimens.canvas import STEP_PX, Canvas
from simulator.specimens.paths import grow

NAMES: tuple[SpecimenName, ...] = get_args(SpecimenName)
#: Samples with small things whose places are known.
WITH_POINTS = ("synapses", "filaments", "vesicles", "beads", "neurons")


def make(name: Any, shape_yx: tuple[int, int] = (400, 300), seed: int = 1, **options: float) -> Specimen:
    if name in SHIPPED:
        pytest.importorskip("pysted")
    return make_specimen(name, shape_yx, 8.0, np.random.default_rng(seed), SpecimenOptions(**options))


def straight(length_px: int, row: float) -> Any:
    count = int(length_px / STEP_PX)
    return np.stack([np.full(count, row), np.arange(count) * STEP_PX], axis=1)


@pytest.mark.parametrize("name", NAMES)
def test_a_specimen_is_decided_by_its_generator_alone(name: SpecimenName) -> None:
    first, again, other = make(name), make(name), make(name, seed=2)
    for array in ("molecules", "structures", "classes", "points_yx_m"):
        assert np.array_equal(getattr(first, array), getattr(again, array))
    assert not np.array_equal(first.molecules, other.molecules)


@pytest.mark.parametrize("name", NAMES)
def test_molecules_and_truth_lie_on_one_grid_and_cannot_be_written_to(name: SpecimenName) -> None:
    specimen = make(name)
    for array in (specimen.molecules, specimen.structures, specimen.classes):
        assert array.shape == (400, 300)
        assert array.dtype == np.int32
        assert array.min() == 0
        assert not array.flags.writeable
    assert specimen.classes.max() < len(specimen.class_names)
    assert specimen.class_names[0] == "background"
    assert not specimen.points_yx_m.flags.writeable
    assert specimen.pixel_size_m == 20e-9


@pytest.mark.parametrize("name", NAMES)
def test_structures_are_where_the_molecules_are(name: SpecimenName) -> None:
    specimen = make(name, (1024, 1024))
    inside = specimen.structures > 0
    assert specimen.structures.max() >= 3
    assert specimen.molecules[inside].mean() > 4 * specimen.molecules[~inside].mean()
    assert 4 < specimen.molecules.max() < 100
    assert np.all(specimen.classes[inside] > 0)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    shape_yx=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    seed=st.integers(0, 2**32 - 1),
    rare=st.sampled_from([0.0, 0.3, 1.0]),
    density=st.sampled_from([1e-6, 0.3, 4.0]),
)
def test_samples_of_any_size_seed_and_options_can_be_made(
    name: SpecimenName, shape_yx: tuple[int, int], seed: int, rare: float, density: float
) -> None:
    specimen = make(name, shape_yx, seed, rare_fraction=rare, density=density)
    assert specimen.molecules.shape == specimen.structures.shape == specimen.classes.shape == shape_yx
    assert specimen.molecules.min() >= 0
    half = np.array(shape_yx) / 2 * 20e-9
    assert np.all(np.abs(specimen.points_yx_m) <= half + 1e-12)
    assert np.all(specimen.points.size_m > 0)
    assert np.all((specimen.points.classes > 0) & (specimen.points.classes < len(specimen.class_names)))


@pytest.mark.parametrize("name", WITH_POINTS)
def test_points_lie_on_molecules_and_on_pixels_of_their_class(name: SpecimenName) -> None:
    specimen = make(name, (1024, 1024), rare_fraction=0.3)
    pixels = np.floor(specimen.points_yx_m / 20e-9 + 512).astype(int)
    assert len(pixels) > 10
    # Two dim things may hide under brighter ones, and an axon may cross another one.
    assert np.mean(specimen.classes[tuple(pixels.T)] == specimen.points.classes) > 0.85
    nearby = ndimage.uniform_filter(specimen.molecules.astype(float), 5)
    assert np.mean(nearby[tuple(pixels.T)] > 3 * specimen.molecules.mean()) > 0.9


def test_the_centre_of_mass_of_a_bead_is_its_truth_point() -> None:
    specimen = make_specimen("beads", (500, 500), 200.0, np.random.default_rng(3))
    for (y_m, x_m), label in zip(specimen.points_yx_m, specimen.points.structures, strict=True):
        y, x = round(y_m / 20e-9 + 249.5), round(x_m / 20e-9 + 249.5)
        if not (6 <= y < 494 and 6 <= x < 494):
            continue
        cut = np.s_[y - 5 : y + 6, x - 5 : x + 6]
        centre = np.add(ndimage.center_of_mass(specimen.molecules[cut]), [y - 5, x - 5])
        assert np.hypot(*((centre - 249.5) * 20e-9 - [y_m, x_m])) < 2e-9
        assert specimen.structures[y, x] == label


@pytest.mark.parametrize("name", GENERATED)
def test_the_rare_class_is_as_frequent_as_asked(name: SpecimenName) -> None:
    rare = len(make(name).class_names) - 1

    def share(fraction: float, seeds: int) -> float:
        specimens = [make(name, (700, 700), seed, rare_fraction=fraction) for seed in range(seeds)]
        if name == "filaments":
            counts = np.bincount(np.concatenate([s.classes.ravel() for s in specimens]), minlength=rare + 1)
            return float(counts[rare] / (counts[rare] + counts[1]))
        kinds = [kind for s in specimens for kind in s.structure_classes.values()]
        if name == "vesicles":
            kinds = [int(kind) for s in specimens for kind in s.points.classes]
        return float(np.mean(np.array(kinds) == rare))

    assert share(0.0, 1) == 0.0
    assert share(1.0, 1) == 1.0
    assert share(0.3, 3) == pytest.approx(0.3, abs=0.13)


@pytest.mark.parametrize("name", ["synapses", "vesicles", "beads", "microtubules"])
def test_a_denser_sample_holds_more(name: SpecimenName) -> None:
    counts = [
        np.mean([make(name, (700, 700), seed, density=density).structures.max() for seed in range(4)])
        for density in (0.5, 1.0, 2.0)
    ]
    assert 1.4 < counts[1] / counts[0] < 2.8
    assert 1.4 < counts[2] / counts[1] < 2.8


@pytest.mark.parametrize("name", ["beads", "tubulin"])
def test_unspecific_label_is_everywhere(name: SpecimenName) -> None:
    clean, dirty = make(name), make(name, unspecific=0.25)
    added = dirty.molecules[clean.structures == 0].mean() - clean.molecules[clean.structures == 0].mean()
    assert added == pytest.approx(0.25 * 8.0, rel=0.05)


def test_brightness_is_in_proportion_to_the_molecules_asked_for() -> None:
    dim, bright = (
        make_specimen("microtubules", (400, 400), number, np.random.default_rng(4)).molecules.sum()
        for number in (5.0, 50.0)
    )
    assert bright / dim == pytest.approx(10, rel=0.02)


def test_actin_rings_repeat_every_190_nm_and_each_has_its_point() -> None:
    canvas = Canvas((60, 3000), ("background", "rings", "fibres", "smooth axon"))
    draw_axon(canvas, straight(3000, 30.0), 0.0, np.random.default_rng(0))
    specimen = canvas.finish("filaments", 100.0, SpecimenOptions(), np.random.default_rng(0))
    profile = specimen.molecules[28:33].sum(axis=0).astype(float)
    spectrum = np.abs(np.fft.rfft(profile - profile.mean(), 2**16))
    period_m = 20e-9 / np.fft.rfftfreq(2**16)[np.argmax(spectrum)]
    assert abs(period_m - ACTIN_PERIOD_M) < 5e-9
    places = np.sort(specimen.points_yx_m[:, 1])
    assert np.diff(places).mean() == pytest.approx(ACTIN_PERIOD_M, rel=0.02)
    on_rings = profile[np.floor(places / 20e-9 + 1500).astype(int)]
    assert on_rings.mean() > 2 * profile.mean()
    assert set(np.unique(specimen.structures)) == {0, 1}


def test_a_smooth_patch_holds_as_much_actin_as_rings_do() -> None:
    sums = []
    for rare in (0.0, 1.0):
        canvas = Canvas((60, 4000), ("background", "rings", "fibres", "smooth axon"))
        draw_axon(canvas, straight(4000, 30.0), rare, np.random.default_rng(5))
        sums.append(canvas.density.sum())
    assert sums[1] == pytest.approx(sums[0], rel=0.1)


def test_nanodomains_are_about_80_nm_wide_and_1_to_4_a_synapse_as_published() -> None:
    specimens = [make("synapses", (1500, 1500), seed) for seed in range(2)]
    sizes = np.concatenate([specimen.points.size_m for specimen in specimens])
    assert 70e-9 < sizes.mean() < 90e-9
    counts = np.concatenate(
        [np.unique(specimen.points.structures, return_counts=True)[1] for specimen in specimens]
    )
    assert counts.max() <= 4
    # 217 modules on 146 spines.
    assert counts.mean() == pytest.approx((85 + 2 * 39 + 3 * 18 + 4 * 4) / 146, rel=0.1)


def test_beads_keep_their_distance() -> None:
    centres = make("beads", (700, 700)).points_yx_m
    gaps_m = np.hypot(*(centres[:, None] - centres[None]).T) + np.eye(len(centres))
    assert gaps_m.min() >= 0.3e-6
    assert abs(len(centres) - 170) < 40


def test_a_path_bends_as_a_filament_of_its_persistence_length() -> None:
    rng = np.random.default_rng(6)
    paths = [grow(np.zeros(2), 0.5, 12e-6, (10 / 30) ** 0.5, rng) for _ in range(400)]
    first, last = (np.array([path[i + 1] - path[i] for path in paths]) for i in (0, 1499))
    cosine = (first * last).sum(axis=1) / STEP_PX**2
    # In a plane the mean cosine falls as exp(-length / (2 * persistence length)).
    assert cosine.mean() == pytest.approx(np.exp(-10 / 60), abs=0.04)
    assert np.hypot(*(np.diff(paths[0], axis=0).T)) == pytest.approx(STEP_PX)


def test_an_overview_shows_a_soma_dendrites_and_spines() -> None:
    specimen = make("neurons", (1600, 1600), 7)
    shares = np.bincount(specimen.classes.ravel(), minlength=5) / specimen.classes.size
    assert shares[1] > 0.01
    assert shares[2] > 0.02
    assert len(specimen.points) > 20
    assert shares[4] == 0


def test_a_crop_is_a_sample_of_its_own_with_the_same_truth() -> None:
    whole = make("beads", (300, 400))
    part = whole.crop((100, 40), (120, 201))
    assert np.array_equal(part.molecules, whole.molecules[100:220, 40:241])
    assert part.class_names == whole.class_names
    pixels = np.floor(part.points_yx_m / 20e-9 + np.array([60, 100.5])).astype(int)
    assert len(pixels) > 3
    assert np.array_equal(part.structures[tuple(pixels.T)], part.points.structures)
    inside = whole.structures[100:220, 40:241]
    assert set(part.points.structures) <= set(np.unique(inside))
    everything = whole.crop((0, 0), (300, 400))
    assert np.array_equal(everything.points_yx_m, whole.points_yx_m)


@pytest.mark.parametrize("first_yx", [(-1, 0), (0, 250), (400, 0)])
def test_a_crop_beyond_the_sample_is_refused(first_yx: tuple[int, int]) -> None:
    with pytest.raises(ConfigurationError, match="first_yx"):
        make("beads").crop(first_yx, (100, 100))


def test_points_can_be_chosen_by_region_and_class() -> None:
    points = TruthPoints(
        np.array([[0.0, 0.0], [1.0, 1.0], [-3.0, 0.0]]), np.ones(3), np.array([1, 2, 1]), np.array([1, 2, 3])
    )
    near = points.inside(Region(center_yx_m=(0.0, 0.0), size_yx_m=(4.0, 4.0)))
    assert near.structures.tolist() == [1, 2]
    assert points.of_class(1).structures.tolist() == [1, 3]
    with pytest.raises(ValueError, match="one size"):
        TruthPoints(np.zeros((2, 2)), np.ones(3), np.ones(2, np.int32), np.ones(2, np.int32))


def test_shipped_maps_are_not_lost_when_molecules_are_counted() -> None:
    """The package's maps are fractions of one: cast to integers first, they would be all zero."""
    for name in SHIPPED:
        assert make(name).molecules.sum() > 500


def test_shipped_maps_are_found_without_importing_pysted() -> None:
    pytest.importorskip("pysted")
    program = (
        "import sys, numpy as np; from simulator.specimens import make_specimen;"
        "make_specimen('tubulin', (50, 50), 5.0, np.random.default_rng(0)); sys.exit('pysted' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0


def test_an_unknown_specimen_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="synapses"):
        make("cheese")


def test_without_pysted_the_generated_specimens_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match="'synapses', 'filaments', 'beads'"):
        make_specimen("tubulin", (50, 50), 5.0, np.random.default_rng(0))


@pytest.mark.parametrize(
    "shape_yx", [(0, 5), (5, -1), (5.0, 5), (2**14, 2**14), (float("nan"), 5), (5,), 5, (True, 5), "ab"]
)
def test_an_impossible_size_is_refused_by_its_name(shape_yx: Any) -> None:
    with pytest.raises(ConfigurationError, match="shape_yx"):
        make_specimen("beads", shape_yx, 5.0, np.random.default_rng(0))


@pytest.mark.parametrize("molecules", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_an_impossible_brightness_is_refused_by_its_name(molecules: float) -> None:
    with pytest.raises(ConfigurationError, match="molecules_per_pixel"):
        make_specimen("beads", (50, 50), molecules, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("density", 0.0),
        ("density", float("nan")),
        ("density", 1e3),
        ("rare_fraction", -0.1),
        ("rare_fraction", 1.5),
        ("unspecific", float("inf")),
        ("dense", 1.0),
    ],
)
def test_impossible_options_are_refused_by_their_name(key: str, value: float) -> None:
    with pytest.raises(ValidationError, match=key):
        SpecimenOptions.model_validate({key: value})
