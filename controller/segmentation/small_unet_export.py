"""The segmentation network as other programs use it: probabilities come out, not the scores of its heads."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from controller.core.frame import FloatImage
from controller.networks.bioimageio_export import ExportedNetwork
from controller.networks.weights import Weights
from controller.segmentation.network_inputs import CHANNELS, network_inputs
from controller.segmentation.network_options import NetworkOptions, options_of
from controller.segmentation.training import network_of

_SAMPLE_PX = 64
_SEED = 0

_PAGE = """
## Input

Photons of one frame (not grey levels), as seven images in units of photon noise. The function
`network_inputs` in `controller/segmentation/network_inputs.py` of Stedfast makes them: {channels}.
Objects should be about {object_px:.3g} pixels wide{scale}; resample images in which they are not.

## Output

For each pixel the probability of {classes} (the mean over {heads} heads, after their temperature), how
deep it lies inside an object (0 at the border, 1 where it is deepest), and how sure it is the centre of
one. Stedfast makes objects of these three; a watershed from the centres does, too.
"""


class Probabilities(nn.Module):
    """Answers as :func:`~controller.segmentation.heads.head_maps`: classes but the first, depth, centre."""

    def __init__(self, network: nn.Module, options: NetworkOptions) -> None:
        super().__init__()
        self.network = network
        self.options = options

    def forward(self, images: Tensor) -> Tensor:
        """Map ``(n, 7, y, x)`` to ``(n, classes - 1 + 2, y, x)``, all in 0..1."""
        answers = self.network(images)
        count = self.options.class_scores
        classes: list[Tensor] = []
        # One head at a time, and zeros made of what is there: an exported reshape would fix the image's size.
        for first in range(0, self.options.heads * count, count):
            scores = answers[:, first : first + count] / self.options.temperature
            # The class that is none of the others has score 0 in every head.
            classes.append(torch.cat([0 * scores[:, :1], scores], dim=1).softmax(dim=1)[:, 1:])
        mean = sum(classes[1:], classes[0]) / self.options.heads
        return torch.cat([mean, answers[:, -2:].sigmoid()], dim=1)


def exported_segmenter(weights: Weights) -> ExportedNetwork:
    """Return the network of these weights, and what there is to say of it.

    Raises
    ------
    WeightsError
        If they are of another kind of model, or do not fit their card.
    """
    options = options_of(weights.card)
    scale = "" if options.pixel_size_m is None else f" (pixels of {options.pixel_size_m:g} m)"
    kind = "spots" if options.kind == "spots" else "compact objects"
    return ExportedNetwork(
        network=Probabilities(network_of(weights, options), options),
        summary=f"Finds {kind} in images of few photons, and says how sure it is.",
        page=_PAGE.format(
            channels=", ".join(CHANNELS),
            object_px=options.object_px,
            scale=scale,
            classes=", ".join(options.classes[1:]),
            heads=options.heads,
        ),
        channels=CHANNELS,
        answers=(*options.classes[1:], "depth", "center"),
        images=network_inputs(_drawn_photons(options.object_px))[None],
        pixel_size_m=options.pixel_size_m,
        tags=("segmentation", "spots" if options.kind == "spots" else "instance-segmentation", "stedfast"),
    )


def _drawn_photons(object_px: float) -> FloatImage:
    """Return an image of some blobs with photon noise, shape ``(64, 64)``."""
    rng = np.random.default_rng(_SEED)
    y, x = np.mgrid[:_SAMPLE_PX, :_SAMPLE_PX]
    image = np.full((_SAMPLE_PX, _SAMPLE_PX), 0.5)
    for row, column in rng.uniform(8, _SAMPLE_PX - 8, (6, 2)):
        image += 20 * np.exp(-4 * np.log(2) * ((y - row) ** 2 + (x - column) ** 2) / object_px**2)
    return rng.poisson(image).astype(np.float32)
