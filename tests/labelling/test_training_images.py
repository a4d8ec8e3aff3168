"""Answers about samples become images to train with: in their place, at the right scale, and no more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("sqlalchemy")

import torch

from controller.labelling.session_images import SessionImages
from controller.labelling.training_images import CONTEXT_PX, Scale, labelled_images
from controller.labels.images import SampleImage
from controller.labels.records import Roi, Sample
from controller.learning.annotations import (
    NOTHING_HERE,
    Annotation,
    BoxAnnotation,
    ImageAnnotations,
    MaskAnnotation,
    PointsAnnotation,
    PolygonAnnotation,
    Rectangle,
    ScribbleAnnotation,
    TagAnnotation,
)
from controller.learning.rasterise import Source
from controller.learning.weak_losses import Targets
from controller.recording.reader import SessionReader
from controller.segmentation.labelled_image import LabelledImage, example_of
from controller.segmentation.small_unet import SmallUNetSegmenter
from controller.segmentation.training import TrainingOptions, build, loss_of
from tests.labelling.answered import NETWORK, PIXEL_M, SCHEMA
from tests.labelling.fake_session import fake_session

ROWS, COLUMNS = 20, 24
SQUARE = ((4.0, 4.0), (4.0, 12.0), (12.0, 12.0), (12.0, 4.0))


def sample(pixel_size_m: float = PIXEL_M, **about: object) -> Sample:
    fields = {
        "id": "1",
        "created_s": 0.0,
        "session": "monday",
        "field": "0 0",
        "uri": "image",
        "roi": Roi(y=8, x=6, rows=ROWS, columns=COLUMNS),
        "pixel_size_m": pixel_size_m,
        "dtype": "float32",
    }
    return Sample.model_validate(fields | about)


def in_context(*said: Annotation, pixel_size_m: float = PIXEL_M, denoised: bool = False) -> LabelledImage:
    photons = np.ones((ROWS + 12, COLUMNS + 8), np.float32)
    clean = photons if denoised else None
    image = SampleImage(photons, (8, 6), clean, clean)
    scale = Scale(NETWORK, SmallUNetSegmenter.Options())
    return labelled_images(sample(pixel_size_m), image, said, SCHEMA, scale)[-1]


def box(**about: object) -> BoxAnnotation:
    extent = Rectangle(y_min=3.5, x_min=3.5, y_max=11.5, x_max=9.5)
    return BoxAnnotation.model_validate({"class_name": "disc", "extent": extent, **about})


@pytest.mark.parametrize(
    ("said", "rows", "columns"),
    [
        (PolygonAnnotation(class_name="disc", vertices_yx=SQUARE), (12, 20), (10, 18)),
        (
            MaskAnnotation.from_array(np.ones((6, 4), int), origin_yx=(2, 3), value_classes=("disc",)),
            (10, 16),
            (9, 13),
        ),
        (PointsAnnotation(class_name="disc", points_yx=((5.2, 7.0),)), (11, 16), (11, 16)),
        (ScribbleAnnotation(class_name="disc", vertices_yx=((5.0, 7.0), (5.0, 11.0))), (13, 14), (13, 18)),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_marks_lie_where_they_were_made(said: Annotation, rows: object, columns: object) -> None:
    target = in_context(said).target(NETWORK)
    found = np.argwhere(target.classes == 1)
    assert (found[:, 0].min(), found[:, 0].max() + 1) == rows
    assert (found[:, 1].min(), found[:, 1].max() + 1) == columns


def test_boxes_lie_where_they_were_drawn() -> None:
    target = in_context(box()).target(NETWORK)
    found = np.argwhere(target.box_ids[0] > 0)
    assert found.min(axis=0).tolist() == [12, 10]
    assert found.max(axis=0).tolist() == [19, 15]


@pytest.mark.parametrize("factor", [0.5, 2.0, 2.7])
@pytest.mark.parametrize("kind", ["polygon", "mask", "classes"])
def test_at_another_scale_an_area_covers_the_same_part_of_the_image(factor: float, kind: str) -> None:
    inside = np.zeros((ROWS, COLUMNS), np.int32)
    inside[4:12, 4:12] = 1
    edges = ((3.5, 3.5), (3.5, 11.5), (11.5, 11.5), (11.5, 3.5))
    marks: dict[str, Annotation] = {
        "polygon": PolygonAnnotation(class_name="disc", vertices_yx=edges, coverage="image"),
        "mask": MaskAnnotation.from_array(inside, value_classes=("disc",), coverage="image"),
        "classes": MaskAnnotation.from_array(
            inside, values="classes", value_classes=("disc",), coverage="image"
        ),
    }
    image = in_context(marks[kind], pixel_size_m=factor * PIXEL_M)
    target = image.target(NETWORK)
    assert image.photons.shape == (round(32 * factor), round(32 * factor))
    assert image.photons.sum() == pytest.approx(32 * 32), "no photon is lost"
    assert (target.classes == 1).mean() == pytest.approx(64 / 1024, rel=0.1)
    assert (target.classes == 0).mean() == pytest.approx((ROWS * COLUMNS - 64) / 1024, rel=0.1)
    middle = np.argwhere(target.classes == 1).mean(axis=0)
    np.testing.assert_allclose((middle + 0.5) / factor - 0.5, (8 + 7.5, 6 + 7.5), atol=0.5)


KNOWN: dict[str, tuple[Annotation, ...]] = {
    "an outline": (PolygonAnnotation(class_name="disc", vertices_yx=SQUARE),),
    "an outline of which all else is vouched for": (
        PolygonAnnotation(class_name="disc", vertices_yx=SQUARE, coverage="image"),
    ),
    "clicks": (
        PointsAnnotation(class_name="disc", points_yx=((5.0, 7.0),)),
        PointsAnnotation(class_name=NOTHING_HERE, points_yx=((15.0, 17.0),)),
    ),
    "a stroke": (ScribbleAnnotation(class_name="disc", vertices_yx=((5.0, 7.0), (5.0, 11.0))),),
    "nothing here": (TagAnnotation(present=(NOTHING_HERE,)),),
    "painted in part": (
        MaskAnnotation.from_array(
            np.pad(np.ones((4, 4), int), 2),
            value_classes=("disc",),
            coverage=(Rectangle(y_min=-0.5, x_min=-0.5, y_max=9.5, x_max=9.5),),
        ),
    ),
}


def gradients(image: LabelledImage) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the loss's gradient by each of the network's answers, and which pixels are labelled."""
    training = TrainingOptions()
    example = example_of(image, NETWORK)
    outputs = torch.zeros((1, NETWORK.outputs, *example.inputs.shape[1:]), requires_grad=True)
    weights = torch.ones(1, NETWORK.heads)
    loss_of(outputs, Targets.stack([example.target]), NETWORK, training.loss, weights).backward()
    labelled = (example.target.classes >= 0) | (example.target.centre_weights > 0)
    assert outputs.grad is not None
    return outputs.grad[0].numpy(), labelled


