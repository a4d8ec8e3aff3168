"""The small U-Net alone, for other programs: what goes in and comes out is whatever it was trained for."""

from __future__ import annotations

import numpy as np
from pydantic import ValidationError

from controller.networks.bioimageio_export import ExportedNetwork
from controller.networks.modules import fill
from controller.networks.small_unet import SmallUNet, SmallUNetOptions
from controller.networks.weights import Weights, WeightsError

_SAMPLE_PX = 64
_SEED = 0


def exported_small_unet(weights: Weights) -> ExportedNetwork:
    """Return the network of these weights, and what there is to say of it.

    Raises
    ------
    WeightsError
        If the card cannot be read, or the weights do not fit it.
    """
    try:
        options = SmallUNetOptions.model_validate(weights.card.options)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise WeightsError(
            f"weights {weights.sha256[:12]}: card: options: {where}: {problem['msg']}"
        ) from error
    rng = np.random.default_rng(_SEED)
    shape = (1, options.inputs, _SAMPLE_PX, _SAMPLE_PX)
    return ExportedNetwork(
        network=fill(SmallUNet(options), weights),
        summary="A small U-Net that folds 2x2 pixels into channels.",
        page="## Input and output\n\nAs in its training; the attached card tells what is known of that.",
        channels=[f"input{n}" for n in range(options.inputs)],
        conditions=[f"condition{n}" for n in range(options.conditions)],
        answers=[f"output{n}" for n in range(options.outputs)],
        images=rng.standard_normal(shape, np.float32),
        numbers=rng.standard_normal((1, options.conditions), np.float32) if options.conditions else None,
        tags=("unet", "stedfast"),
    )
