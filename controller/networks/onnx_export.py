"""Networks as ONNX, for libraries that run them without torch."""

from __future__ import annotations

import copy
import io
import threading
import warnings
from typing import Any

import torch
from torch import nn

from controller.networks.small_unet import MULTIPLE_OF

#: Read by ONNX Runtime from 1.14 on, OpenVINO from 2023.0 on, and the BioImage Model Zoo.
OPSET = 18

IMAGES, CONDITIONS, ANSWERS = "images", "conditions", "answers"

# The exporter keeps what it is doing in variables of its module.
_EXPORTING = threading.Lock()


def to_onnx(network: nn.Module, *, channels: int, conditions: int = 0) -> bytes:
    """Return an ONNX model of ``network``, float32, opset 18.

    Parameters
    ----------
    network
        Maps ``(n, channels, y, x)``, and ``(n, conditions)`` if it takes any, to ``(n, outputs, y, x)``.
        It stays as it is.
    channels, conditions
        How many go in.

    Returns
    -------
    A model with the inputs ``images`` and, if there are any, ``conditions``, and the output ``answers``.
    n, y and x are free; y and x must be multiples of 4.
    """
    model = copy.deepcopy(network).cpu().float().train(mode=False)
    side = 4 * MULTIPLE_OF
    arguments: list[Any] = [torch.zeros(2, channels, side, side)]
    free = {IMAGES: {0: "n", 2: "y", 3: "x"}, ANSWERS: {0: "n", 2: "y", 3: "x"}}
    if conditions:
        arguments.append(torch.zeros(2, conditions))
        free[CONDITIONS] = {0: "n"}
    written = io.BytesIO()
    with _EXPORTING, warnings.catch_warnings():
        # The exporter that torch prefers needs two more packages, and writes these networks no better.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(arguments),
            written,
            dynamo=False,
            opset_version=OPSET,
            input_names=[IMAGES, CONDITIONS][: len(arguments)],
            output_names=[ANSWERS],
            dynamic_axes=free,
        )
    return written.getvalue()
