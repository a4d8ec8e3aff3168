from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from controller.denoising.adaptation import AdaptationOptions
from controller.denoising.causal_unet import SHIPPED
from controller.denoising.learner import Learner, LearnerOptions, Proposal
from controller.denoising.photon_transfer import PhotonTransfer
from controller.denoising.recent_frames import RecentFrames
from controller.denoising.training import TrainingOptions
from controller.learning.process import LearningFailedError
from controller.networks.weights import Weights, read_weights
from tests.denoising.test_adaptation import spoilt
from tests.denoising.test_adaptive_kalman import calcium_movie

QUICK = AdaptationOptions(
    training=TrainingOptions(steps=20, batch=4, patch_px=32, learning_rate=1e-3), standard_errors=0.0
)
OPTIONS = LearnerOptions(
    first_frames=12, every_frames=40, settle_frames=4, frames_max=40, side_px=32, adaptation=QUICK
)
COUNTS = PhotonTransfer(1.0, 0.0, 0.0, 0.0, 0.0, None, "counts")
MOVIE = np.random.default_rng(0).poisson(calcium_movie(3, frames=60, size=32)).astype(np.float32)


@contextmanager
def learner(*, waits: bool = True, options: LearnerOptions = OPTIONS) -> Iterator[Learner]:
    made = Learner(options, 7, waits=waits)
    try:
        yield made
    finally:
        made.close()


def start() -> Weights:
    return spoilt(read_weights(SHIPPED), 0.3)


def show(one: Learner, frames: range, weights: Weights) -> None:
    for index in frames:
        one.show(MOVIE[index], weights, COUNTS, is_new_place=index == 0)


def proposals(asked_at: set[int]) -> dict[int, Proposal]:
    """Return what was proposed after which frame, if somebody asked after these."""
    found = {}
    weights = start()
    with learner() as one:
        for index in range(18):
            show(one, range(index, index + 1), weights)
            if index + 1 in asked_at and (proposal := one.proposal()) is not None:
                found[index + 1] = proposal
    return found


def test_with_a_simulated_clock_a_proposal_comes_at_its_frame_and_is_the_same_each_time() -> None:
    one, other = proposals(set(range(1, 19))), proposals({16})
    assert list(one) == [16], "begun at 12, and due 4 frames later"
    assert list(other) == [16], "although nobody asked before"
    assert one[16].weights.data == other[16].weights.data
    assert one[16].score_after_db > one[16].score_before_db


def test_while_a_proposal_is_made_no_other_is_begun() -> None:
    options = OPTIONS.replace(every_frames=1, settle_frames=1000)
    begun = []
    with learner(options=options, waits=False) as one:
        for index in range(30):
            show(one, range(index, index + 1), start())
            begun.append(one._begun)
    assert set(begun) == {None, 12}


def test_frames_that_were_seen_before_weights_were_adopted_start_no_second_proposal() -> None:
    weights = start()
    with learner() as one:
        show(one, range(16), weights)  # a resumed session: nobody asks about what is on disk
        one.took(weights)
        assert one.proposal() is None
        assert one._process._process is None, "no process was started for nothing"
        show(one, range(16, 20), read_weights(SHIPPED))
        assert one._next == 52


def test_a_learning_process_that_is_killed_is_told_and_the_next_proposal_starts_another() -> None:
    weights = start()
    options = OPTIONS.replace(adaptation=QUICK.replace(standard_errors=100.0))
    with learner(options=options) as one:
        show(one, range(12), weights)
        assert one.proposal() is None
        process = one._process._process
        assert process is not None
        process.kill()
        show(one, range(12, 16), weights)
        with pytest.raises(LearningFailedError, match="ended by itself"):
            one.proposal()
        show(one, range(16, 52), weights)
        assert one.proposal() is None
        assert one._process._process is not process
        show(one, range(52, 56), weights)
        assert one.proposal() is None, "nothing is better by a hundred standard errors"
        assert one._begun is None, "but it has been tried"


def test_recent_frames_are_a_square_in_the_middle_and_the_oldest_go_first() -> None:
    recent = RecentFrames(5, 16)
    for index in range(8):
        frame = np.full((40, 20), float(index), np.float32)
        frame[12:28, 2:18] += 0.5
        recent.add(frame, is_new_place=index in {0, 4, 6})
    movies = recent.movies()
    assert [movie.shape for movie in movies] == [(1, 16, 16), (2, 16, 16), (2, 16, 16)]
    assert [float(frame[0, 0]) for movie in movies for frame in movie] == [3.5, 4.5, 5.5, 6.5, 7.5]
    assert movies[0].min() == movies[0].max()


def test_places_smaller_than_the_network_can_take_are_left_out() -> None:
    recent = RecentFrames(5, 16)
    recent.add(np.ones((3, 20), np.float32), is_new_place=True)
    assert recent.movies() == []


@pytest.mark.parametrize(
    "transfer",
    [
        PhotonTransfer(1.0, 0.0, 0.0, 0.47, 0.0, None, "gain only"),
        PhotonTransfer(1.0, 0.0, 0.0, 0.0, 0.0, None, "assumed"),
    ],
)
def test_nothing_is_learned_from_noise_that_cannot_be_taken_apart(transfer: PhotonTransfer) -> None:
    assert not transfer.splits
    assert COUNTS.splits
    with learner() as one:
        for index in range(40):
            one.show(MOVIE[index], start(), transfer, is_new_place=index == 0)
            assert one.proposal() is None
        # Only the noise was in the way.
        one.show(MOVIE[40], start(), COUNTS, is_new_place=False)
        assert one._begun == 41
