import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.learning.augmentation import (
    Augmentation,
    AugmentationError,
    Blur,
    Contrast,
    Flip,
    IntensityScale,
    Rescale,
    Rotate90,
    Sample,
    Step,
)

# Chance is tested against bounds: the same examples each time, so that a test fails for a reason.
repeatable = settings(deadline=None, max_examples=30, derandomize=True)


WHY = "these are drawings, and their grey levels mean nothing"


def poisson(level: float = 5.0, shape: tuple[int, ...] = (16, 16), seed: int = 0) -> Sample:
    image = np.random.default_rng(seed).poisson(level, shape).astype(np.uint16)
    return Sample(image, {"classes": (image > level).astype(np.int16)})


def bits(sample: Sample) -> bytes:
    return sample.image.tobytes() + b"".join(labels.tobytes() for labels in sample.labels.values())


@repeatable
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(1, 1), (4, 4), (3, 7), (2, 5, 5), (2, 3, 4, 6)]),
    steps=st.lists(st.sampled_from([Flip(axis="y"), Flip(axis="x"), Rotate90()]), max_size=5),
)
def test_labels_follow_their_pixels(seed: int, shape: tuple[int, ...], steps: list[Step]) -> None:
    number = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    sample = Sample(number, {"same": number.copy(), "plane": number[(0,) * (len(shape) - 2)]})
    changed = Augmentation(steps=tuple(steps))(sample, np.random.default_rng(seed))
    assert changed.image.shape == shape
    np.testing.assert_array_equal(changed.image, changed.labels["same"])
    np.testing.assert_array_equal(changed.image[(0,) * (len(shape) - 2)], changed.labels["plane"])
    np.testing.assert_array_equal(np.sort(changed.image, axis=None), np.arange(number.size))


def test_all_eight_ways_to_lay_a_square_are_equally_likely() -> None:
    image = np.arange(4).reshape(2, 2)
    rng = np.random.default_rng(0)
    turn = Augmentation(steps=(Flip(axis="y"), Flip(axis="x"), Rotate90()))
    seen: dict[bytes, int] = {}
    for _ in range(1600):
        way = bits(turn(Sample(image, {}), rng))
        seen[way] = seen.get(way, 0) + 1
    assert len(seen) == 8
    assert min(seen.values()) > 140


def test_what_is_not_square_keeps_its_shape() -> None:
    image = np.arange(6).reshape(2, 3)
    rng = np.random.default_rng(0)
    ways = {bits(Rotate90()(Sample(image, {}), rng)) for _ in range(40)}
    assert ways == {image.tobytes(), image[::-1, ::-1].tobytes()}
    assert all(Rotate90()(Sample(image, {}), rng).image.shape == (2, 3) for _ in range(10))


@repeatable
@given(
    seed=st.integers(0, 2**32 - 1),
    level=st.sampled_from([0.05, 1.0, 20.0]),
    factor=st.sampled_from([0.1, 0.5, 1.0]),
    background=st.sampled_from([0.0, 2.0]),
    is_expected=st.booleans(),
)
def test_after_another_exposure_counts_are_still_poisson(
    seed: int, level: float, factor: float, background: float, is_expected: bool
) -> None:
    rng = np.random.default_rng(seed)
    shape = (128, 128)
    image = np.full(shape, level) if is_expected else rng.poisson(level, shape)
    step = IntensityScale(lowest=factor, highest=factor, background_photons=background)
    changed = step(Sample(image, {}, is_expected=is_expected), rng)
    assert not changed.is_expected
    photons = changed.image.astype(float)
    mean, pixels = float(photons.mean()), photons.size
    deviation = np.sqrt(2 / pixels + 1 / (pixels * mean))
    assert abs(photons.var() / mean - 1) < 5 * deviation
    if background == 0:
        assert abs(mean - level * factor) < 5 * np.sqrt(level / pixels)
    else:
        assert level * factor - 5 * np.sqrt(mean / pixels) < mean
        assert mean < level * factor + background + 5 * np.sqrt(mean / pixels)


def test_scaled_numbers_would_fail_the_same_test() -> None:
    photons = 0.5 * np.random.default_rng(0).poisson(5.0, (128, 128))
    assert photons.var() / photons.mean() < 0.6


def test_thinning_only_takes_photons_away_and_keeps_the_type_and_the_labels() -> None:
    sample = poisson()
    changed = IntensityScale()(sample, np.random.default_rng(1))
    assert changed.image.dtype == np.uint16
    assert np.all(changed.image <= sample.image)
    assert changed.image.sum() < sample.image.sum()
    np.testing.assert_array_equal(changed.labels["classes"], sample.labels["classes"])


