import numpy as np
import pytest
import torch

from controller.denoising.causal_network import CausalUNet, CausalUNetOptions
from controller.denoising.clips import Clip
from controller.denoising.corruption import PhotonThinning
from controller.denoising.training import TrainingOptions, fresh_network, train
from tests.denoising.test_adaptive_kalman import calcium_movie

SMALL = CausalUNetOptions(taus_frames=(2.0, 8.0), width=8, deep=8)
OPTIONS = TrainingOptions(steps=40, batch=4, patch_px=32, learning_rate=5e-3)


def clip(seed: int = 0) -> Clip:
    truth = calcium_movie(seed, frames=24, size=48)
    photons = np.random.default_rng([seed, 1]).poisson(truth).astype(np.float32)
    return Clip(photons, SMALL.taus_frames, PhotonThinning())


def trained(seed: int, options: TrainingOptions = OPTIONS) -> CausalUNet:
    rng = np.random.default_rng(seed)
    network = fresh_network(SMALL, rng)
    train(network, [clip()], options, rng)
    return network


def bits(network: CausalUNet) -> list[bytes]:
    return [tensor.detach().numpy().tobytes() for tensor in network.state_dict().values()]


def error(network: CausalUNet) -> float:
    """Return the mean squared error on the truth of a movie that was not learned from."""
    truth = calcium_movie(7, frames=24, size=48)
    judge, errors = clip(7), []
    for index in range(10, 24):
        shown = judge.whole(index, (slice(None), slice(None)))
        with torch.inference_mode():
            answer = network(torch.from_numpy(shown.images)[None], torch.from_numpy(shown.conditions)[None])
        errors.append(np.mean((answer[0, 0].numpy() * shown.scale - truth[index]) ** 2))
    return float(np.mean(errors))


def test_a_few_steps_on_noisy_frames_alone_come_nearer_to_the_truth_of_other_frames() -> None:
    fresh = fresh_network(SMALL, np.random.default_rng(0))
    assert error(trained(0)) < 0.8 * error(fresh)


def test_the_same_seed_gives_the_same_bits_and_another_gives_others() -> None:
    options = OPTIONS.replace(steps=4)
    assert bits(trained(1, options)) == bits(trained(1, options))
    assert bits(trained(1, options)) != bits(trained(2, options))


def test_torchs_own_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    trained(3, OPTIONS.replace(steps=2))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("steps", [1, 2, 10, 20])
def test_any_number_of_steps_can_be_asked_for(steps: int) -> None:
    told: list[int] = []
    rng = np.random.default_rng(4)
    options = OPTIONS.replace(steps=steps, batch=1, patch_px=8)
    train(fresh_network(SMALL, rng), [clip()], options, rng, lambda step, _: told.append(step))
    assert told == list(range(1, steps + 1))
