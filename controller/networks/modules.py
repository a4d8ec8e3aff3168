"""From weights to a network, and back."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from controller.networks.weights import Tensors, Weights, WeightsError

N = TypeVar("N", bound=nn.Module)


def tensors_of(network: nn.Module) -> Tensors:
    """Return copies of a network's numbers, by name."""
    return {
        name: np.array(tensor.detach().cpu().numpy(), np.float32)
        for name, tensor in network.state_dict().items()
    }


def fill(network: N, weights: Weights) -> N:
    """Put weights into a network of the same shape, and return it.

    Raises
    ------
    WeightsError
        If a tensor is missing, too many, or of another shape; the network keeps what it had.
    """
    tensors, wanted = weights.tensors(), network.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    expected: dict[str, Any] = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    wrong = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
    if wrong:
        name = wrong[0]
        raise WeightsError(
            f"weights {weights.sha256[:12]} are of another network: {name} has shape "
            f"{shapes.get(name, 'none')}, {expected.get(name, 'none')} is needed"
        )
    network.load_state_dict({name: torch.from_numpy(tensor.copy()) for name, tensor in tensors.items()})
    return network
