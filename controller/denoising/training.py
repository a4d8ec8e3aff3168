"""Trains the causal network from noisy movies alone, or from simulated ones with their truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from controller.core.settings import Positive, Settings
from controller.denoising.causal_network import CausalUNet, CausalUNetOptions
from controller.denoising.clips import Clip, patch

_LOSS_MEMORY = 0.05

#: Share of the steps in which the rate rises. Not 0.1: torch 2.13 divides by zero where it ends at step 1.
_WARM_UP = 0.101


class TrainingOptions(Settings):
    """How long and how fast to learn."""

    steps: Annotated[int, Field(ge=1)] = 1200
    batch: Annotated[int, Field(ge=1, le=256)] = 8
    patch_px: Annotated[int, Field(ge=8, le=512)] = 64
    learning_rate: Positive = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4


def fresh_network(options: CausalUNetOptions, rng: np.random.Generator) -> CausalUNet:
    """Return a network of random weights; torch's own random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        return CausalUNet(options)


def train(
    network: CausalUNet,
    clips: Sequence[Clip],
    options: TrainingOptions,
    rng: np.random.Generator,
    progress: Callable[[int, float], None] | None = None,
) -> None:
    """Train ``network`` in place.

    The loss of each clip is its squared error relative to what it usually is, so that dim and bright
    movies have the same say: the sum of these is that of the logarithms, as decibels are.

    Parameters
    ----------
    clips
        One is drawn for each patch.
    progress
        Told the number of each finished step and its mean loss.
    """
    network.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        network.parameters(), options.learning_rate, weight_decay=options.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, total_steps=options.steps, pct_start=_WARM_UP
    )
    usual = np.ones(len(clips))
    seen = np.zeros(len(clips))
    for step in range(options.steps):
        chosen = rng.integers(len(clips), size=options.batch)
        errors = _errors(network, [clips[number] for number in chosen], options.patch_px, rng)
        found = errors.detach().numpy()
        for number, error in zip(chosen, found, strict=True):
            seen[number] += 1
            usual[number] += (error - usual[number]) * max(_LOSS_MEMORY, 1 / seen[number])
        shares = torch.from_numpy((1 / np.maximum(usual[chosen], 1e-12)).astype(np.float32))
        loss = (errors * shares).mean()
        optimizer.zero_grad()
        loss.backward()
        # One bright patch must not undo what a thousand taught.
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, float(found.mean()))
    network.eval()


def _errors(network: CausalUNet, clips: Sequence[Clip], side: int, rng: np.random.Generator) -> Tensor:
    """Return the mean squared error of the network on a patch of each clip, shape ``(n,)``."""
    side = min([side, *(min(clip.photons.shape[1:]) for clip in clips)]) // 4 * 4
    examples = [patch(clip, side, rng) for clip in clips]
    images = torch.from_numpy(np.stack([e.images for e in examples]))
    conditions = torch.from_numpy(np.stack([e.conditions for e in examples]))
    target = torch.from_numpy(np.stack([e.target for e in examples]))[:, None]
    weight = torch.from_numpy(np.stack([e.weight for e in examples]))[:, None]
    answer = network(images.contiguous(memory_format=torch.channels_last), conditions)
    errors: Tensor = (weight * (answer - target) ** 2).mean((1, 2, 3))
    return errors
