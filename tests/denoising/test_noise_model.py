import numpy as np
import pytest

from controller.denoising.corruption import PhotonThinning, Recorruption
from controller.denoising.noise_model import DetectorOptions, NoiseModel

RNG = np.random.default_rng


def photons(count: int, seed: int = 0, side: int = 128) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    ground = 2 + 10 * RNG(99).random((side // 16, side // 16)).repeat(16, 0).repeat(16, 1)
    return RNG(seed).poisson(ground, (count, side, side)).astype(np.uint16)


def test_counted_photons_are_seen_in_the_first_frame() -> None:
    model = NoiseModel(DetectorOptions())
    found = model.look(photons(1)[0])
    assert found is not None
    assert (found.trust, found.units_per_photon, found.offset_units) == ("counts", 1.0, 0.0)
    assert isinstance(model.corruption, PhotonThinning)


def test_gain_and_offset_come_nearer_with_more_frames() -> None:
    model = NoiseModel(DetectorOptions())
    rng = RNG(1)
    for image in photons(32):
        model.look((100 + 3.7 * image + rng.normal(0, 2, image.shape)).astype(np.float32))
    assert model.transfer.units_per_photon == pytest.approx(3.7, rel=0.1)
    assert isinstance(model.corruption, Recorruption)


def test_what_is_given_is_not_looked_for() -> None:
    model = NoiseModel(DetectorOptions(units_per_photon=2.0, offset_units=5.0, read_noise_units=1.0))
    assert all(model.look(image) is None for image in photons(9))
    assert model.transfer.reason == "given"
    assert isinstance(model.corruption, Recorruption)
    assert isinstance(NoiseModel(DetectorOptions(units_per_photon=1.0)).corruption, PhotonThinning)


def test_after_the_last_look_it_is_left_alone() -> None:
    model = NoiseModel(DetectorOptions())
    for image in photons(32):
        model.look(image)
    model.forget()
    assert all(model.look(image * 7) is None for image in photons(32))


def test_one_frame_of_another_place_knows_less_than_eight_of_the_last() -> None:
    model = NoiseModel(DetectorOptions())
    for image in photons(8):
        model.look(image)
    known = model.transfer
    model.forget()
    changes = [model.look(image * 7) for image in photons(8)]
    assert changes[:7] == [None] * 7
    assert changes[7] is not None
    assert changes[7].units_per_photon == pytest.approx(7 * known.units_per_photon)


def test_parts_of_photons_are_noticed_and_the_noise_taken_for_analog() -> None:
    model = NoiseModel(DetectorOptions())
    image = photons(1)[0]
    model.look(image)
    assert model.pair(image.astype(np.float32), RNG(0)) is not None
    assert "parts of photons" not in model.transfer.reason
    pair = model.pair(image + np.float32(0.5), RNG(0))
    assert pair is not None
    assert isinstance(model.corruption, Recorruption)
    assert "parts of photons" in model.transfer.reason


def test_what_is_too_small_is_not_taken_apart() -> None:
    assert NoiseModel(DetectorOptions()).pair(np.ones((1, 1), np.float32), RNG(0)) is None


def test_large_frames_are_looked_at_in_the_middle() -> None:
    model = NoiseModel(DetectorOptions())
    frame = np.zeros((1024, 1024), np.uint16)
    frame[384:640, 384:640] = photons(1, side=256)[0]
    found = model.look(frame)
    assert found is not None
    assert found.trust == "counts"
