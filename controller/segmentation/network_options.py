"""What a card must tell of a segmentation network, so that it can be built and used again."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from controller.core.settings import Fraction, Positive, Settings
from controller.networks.weights import Card, WeightsError
from controller.segmentation.network_inputs import CHANNELS

ARCHITECTURE = "small_unet_segmenter/1"

Kind = Literal["spots", "objects"]


class NetworkOptions(Settings):
    """The network, what it finds, and what was measured on held-out labels to use it well."""

    kind: Kind
    """``spots``: as small as the blur, found by their centres. ``objects``: compact, with an outline."""
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=32)] = ("background", "object")
    """The first is what is none of the others."""
    object_px: Positive
    """Size of an object (width of a spot at half maximum, diameter) in pixels of the training images."""
    pixel_size_m: Positive | None = None
    """Of the training images; ``None`` where they had no scale, as drawn ones."""
    heads: Annotated[int, Field(ge=1, le=16)] = 4
    """Last layers for the classes, each trained with other weights of the images."""
    width: Annotated[int, Field(ge=4, le=256)] = 24
    deep: Annotated[int, Field(ge=4, le=512)] = 32
    inputs: Literal["photons/1"] = "photons/1"
    """Version of :func:`~controller.segmentation.network_inputs.network_inputs`."""
    temperature: Positive = 1.0
    """What the class scores are divided by, so that probabilities are what they say."""
    center_threshold: Fraction = 0.4
    """Probability from which on a centre counts as found."""

    @model_validator(mode="after")
    def _classes_are_all_different(self) -> NetworkOptions:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes {list(self.classes)} must all be different")
        return self

    @property
    def class_scores(self) -> int:
        """Return how many scores a head gives: that of the first class is always 0."""
        return len(self.classes) - 1

    @property
    def outputs(self) -> int:
        """Return how many images come out: scores of all heads, then depth, then centres."""
        return self.heads * self.class_scores + 2

    @property
    def channels(self) -> int:
        """Return how many images go in."""
        return len(CHANNELS)


def options_of(card: Card) -> NetworkOptions:
    """Return what a card says of its network.

    Raises
    ------
    WeightsError
        If the card is that of another kind of model, or cannot be read.
    """
    if card.architecture != ARCHITECTURE:
        raise WeightsError(
            f"weights {card.sha256[:12]} are of {card.architecture!r}; a segmenter needs {ARCHITECTURE!r}"
        )
    try:
        # From JSON: a strict model takes its tuples from lists only there.
        return NetworkOptions.model_validate(_as_tuples(card.options))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "options"
        raise WeightsError(f"weights {card.sha256[:12]}: card: options: {where}: {problem['msg']}") from error


def _as_tuples(options: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
