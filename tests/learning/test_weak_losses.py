from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from controller.learning.annotations import (
    AMBIGUOUS,
    NOTHING_HERE,
    Annotation,
    BoxAnnotation,
    GradesAnnotation,
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
from controller.learning.weak_losses import (
    LossOptions,
    Outputs,
    Targets,
    TermWeights,
    segmentation_loss,
)

DISC = LabelSchema(classes=("disc",))
TWO = LabelSchema(classes=("disc", "ring"))
LEFT = Rectangle(y_min=-0.5, x_min=-0.5, y_max=11.5, x_max=7.5)
SQUARE = ((2.5, 2.5), (2.5, 5.5), (5.5, 5.5), (5.5, 2.5))


def target(
    *annotations: Annotation, shape: tuple[int, int] = (12, 12), schema: LabelSchema = TWO, **options: Any
) -> Target:
    image = ImageAnnotations(shape_yx=shape, label_schema=schema, annotations=annotations)
    return rasterise(image, RasterOptions(**options))


def some_outputs(n: int = 1, classes: int = 3, side: int = 12) -> Outputs:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn((n, classes, side, side), generator=generator)
    centres, distances = torch.randn((2, n, side, side), generator=generator)
    for head in (logits, centres, distances):
        head.requires_grad_()
    return Outputs(logits, centres, distances)


def value(outputs: Outputs, *targets: Target, **options: Any) -> dict[str, float]:
    terms = segmentation_loss(outputs, Targets.stack(targets), LossOptions(**options))
    return {name: float(term.detach()) for name, term in terms.items()}


def box(y: int, x: int, height: int, width: int, **more: Any) -> BoxAnnotation:
    extent = Rectangle(y_min=y - 0.5, x_min=x - 0.5, y_max=y + height - 0.5, x_max=x + width - 0.5)
    return BoxAnnotation(**{"class_name": "disc", **more}, extent=extent)


# What nobody spoke of adds exactly nothing

_IN_SQUARE = np.zeros((12, 12), bool)
_IN_SQUARE[3:6, 3:6] = True
_IN_LEFT = np.zeros((12, 12), bool)
_IN_LEFT[:, :8] = True
_ROW = np.zeros((12, 12), bool)
_ROW[7, 2:10] = True
_CLICK = np.zeros((12, 12), bool)
_CLICK[4, 9] = True

SPOKEN_OF: dict[str, tuple[Annotation, NDArray[np.bool_]]] = {
    "a polygon": (PolygonAnnotation(class_name="disc", vertices_yx=SQUARE), _IN_SQUARE),
    "a polygon in its coverage": (
        PolygonAnnotation(class_name="disc", vertices_yx=SQUARE, coverage=(LEFT,)),
        _IN_LEFT,
    ),
    "a mask": (MaskAnnotation.from_array(_IN_SQUARE, value_classes=("ring",)), _IN_SQUARE),
    "a scribble": (ScribbleAnnotation(class_name="disc", vertices_yx=((7, 2), (7, 9))), _ROW),
    "a click": (PointsAnnotation(class_name="ring", points_yx=((4, 9),)), _CLICK),
    "a click on background": (PointsAnnotation(class_name=NOTHING_HERE, points_yx=((4, 9),)), _CLICK),
    "clicks that are complete somewhere": (
        PointsAnnotation(class_name="disc", points_yx=((4, 4),), coverage=(LEFT,)),
        _IN_LEFT,
    ),
    "a box": (box(3, 3, 3, 3), _IN_SQUARE),
    "a box in its coverage": (box(3, 3, 3, 3, coverage=(LEFT,)), _IN_LEFT),
}


@pytest.mark.parametrize(("annotation", "spoken_of"), SPOKEN_OF.values(), ids=SPOKEN_OF)
def test_the_gradient_is_exactly_zero_where_nobody_said_anything(
    annotation: Annotation, spoken_of: NDArray[np.bool_]
) -> None:
    known, outputs = target(annotation, centre_sigma_px=0.7), some_outputs()
    options = LossOptions(object_area_px=(1.0, 2.0))
    segmentation_loss(outputs, Targets.stack([known]), options)["total"].backward()
    felt = outputs.logits.grad.abs().sum(dim=(0, 1)).numpy()
    assert np.all(felt[~spoken_of] == 0)
    assert np.any(felt[spoken_of] > 0)
    assert outputs.centres is not None
    assert outputs.distances is not None
    # Where nothing at all is known for a head, it is not even touched.
    centres, distances = (
        np.zeros((12, 12)) if head.grad is None else head.grad[0].numpy()
        for head in (outputs.centres, outputs.distances)
    )
    assert np.array_equal(centres != 0, known.centre_weights > 0)
    assert np.array_equal(distances != 0, known.is_shape_known & (known.weights > 0))


@pytest.mark.parametrize("prior", [None, 0.2])
def test_what_is_ambiguous_adds_nothing_even_to_what_speaks_of_the_whole_image(prior: float | None) -> None:
    unsure = ScribbleAnnotation(class_name=AMBIGUOUS, vertices_yx=((7, 2), (7, 9)))
    mask = PolygonAnnotation(class_name="disc", vertices_yx=SQUARE)
    tag = TagAnnotation(present=("disc",), absent=("ring",))
    outputs = some_outputs()
    targets = Targets.stack([target(unsure, mask, tag)])
    segmentation_loss(outputs, targets, LossOptions(foreground_prior=prior))["total"].backward()
    felt = outputs.logits.grad.abs().sum(dim=(0, 1)).numpy()
    assert np.array_equal(felt == 0, _ROW)


def test_a_batch_without_labels_costs_nothing_and_can_still_be_learned_from() -> None:
    outputs = some_outputs()
    terms = segmentation_loss(outputs, Targets.stack([target()]))
    assert list(terms) == ["total"]
    terms["total"].backward()
    assert float(terms["total"].detach()) == 0
    assert not outputs.logits.grad.any()


# The terms


def test_labels_of_another_kind_elsewhere_in_the_batch_do_not_change_a_term() -> None:
    mask = target(PolygonAnnotation(class_name="disc", vertices_yx=SQUARE, coverage="image"))
    others = [
        target(annotation) for annotation in (TagAnnotation(present=("ring",)), SPOKEN_OF["a scribble"][0])
    ]
    outputs = some_outputs(3)
    first = Outputs(*(None if h is None else h[:1] for h in (outputs.logits,)))
    assert value(outputs, mask, *others)["areas"] == pytest.approx(value(first, mask)["areas"])


def test_clicks_count_class_by_class_and_areas_pixel_by_pixel() -> None:
    logits = torch.zeros(1, 3, 12, 12)
    logits[:, 0] = 2.0
    many = PointsAnnotation(
        class_name=NOTHING_HERE, points_yx=tuple((11.0, float(x)) for x in range(9)), weight=0.5
    )
    one = PointsAnnotation(class_name="disc", points_yx=((1, 1),))
    background, disc = (float(np.log(2 + np.exp(2)) - own) for own in (2, 0))
    assert value(Outputs(logits), target(many, one))["points"] == pytest.approx((background + disc) / 2)
    area = PolygonAnnotation(class_name="disc", vertices_yx=SQUARE, coverage="image")
    expected = (135 * background + 9 * disc) / 144
    assert value(Outputs(logits), target(area))["areas"] == pytest.approx(expected)
    heavy = value(Outputs(logits), target(area), class_weights=(1.0, 15.0, 1.0))["areas"]
    assert heavy == pytest.approx((background + disc) / 2)


def test_a_mark_of_less_weight_counts_less_in_areas_and_distances() -> None:
    outputs = some_outputs()
    sure, unsure = (
        PolygonAnnotation(class_name=name, vertices_yx=tuple((y + 4 * i, x) for y, x in SQUARE), weight=w)
        for i, (name, w) in enumerate((("disc", 1.0), ("ring", 0.25)))
    )
    one, other, both = (value(outputs, target(*a)) for a in ((sure,), (unsure,), (sure, unsure)))
    for term in ("areas", "distances"):
        assert both[term] == pytest.approx((one[term] + 0.25 * other[term]) / 1.25)


def logits_of(image: NDArray[Any]) -> Tensor:
    """Return logits of a network that is sure of these classes."""
    sure = torch.nn.functional.one_hot(torch.from_numpy(image.astype(np.int64)), 3)
    return 20.0 * sure.permute(2, 0, 1)[None].float()


def test_a_box_wants_its_object_in_each_row_and_column() -> None:
    inside = np.zeros((12, 12), int)
    inside[3:7, 3:7] = 1
    inside[3, 3] = inside[6, 6] = 0
    known = target(box(3, 3, 4, 4, coverage="image"))
    assert value(Outputs(logits_of(inside)), known, box_smoothness=0.0)["boxes"] < 1e-6
    inside[4] = 0
    assert value(Outputs(logits_of(inside)), known, box_smoothness=0.0)["boxes"] == pytest.approx(
        5.0, rel=0.01
    )
    inside[4, 3:9] = 1  # back, but out of the box
    assert value(Outputs(logits_of(inside)), known, box_smoothness=0.0)["boxes"] > 0.2


def test_a_box_that_the_patch_cuts_asks_only_for_lines_that_end_at_sides_of_its_own() -> None:
    lower_half = np.zeros((12, 12), int)
    lower_half[0:3, 3:6] = 1
    cut = target(box(0, 2, 3, 5, coverage="image"))
    # Columns 2 and 6 may have met the object above the patch; each row must still meet it.
    assert value(Outputs(logits_of(lower_half)), cut, box_smoothness=0.0)["boxes"] < 1e-6
    lower_half[1] = 0
    assert value(Outputs(logits_of(lower_half)), cut, box_smoothness=0.0)["boxes"] > 1


def test_a_box_is_neither_filled_nor_striped() -> None:
    known, stripes = target(box(3, 3, 6, 6)), np.zeros((12, 12), int)
    stripes[3:9, 3:9] = np.arange(6) % 2
    full = np.zeros((12, 12), int)
    full[3:9, 3:9] = 1
    assert value(Outputs(logits_of(full)), known, box_area=(0.1, 0.9))["boxes"] == pytest.approx(
        0.01, rel=0.05
    )
    stripes[3] = stripes[8] = [*[0] * 3, *[1] * 6, *[0] * 3]
    assert value(Outputs(logits_of(stripes)), known, box_smoothness=0.0)["boxes"] < 1e-6
    assert value(Outputs(logits_of(stripes)), known)["boxes"] > 0.05


def test_the_pooling_of_tags_goes_from_the_mean_to_the_maximum() -> None:
    logits = torch.zeros(1, 3, 12, 12)
    logits[0, 1, 5, 5] = 9.0
    present = target(TagAnnotation(present=("disc",)))
    odds = [float(np.log(1 / (1 + np.exp(-(o - np.log(2)))))) for o in (0.0, 9.0)]
    by_sharpness = [
        value(Outputs(logits), present, pooling_sharpness=s)["tags"] for s in (0.01, 0.1, 1.0, 10.0, 100.0)
    ]
    assert by_sharpness == sorted(by_sharpness, reverse=True)
    assert by_sharpness[0] == pytest.approx(-odds[0], rel=0.05)
    assert by_sharpness[-1] == pytest.approx(-odds[1], abs=0.01)


def test_the_positive_unlabelled_risk_is_that_of_the_paper() -> None:
    known = target(PolygonAnnotation(class_name="disc", vertices_yx=SQUARE), schema=DISC)
    odds = np.random.default_rng(3).normal(0, 2, (12, 12))
    logits = torch.zeros(1, 2, 12, 12)
    logits[0, 1] = torch.from_numpy(odds)
    labelled, prior = odds[3:6, 3:6], 0.1
    negative = np.log1p(np.exp(odds)).mean() - prior * np.log1p(np.exp(labelled)).mean()
    expected = prior * np.log1p(np.exp(-labelled)).mean() + negative
    assert negative > 0
    assert value(Outputs(logits), known, foreground_prior=prior)["unlabelled"] == pytest.approx(
        expected, 1e-5
    )
    # Learned by heart: only what is labelled is found, as if nothing else could be foreground.
    logits[0, 1] = torch.from_numpy(np.where(_IN_SQUARE, 20.0, -20.0))
    fooled = value(Outputs(logits), known, foreground_prior=0.3)["unlabelled"]
    assert fooled == pytest.approx(0.3 * 20 - 20 * 9 / 144, rel=1e-3)


def test_with_unlabelled_objects_a_labelled_one_still_says_which_class_it_is() -> None:
    known = target(PolygonAnnotation(class_name="ring", vertices_yx=SQUARE))
    right, wrong = np.where(_IN_SQUARE, 2, 0), np.where(_IN_SQUARE, 1, 0)
    assert value(Outputs(logits_of(right)), known, foreground_prior=0.1)["areas"] < 1e-6
    assert value(Outputs(logits_of(wrong)), known, foreground_prior=0.1)["areas"] > 10


def test_the_size_of_clicked_objects_is_kept_between_its_bounds() -> None:
    known = target(PointsAnnotation(class_name="disc", points_yx=((4, 4), (9, 9)), coverage="image"))
    found = np.zeros((12, 12), int)
    found.flat[:18] = 1
    for area, expected in (((5.0, 10.0), 0.0), ((3.0, 6.0), 0.25), ((12.0, 24.0), (0.5 - 9 / 24) ** 2)):
        sizes = value(Outputs(logits_of(found)), known, object_area_px=area)["sizes"]
        assert sizes == pytest.approx(expected, abs=1e-5)


def test_the_loss_is_the_same_for_images_and_labels_that_are_turned_together() -> None:
    known = target(
        *(SPOKEN_OF[name][0] for name in SPOKEN_OF if name not in {"a mask", "a click on background"}),
        TagAnnotation(present=("disc",), absent=("ring",)),
        reach_px=2.0,
    )
    outputs, options = some_outputs(), {"object_area_px": (1.0, 2.0), "foreground_prior": 0.2}
    turned = known.with_planes(
        {name: np.rot90(plane, axes=(-2, -1)).copy() for name, plane in known.planes().items()}
    )
    heads = (outputs.logits, outputs.centres, outputs.distances)
    turned_outputs = Outputs(*(torch.rot90(h, dims=(-2, -1)) for h in heads if h is not None))
    before = value(outputs, known, **options)
    assert set(before) == set(TermWeights.model_fields) | {"total"}
    assert value(turned_outputs, turned, **options) == pytest.approx(before, rel=1e-5)


def test_targets_with_different_numbers_of_box_layers_make_a_batch() -> None:
    batch = Targets.stack([target(box(2, 2, 4, 4), box(3, 3, 4, 4)), target(), target(box(1, 1, 3, 3))])
    assert batch.box_ids.shape == (3, 2, 12, 12)
    assert [int(ids.max()) for ids in batch.box_ids] == [2, 0, 1]


def test_a_weight_of_zero_leaves_a_term_out() -> None:
    known, outputs = target(TagAnnotation(present=("disc",)), SPOKEN_OF["a click"][0]), some_outputs()
    terms = value(outputs, known, weights=TermWeights(tags=0.0, centres=0.5))
    assert set(terms) == {"points", "centres", "total"}
    assert terms["total"] == pytest.approx(terms["points"] + 0.5 * terms["centres"])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        Targets.stack([target(), target(shape=(12, 13))])
    with pytest.raises(ValueError, match="got none"):
        Targets.stack([])
    with pytest.raises(ValueError, match=r"logits of shape \(1, 2, 12, 12\)"):
        segmentation_loss(some_outputs(classes=2), Targets.stack([target()]))
    bad = replace(some_outputs(), centres=torch.zeros(1, 1, 12, 12))
    with pytest.raises(ValueError, match="centres of shape"):
        segmentation_loss(bad, Targets.stack([target()]))
    with pytest.raises(ValueError, match="2 numbers for 3 classes"):
        value(some_outputs(), target(), class_weights=(1.0, 2.0))
    with pytest.raises(ValueError, match="upwards"):
        LossOptions(box_area=(0.9, 0.1))


BOTH_SAID: dict[str, tuple[Annotation, Annotation]] = {
    "areas": (
        PolygonAnnotation(class_name="disc", vertices_yx=SQUARE),
        PolygonAnnotation(class_name="ring", vertices_yx=tuple((y + 5, x + 5) for y, x in SQUARE)),
    ),
    "scribbles": (
        ScribbleAnnotation(class_name="disc", vertices_yx=((1, 1), (1, 5))),
        ScribbleAnnotation(class_name="disc", vertices_yx=((8, 1), (8, 5))),
    ),
    "points": (
        PointsAnnotation(class_name="disc", points_yx=((1, 1),)),
        PointsAnnotation(class_name="disc", points_yx=((8, 8),)),
    ),
    "boxes": (box(1, 1, 4, 4), box(7, 7, 4, 4)),
    "tags": (TagAnnotation(present=("disc",)), TagAnnotation(absent=("ring",))),
    "centres": (
        PointsAnnotation(class_name="disc", points_yx=((1, 1),)),
        PointsAnnotation(class_name="disc", points_yx=((10, 10),)),
    ),
}


@pytest.mark.parametrize("term", BOTH_SAID)
def test_of_two_labels_the_one_of_more_weight_counts_more_in_each_term(term: str) -> None:
    one, other = BOTH_SAID[term]
    outputs = some_outputs()

    def loss(first: float, second: float) -> float:
        said = one.replace(weight=first), other.replace(weight=second)
        return value(outputs, target(*said, centre_sigma_px=0.5), box_smoothness=0.0)[term]

    low, high = sorted((loss(1.0, 1e-6), loss(1e-6, 1.0)))
    assert high - low > 1e-3, "both say the same, so nothing is tested"
    assert low < loss(1.0, 1.0) < high
    assert loss(0.9, 0.1) == pytest.approx(loss(0.45, 0.05), rel=1e-4), "only the ratio counts"
    assert abs(loss(0.9, 0.1) - loss(1.0, 1e-6)) < abs(loss(0.9, 0.1) - loss(1e-6, 1.0))


def test_a_grade_near_half_counts_less_than_a_sure_one_and_no_pixel_is_told_more_than_a_tag_would() -> None:
    outputs = some_outputs()
    sure = target(GradesAnnotation(grades={"disc": 1.0, "ring": 0.45}))
    only = target(TagAnnotation(present=("disc",)))
    both = target(TagAnnotation(present=("disc",), absent=("ring",)))
    graded, one, two = (value(outputs, known)["tags"] for known in (sure, only, both))
    assert one != two
    assert abs(graded - one) < abs(graded - two)