def test_light_is_varied_by_factors() -> None:
    rng, step = np.random.default_rng(2), IntensityScale(lowest=0.01, highest=1.0)
    bright = Sample(np.full((50, 50), 1000.0), {}, is_expected=True)
    factors = np.array([step(bright, rng).image.mean() / 1000 for _ in range(400)])
    assert factors.min() < 0.015
    assert abs(np.mean(factors < 0.1) - 0.5) < 0.12


def test_more_light_needs_an_expected_image() -> None:
    step = IntensityScale(lowest=1.0, highest=4.0)
    with pytest.raises(AugmentationError, match="more photons than were counted"):
        step(poisson(), np.random.default_rng(0))
    brighter = step(Sample(np.full((64, 64), 3.0), {}, is_expected=True), np.random.default_rng(0))
    assert brighter.image.mean() > 3.2
    # Once counted, it is not shown in more light again.
    with pytest.raises(AugmentationError):
        step(brighter, np.random.default_rng(0))


def test_counts_that_no_longer_fit_their_type_are_not_wrapped() -> None:
    step = IntensityScale(lowest=100.0, highest=100.0)
    sample = Sample(np.full((8, 8), 200, np.uint8), {}, is_expected=True)
    assert step(sample, np.random.default_rng(0)).image.mean() == pytest.approx(20000, rel=0.01)


@pytest.mark.parametrize("wrong", [0.5, -1.0, np.nan, np.inf])
def test_what_is_no_count_is_not_thinned(wrong: float) -> None:
    image = np.ones((4, 4))
    image[1, 2] = wrong
    with pytest.raises(AugmentationError, match="1 of 16 pixels are no counts"):
        IntensityScale()(Sample(image, {}), np.random.default_rng(0))


def test_the_pixel_size_is_left_alone_unless_somebody_says_that_it_varies() -> None:
    with pytest.raises(ValidationError, match="pixel_size_varies"):
        Rescale.model_validate({})
    with pytest.raises(ValidationError, match="must be true"):
        Rescale(pixel_size_varies=False)


