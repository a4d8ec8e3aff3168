"""Trains a segmentation network from labelled images, and keeps what was best on held-out ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from controller.core.settings import Settings
from controller.learning.augmentation import Augmentation, Flip, Rotate90
from controller.learning.weak_losses import (
    LossOptions,
    Outputs,
    Targets,
    TermWeights,
    segmentation_loss,
)
from controller.networks.modules import fill, tensors_of
from controller.networks.small_unet import SmallUNet, SmallUNetOptions
from controller.networks.threads import torch_threads
from controller.networks.weights import Tensors, Weights, pack
from controller.segmentation.held_out import fitted
from controller.segmentation.imbalance import Imbalance
from controller.segmentation.labelled_image import Example, LabelledImage, example_of
from controller.segmentation.network_options import ARCHITECTURE, NetworkOptions, options_of


class TrainingOptions(Settings):
    """How long and how fast is learned."""

    steps: Annotated[int, Field(ge=1, le=1_000_000)] = 400
    batch: Annotated[int, Field(ge=1, le=1024)] = 12
    """Patches a step."""
    patch_px: Annotated[int, Field(ge=8, le=1024, multiple_of=4)] = 64
    """Side of a patch."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-3
    checkpoints: Annotated[int, Field(ge=1, le=1000)] = 5
    """How often the held-out images are asked."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Processor cores. The last bits of the weights depend on it, and a microscope needs the others."""
    augmentation: Augmentation = Augmentation(steps=(Flip(axis="y"), Flip(axis="x"), Rotate90()))
    """What is done to each patch. Less light is not: what a network sees is in units of the noise, so make
    dimmer images instead (:class:`~controller.learning.augmentation.IntensityScale`)."""
    imbalance: Imbalance = Imbalance()
    """What is done about rare classes."""
    # Centres are rare, and depths are between 0 and 1.
    loss: LossOptions = LossOptions(weights=TermWeights(centres=5.0, distances=2.0), distance_unit_px=1.0)
    """What each kind of label counts, and what is assumed beyond them."""
    learns: Literal["all", "classes"] = "all"
    """Which numbers change: all, or those of the last layer alone that tell classes apart. Labels that say
    what is in an image, but not where, then leave the finding of objects as it was."""

    @model_validator(mode="after")
    def _weights_come_from_one_place(self) -> Self:
        if self.loss.class_weights is not None and self.imbalance.weighting != "none":
            raise ValueError(
                "loss.class_weights and imbalance.weighting both weigh the classes; leave one of them out"
            )
        return self


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where training stands: after ``step`` steps, the mean loss of a held-out image."""

    step: int
    held_out_loss: float


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
        All chance. The same one gives the same bits on the same machine.
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
    examples = [example_of(image, options, training.patch_px) for image in images]
    judges = [example_of(image, options) for image in held_out]
    with torch_threads(training.threads):
        trainer = Trainer(network, options, training, rng)
        tensors = trainer.fit(examples, judges, report)
        network.load_state_dict({name: torch.from_numpy(tensor.copy()) for name, tensor in tensors.items()})
        answers = [answer_of(network, judge) for judge in judges]
    options = fitted(answers, [judge.target for judge in judges], options)
    again = {**training.model_dump(mode="json"), "images": len(images), "held_out": len(held_out)}
    best = min(checkpoint.held_out_loss for checkpoint in trainer.history)
    about = {"metrics": {"held_out_loss": best}, **about}
    weights = pack(
        tensors,
        architecture=ARCHITECTURE,
        options=options.model_dump(mode="json"),
        training=again,
        parent=parent,
        **about,
    )
    return Trained(weights, tuple(trainer.history))


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
        self._network, self._rng = network.to(memory_format=torch.channels_last), rng
        self._average = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(training.learns == "all" or name.startswith("leave."))
        learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.Adam(learned, lr=training.learning_rate)
        self._class_weights: tuple[float, ...] | None = None
        self.best: Tensors = tensors_of(network)
        self.history: list[Checkpoint] = []

    def fit(
        self,
        examples: Sequence[Example],
        held_out: Sequence[Example],
        report: Callable[[Checkpoint], None] | None = None,
    ) -> Tensors:
        """Learn from ``examples`` and return the weights that were best on ``held_out``."""
        training, rng = self.training, self._rng
        # Bayesian bootstrap (D. B. Rubin, Ann. Stat. 9, 130, 1981): each head weighs the images otherwise.
        weights = rng.exponential(1.0, (len(examples), self.options.heads)).astype(np.float32)
        parted = [n for n, example in enumerate(examples) if not example.needs_whole]
        whole = [n for n, example in enumerate(examples) if example.needs_whole]
        labels = [example.target.classes for example in examples]
        classes = len(self.options.classes)
        chances = training.imbalance.image_chances([labels[n] for n in parted], classes) if parted else None
        self._class_weights = training.imbalance.class_weights(labels, classes)
        shapes = [examples[n].inputs.shape for n in whole]
        whole_chances = self._whole_chances([examples[n].target.tags for n in whole])
        self._check(held_out, 0, report)
        marks = {round(training.steps * (n + 1) / training.checkpoints) for n in range(training.checkpoints)}
        for step in range(1, training.steps + 1):
            losses = []
            if parted:
                chosen = rng.choice(parted, training.batch, p=chances)
                patches = [
                    examples[n].patch(training.patch_px, training.augmentation, training.imbalance, rng)
                    for n in chosen
                ]
                losses.append(self._loss(patches, torch.from_numpy(weights[chosen])))
            if whole:
                chosen = np.take(whole, self._alike(shapes, whole_chances, rng))
                images = [examples[n].turned(training.augmentation, rng) for n in chosen]
                losses.append(self._loss(images, torch.from_numpy(weights[chosen])))
            self._descend(torch.stack(losses).sum(), step)
            if step in marks:
                self._check(held_out, step, report)
        return self.best

    def _alike(
        self, shapes: Sequence[tuple[int, ...]], chances: NDArray[np.float64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return one by chance of the images that must stay whole, with some of its shape."""
        first = int(rng.choice(len(shapes), p=chances))
        same = [n for n, shape in enumerate(shapes) if shape == shapes[first]]
        pixels = shapes[first][-2] * shapes[first][-1]
        most = max(1, self.training.batch * self.training.patch_px**2 // pixels // 2)
        more = rng.choice(same, most - 1, p=chances[same] / chances[same].sum())
        return np.concatenate([[first], more]).astype(np.int64)

    def _whole_chances(self, tags: Sequence[NDArray[np.int8]]) -> NDArray[np.float64]:
        """Return how likely each of these images is to be drawn, by the rarest class it is said to show."""
        if not tags:
            return np.zeros(0)
        shown = np.stack(tags) == 1
        rarity = (
            np.max(shown / np.maximum(shown.sum(axis=0), 1), axis=1) ** self.training.imbalance.oversampling
        )
        return np.asarray(rarity / rarity.sum())

    def _loss(self, examples: Sequence[Example], weights: Tensor) -> Tensor:
        outputs, loss = self._network(inputs_of(examples)), self.training.loss
        if self._class_weights is not None:
            loss = loss.replace(class_weights=self._class_weights)
        return loss_of(outputs, Targets.stack([e.target for e in examples]), self.options, loss, weights)

    def _descend(self, loss: Tensor, step: int) -> None:
        training = self.training
        progress = step / training.steps
        # Up during the first tenth, then down along a cosine.
        rate = min(10 * progress, 0.5 * (1 + np.cos(np.pi * progress)) + 1e-3)
        for group in self._optimizer.param_groups:
            group["lr"] = training.learning_rate * rate
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
        alike = torch.ones(1, self.options.heads)
        with torch.inference_mode():
            losses = [float(self._loss([example], alike)) for example in held_out]
        return float(np.mean(losses)) if losses else 0.0


def loss_of(
    outputs: Tensor, targets: Targets, options: NetworkOptions, loss: LossOptions, weights: Tensor
) -> Tensor:
    """Return the loss of the network's answer; what nobody labelled gives no gradient by itself.

    Each head has a loss of its own, in which the images have that head's ``weights``, shape ``(n, heads)``.
    """
    scores, depth, centers = outputs[:, :-2], torch.sigmoid(outputs[:, -2]), outputs[:, -1]
    total = torch.zeros(())
    for head in range(options.heads):
        own = scores[:, head * options.class_scores : (head + 1) * options.class_scores]
        logits = torch.cat([torch.zeros_like(own[:, :1]), own], dim=1)
        total = (
            total + segmentation_loss(Outputs(logits), _weighted(targets, weights[:, head]), loss)["total"]
        )
    # Centres and depth have one head: what they add is the same loss with them, less that without.
    shared = segmentation_loss(
        Outputs(logits.detach(), centers, depth), targets, loss.replace(weights=_only_shared(loss.weights))
    )
    return total / options.heads + shared["total"]


def _weighted(targets: Targets, weights: Tensor) -> Targets:
    return replace(
        targets,
        weights=targets.weights * weights[:, None, None],
        box_weights=targets.box_weights * weights[:, None, None, None],
        tag_weights=targets.tag_weights * weights[:, None],
    )


def _only_shared(weights: TermWeights) -> TermWeights:
    nothing = dict.fromkeys(type(weights).model_fields, 0.0)
    return TermWeights(**{**nothing, "centres": weights.centres, "distances": weights.distances})


def inputs_of(examples: Sequence[Example]) -> Tensor:
    """Return the inputs of examples of one size, shape ``(n, channels, y, x)``."""
    stacked = torch.from_numpy(np.stack([example.inputs for example in examples]))
    return stacked.contiguous(memory_format=torch.channels_last)


def answer_of(network: SmallUNet, example: Example) -> NDArray[np.float32]:
    """Return what a network says of one example, shape ``(outputs, y, x)``."""
    with torch.inference_mode():
        return np.asarray(network(inputs_of([example]))[0].contiguous().numpy())


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


def network_of(weights: Weights, options: NetworkOptions) -> SmallUNet:
    """Return the network that weights belong to.

    Raises
    ------
    WeightsError
        If they are of another one.
    """
    return fill(build(options, np.random.default_rng(0)), weights)
