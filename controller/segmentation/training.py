"""Trains a segmentation network from labelled images, and measures on held-out ones what it is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from controller.core.settings import Positive, Settings
from controller.networks.modules import fill, tensors_of
from controller.networks.small_unet import MULTIPLE_OF, SmallUNet, SmallUNetOptions
from controller.networks.weights import Tensors, Weights, pack
from controller.segmentation.held_out import fitted
from controller.segmentation.network_inputs import network_inputs
from controller.segmentation.network_options import ARCHITECTURE, NetworkOptions, options_of
from controller.segmentation.network_targets import UNLABELLED, DenseTargets, dense_targets


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImage:
    """One image and what people, or a simulation, said of it.

    Attributes
    ----------
    photons
        Shape ``(y, x)``, float32, ≥ 0.
    labels
        Objects 1, 2, …, 0 = none, -1 = unlabelled, int32, of the same shape.
    classes
        Which class each pixel is, -1 = unlabelled; ``None``: objects are of class 1.
    mean, std
        The denoiser's estimate, if there is one.
    """

    photons: NDArray[np.float32]
    labels: NDArray[np.int32]
    classes: NDArray[np.int64] | None = None
    mean: NDArray[np.float32] | None = None
    std: NDArray[np.float32] | None = None


class TrainingOptions(Settings):
    """How long and how fast is learned."""

    steps: Annotated[int, Field(ge=1, le=1_000_000)] = 400
    batch: Annotated[int, Field(ge=1, le=1024)] = 12
    """Patches a step."""
    patch_px: Annotated[int, Field(ge=8, le=1024)] = 64
    """Side of a patch; a multiple of 4."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-3
    checkpoints: Annotated[int, Field(ge=1, le=1000)] = 5
    """How often the held-out images are asked."""
    depth_weight: Positive = 0.5
    """Of the error of the depth, beside that of the classes."""
    center_weight: Positive = 5.0
    """Of the error of the centres: they are rare."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where training stands: after ``step`` steps, the mean loss of a held-out pixel."""

    step: int
    held_out_loss: float


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """What one image became: inputs ``(channels, y, x)`` and the answers to them."""

    inputs: NDArray[np.float32]
    targets: DenseTargets


def build(options: NetworkOptions, rng: np.random.Generator) -> SmallUNet:
    """Return a fresh network; the same ``rng`` gives the same one, and torch's own stream is left alone."""
    size = SmallUNetOptions(
        inputs=options.channels, outputs=options.outputs, width=options.width, deep=options.deep
    )
    with torch.random.fork_rng(devices=[]):
        network = SmallUNet(size)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            fan_in = module.weight[0].numel()
            # K. He et al., Delving deep into rectifiers, ICCV 2015; the last layer begins near 0.
            scale = np.sqrt(2 / fan_in) * (0.3 if module is network.leave else 1.0)
            values = rng.normal(0, scale, tuple(module.weight.shape)).astype(np.float32)
            with torch.no_grad():
                module.weight.copy_(torch.from_numpy(values))
                module.bias.zero_()
    with torch.no_grad():
        # Most pixels are no object and no centre.
        biases = torch.zeros(options.outputs)
        biases[:-2] = -2.0
        biases[-1] = -4.0
        network.leave.bias.copy_(biases.repeat_interleave(4))
    return network


