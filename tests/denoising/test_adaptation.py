import numpy as np
import pytest

from controller.denoising.adaptation import AdaptationOptions, Sample, propose, split
from controller.denoising.causal_unet import SHIPPED
from controller.denoising.corruption import PhotonThinning
from controller.denoising.training import TrainingOptions
from controller.networks.weights import Weights, pack, read_weights
from tests.denoising.test_adaptive_kalman import calcium_movie

QUICK = AdaptationOptions(training=TrainingOptions(steps=25, batch=4, patch_px=32, learning_rate=1e-3))
STILL = AdaptationOptions(training=TrainingOptions(steps=1, batch=1, patch_px=8, learning_rate=1e-12))


def sample(frames: int = 40) -> Sample:
    truth = calcium_movie(3, frames=frames, size=48)
    photons = np.random.default_rng(0).poisson(truth).astype(np.float32)
    return Sample([photons], PhotonThinning())


def shipped() -> Weights:
    return read_weights(SHIPPED)


def spoilt(weights: Weights, size: float) -> Weights:
    """Return weights with noise in them, relative to each tensor's own spread."""
    rng = np.random.default_rng(1)
    tensors = {
        name: (t + size * t.std() * rng.standard_normal(t.shape)).astype(np.float32)
        for name, t in sorted(weights.tensors().items())
    }
    card = weights.card
    return pack(tensors, architecture=card.architecture, options=card.options)


def test_weights_that_noise_has_spoilt_are_made_better_and_taken() -> None:
    worse = spoilt(shipped(), 0.3)
    verdict = propose([worse], sample(), QUICK, seed=[1])
    assert verdict.is_better
    assert verdict.scores_db[0] == 0
    assert verdict.scores_db[1] > 0.1
    assert verdict.best is verdict.learned
    assert verdict.best.card.parent == worse.sha256
    assert "learned from this sample" in verdict.reason


def test_weights_that_are_worse_are_not_taken() -> None:
    good = shipped()
    verdict = propose([good, spoilt(good, 0.3)], sample(), STILL, seed=[2])
    assert not verdict.is_better
    assert verdict.best is good
    assert verdict.scores_db[1] < -0.1
    assert "nothing is better" in verdict.reason


def test_a_training_that_makes_weights_worse_is_thrown_away() -> None:
    wild = AdaptationOptions(training=TrainingOptions(steps=3, batch=1, patch_px=8, learning_rate=1.0))
    verdict = propose([shipped()], sample(), wild, seed=[3])
    assert verdict.scores_db[1] < 0
    assert not verdict.is_better


def test_earlier_weights_that_are_better_are_gone_back_to() -> None:
    good = shipped()
    verdict = propose([spoilt(good, 0.3), good], sample(), STILL, seed=[4])
    assert verdict.is_better
    assert verdict.best is good
    assert "earlier weights" in verdict.reason


def test_the_same_seed_gives_the_same_weights() -> None:
    one, other = (propose([shipped()], sample(12), QUICK.replace(held_out=0.5), seed=[5, 6]) for _ in "ab")
    assert one.learned is not None
    assert other.learned is not None
    assert one.learned.data == other.learned.data
    assert one.scores_db == other.scores_db


def test_what_judges_is_not_learned_from() -> None:
    clips = sample(20).clips((2.0, 6.0))
    learned, judged = split(clips, 0.25)
    assert [len(clip) for clip in learned] == [15]
    assert [index for _, index in judged] == [15, 16, 17, 18, 19]


def test_of_places_with_a_single_frame_the_last_ones_judge() -> None:
    frames = np.random.default_rng(0).poisson(2, (8, 1, 16, 16)).astype(np.float32)
    clips = Sample(list(frames), PhotonThinning()).clips((2.0,))
    learned, judged = split(clips, 0.25)
    assert learned == clips[:6]
    assert [clip for clip, _ in judged] == clips[6:]


@pytest.mark.parametrize("frames", [1])
def test_from_a_single_frame_nothing_is_learned(frames: int) -> None:
    verdict = propose([shipped()], sample(frames), QUICK, seed=[7])
    assert not verdict.is_better
    assert verdict.learned is None
    assert "single frame" in verdict.reason
