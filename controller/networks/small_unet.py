"""The one network of Stedfast: a U-Net small enough for a microscope's own computer.

Its cost lies in the resolution: pixels are first folded into channels (2x2, "pixel unshuffle") [1]_, so
every convolution works at half or a quarter of the resolution, and there is one step down only [2]_.

References
----------
.. [1] W. Shi et al., Real-time single image and video super-resolution using an efficient sub-pixel
   convolutional neural network, CVPR 2016, 1874: the inverse folding.
.. [2] O. Ronneberger, P. Fischer, T. Brox, U-Net, MICCAI 2015, 234.
.. [3] E. Perez et al., FiLM: visual reasoning with a general conditioning layer, AAAI 2018, 3942.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from controller.core.settings import Settings

#: Height and width of what goes through must be multiples of this.
MULTIPLE_OF = 4

#: What is left of negative features.
LEAK = 0.1


class SmallUNetOptions(Settings):
    """The size of the network: what a card must tell to build it again."""

    inputs: Annotated[int, Field(ge=1, le=64)]
    """Channels that go in."""
    outputs: Annotated[int, Field(ge=1, le=64)]
    """Channels that come out."""
    conditions: Annotated[int, Field(ge=0, le=64)] = 0
    """Numbers that describe a whole image, such as its noise."""
    width: Annotated[int, Field(ge=4, le=256)] = 24
    """Channels at half the resolution."""
    deep: Annotated[int, Field(ge=4, le=512)] = 32
    """Channels at a quarter of the resolution."""


class SmallUNet(nn.Module):
    """Maps ``(n, inputs, y, x)`` to ``(n, outputs, y, x)``; a fresh one answers 0 everywhere.

    ``conditions`` shift and scale the features of the first layer [3]_, at no cost per pixel.
    """

    def __init__(self, options: SmallUNetOptions) -> None:
        super().__init__()
        self.options = options
        width, deep = options.width, options.deep
        self.enter = nn.Conv2d(4 * options.inputs, width, 3, padding=1)
        self.refine = nn.Conv2d(width, width, 3, padding=1)
        self.descend = nn.Conv2d(width, deep, 3, padding=1)
        self.ascend = nn.Conv2d(deep, width, 3, padding=1)
        self.join = nn.Conv2d(width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, 4 * options.outputs, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        if options.conditions:
            self.modulate = nn.Linear(options.conditions, 2 * width)
            nn.init.zeros_(self.modulate.weight)
            nn.init.zeros_(self.modulate.bias)

    def forward(self, images: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Return the answer of the last layer; ``conditions`` has shape ``(n, conditions)``."""
        answer: Tensor = functional.pixel_shuffle(self.leave(self.features(images, conditions)), 2)
        return answer

    def features(self, images: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Return what the last layer sees, shape ``(n, width, y / 2, x / 2)``."""
        check_conditions(self.options, conditions)
        features = self.enter(functional.pixel_unshuffle(images, 2))
        if conditions is not None:
            scale, shift = self.modulate(conditions)[:, :, None, None].chunk(2, dim=1)
            features = features * (1 + scale) + shift
        features = functional.leaky_relu(features, LEAK)
        features = functional.leaky_relu(self.refine(features), LEAK)
        below = functional.avg_pool2d(features, 2)
        below = functional.leaky_relu(self.descend(below), LEAK)
        below = functional.leaky_relu(self.ascend(below), LEAK)
        features = features + functional.interpolate(below, scale_factor=2.0, mode="nearest")
        joined: Tensor = functional.leaky_relu(self.join(features), LEAK)
        return joined


def check_conditions(options: SmallUNetOptions, conditions: Tensor | None) -> None:
    """Raise a ValueError if a network is not told what it was built to be told."""
    given = 0 if conditions is None else conditions.shape[-1]
    if given != options.conditions:
        raise ValueError(f"the network takes {options.conditions} conditions for each image, got {given}")


def parameter_count(network: nn.Module) -> int:
    """Return how many numbers are learned."""
    return sum(parameter.numel() for parameter in network.parameters())


def macs_per_pixel(network: nn.Module, channels: int, conditions: int = 0) -> float:
    """Return multiplications of all convolutions of ``network``, per pixel of its input."""
    count = 0

    def add(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal count
        count += layer.weight.numel() * output.shape[-1] * output.shape[-2]

    hooks = [layer.register_forward_hook(add) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    side = 64
    arguments = [torch.zeros(1, channels, side, side)]
    if conditions:
        arguments.append(torch.zeros(1, conditions))
    try:
        with torch.inference_mode():
            network(*arguments)
    finally:
        for hook in hooks:
            hook.remove()
    return count / side**2