def example_of(image: LabelledImage, options: NetworkOptions, least_px: int) -> Example:
    """Return what the network sees of an image and is to answer; a small one is mirrored to ``least_px``.

    What is mirrored counts as unlabelled.
    """
    inputs = network_inputs(image.photons, image.mean, image.std)
    targets = dense_targets(image.labels, options.object_px, image.classes)
    rows, columns = image.photons.shape
    missing = [max(least_px, -(-side // MULTIPLE_OF) * MULTIPLE_OF) - side for side in (rows, columns)]
    if not any(missing):
        return Example(inputs, targets)
    pad = ((0, missing[0]), (0, missing[1]))
    return Example(
        np.pad(inputs, ((0, 0), *pad), mode="symmetric"),
        DenseTargets(
            np.pad(targets.classes, pad, constant_values=UNLABELLED),
            np.pad(targets.depth, pad),
            np.pad(targets.centers, pad),
            np.pad(targets.is_known, pad),
        ),
    )


class Trainer:
    """Learns step by step, keeps the average of its latest weights, and remembers its best checkpoint."""

    def __init__(
        self,
        network: SmallUNet,
        options: NetworkOptions,
        training: TrainingOptions,
        rng: np.random.Generator,
    ) -> None:
        self.options, self.training = options, training
        self._network, self._rng = network, rng
        self._average = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        self._optimizer = torch.optim.Adam(network.parameters(), lr=training.learning_rate)
        self.best: Tensors = tensors_of(network)
        self.history: list[Checkpoint] = []

    def fit(
        self,
        examples: Sequence[Example],
        held_out: Sequence[Example],
        report: Callable[[Checkpoint], None] | None = None,
    ) -> Tensors:
        """Learn from ``examples`` and return the weights that were best on ``held_out``."""
        training = self.training
        # Bayesian bootstrap (D. B. Rubin, Ann. Stat. 9, 130, 1981): each head weighs the images otherwise.
        weights = self._rng.exponential(1.0, (len(examples), self.options.heads)).astype(np.float32)
        self._check(held_out, 0, report)
        marks = {round(training.steps * (n + 1) / training.checkpoints) for n in range(training.checkpoints)}
        for step in range(1, training.steps + 1):
            chosen = self._rng.integers(0, len(examples), training.batch)
            self._step(
                _patches([examples[n] for n in chosen], training.patch_px, self._rng), weights[chosen], step
            )
            if step in marks:
                self._check(held_out, step, report)
        return self.best

    def _step(self, batch: dict[str, Tensor], weights: NDArray[np.float32], step: int) -> None:
        training = self.training
        progress = step / training.steps
        # Up during the first tenth, then down along a cosine.
        rate = min(10 * progress, 0.5 * (1 + np.cos(np.pi * progress)) + 1e-3)
        for group in self._optimizer.param_groups:
            group["lr"] = training.learning_rate * rate
        self._network.train()
        loss = loss_of(
            self._network(batch["inputs"]), batch, self.options, training, torch.from_numpy(weights)
        )
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
        self._optimizer.step()
        keep = min(0.98, step / (step + 10))
        for name, tensor in self._network.state_dict().items():
            self._average[name].lerp_(tensor, 1 - keep)

    def _check(
        self, held_out: Sequence[Example], step: int, report: Callable[[Checkpoint], None] | None
    ) -> None:
        current = {name: tensor.clone() for name, tensor in self._network.state_dict().items()}
        self._network.load_state_dict(self._average)
        checkpoint = Checkpoint(step, self._held_out_loss(held_out))
        if not self.history or checkpoint.held_out_loss <= min(c.held_out_loss for c in self.history):
            self.best = tensors_of(self._network)
        self._network.load_state_dict(current)
        self.history.append(checkpoint)
        if report is not None:
            report(checkpoint)

    def _held_out_loss(self, held_out: Sequence[Example]) -> float:
        self._network.eval()
        losses, pixels = 0.0, 0
        with torch.inference_mode():
            for example in held_out:
                batch = batch_of([example])
                known = int((batch["classes"] != UNLABELLED).sum())
                if known:
                    weights = torch.ones(1, self.options.heads)
                    loss = loss_of(
                        self._network(batch["inputs"]), batch, self.options, self.training, weights
                    )
                    losses, pixels = losses + float(loss) * known, pixels + known
        return losses / max(pixels, 1)


def loss_of(
    outputs: Tensor,
    batch: dict[str, Tensor],
    options: NetworkOptions,
    training: TrainingOptions,
    weights: Tensor,
) -> Tensor:
    """Return the mean loss of a labelled pixel; what nobody labelled gives no gradient at all.

    Cross-entropy of the classes for each head, with that head's ``weights`` ``(n, heads)`` of the images;
    absolute error of the depth; cross-entropy of the centres' bumps.
    """
    scores, depth, centers = outputs[:, :-2], outputs[:, -2], outputs[:, -1]
    n, _, rows, columns = scores.shape
    scores = scores.reshape(n * options.heads, options.class_scores, rows, columns)
    scores = torch.cat([torch.zeros_like(scores[:, :1]), scores], dim=1)
    classes = batch["classes"].repeat_interleave(options.heads, dim=0)
    each = functional.cross_entropy(scores, classes, ignore_index=UNLABELLED, reduction="none")
    labelled = (batch["classes"] != UNLABELLED).sum().clamp(min=1)
    by_class = (each.sum(dim=(1, 2)) * weights.reshape(-1)).sum() / (labelled * options.heads)
    known = batch["is_known"]
    count = known.sum().clamp(min=1)
    by_depth = ((torch.sigmoid(depth) - batch["depth"]).abs() * known).sum() / count
    bumps = functional.binary_cross_entropy_with_logits(centers, batch["centers"], reduction="none")
    by_center = (bumps * known).sum() / count
    total: Tensor = by_class + training.depth_weight * by_depth + training.center_weight * by_center
    return total


def _patches(examples: Sequence[Example], patch_px: int, rng: np.random.Generator) -> dict[str, Tensor]:
    """Cut a patch from each example, turned and flipped by chance."""
    patches = []
    for example in examples:
        rows, columns = example.targets.depth.shape
        row, column = rng.integers(0, rows - patch_px + 1), rng.integers(0, columns - patch_px + 1)
        turns, is_flipped = int(rng.integers(0, 4)), bool(rng.integers(0, 2))

        def cut(image: NDArray[Any]) -> NDArray[Any]:
            patch = image[..., row : row + patch_px, column : column + patch_px]  # noqa: B023  # used at once
            patch = np.rot90(patch, turns, axes=(-2, -1))  # noqa: B023
            return patch[..., ::-1] if is_flipped else patch  # noqa: B023

        t = example.targets
        patches.append(
            Example(
                cut(example.inputs),
                DenseTargets(cut(t.classes), cut(t.depth), cut(t.centers), cut(t.is_known)),
            )
        )
    return batch_of(patches)


def batch_of(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Return what the network is given and what the loss needs, as tensors of shape ``(n, …, y, x)``."""

    def stacked(arrays: list[NDArray[Any]]) -> Tensor:
        return torch.from_numpy(np.stack(arrays))

    return {
        "inputs": stacked([example.inputs for example in examples]).contiguous(
            memory_format=torch.channels_last
        ),
        **{
            name: stacked([getattr(example.targets, name) for example in examples])
            for name in ("classes", "depth", "centers", "is_known")
        },
    }


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """New weights, and how the held-out loss went."""

    weights: Weights
    history: tuple[Checkpoint, ...]


def train(
    images: Sequence[LabelledImage],
    held_out: Sequence[LabelledImage],
    start: Weights | NetworkOptions,
    training: TrainingOptions,
    rng: np.random.Generator,
    *,
    report: Callable[[Checkpoint], None] | None = None,
    **about: Any,
) -> Trained:
    """Train a network, from ``start`` on, and calibrate it on the images that were held out.

    Parameters
    ----------
    images, held_out
        At the scale of the network; what is held out chooses the checkpoint, the temperature and the
        threshold, so a score on it is a little flattered.
    start
        Weights to begin with, or the options of a new network.
    rng
        All chance. The same one gives the same bits on the same machine with as many threads.
    report
        Is told of every checkpoint.
    about
        More fields of the new card: data, licence, metrics.
    """
    if isinstance(start, NetworkOptions):
        options, network, parent = start, build(start, rng), None
    else:
        options = options_of(start.card)
        network, parent = network_of(start, options), start.sha256
    network.to(memory_format=torch.channels_last)
    examples = [example_of(image, options, training.patch_px) for image in images]
    judges = [example_of(image, options, MULTIPLE_OF) for image in held_out]
    trainer = Trainer(network, options, training, rng)
    tensors = trainer.fit(examples, judges, report)
    network.load_state_dict({name: torch.from_numpy(tensor.copy()) for name, tensor in tensors.items()})
    network.eval()
    with torch.inference_mode():
        outputs = [network(batch_of([judge])["inputs"])[0].contiguous().numpy() for judge in judges]
    labels = [
        np.pad(
            image.labels,
            [(0, new - old) for old, new in zip(image.labels.shape, out.shape[1:], strict=True)],
            constant_values=UNLABELLED,
        )
        for image, out in zip(held_out, outputs, strict=True)
    ]
    options = fitted(outputs, [judge.targets.classes for judge in judges], labels, options)
    again = {**training.model_dump(mode="json"), "images": len(images), "held_out": len(held_out)}
    weights = pack(
        tensors,
        architecture=ARCHITECTURE,
        options=options.model_dump(mode="json"),
        training=again,
        parent=parent,
        **about,
    )
    return Trained(weights, tuple(trainer.history))


def network_of(weights: Weights, options: NetworkOptions) -> SmallUNet:
    """Return the network that weights belong to.

    Raises
    ------
    WeightsError
        If they are of another one.
    """
    return fill(build(options, np.random.default_rng(0)), weights)
