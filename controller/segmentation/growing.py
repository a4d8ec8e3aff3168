"""Gives a network other classes without making it forget where objects are."""

from __future__ import annotations

import numpy as np

from controller.networks.weights import Tensors, Weights, pack
from controller.segmentation.network_options import ARCHITECTURE, NetworkOptions, options_of

#: The network gives four numbers for each output, one for each pixel of a 2 x 2 square.
_FOLDED = 4


def with_classes(weights: Weights, classes: tuple[str, ...]) -> Weights:
    """Return the weights of a network that tells other classes apart; the same if it does already.

    A class that the old network knew keeps its scores. One that it did not know gets the mean of those that
    it knew, less the logarithm of how many share it: where no class was known, each pixel is foreground
    exactly as likely as before, and of all new classes alike.

    Parameters
    ----------
    classes
        All of them, background first.

    Raises
    ------
    WeightsError
        If these are no weights of a segmenter.
    """
    options = options_of(weights.card)
    if options.classes == classes:
        return weights
    new = options.replace(classes=classes)
    tensors = weights.tensors()
    for name in ("leave.weight", "leave.bias"):
        tensors[name] = _leave(tensors, name, options, new)
    about = weights.card.model_dump(include={"trained_on", "training", "metrics", "licence", "versions"})
    return pack(
        tensors,
        architecture=ARCHITECTURE,
        options=new.model_dump(mode="json"),
        parent=weights.sha256,
        **about,
    )


def _leave(
    tensors: Tensors, name: str, old: NetworkOptions, new: NetworkOptions
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return the last layer's numbers, scores of each head first, then depth and centres."""
    rows = tensors[name].reshape(old.outputs, _FOLDED, *tensors[name].shape[1:])
    strangers = [one for one in new.classes[1:] if one not in old.classes[1:]]
    found = []
    for head in range(old.heads):
        own = rows[head * old.class_scores : (head + 1) * old.class_scores]
        for one in new.classes[1:]:
            if one in old.classes[1:]:
                found.append(own[old.classes.index(one) - 1])
            else:
                share = np.float32(np.log(len(strangers)) if name.endswith("bias") else 0.0)
                found.append(own.mean(axis=0) - share)
    return np.concatenate([np.stack(found), rows[-2:]]).reshape(-1, *tensors[name].shape[1:])
