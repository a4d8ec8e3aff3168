"""SmallUNet as it runs: the same numbers, laid out for a processor's convolutions.

Nothing here is learned. Against :class:`~controller.networks.small_unet.SmallUNet` as it is trained:

- channels lie innermost, and may be bfloat16; what goes in and comes out stays float32;
- pixels are folded and unfolded as words of 2 or 4, several times as fast as one by one;
- conditions are multiplied into the first layer's weights, which are few, not into its features;
- the last layer computes blocks of positions at once when it has few outputs: processors compute 16 channels
  in the time of 4.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from controller.networks.small_unet import LEAK, SmallUNet, check_conditions

#: Rows and columns of positions at once, by outputs: with 4 channels for each, they make 16 channels.
_BLOCKS = {1: (2, 2), 2: (1, 2)}
_WORDS = {4: torch.int32, 8: torch.int64, 16: torch.complex128}


class FastSmallUNet(nn.Module):
    """Answers what a :class:`SmallUNet` answers, without gradients.

    Parameters
    ----------
    network
        Whose numbers are copied; it stays as it is.
    dtype
        What the convolutions compute in: ``torch.float32`` or ``torch.bfloat16``.
    """

    def __init__(self, network: SmallUNet, dtype: Any = torch.float32) -> None:
        super().__init__()
        self.options = network.options
        self.dtype = dtype
        self.block = _BLOCKS.get(network.options.outputs, (1, 1))
        state = {name: tensor.detach() for name, tensor in network.state_dict().items()}
        leave = _in_blocks(state, network.options.outputs, self.block)
        for name in ("refine", "descend", "ascend", "join"):
            self._keep(name, state[f"{name}.weight"], state[f"{name}.bias"])
        self._keep("leave", *leave)
        # The first layer stays float32 until it is multiplied with what the conditions say.
        self._keep("enter", state["enter.weight"], state["enter.bias"], torch.float32)
        if network.options.conditions:
            self._keep("modulate", state["modulate.weight"], state["modulate.bias"], torch.float32)

    def forward(self, images: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Return the answer of the last layer, float32; ``conditions`` has shape ``(n, conditions)``."""
        if conditions is not None and len(images) > 1:
            return _one_by_one(self.forward, images, conditions)
        features = self._features(images, conditions)
        answer = functional.conv2d(features, self.leave_weight, self.leave_bias, stride=self.block, padding=1)
        rows, columns = self.block
        return _unfold(answer, 2 * rows, 2 * columns).float()

    def features(self, images: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Return what the last layer sees, shape ``(n, width, y / 2, x / 2)``, float32."""
        if conditions is not None and len(images) > 1:
            return _one_by_one(self.features, images, conditions)
        return self._features(images, conditions).float()

    def _features(self, images: Tensor, conditions: Tensor | None) -> Tensor:
        check_conditions(self.options, conditions)
        weight, bias = self.enter_weight, self.enter_bias
        if conditions is not None:
            modulation = functional.linear(conditions, self.modulate_weight, self.modulate_bias)
            scale, shift = modulation[0].chunk(2)
            weight, bias = weight * (1 + scale)[:, None, None, None], bias * (1 + scale) + shift
        features = _convolve(_fold(images.to(self.dtype)), weight.to(self.dtype), bias.to(self.dtype))
        features = _convolve(features, self.refine_weight, self.refine_bias)
        below = functional.avg_pool2d(features, 2)
        below = _convolve(below, self.descend_weight, self.descend_bias)
        below = _convolve(below, self.ascend_weight, self.ascend_bias)
        _add_enlarged(features, below)
        return _convolve(features, self.join_weight, self.join_bias)

    def _keep(self, name: str, weight: Tensor, bias: Tensor, dtype: Any = None) -> None:
        dtype = dtype or self.dtype
        layout = torch.channels_last if weight.dim() == 4 else torch.contiguous_format
        self.register_buffer(f"{name}_weight", weight.to(dtype, memory_format=layout, copy=True))
        self.register_buffer(f"{name}_bias", bias.to(dtype, copy=True))


def quicken(network: nn.Module, dtype: Any = torch.float32) -> nn.Module:
    """Replace every SmallUNet in ``network`` by its fast form, in place, and return it."""
    if isinstance(network, SmallUNet):
        return FastSmallUNet(network, dtype)
    for name, child in list(network.named_children()):
        setattr(network, name, quicken(child, dtype))
    return network


def _convolve(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.leaky_relu_(functional.conv2d(features, weight, bias, padding=1), LEAK)


def _one_by_one(function: Any, images: Tensor, conditions: Tensor) -> Tensor:
    """Return the answers to images that each have a first layer of their own."""
    return torch.cat([function(images[i : i + 1], conditions[i : i + 1]) for i in range(len(images))])


def _words(tensor: Tensor, count: int) -> Tensor:
    """Return ``tensor`` with each ``count`` neighbours of its last axis as one number."""
    # Flat in between: axes of length 1 may have any stride, which a view as words would refuse.
    flat = tensor.contiguous().view(-1).view(_WORDS[count * tensor.element_size()])
    return flat.view(*tensor.shape[:-1], tensor.shape[-1] // count)


def _fold(images: Tensor) -> Tensor:
    """Return ``pixel_unshuffle(images, 2)``, its channels innermost."""
    count, channels, height, width = images.shape
    pairs = _words(images, 2)
    rows = [pairs[:, channel, row::2] for channel in range(channels) for row in range(2)]
    folded = torch.stack(rows, dim=-1).view(-1).view(images.dtype)
    return folded.view(count, height // 2, width // 2, 4 * channels).permute(0, 3, 1, 2)


def _unfold(channels: Tensor, rows: int, columns: int) -> Tensor:
    """Return channels laid out as pixels, ``rows`` x ``columns`` of them for each output."""
    words = _words(channels.permute(0, 2, 3, 1), columns)
    count, height, width, parts = words.shape
    words = words.view(count, height, width, parts // rows, rows).permute(0, 3, 1, 4, 2)
    pixels = words.reshape(-1).view(channels.dtype)
    return pixels.view(count, parts // rows, height * rows, width * columns)


def _add_enlarged(features: Tensor, below: Tensor) -> None:
    """Add ``below`` to ``features``, which have twice its size: each value to 2x2 of theirs."""
    target = features.permute(0, 2, 3, 1)
    if not target.is_contiguous():  # a convolution that does not keep channels innermost
        features.add_(functional.interpolate(below, scale_factor=2.0))
        return
    lines = below.permute(0, 2, 3, 1)
    twice = torch.cat([lines, lines], dim=-1)
    count, height, width, channels = twice.shape
    target.view(count, height, 2, width, channels).add_(twice[:, :, None])


def _in_blocks(state: dict[str, Tensor], outputs: int, block: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the last layer, for a block of positions at a time.

    Channels are ordered by output, row and column of the pixels that they are.
    """
    weight, bias = state["leave.weight"], state["leave.bias"]
    rows, columns = block
    width = weight.shape[1]
    blocks = weight.new_zeros(outputs, rows, 2, columns, 2, width, 2 + rows, 2 + columns)
    parts = weight.view(outputs, 2, 2, width, 3, 3)
    for row in range(rows):
        for column in range(columns):
            blocks[:, row, :, column, :, :, row : row + 3, column : column + 3] = parts
    biases = bias.view(outputs, 1, 2, 1, 2).expand(outputs, rows, 2, columns, 2)
    return blocks.reshape(-1, width, 2 + rows, 2 + columns), biases.reshape(-1)
