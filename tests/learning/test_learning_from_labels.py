"""Each kind of label alone, and mixed, teaches a small network to find bright discs in photon noise."""

from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from controller.learning.annotations import (
    NOTHING_HERE,
    Annotation,
    BoxAnnotation,
    ImageAnnotations,
    LabelSchema,
    MaskAnnotation,
    PointsAnnotation,
    PolygonAnnotation,
    Rectangle,
    ScribbleAnnotation,
    TagAnnotation,
)
from controller.learning.rasterise import RasterOptions, Target, rasterise
from controller.learning.weak_losses import LossOptions, Outputs, Targets, segmentation_loss
from controller.networks.small_unet import SmallUNet, SmallUNetOptions

SIDE = 48
DISC = LabelSchema(classes=("disc",))


def discs(rng: np.random.Generator, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return an image of discs that do not touch in photon noise, square roots of counts, and its labels."""
    y, x = np.mgrid[:SIDE, :SIDE]
    labels = np.zeros((SIDE, SIDE), int)
    while labels.max() < count:
        radius, (row, column) = rng.uniform(4, 6.5), rng.uniform(7, SIDE - 8, 2)
        distance = np.hypot(y - row, x - column)
        if not labels[distance <= radius + 2].any():
            labels[distance <= radius] = labels.max() + 1
    photons = rng.poisson(np.where(labels > 0, 8.0, 3.0))
    return np.sqrt(photons + 0.375).astype(np.float32) - 2, labels


def yx(places: NDArray[Any]) -> tuple[tuple[float, float], ...]:
    return tuple((float(y), float(x)) for y, x in places)


def around(kind: str, pixels: NDArray[Any]) -> Annotation:
    """Return the outline of an object as a person clicks it, or its box."""
    if kind == "box":
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        (top, left), (bottom, right) = yx(np.array([low - 0.5, high + 0.5]))
        extent = Rectangle(y_min=top, x_min=left, y_max=bottom, x_max=right)
        return BoxAnnotation(class_name="disc", extent=extent, coverage="image")
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    circle = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    outline = yx(pixels.mean(axis=0) + np.sqrt(len(pixels) / np.pi) * circle)
    return PolygonAnnotation(class_name="disc", vertices_yx=outline, coverage="image")


def annotated(kind: str, labels: NDArray[np.int64], rng: np.random.Generator) -> list[Annotation]:
    """Return what an annotator says of an image who gives labels of one kind."""
    objects = [np.argwhere(labels == i) for i in range(1, labels.max() + 1)]
    background = rng.permutation(np.argwhere(labels == 0))[:5]
    marks: list[Annotation] = []
    match kind:
        case "mask":
            marks.append(MaskAnnotation.from_array(labels, value_classes=("disc",), coverage="image"))
        case "some of the objects" | "some, the rest called background":
            some = np.where(np.isin(labels, np.flatnonzero(rng.random(labels.max() + 1) < 0.3)), labels, 0)
            coverage = "marks" if kind == "some of the objects" else "image"
            marks.append(MaskAnnotation.from_array(some, value_classes=("disc",), coverage=coverage))
        case "tag":
            marks.append(TagAnnotation(present=("disc",)) if objects else TagAnnotation(absent=("disc",)))
        case "points":
            marks.append(PointsAnnotation(class_name=NOTHING_HERE, points_yx=yx(background)))
            if objects:
                middles = yx(np.array([pixels.mean(axis=0) for pixels in objects]))
                marks.append(PointsAnnotation(class_name="disc", points_yx=middles, coverage="image"))
        case "scribble":
            for pixels in objects:
                ends = yx(pixels[rng.integers(0, len(pixels), 2)])
                marks.append(ScribbleAnnotation(class_name="disc", vertices_yx=ends))
            for y, x in background:
                if x < SIDE - 12 and not labels[y, x : x + 12].any():
                    line = yx(np.array([(y, x), (y, x + 11)]))
                    marks.append(ScribbleAnnotation(class_name=NOTHING_HERE, vertices_yx=line))
        case _:
            marks.extend(around(kind, pixels) for pixels in objects)
    return marks or [TagAnnotation(present=(NOTHING_HERE,))]


def target(annotations: list[Annotation]) -> Target:
    image = ImageAnnotations(shape_yx=(SIDE, SIDE), label_schema=DISC, annotations=tuple(annotations))
    return rasterise(image, RasterOptions(core_px=2.0, reach_px=8.0))


@cache
def dice_after(*kinds: str, images: int = 16, steps: int = 60, prior: float | None = None) -> float:
    """Return the Dice of foreground on new images, after training; image i is of ``kinds[i % len]``."""
    rng = np.random.default_rng(5)
    torch.manual_seed(5)
    pictures = [discs(rng, 0 if i % 4 == 0 else int(rng.integers(2, 5))) for i in range(images)]
    known = [target(annotated(kinds[i % len(kinds)], labels, rng)) for i, (_, labels) in enumerate(pictures)]
    photons, whole = torch.from_numpy(np.stack([p for p, _ in pictures]))[:, None], Targets.stack(known)
    network = SmallUNet(SmallUNetOptions(inputs=1, outputs=2, width=8, deep=8))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    options = LossOptions(foreground_prior=prior)
    for _ in range(steps):
        chosen = torch.from_numpy(rng.permutation(images)[:8])
        batch = Targets(**{f.name: getattr(whole, f.name)[chosen] for f in fields(Targets)})
        optimiser.zero_grad()
        segmentation_loss(Outputs(network(photons[chosen])), batch, options)["total"].backward()
        optimiser.step()
    new = [discs(np.random.default_rng([9, i]), 3) for i in range(8)]
    with torch.inference_mode():
        answers = network(torch.from_numpy(np.stack([p for p, _ in new]))[:, None])
    found = (answers[:, 1] > answers[:, 0]).numpy()
    truth = np.stack([labels for _, labels in new]) > 0
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


#: Calling all of an image foreground gives 0.2; an untrained network, which finds nothing, 0.
LEARNED = {"mask": 0.9, "polygon": 0.9, "box": 0.85, "points": 0.75, "scribble": 0.6, "tag": 0.5}


@pytest.mark.parametrize(("kind", "dice"), LEARNED.items(), ids=LEARNED)
def test_labels_of_one_kind_alone_teach_where_discs_are(kind: str, dice: float) -> None:
    # Tags are quick to give, so there are more of them.
    assert (dice_after(kind, images=48) if kind == "tag" else dice_after(kind)) > dice


def test_without_labels_nothing_is_learned() -> None:
    assert dice_after("mask", steps=0) == 0


def test_a_mix_of_kinds_is_as_good_as_the_best_of_them() -> None:
    best = max(dice_after(kind) for kind in ("points", "box", "scribble"))
    assert dice_after("box", "points", "scribble", "box", "tag") > best - 0.02


def test_where_most_objects_are_unlabelled_the_positive_unlabelled_risk_finds_them() -> None:
    prior = 0.09  # part of the pixels that lie in discs, over all images
    found = dice_after("some of the objects", prior=prior)
    assert found > 0.7
    assert found > dice_after("some, the rest called background") + 0.2
    assert found > dice_after("some of the objects") + 0.2
