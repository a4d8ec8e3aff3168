"""Makes weights better for the sample at hand, and says whether they are: with noisy frames alone.

The score is the error on photons that a network did not see, on frames that it did not learn from: of two
networks the one whose answer is nearer to them is nearer to the truth, for their noise is the same for
both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from controller.core.settings import NonNegative, Settings
from controller.denoising.causal_network import ARCHITECTURE, CausalUNet, network_of
from controller.denoising.clips import Clip
from controller.denoising.training import TrainingOptions, train
from controller.denoising.training_pair import Corruption
from controller.networks.modules import tensors_of
from controller.networks.weights import Weights, pack

_FRAMES_JUDGED_MAX = 24


class AdaptationOptions(Settings):
    """How to learn from the frames of one sample."""

    training: TrainingOptions = TrainingOptions(steps=600, learning_rate=2e-3)
    """Steps of one proposal."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Part of the frames, the last ones, that judge and are not learned from."""
    standard_errors: NonNegative = 2.0
    """By how many of them weights must be better to be taken."""


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """Which weights are the best for what was held out.

    ``scores_db`` are those of all candidates in the order in which they came, the newly trained last: the
    held-out error of the first one over theirs, in dB of what is left above the noise of the target.
    ``learned`` are the newly trained ones, better or not.
    """

    best: Weights
    scores_db: tuple[float, ...]
    is_better: bool
    reason: str
    learned: Weights | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What there is to learn from: movies of one detector, and how its frames are taken apart.

    ``movies`` are consecutive frames of one place each in photons, shape ``(t, y, x)``;
    ``read_variance`` is that of the detector in the dark, photons²; ``sources`` say where they are from, for
    the card.
    """

    movies: Sequence[NDArray[np.float32]]
    corruption: Corruption
    read_variance: float = 0.0
    sources: tuple[str, ...] = ("frames of a session",)

    def clips(self, taus_frames: Sequence[float]) -> list[Clip]:
        """Return the movies with what a denoiser remembers."""
        return [
            Clip(movie, taus_frames, self.corruption, read_variance=self.read_variance)
            for movie in self.movies
        ]


def propose(
    candidates: Sequence[Weights],
    samples: Sample | Sequence[Sample],
    options: AdaptationOptions,
    *,
    seed: Sequence[int],
    progress: Callable[[int, float], None] | None = None,
) -> Verdict:
    """Train the first of ``candidates`` further, and return the best of them and the result.

    Parameters
    ----------
    candidates
        The weights in use, and others to judge beside them: those that were in use before.
    seed
        Decides all chance.
    """
    rng = np.random.default_rng(list(seed))
    network = network_of(candidates[0])
    samples = [samples] if isinstance(samples, Sample) else samples
    clips = [clip for sample in samples for clip in sample.clips(network.options.taus_frames)]
    learned, judged = split(clips, options.held_out)
    if not learned:
        return _nothing_learned(candidates, "too short, a single frame: there is none to judge by")
    # In the dark, whoever answers nothing is right, and learns that nothing is ever there.
    judged = [(clip, index) for clip, index in judged if clip.is_lit(index)]
    if not judged:
        return _nothing_learned(candidates, "next to no light: there is nothing to judge by")
    train(network, learned, options.training, rng.spawn(1)[0], progress)
    if not all(np.isfinite(tensor).all() for tensor in tensors_of(network).values()):
        return _nothing_learned(
            candidates, "training ended in numbers that are none; lower its learning_rate"
        )
    judge_seed = int(rng.integers(2**63))
    errors = [
        held_out_errors(one, judged, np.random.default_rng(judge_seed))
        for one in (*(network_of(weights) for weights in candidates), network)
    ]
    scores = tuple(_gain_db(errors[0], error) for error in errors)
    best = int(np.argmax(scores))
    difference = errors[0][0] - errors[best][0]
    # One piece does not tell a gain from chance.
    doubt = float(difference.std() / np.sqrt(len(difference) - 1)) if len(difference) > 1 else np.inf
    training = {**options.model_dump(mode="json"), "seed": list(seed)}
    sources = tuple(source for sample in samples for source in sample.sources)
    new = _packed(network, candidates[0], scores, training, sources)
    is_better = best > 0 and float(difference.mean()) > options.standard_errors * doubt
    if not is_better:
        reason = f"nothing is better than what is in use by {options.standard_errors:g} standard errors"
        return Verdict(candidates[0], scores, is_better=False, reason=reason, learned=new)
    what = "learned from this sample" if best == len(candidates) else "earlier weights are better again"
    reason = f"{what}: {scores[best]:+.2f} dB on {len(difference)} held-out pieces"
    return Verdict([*candidates, new][best], scores, is_better=True, reason=reason, learned=new)


def _nothing_learned(candidates: Sequence[Weights], reason: str) -> Verdict:
    return Verdict(candidates[0], (0.0,) * (len(candidates) + 1), is_better=False, reason=reason)


def held_out_errors(
    network: CausalUNet, judged: Sequence[tuple[Clip, int]], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean squared difference to the held-out photons of each frame, and their own noise."""
    errors, noise = [], []
    network.eval()
    with torch.inference_mode():
        for clip, index in judged:
            rows, columns = (length // 4 * 4 for length in clip.photons.shape[1:])
            example = clip.example(index, (slice(rows), slice(columns)), rng)
            answer = network(
                torch.from_numpy(example.images)[None], torch.from_numpy(example.conditions)[None]
            )
            difference = np.maximum(answer[0, 0].numpy(), 0) - example.target
            count = max(float(example.weight.sum()), 1e-9)
            errors.append(float((example.weight * difference**2).sum()) / count)
            noise.append(float((example.weight * example.target_variance).sum()) / count)
    return np.array(errors), np.array(noise)


def split(clips: Sequence[Clip], held_out: float) -> tuple[list[Clip], list[tuple[Clip, int]]]:
    """Return what to learn from, and the frames that judge: the last ones of each clip.

    Their averages rest on frames that were learned from; their own photons were never seen. Of clips too
    short to be divided, most teach and the last ones judge.
    """
    firsts = [len(clip) - max(1, round(held_out * len(clip))) for clip in clips]
    short = [number for number, first in enumerate(firsts) if first <= 0]
    teaching = set(short[: len(short) - max(1, round(held_out * len(short)))])
    learned, judged = [], []
    for number, (clip, first) in enumerate(zip(clips, firsts, strict=True)):
        if number in teaching:
            learned.append(clip)
            continue
        if first > 0:
            learned.append(clip.until(first))
        judges = range(max(first, 0), len(clip))
        chosen = np.linspace(judges[0], judges[-1], min(len(judges), _FRAMES_JUDGED_MAX))
        judged += [(clip, int(index)) for index in np.unique(chosen.round())]
    return learned, judged


def _gain_db(
    reference: tuple[NDArray[np.float64], NDArray[np.float64]],
    other: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> float:
    before, after = (float((error - noise).mean()) for error, noise in (reference, other))
    smallest = 1e-3 * float(reference[0].mean())
    return float(10 * np.log10(max(before, smallest) / max(after, smallest)))


def _packed(
    network: CausalUNet,
    parent: Weights,
    scores: tuple[float, ...],
    training: dict[str, Any],
    sources: tuple[str, ...],
) -> Weights:
    return pack(
        tensors_of(network),
        architecture=ARCHITECTURE,
        options=network.options.model_dump(mode="json"),
        trained_on=(*parent.card.trained_on[:20], *sources),
        training=training,
        metrics={"held_out_gain_over_parent_db": scores[-1]},
        licence=parent.card.licence,
        parent=parent.sha256,
        versions={name: version(name) for name in ("numpy", "torch", "stedfast")},
    )
