"""Models for other programs: which weights belong to which network, and what only a person can say of them.

A card names its architecture; only those in :data:`ARCHITECTURES` are built. Nothing is imported because
a file names it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from controller.core.errors import ConfigurationError

if TYPE_CHECKING:
    from controller.networks.bioimageio_export import About, ExportedNetwork
    from controller.networks.weights import Card, Weights


def export_bioimageio(
    model: str,
    target: Path,
    *,
    authors: tuple[str, ...],
    licence: str | None,
    name: str | None,
    now: datetime,
) -> str:
    """Write a package of the BioImage Model Zoo, and return the name that the model has in it.

    Parameters
    ----------
    model
        A ``.safetensors`` file with its card beside it, or the name of weights that come with Stedfast.
    licence
        Of the weights, where their card says none.
    now
        With its time zone.

    Raises
    ------
    ConfigurationError
        If the model is of no known kind, or what only a person can say is missing.
    WeightsError
        If the weights cannot be read.
    """
    from controller.networks.bioimageio_export import bioimageio_package, write_package

    weights = _weights(model)
    if weights.card.architecture not in ARCHITECTURES:
        raise ConfigurationError(
            f"{model}: weights of {weights.card.architecture!r} cannot be exported; those of "
            f"{', '.join(sorted(ARCHITECTURES))} can"
        )
    named = name or f"Stedfast {Path(model).stem[:40]} {weights.sha256[:8]}"
    about = _about(weights.card, authors, licence, named)
    exported = ARCHITECTURES[weights.card.architecture](weights)
    write_package(bioimageio_package(exported, weights, about, now), target)
    return named


def _weights(model: str) -> Weights:
    from controller.denoising.causal_unet import SHIPPED as DENOISER
    from controller.networks.weights import read_weights
    from controller.segmentation import small_unet

    shipped = {DENOISER.stem: DENOISER}
    if Path(model).suffix in {".safetensors", ".json"} or model in shipped:
        return read_weights(shipped.get(model, Path(model)))
    if model in small_unet.SHIPPED:
        return small_unet.find_weights(model, Path())
    raise ConfigurationError(
        f"{model}: a model is a .safetensors file with its card, or one that comes with Stedfast: "
        f"{', '.join((*shipped, *small_unet.SHIPPED))}"
    )


def _about(card: Card, authors: tuple[str, ...], licence: str | None, name: str) -> About:
    from controller.networks.bioimageio_export import About

    if not authors:
        raise ConfigurationError("a package names its authors: say --author NAME, as often as needed")
    told = licence if card.licence == "unknown" else card.licence
    if told is None:
        raise ConfigurationError("the card names no licence of the weights: say --licence SPDX-IDENTIFIER")
    if licence not in {None, told}:
        raise ConfigurationError(f"the card says licence {told}; --licence {licence} contradicts it")
    try:
        return About(authors=authors, licence=told, name=name)
    except ValidationError as error:
        problems = [f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors(include_url=False)]
        raise ConfigurationError(*problems) from error


def _small_unet(weights: Weights) -> ExportedNetwork:
    from controller.networks.small_unet_export import exported_small_unet

    return exported_small_unet(weights)


def _segmenter(weights: Weights) -> ExportedNetwork:
    from controller.segmentation.small_unet_export import exported_segmenter

    return exported_segmenter(weights)


def _denoiser(weights: Weights) -> ExportedNetwork:
    from controller.denoising.causal_unet_export import exported_denoiser

    return exported_denoiser(weights)


#: What a card calls its network, and what builds and describes it.
ARCHITECTURES: dict[str, Callable[[Weights], ExportedNetwork]] = {
    "causal_unet/1": _denoiser,
    "small_unet/1": _small_unet,
    "small_unet_segmenter/1": _segmenter,
}