@pytest.mark.parametrize("denoised", [False, True])
@pytest.mark.parametrize("name", KNOWN)
def test_a_pixel_that_nobody_labelled_has_a_gradient_of_exactly_zero(name: str, *, denoised: bool) -> None:
    found, labelled = gradients(in_context(*KNOWN[name], denoised=denoised))
    assert labelled.any()
    assert not labelled.all()
    assert (found[:, ~labelled] == 0).all()
    assert (np.abs(found).sum(axis=0)[labelled] > 0).any()
    context = np.ones(labelled.shape, np.bool_)
    context[8 : 8 + ROWS, 6 : 6 + COLUMNS] = False
    assert (found[:, context] == 0).all(), "the context teaches nothing"


def test_a_tag_speaks_of_the_sample_and_not_of_its_context() -> None:
    image = in_context(TagAnnotation(present=("disc",)))
    found, _ = gradients(image)
    context = image.target(NETWORK).sources == Source.EXCLUDED
    assert context.sum() == 32 * 32 - ROWS * COLUMNS
    scores = found[: NETWORK.heads]
    assert (found[:, context] == 0).all()
    assert (scores[:, ~context] != 0).all()


def test_what_was_not_labelled_does_not_move_a_network_by_training() -> None:
    # The context of one sample is changed; what the network learns at each pixel stays the same.
    image = in_context(PolygonAnnotation(class_name="disc", vertices_yx=SQUARE))
    example = example_of(image, NETWORK)
    network = build(NETWORK, np.random.default_rng(0))
    losses = []
    for value in (0.0, 5.0):
        outputs = network(torch.from_numpy(example.inputs[None])).detach()
        outputs[0, :, torch.from_numpy(example.target.weights == 0)] += value
        targets = Targets.stack([example.target])
        loss = TrainingOptions().loss.replace(
            weights=TrainingOptions().loss.weights.replace(centres=0.0, distances=0.0)
        )
        losses.append(float(loss_of(outputs, targets, NETWORK, loss, torch.ones(1, NETWORK.heads))))
    assert losses[0] == losses[1]


