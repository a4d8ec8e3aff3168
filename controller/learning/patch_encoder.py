"""Says what a small crop looks like in about a hundred numbers, learned without any label.

Strategies that choose questions, and the quick classifier that learns from the answers, see a crop through
this network. It learns by instance discrimination [1]_: two views of one crop shall be alike, those of
others not. What a view may differ in is what a microscope could have written down of the same sample, see
:mod:`~controller.learning.augmentation`, and a small shift. Rotation, jigsaw and colour are no pretexts
for micrographs: a sample has no upright, and a network that nevertheless finds one has learned the scanner.

References
----------
.. [1] T. Chen et al., A simple framework for contrastive learning of visual representations, ICML 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from controller.core.settings import Positive, Settings
from controller.learning.augmentation import Augmentation, Flip, Rotate90, Sample
from controller.networks.modules import fill, tensors_of
from controller.networks.threads import torch_threads
from controller.networks.weights import Tensors, Weights, WeightsError, pack

Floats = NDArray[np.float32]

ARCHITECTURE = "patch encoder 1"

#: Less than this leaves nothing to be seen after two steps down.
SMALLEST_PX = 16

#: Crops at a time: the memory of more helps nobody.
_AT_ONCE = 128

#: Of a crop, what a view shows of each side: the rest is the room to shift in.
_VIEW = 5 / 6

_MOVES_ONLY = Augmentation(steps=(Flip(axis="y"), Flip(axis="x"), Rotate90()))


class PatchEncoderOptions(Settings):
    """The size of the network, and its scale: what a card must tell to build it again."""

    width: Annotated[int, Field(ge=4, le=256)] = 24
    """Channels at half the resolution."""
    deep: Annotated[int, Field(ge=4, le=512)] = 48
    """Channels at a quarter of the resolution and below; there are twice as many features."""
    root_unit: Positive = 4.0
    """What is 1 to the network, in units of the square root's noise: the same for all images, because a
    scale of each image's own would hide how bright it is."""

    @property
    def features(self) -> int:
        """Return how many numbers describe a crop: the mean and the spread of each channel."""
        return 2 * self.deep


class PretrainingOptions(Settings):
    """How it is learned."""

    batch: Annotated[int, Field(ge=2, le=4096)] = 96
    """Crops a step; each is told from all others of its step."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-3
    temperature: Positive = 0.1
    """Small: the most similar of the others count most."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Processor cores. The last bits of the weights depend on it."""
    encoder: PatchEncoderOptions = PatchEncoderOptions()
    augmentation: Augmentation | None = None
    """How two views differ, but for a small shift. By default mirrored, turned, and in less light; of
    numbers that are no counts of photons (denoised, averaged), which cannot be thinned, not in less light."""


@dataclass(frozen=True, slots=True, eq=False)
class PatchEncoder:
    """A network from crops to features, with the mean and the spread of what it said of its first crops.

    ``mean`` and ``spread`` have shape ``(features,)``; features are given less the one, by the other, so
    that a classifier may take each to be about as large as the others.
    """

    network: Any
    options: PatchEncoderOptions
    mean: Floats
    spread: Floats
    training: Mapping[str, Any]

    def encode(self, crops: NDArray[Any]) -> Floats:
        """Describe crops, shape ``(n, y, x)``, photons ≥ 0; the answer is ``(n, features)``, float32.

        Crops may be of any size from 16 x 16; the same crop has the same features.

        Raises
        ------
        ValueError
            If crops are smaller, or not finite numbers ≥ 0.
        """
        raw = _pooled(self.network, _inputs(crops, self.options))
        return np.asarray((raw - self.mean) / self.spread, np.float32)

    def scaled_to(self, crops: NDArray[Any]) -> PatchEncoder:
        """Return the encoder whose features have mean 0 and spread 1 over ``crops``, ``(n ≥ 2, y, x)``."""
        if len(crops) < 2:
            raise ValueError(f"the spread of features needs 2 crops or more, got {len(crops)}")
        raw = _pooled(self.network, _inputs(crops, self.options))
        # A feature that never differs says nothing; it must not blow up at the first crop where it does.
        floor = 1e-3 + 0.05 * float(raw.std(axis=0).mean())
        spread = np.maximum(raw.std(axis=0), floor)
        return PatchEncoder(
            self.network, self.options, raw.mean(axis=0), spread.astype(np.float32), self.training
        )

    def to_weights(self, **about: Any) -> Weights:
        """Return the numbers with their card, safetensors; ``about`` adds fields of the card."""
        tensors = {**tensors_of(self.network), "mean": self.mean, "spread": self.spread}
        return pack(
            tensors,
            architecture=ARCHITECTURE,
            options=self.options.model_dump(mode="json"),
            training=dict(self.training),
            **about,
        )

    @classmethod
    def from_weights(cls, weights: Weights) -> PatchEncoder:
        """Build the encoder that weights belong to; they were checked when they were read.

        Raises
        ------
        WeightsError
            If they are of another network.
        """
        name = f"weights {weights.sha256[:12]}"
        if weights.card.architecture != ARCHITECTURE:
            raise WeightsError(f"{name} are of {weights.card.architecture!r}, not of {ARCHITECTURE!r}")
        try:
            options = PatchEncoderOptions.model_validate(weights.card.options)
        except ValidationError as error:
            raise WeightsError(f"{name}: options: {error.errors(include_url=False)[0]['msg']}") from error
        tensors = weights.tensors()
        mean, spread = (tensors.pop(one, np.zeros(0, np.float32)) for one in ("mean", "spread"))
        if not mean.shape == spread.shape == (options.features,) or not (spread > 0).all():
            raise WeightsError(f"{name}: mean and spread > 0 are needed, {options.features} numbers each")
        network = fill(_build(options, np.random.default_rng(0)), _without_scale(tensors, weights))
        return cls(network, options, mean, spread, weights.card.training)