@repeatable
@given(seed=st.integers(0, 2**32 - 1), shape=st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_at_a_coarser_pixel_labels_follow_and_no_count_shows_twice(seed: int, shape: tuple[int, int]) -> None:
    number = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    step = Rescale(pixel_size_varies=True, finest=1.0, coarsest=3.0)
    changed = step(Sample(number, {"same": number}), np.random.default_rng(seed))
    np.testing.assert_array_equal(changed.image, changed.labels["same"])
    assert len(np.unique(changed.image)) == changed.image.size
    assert all(small <= large for small, large in zip(changed.image.shape, shape, strict=True))


def test_counts_are_not_shown_at_a_finer_pixel() -> None:
    step = Rescale(pixel_size_varies=True, finest=0.5, coarsest=1.0)
    with pytest.raises(AugmentationError, match="between those that were counted"):
        step(poisson(), np.random.default_rng(0))


@pytest.mark.parametrize("factor", [0.4, 0.5, 1.0, 1.7, 40.0])
def test_an_expected_image_is_interpolated_where_its_labels_are(factor: float) -> None:
    rows, columns = np.mgrid[:40, :30].astype(float)
    sample = Sample(
        rows + 2 * columns, {"half": (columns >= 15).astype(np.int8), "rows": rows}, is_expected=True
    )
    step = Rescale(pixel_size_varies=True, finest=factor, coarsest=factor)
    changed = step(sample, np.random.default_rng(0))
    height, width = max(1, round(40 / factor)), max(1, round(30 / factor))
    assert changed.image.shape == changed.labels["half"].shape == (height, width)
    assert changed.is_expected
    # A plane stays a plane, away from the border.
    middle = (np.arange(width) + 0.5) * 30 / width - 0.5
    inner = (middle > 0) & (middle < 29)
    expected = changed.image[height // 2, inner] - 2 * middle[inner]
    np.testing.assert_allclose(expected, expected[:1].repeat(inner.sum()), atol=1e-9)
    assert set(np.unique(changed.labels["half"])) <= {0, 1}


def test_blur_is_for_expected_images_only_and_not_in_the_default() -> None:
    assert not any(isinstance(step, Blur | Rescale) for step in Augmentation().steps)
    step = Blur(largest_sigma_px=2.0, psf_sigma_px=2.0)
    with pytest.raises(AugmentationError, match="blur"):
        step(poisson(), np.random.default_rng(0))
    image = np.zeros((2, 21, 21))
    image[0, 10, 10] = 100.0
    changed = step(Sample(image, {}, is_expected=True), np.random.default_rng(0))
    assert changed.image[0].sum() == pytest.approx(100)
    assert changed.image[0].max() < 99
    assert changed.image[1].max() == 0


@repeatable
@given(seed=st.integers(0, 2**32 - 1))
def test_the_same_chance_gives_the_same_bits(seed: int) -> None:
    augment = Augmentation()
    one, other = (augment(poisson(), np.random.default_rng(seed)) for _ in range(2))
    assert bits(one) == bits(other)


def test_the_list_survives_a_model_card() -> None:
    steps = (
        Flip(axis="x"),
        Rotate90(),
        Rescale(pixel_size_varies=True, coarsest=2.0),
        Blur(largest_sigma_px=0.5, psf_sigma_px=1.2),
        Contrast(how="gamma", override=WHY),
        IntensityScale(lowest=0.5, background_photons=0.1),
    )
    augment = Augmentation(steps=steps)
    assert Augmentation.model_validate_json(augment.model_dump_json()) == augment
    with pytest.raises(ValidationError, match="brightness"):
        Augmentation.model_validate_json('{"steps": [{"kind": "brightness"}]}')


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(AugmentationError, match="last two axes"):
        Sample(np.zeros((4, 4)), {"classes": np.zeros((4, 5))})


def test_the_sample_that_was_given_stays_as_it_was() -> None:
    sample = poisson()
    before = bits(sample)
    for seed in range(8):
        Augmentation()(sample, np.random.default_rng(seed))
    assert bits(sample) == before


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "rescale": ({"pixel_size_varies": False}, "the size of a thing in pixels is a measurement"),
    "blur": ({"largest_sigma_px": 2.0, "psf_sigma_px": 1.9}, "beyond the point spread function"),
    "blur of an unknown microscope": ({"largest_sigma_px": 0.1}, "beyond the point spread function"),
    "contrast: gain": ({"how": "gain"}, "brightness is how much dye there is"),
    "contrast: gamma": ({"how": "gamma"}, "brightness is how much dye there is"),
    "contrast: min max": ({"how": "min max"}, "there is intensity_scale"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_make_a_micrograph_untrue_is_refused_with_the_reason_unless_overridden_in_writing(
    name: str,
) -> None:
    options, reason = REFUSED[name]
    step: dict[str, object] = {"kind": name.split(maxsplit=1)[0].strip(":"), **options}
    with pytest.raises(ValidationError, match=reason) as refusal:
        Augmentation.model_validate({"steps": (step,)})
    assert "override" in str(refusal.value)
    for excuse in ("", "because", None):
        with pytest.raises(ValidationError):
            Augmentation.model_validate({"steps": (step | {"override": excuse},)})
    allowed = Augmentation.model_validate({"steps": (step | {"override": WHY},)})
    assert WHY in allowed.model_dump_json(), "the reason is in the card"
    bright = Sample(np.full((8, 8), 5.0), {}, is_expected=True)
    assert allowed(bright, np.random.default_rng(0)).image.ndim == 2


def test_a_blur_within_the_point_spread_function_needs_no_excuse() -> None:
    assert Blur(largest_sigma_px=1.0, psf_sigma_px=1.0).override is None


@pytest.mark.parametrize("how", ["gain", "gamma", "min max"])
def test_an_overridden_contrast_does_what_it_says_and_leaves_no_counts(how: str) -> None:
    step = Augmentation.model_validate({"steps": ({"kind": "contrast", "how": how, "override": WHY},)})
    sample = poisson()
    changed = step(sample, np.random.default_rng(3))
    assert changed.image.dtype == np.float32
    np.testing.assert_array_equal(changed.labels["classes"], sample.labels["classes"])
    order = np.argsort(sample.image, axis=None, kind="stable")
    assert (np.diff(changed.image.ravel()[order]) >= -1e-6).all(), "the order of grey levels stays"
    if how == "min max":
        assert (changed.image.min(), changed.image.max()) == (0.0, 1.0)
    else:
        assert changed.image.max() != sample.image.max() or how == "gamma"
    with pytest.raises(AugmentationError, match="no counts"):
        IntensityScale()(changed, np.random.default_rng(0))


def test_the_default_holds_nothing_that_would_be_refused() -> None:
    assert all(isinstance(step, Flip | Rotate90 | IntensityScale) for step in Augmentation().steps)