def test_a_denoised_sample_is_shown_with_and_without_its_denoised_image() -> None:
    photons = np.ones((ROWS + 12, COLUMNS + 8), np.float32)
    image = SampleImage(photons, (8, 6), 2 * photons, 3 * photons)
    scale = Scale(NETWORK, SmallUNetSegmenter.Options())
    plain, both = labelled_images(sample(), image, (), SCHEMA, scale)
    assert plain.mean is None
    assert both.mean is not None
    assert both.std is not None
    assert (both.mean.mean(), both.std.mean()) == (2.0, 3.0)
    assert isinstance(both.labels, ImageAnnotations)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> SessionReader:
    return SessionReader(fake_session(tmp_path_factory.mktemp("made"), 'name = "spots_log"'))


def test_a_part_of_a_frame_comes_with_its_context_and_its_denoised_image(session: SessionReader) -> None:
    frame = session.frame(1)
    rows, columns = frame.photons.shape
    images = SessionImages(session.folder)
    for y, x in ((0, 0), (rows - 8, columns - 8), (rows // 2, 3)):
        here = sample(
            session=session.start.run_id,
            roi=Roi(y=y, x=x, rows=8, columns=8),
            frame_index=1,
            units_per_photon=2.0,
            offset_units=1.0,
        )
        found = images.image(here, CONTEXT_PX)
        top, left = y - found.origin_yx[0], x - found.origin_yx[1]
        assert (top, left) == (max(0, y - CONTEXT_PX), max(0, x - CONTEXT_PX))
        part = frame.photons[top : y + 8 + CONTEXT_PX, left : x + 8 + CONTEXT_PX].astype(float)
        np.testing.assert_allclose(found.photons, np.maximum((part - 1) / 2, 0), rtol=1e-6)
        assert found.mean is not None
        assert found.std is not None
        np.testing.assert_allclose(found.mean, found.photons, rtol=1e-5)
        assert found.std.shape == found.photons.shape


@pytest.mark.parametrize(
    "about",
    [
        {"frame_index": None},
        {"frame_index": 0, "session": "monday"},
        {"frame_index": 99},
        {"frame_index": 0, "roi": Roi(y=0, x=0, rows=9999, columns=4)},
    ],
)
def test_a_sample_that_is_not_in_its_session_is_refused(
    session: SessionReader, about: dict[str, Any]
) -> None:
    with pytest.raises(KeyError):
        SessionImages(session.folder).image(sample(**{"session": session.start.run_id, **about}), CONTEXT_PX)