def untrained(rng: np.random.Generator, options: PatchEncoderOptions | None = None) -> PatchEncoder:
    """Return an encoder for as long as there is nothing to learn from: random weights, which see edges.

    Its features are scaled to drawn blobs in light of all strengths.
    """
    options = options or PatchEncoderOptions()
    texture = ndimage.gaussian_filter(rng.normal(size=(64, 32, 32)), (0, 2, 2))
    level = np.exp(rng.uniform(np.log(0.3), np.log(30), (64, 1, 1)))
    crops = rng.poisson(level * np.exp(texture / texture.std()))
    features = np.zeros(options.features, np.float32)
    fresh = PatchEncoder(_build(options, rng), options, features, features + 1, {"steps": 0})
    return fresh.scaled_to(crops)


def pretrain(
    crops: NDArray[Any],
    steps: int,
    rng: np.random.Generator,
    options: PretrainingOptions | None = None,
) -> PatchEncoder:
    """Learn to describe crops, shape ``(n ≥ 2, y, x)``, photons ≥ 0, from nothing but themselves.

    The same ``rng`` gives the same encoder, bit for bit, on the same machine.

    Raises
    ------
    ValueError
        If there are fewer than 2 crops, or they are too small or no photons.
    AugmentationError
        If crops are to be shown in less light that are no counts.
    """
    options = options or PretrainingOptions()
    _check(crops)
    if len(crops) < 2 or steps < 1:
        raise ValueError(
            f"2 crops or more and 1 step or more are needed, got {len(crops)} crops and {steps} steps"
        )
    augmentation = options.augmentation or (Augmentation() if _are_counts(crops) else _MOVES_ONLY)
    network = _build(options.encoder, rng)
    width = options.encoder.features
    head = _initialised(nn.Sequential(_Linear(width, width), nn.LeakyReLU(0.1), _Linear(width, 64)), rng)
    parameters = [*network.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=1e-4)
    batch = min(options.batch, len(crops))
    with torch_threads(options.threads):
        for step in range(1, steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * _rate(step / steps)
            chosen = crops[rng.choice(len(crops), batch, replace=False)]
            views = np.concatenate([_views(chosen, augmentation, rng) for _ in range(2)])
            loss = _contrast(head(_pool(network(_inputs(views, options.encoder)))), options.temperature)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        about = {**options.model_dump(mode="json"), "steps": steps, "crops": len(crops)}
        about["augmentation"] = augmentation.model_dump(mode="json")
        none = np.zeros(width, np.float32)
        learned = PatchEncoder(network.eval(), options.encoder, none, none + 1, about)
        return learned.scaled_to(crops[rng.choice(len(crops), min(len(crops), 1024), replace=False)])


def _views(crops: NDArray[Any], augmentation: Augmentation, rng: np.random.Generator) -> NDArray[Any]:
    """Show each crop otherwise: a part of it, elsewhere each time, changed by ``augmentation``."""
    shape = [max(SMALLEST_PX, int(side * _VIEW)) for side in crops.shape[-2:]]
    views = []
    for crop in crops:
        row, column = (
            int(rng.integers(whole - part + 1)) for whole, part in zip(crop.shape, shape, strict=True)
        )
        part = crop[row : row + shape[0], column : column + shape[1]]
        views.append(augmentation(Sample(part, {}), rng).image)
    return np.stack(views)


def _contrast(projected: Tensor, temperature: float) -> Tensor:
    """Return how badly the second half tells its partners in the first: NT-Xent [1]_."""
    unit = functional.normalize(projected, dim=1)
    alike = unit @ unit.T / temperature
    count = len(unit)
    alike = alike.masked_fill(torch.eye(count, dtype=torch.bool), float("-inf"))
    partner = (torch.arange(count) + count // 2) % count
    loss: Tensor = functional.cross_entropy(alike, partner)
    return loss


def _rate(progress: float) -> float:
    """Return the share of the learning rate: up during the first tenth, then down along a cosine."""
    return float(min(10 * progress, 0.5 * (1 + np.cos(np.pi * progress)) + 1e-3))


def _Linear(inputs: int, outputs: int) -> Any:  # noqa: N802  # a layer, made without torch's own chance
    with torch.random.fork_rng(devices=[]):
        return nn.Linear(inputs, outputs)


def _build(options: PatchEncoderOptions, rng: np.random.Generator) -> Any:
    """Return a fresh network; the same ``rng`` gives the same one, and torch's own stream is left alone."""
    width, deep = options.width, options.deep
    with torch.random.fork_rng(devices=[]):
        layers = [
            nn.PixelUnshuffle(2),
            nn.Conv2d(4, width, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, deep, 3, padding=1, stride=2),
            nn.LeakyReLU(0.1),
            nn.Conv2d(deep, deep, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(deep, deep, 3, padding=1),
        ]
        network = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    return _initialised(network, rng).eval()


def _initialised(network: Any, rng: np.random.Generator) -> Any:
    """Draw a network's numbers (K. He et al., Delving deep into rectifiers, ICCV 2015)."""
    with torch.no_grad():
        for layer in network:
            if hasattr(layer, "weight"):
                scale = np.sqrt(2 / layer.weight[0].numel())
                drawn = rng.normal(0, scale, tuple(layer.weight.shape)).astype(np.float32)
                layer.weight.copy_(torch.from_numpy(drawn))
                layer.bias.zero_()
    return network


def _pooled(network: Any, inputs: Tensor) -> Floats:
    starts = range(0, len(inputs), _AT_ONCE)
    with torch.inference_mode():
        parts = [_pool(network(inputs[start : start + _AT_ONCE])).numpy() for start in starts]
    return np.concatenate([np.zeros((0, 2 * network[-1].out_channels), np.float32), *parts])


def _pool(maps: Tensor) -> Tensor:
    """Return the mean and the spread of each channel over the crop, shape ``(n, 2 · channels)``.

    A texture, such as stripes, has no mean of its own; its spread is its strength.
    """
    return torch.cat([maps.mean(dim=(2, 3)), maps.std(dim=(2, 3))], dim=1)


def _inputs(crops: NDArray[Any], options: PatchEncoderOptions) -> Tensor:
    """Return crops as the network sees them, shape ``(n, 1, y, x)``, with an even number of rows.

    The square root (F. J. Anscombe, Biometrika 35, 246, 1948) makes the noise of bright and dim pixels
    alike.
    """
    _check(crops)
    rows, columns = (side - side % 2 for side in crops.shape[-2:])
    roots = np.sqrt(crops[:, :rows, :columns].astype(np.float32) + 0.375) - np.sqrt(np.float32(0.375))
    scaled = np.asarray(2 * roots / options.root_unit, np.float32)
    return torch.from_numpy(scaled)[:, None].contiguous(memory_format=torch.channels_last)


def _check(crops: NDArray[Any]) -> None:
    if crops.ndim != 3 or min(crops.shape[-2:]) < SMALLEST_PX:
        raise ValueError(
            f"crops need the shape (n, y, x) with at least {SMALLEST_PX} x {SMALLEST_PX} pixels, "
            f"got {crops.shape}"
        )
    if not ((crops >= 0) & (crops < np.inf)).all():
        raise ValueError("crops hold photons: finite numbers >= 0 in every pixel; subtract the offset first")


def _are_counts(crops: NDArray[Any]) -> bool:
    return bool((crops == np.floor(crops)).all())


def _without_scale(tensors: Tensors, weights: Weights) -> Weights:
    """Return what the network itself has of the weights."""
    return pack(tensors, architecture=weights.card.architecture, options=weights.card.options)
