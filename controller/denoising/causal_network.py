"""The network of the causal denoiser: the frame and its moving averages in, an estimate out."""

from __future__ import annotations

import json
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from controller.core.settings import Settings
from controller.denoising.held_out import USUAL_ERROR
from controller.networks.modules import fill
from controller.networks.small_unet import SmallUNet, SmallUNetOptions
from controller.networks.weights import Weights, WeightsError

ARCHITECTURE = "causal_unet/1"

#: Relative noise of an image is told to the network as a logarithm, kept within these.
_QUIET, _LOUD = -6.0, 4.0

#: Added to the brightness around a pixel, in units of the image's mean: where it is dark there is noise, too.
_DARK = 0.1

#: Standard deviations of its own noise that a pixel of the frame may be away from its estimate.
_ODDS = 4.5


class CausalUNetOptions(Settings):
    """What the network sees of the past, and its size."""

    taus_frames: Annotated[
        tuple[Annotated[float, Field(ge=1, le=10_000)], ...], Field(min_length=1, max_length=8)
    ] = (2.0, 6.0, 20.0, 80.0)
    """Time constants of the moving averages, in frames."""
    width: Annotated[int, Field(ge=4, le=128)] = 24
    """Channels at half the resolution."""
    deep: Annotated[int, Field(ge=4, le=256)] = 32
    """Channels at a quarter of the resolution."""
    usual_error: Annotated[tuple[float, ...], Field(min_length=5, max_length=5)] = USUAL_ERROR
    """Its squared error on simulated movies: see :mod:`controller.denoising.held_out`."""


class CausalUNet(nn.Module):
    """Weighs the frame against its averages, and adds what a small U-Net makes of them.

    ``images`` holds the frame and its averages, divided by their mean, shape ``(n, channels, y, x)``;
    ``conditions`` the logarithm of the relative noise of each, shape ``(n, channels)``: with little light
    the long averages count, with much of it the frame itself. A fresh network is their plain mean.

    The U-Net sees and answers differences to the surroundings in units of the noise there, so it meets the
    same numbers in dim and bright places, and in sparse images. It also says where to trust the frame alone:
    what is bright and has just moved has little noise, and its past is wrong. Whatever it answers, the answer
    stays where the frame's own photons allow it to be.
    """

    def __init__(self, options: CausalUNetOptions | None = None) -> None:
        super().__init__()
        self.options = options or CausalUNetOptions()
        self.channels = 1 + len(self.options.taus_frames)
        self.unet = SmallUNet(
            SmallUNetOptions(
                inputs=self.channels,
                outputs=2,
                conditions=self.channels,
                width=self.options.width,
                deep=self.options.deep,
            )
        )
        self.weigh = nn.Linear(self.channels, self.channels)
        nn.init.zeros_(self.weigh.weight)
        nn.init.zeros_(self.weigh.bias)

    def forward(self, images: Tensor, conditions: Tensor) -> Tensor:
        """Return the estimate, in the unit of ``images``, shape ``(n, 1, y, x)``."""
        shares = torch.softmax(self.weigh(conditions), dim=1)[:, :, None, None]
        weighted = (images * shares).sum(dim=1, keepdim=True)
        frame = images[:, :1]
        # Of both: where something bright has come, the past knows nothing of its noise.
        around = functional.avg_pool2d((weighted + frame) / 2, 4)
        around = functional.interpolate(around, scale_factor=4.0, mode="bilinear")
        noise = torch.exp(conditions[:, :1, None, None]) * torch.sqrt(functional.relu(around) + _DARK)
        change, trust = self.unet((images - around) / noise, conditions).chunk(2, dim=1)
        estimate = weighted + torch.sigmoid(trust - 2) * (frame - weighted) + noise * change
        return estimate if self.training else self._plausible(estimate, frame, around, conditions)

    @staticmethod
    def _plausible(estimate: Tensor, frame: Tensor, around: Tensor, conditions: Tensor) -> Tensor:
        """Return what is nearest to an estimate and not against all odds by the frame's own photons.

        Outside training only: beyond its bounds there is nothing to learn from.
        """
        light = functional.relu(torch.maximum(frame, around)) + _DARK
        reach = _ODDS * torch.exp(conditions[:, :1, None, None]) * torch.sqrt(light)
        return torch.maximum(torch.minimum(estimate, frame + reach), frame - reach)


def network_of(weights: Weights) -> CausalUNet:
    """Return the network that weights belong to.

    Raises
    ------
    WeightsError
        If they belong to another.
    """
    card = weights.card
    if card.architecture != ARCHITECTURE:
        raise WeightsError(
            f"weights {weights.sha256[:12]} are of a {card.architecture!r}; "
            f"this denoiser needs {ARCHITECTURE!r}"
        )
    try:
        options = CausalUNetOptions.model_validate_json(json.dumps(card.options))
    except ValueError as error:
        raise WeightsError(f"weights {weights.sha256[:12]}: options of the card: {error}") from error
    network: CausalUNet = fill(CausalUNet(options), weights).train(mode=False)
    return network


def conditions_of(
    variances: NDArray[np.float64], level: float, read_variance: float = 0.0
) -> NDArray[np.float32]:
    """Return what the network is told of the noise.

    Parameters
    ----------
    variances
        Noise variance of each channel as a multiple of one frame's; infinite if there is none yet.
    level
        Mean of the images, photons a pixel.
    read_variance
        Of the detector in the dark, photons².
    """
    relative = np.sqrt(variances * (level + read_variance)) / level
    return np.clip(np.log(relative), _QUIET, _LOUD).astype(np.float32)
