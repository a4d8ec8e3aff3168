from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from simulator.specimens import make_specimen
from simulator.sted.diffusion import Diffusion, Moving


def rng(*numbers: int) -> np.random.Generator:
    return np.random.default_rng([9, *numbers])


def blank(shape: tuple[int, int] = (40, 30)) -> NDArray[np.int32]:
    return np.zeros(shape, np.int32)


def test_single_molecules_spread_by_two_d_t() -> None:
    molecules = blank((401, 401))
    molecules[200, 200] = 4000
    diffusion = Diffusion(molecules, blank((401, 401)), "molecules")
    for step in range(5):
        diffusion.move(molecules, 20.0, rng(step))
    assert molecules.sum() == 4000
    for axis, count in ((0, molecules.sum(axis=1)), (1, molecules.sum(axis=0))):
        place = np.arange(401) - 200
        variance = (count * place**2).sum() / 4000
        # Rounding to whole pixels adds a twelfth.
        assert variance == pytest.approx(100 + 1 / 12, abs=4 * 100 * np.sqrt(2 / 4000)), axis


def test_molecules_end_up_anywhere_with_the_same_chance() -> None:
    molecules = blank((6, 5))
    molecules[0, 4] = 6000
    diffusion = Diffusion(molecules, blank((6, 5)), "molecules")
    for step in range(4):
        diffusion.move(molecules, 300.0, rng(1, step))
    expected = 6000 / 30
    assert np.sum((molecules - expected) ** 2 / expected) < 60  # chi-squared of 29 degrees: 58 at 0.001


def test_structures_keep_their_shape_and_what_has_none_stays() -> None:
    molecules, structures = blank(), blank()
    molecules[3:6, 4:8] = np.arange(1, 13).reshape(3, 4)
    structures[3:6, 4:8] = 2
    molecules[35, 25] = 7
    diffusion = Diffusion(molecules, structures, "structures")
    seen = set()
    for step in range(30):
        diffusion.move(molecules, 25.0, rng(2, step))
        y, x = (int(way) for way in diffusion.displacement_px[:, 2])
        expected = blank()
        expected[3 + y : 6 + y, 4 + x : 8 + x] = np.arange(1, 13).reshape(3, 4)
        expected[35, 25] += 7
        assert np.array_equal(molecules, expected)
        seen.add((y, x))
    assert len(seen) > 25


def test_slow_things_get_somewhere_too() -> None:
    molecules, structures = blank(), blank()
    molecules[20, 15] = structures[20, 15] = 1
    diffusion = Diffusion(molecules, structures, "structures")
    for step in range(4000):
        diffusion.move(molecules, 0.01, rng(3, step))
    assert np.abs(diffusion.displacement_px).max() >= 2


@pytest.mark.parametrize("moving", ["structures", "molecules"])
def test_repeated_scans_of_what_moves_conserve_molecules_but_for_what_bleaches(moving: Moving) -> None:
    specimen = make_specimen("vesicles", (96, 80), 0.4, rng(4))
    molecules = specimen.molecules.copy()
    assert 0 < molecules.sum() < 2000
    diffusion = Diffusion(molecules, specimen.structures, moving)
    expected = int(molecules.sum())
    for step in range(12):
        diffusion.move(molecules, 9.0, rng(5, step))
        assert molecules.sum() == expected
        assert molecules.min() == 0
        bleached = rng(6, step).binomial(molecules, 0.2).astype(np.int32)
        molecules -= bleached
        expected -= int(bleached.sum())
    assert expected < 0.2 * specimen.molecules.sum()


def test_what_bleaches_in_a_shared_pixel_is_shared_as_chance_has_it() -> None:
    """Two structures of 30 and 10 molecules in one pixel, of which 20 bleach."""
    taken = []
    for number in range(400):
        molecules, structures = blank((1, 2)), blank((1, 2))
        molecules[0], structures[0] = (30, 10), (1, 2)
        diffusion = Diffusion(molecules, structures, "structures")
        step = 0
        while molecules[0].max() < 40:
            diffusion.move(molecules, 5.0, rng(7, number, step))
            step += 1
        molecules[molecules == 40] = 20
        while True:
            diffusion.move(molecules, 5.0, rng(8, number, step))
            step += 1
            if molecules.max() < 20:
                break
            assert molecules.sum() == 20
        left_of_first = molecules[0, diffusion.displacement_px[1, 1]]
        taken.append(30 - left_of_first)
    # Hypergeometric: 20 of 40 drawn, 30 of one kind.
    assert np.mean(taken) == pytest.approx(15, abs=4 * np.sqrt(1.923 / 400))
    assert np.var(taken) == pytest.approx(20 * 0.75 * 0.25 * 20 / 39, rel=0.25)


def test_an_empty_sample_can_move() -> None:
    molecules = blank()
    moves: tuple[Moving, ...] = ("structures", "molecules")
    for moving in moves:
        diffusion = Diffusion(molecules, blank(), moving)
        diffusion.move(molecules, 4.0, rng(9))
        assert not molecules.any()
