"""Lets a denoiser learn from the frames of the session while it images, and take over what is better.

Proposals are made and judged in a process of their own. When one begins and when its result may be taken
is counted in frames; so with a simulated clock, where the session waits for it, the same seed gives the
same session.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated

from pydantic import Field, model_validator
from safetensors.numpy import save

from controller.core.frame import FloatImage
from controller.core.settings import Settings
from controller.denoising.adaptation import AdaptationOptions
from controller.denoising.photon_transfer import PhotonTransfer
from controller.denoising.recent_frames import RecentFrames
from controller.learning.process import LearningFailedError, LearningProcess, Message
from controller.networks.weights import Weights, check

_PATIENCE_S = 600.0

#: 256 MB to keep and to send; the learning process takes five times as much to train from them.
_PIXELS_MAX = 2**26


class LearnerOptions(Settings):
    """When to learn during a session, and from how much."""

    first_frames: Annotated[int, Field(ge=2)] = 120
    """Frames before the first proposal is begun. What learns from a shorter past than the longest average
    knows nothing of a longer one: from 30 frames of a simulated movie, frames after the 120th came out 0.1 dB
    worse, from 120 of them 1 dB better."""
    every_frames: Annotated[int, Field(ge=1)] = 100
    """Frames between the beginnings of two proposals."""
    settle_frames: Annotated[int, Field(ge=1)] = 60
    """With a simulated clock: frames after which the session waits for a proposal, if it must."""
    frames_max: Annotated[int, Field(ge=2, le=10_000)] = 160
    """Newest frames to learn from."""
    side_px: Annotated[int, Field(ge=16, le=1024)] = 128
    """Side of the square in the middle of the frames that is learned from."""
    adaptation: AdaptationOptions = AdaptationOptions()
    """How long a proposal is trained, and when it is better."""

    @model_validator(mode="after")
    def _frames_fit_into_memory(self) -> LearnerOptions:
        if (pixels := self.frames_max * self.side_px**2) > _PIXELS_MAX:
            raise ValueError(
                f"{self.frames_max} frames of {self.side_px} x {self.side_px} pixels are {pixels:.3g}; "
                f"allowed are {_PIXELS_MAX:.3g}: lower frames_max or side_px"
            )
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """Weights that are better on held-out photons than those in use, and by how much."""

    weights: Weights
    score_before_db: float
    score_after_db: float
    reason: str


class Learner:
    """Collects frames, has proposals made, and returns those that are better.

    Parameters
    ----------
    seed
        Decides all chance, together with the number of the frame at which a proposal begins.
    waits
        Whether a result is waited for when it is due, and never taken before: with a simulated clock.
    """

    def __init__(self, options: LearnerOptions, seed: int, *, waits: bool) -> None:
        self.options, self._seed, self._waits = options, seed, waits
        self._recent = RecentFrames(options.frames_max, options.side_px)
        self._process = LearningProcess("controller.denoising.learner_process")
        self._frames = 0
        self._next = options.first_frames
        self._job: Message | None = None  # to be sent when somebody asks next
        self._begun: int | None = None  # the frame at which the running proposal began
        self._earlier: Weights | None = None

    def show(
        self, photons: FloatImage, weights: Weights, transfer: PhotonTransfer, *, is_new_place: bool
    ) -> None:
        """Take in a frame; ``weights`` are those in use. Costs a copy, and now and then a snapshot.

        No proposal is begun while neighbours share noise, or its size is not known: what is learned from and
        what judges are not independent then. On real movies of such noise, weights that scored better were
        worse.
        """
        self._frames += 1
        self._recent.add(photons, is_new_place=is_new_place)
        if self._frames < self._next or self._is_busy() or not transfer.splits:
            return
        self._next = self._frames + self.options.every_frames
        movies = {f"{n:06d}": movie for n, movie in enumerate(self._recent.movies())}
        if movies:
            self._begun = self._frames
            self._job = self._snapshot(save(movies), weights, transfer)

    def convert(self, ratio: float, shift: float) -> None:
        """Turn the frames there are into those of ``ratio * photons + shift``, before the next one."""
        self._recent.convert(ratio, shift)

    def proposal(self) -> Proposal | None:
        """Return better weights, if there are any by now.

        Raises
        ------
        LearningFailedError
            If the process failed. If somebody asks again, the next proposal starts another.
        """
        if self._job is not None:
            job, self._job = self._job, None
            self._process.put(job)
        if self._begun is None:
            return None
        if self._waits and self._frames < self._begun + self.options.settle_frames:
            return None
        try:
            result = self._result(_PATIENCE_S if self._waits else 0.0)
        except Exception:
            self._begun = None
            raise
        if result is None:
            return None
        self._begun = None
        if not result.values["is_better"]:
            return None
        values = result.values
        weights = check(result.blobs["weights"], json.dumps(values["card"]), "the learning process")
        scores = values["scores_db"]
        return Proposal(weights, scores[0], max(scores), values["reason"])

    def _is_busy(self) -> bool:
        """Tell whether a proposal is being made: one at a time, or jobs that nobody waits for would queue up.

        With a simulated clock that is told by the number of frames, not by whether somebody has asked: in a
        session that is resumed, nobody asks about the frames that are on disk.
        """
        if self._begun is None:
            return False
        return not self._waits or self._frames < self._begun + self.options.settle_frames

    def took(self, before: Weights) -> None:
        """Remember what was in use before the weights of now, so that it can be gone back to."""
        self._earlier = before
        self._job = self._begun = None

    @property
    def patience_s(self) -> float:
        """Return how long :meth:`proposal` may take."""
        return 2 * _PATIENCE_S if self._waits else 0.0

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _result(self, patience_s: float) -> Message | None:
        """Return the result of the newest job; those that nobody waits for any more are thrown away."""
        while (result := self._process.result(patience_s)) is not None:
            if result.values["number"] == self._begun:
                return result
        if self._waits:
            raise LearningFailedError(f"the learning process gave no answer within {patience_s:g} s")
        return None

    def _snapshot(self, movies: bytes, weights: Weights, transfer: PhotonTransfer) -> Message:
        known = [weights, *([self._earlier] if self._earlier is not None else [])]
        return Message(
            {
                "number": self._frames,
                "cards": [one.card.model_dump(mode="json", by_alias=True) for one in known],
                "transfer": asdict(transfer),
                "options": self.options.adaptation.model_dump(mode="json"),
                "seed": [self._seed, self._frames],
            },
            {"movies": movies, **{f"weights{n}": one.data for n, one in enumerate(known)}},
        )
