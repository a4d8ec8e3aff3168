from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.errors import ConfigurationError
from simulator import specimens
from simulator.specimens import SHIPPED, SpecimenName, make_specimen

NAMES: tuple[SpecimenName, ...] = get_args(SpecimenName)


def make(name: SpecimenName, shape_yx: tuple[int, int] = (400, 300), seed: int = 1) -> specimens.Specimen:
    if name in SHIPPED:
        pytest.importorskip("pysted")
    return make_specimen(name, shape_yx, 8.0, np.random.default_rng(seed))


@pytest.mark.parametrize("name", NAMES)
def test_a_specimen_is_decided_by_its_generator_alone(name: SpecimenName) -> None:
    first, again, other = make(name), make(name), make(name, seed=2)
    assert np.array_equal(first.molecules, again.molecules)
    assert np.array_equal(first.structures, again.structures)
    assert not np.array_equal(first.molecules, other.molecules)


@pytest.mark.parametrize("name", NAMES)
def test_molecules_and_truth_lie_on_one_grid_and_cannot_be_written_to(name: SpecimenName) -> None:
    specimen = make(name)
    for array in (specimen.molecules, specimen.structures):
        assert array.shape == (400, 300)
        assert array.dtype == np.int32
        assert array.min() == 0
        assert not array.flags.writeable
    assert specimen.pixel_size_m == 20e-9


@pytest.mark.parametrize("name", NAMES)
def test_structures_are_where_the_molecules_are(name: SpecimenName) -> None:
    specimen = make(name, (1024, 1024))
    inside = specimen.structures > 0
    assert specimen.structures.max() >= 3
    assert specimen.molecules[inside].mean() > 4 * specimen.molecules[~inside].mean()
    assert 4 < specimen.molecules.max() < 100


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    shape_yx=st.tuples(st.integers(20, 300), st.integers(20, 300)),
    seed=st.integers(0, 2**32 - 1),
)
def test_samples_of_any_size_and_seed_can_be_made(
    name: SpecimenName, shape_yx: tuple[int, int], seed: int
) -> None:
    specimen = make(name, shape_yx, seed)
    assert specimen.molecules.shape == specimen.structures.shape == shape_yx
    assert specimen.molecules.min() >= 0


def test_actin_rings_repeat_every_190_nm() -> None:
    density, structures = np.zeros((60, 600)), np.zeros((60, 600), np.int32)
    path = np.stack([np.full(2400, 30.0), np.arange(2400) * 0.25], axis=1)
    specimens._draw_rings(density, structures, path, 7, np.random.default_rng(0))
    profile = density[28:33, 20:580].sum(axis=0)
    spectrum = np.abs(np.fft.rfft(profile - profile.mean(), 2**14))
    period_m = 20e-9 / np.fft.rfftfreq(2**14)[np.argmax(spectrum)]
    assert abs(period_m - 190e-9) < 5e-9
    assert set(np.unique(structures)) == {0, 7}


def test_beads_keep_their_distance() -> None:
    from scipy import ndimage

    structures = make("beads", (700, 700)).structures
    centres = np.array(ndimage.center_of_mass(structures > 0, structures, np.unique(structures)[1:]))
    gaps_px = np.hypot(*(centres[:, None] - centres[None]).T) + 1e9 * np.eye(len(centres))
    assert gaps_px.min() * 20e-9 > 0.25e-6
    assert abs(len(centres) - 196) < 70


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
        make_specimen("cheese", (50, 50), 5.0, np.random.default_rng(0))  # type: ignore[arg-type]


def test_without_pysted_the_generated_specimens_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match="'synapses', 'filaments', 'beads'"):
        make_specimen("tubulin", (50, 50), 5.0, np.random.default_rng(0))
