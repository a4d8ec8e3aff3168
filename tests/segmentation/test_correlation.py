from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from controller.core.frame import Denoised, Frame
from controller.core.protocols import Plugin, Segmenter
from controller.core.settings import Region, ScanSettings
from controller.learning.measures import Matches, match_objects
from controller.segmentation.correlation import CorrelationImageSegmenter
from controller.segmentation.objects import ThresholdWatershedSegmenter
from controller.testing import SegmenterContract, resources
from simulator.two_photon.brain import BrainOptions
from simulator.two_photon.calcium import ActivityOptions
from simulator.two_photon.datasets import TwoPhotonDataset, TwoPhotonDatasetOptions
from simulator.two_photon.neurons import TissueOptions

PIXEL_M = 1e-6
CELL_PX = 12
Movie = NDArray[Any]


def scan(shape: tuple[int, int], **changes: Any) -> ScanSettings:
    region = Region(center_yx_m=(0.0, 0.0), size_yx_m=(shape[0] * PIXEL_M, shape[1] * PIXEL_M))
    plain = ScanSettings(
        modality="two_photon", region=region, pixel_size_m=PIXEL_M, dwell_s=1e-6, excitation_w=0.05
    )
    return plain.replace(**changes)


def frame(photons: Any, **changes: Any) -> Frame:
    image = np.asarray(photons)
    return Frame(image, scan(image.shape, **changes), 0, 0.0)


def watched(movie: Movie, **options: Any) -> CorrelationImageSegmenter:
    """Return a segmenter that has seen all frames but the last."""
    segmenter = CorrelationImageSegmenter(CorrelationImageSegmenter.Options(**options))
    for image in movie[:-1]:
        segmenter.observe(frame(image))
    return segmenter


def found(movie: Movie, **options: Any) -> NDArray[np.int32]:
    return watched(movie, **options).step(frame(movie[-1]), None).labels


def cells(rng: np.random.Generator, frames: int = 100, level: float = 1.0) -> tuple[Movie, NDArray[np.int64]]:
    """Return expected photons of 8 alike cells, of which 1 to 4 are active, and their labels."""
    y, x = np.mgrid[:64, :112]
    expected = np.full((frames, 64, 112), 0.5 * level)
    labels = np.zeros((64, 112), np.int64)
    for number in range(8):
        row, column = 16 + 32 * (number // 4), 14 + 28 * (number % 4)
        inside = np.hypot(y - row, x - column) <= CELL_PX / 2
        labels[inside] = number + 1
        trace = np.ones(frames)
        if number < 4:
            spikes = rng.random(frames) < 0.06
            trace += 2 * np.convolve(spikes, np.exp(-np.arange(30) / 8))[:frames]
        expected[:, inside] += level * trace[:, None]
    return expected, labels


def test_it_is_a_plugin_and_a_segmenter() -> None:
    plugin: object = CorrelationImageSegmenter
    assert isinstance(plugin, Plugin)
    made = CorrelationImageSegmenter.from_options(CorrelationImageSegmenter.Options(), resources())
    assert isinstance(made, Segmenter)


class TestCorrelationImageSegmenter(SegmenterContract):
    def make(self) -> Segmenter:
        options = CorrelationImageSegmenter.Options(cell_size_m=2e-7)
        return CorrelationImageSegmenter(options)


@pytest.mark.parametrize("level", [0.3, 1.0, 30.0])
def test_active_cells_are_found_and_quiet_ones_are_not(level: float) -> None:
    rng = np.random.default_rng(0)
    expected, truth = cells(rng, level=level)
    labels = found(rng.poisson(expected))
    assert labels.max() == 4
    for number in range(1, 5):
        there = truth == number
        best = np.argmax(np.bincount(labels[there])[1:]) + 1
        overlap = np.sum((labels == best) & there) / np.sum((labels == best) | there)
        assert overlap > 0.5


@pytest.mark.parametrize("level", [0.002, 0.05, 1.0, 1000.0])
def test_noise_alone_keeps_to_its_standard_deviation_whatever_the_light(level: float) -> None:
    rng = np.random.default_rng(1)
    segmenter = watched(rng.poisson(level, (61, 96, 96)))
    _, significance = segmenter.correlation()
    assert np.abs(np.mean(significance)) < 0.5
    assert np.std(significance) < 1.15
    if level >= 1:  # in the dark it is held down by what half a photon would do
        assert np.std(significance) > 0.8
    assert significance.max() < 4.5


def test_an_amplifier_that_smears_photons_along_the_line_makes_no_cells() -> None:
    rng = np.random.default_rng(2)
    sharp = rng.poisson(3.0, (80, 96, 96)).astype(float)
    smeared = 0.6 * sharp + 0.4 * np.roll(sharp, 1, axis=2)
    along = watched(smeared).correlation()[1]
    # Between lines the same would be taken for activity.
    across = watched(np.swapaxes(smeared, 1, 2)).correlation()[1]
    assert along.max() < 4.5
    assert np.mean(along) < 0.3
    assert np.mean(across) > 1.5


def test_light_that_flickers_all_over_the_frame_makes_no_cells() -> None:
    rng = np.random.default_rng(3)
    flicker = 1 + 0.1 * rng.standard_normal(60)
    assert found(rng.poisson(5.0 * flicker[:, None, None] * np.ones((60, 96, 96)))).max() == 0


def test_the_unit_of_the_detector_does_not_matter_if_it_is_known() -> None:
    rng = np.random.default_rng(4)
    movie = rng.poisson(cells(rng)[0])
    grey = found(100.0 * movie + 200.0, units_per_photon=100.0, offset_units=200.0)
    np.testing.assert_array_equal(found(movie), grey)


def test_cells_that_stop_firing_are_forgotten() -> None:
    rng = np.random.default_rng(5)
    expected, _ = cells(rng, frames=60)
    quiet = np.repeat(expected.min(axis=0)[None], 60, axis=0)
    movie = rng.poisson(np.concatenate((expected, quiet)))
    assert found(movie[:60], memory_frames=15).max() == 4
    assert found(movie, memory_frames=15).max() == 0


def test_observing_a_frame_counts_as_much_as_stepping() -> None:
    rng = np.random.default_rng(6)
    movie = rng.poisson(cells(rng, frames=20)[0])
    stepped = CorrelationImageSegmenter()
    for image in movie[:-1]:
        stepped.step(frame(image), None)
    np.testing.assert_array_equal(
        stepped.step(frame(movie[-1]), None).probability,
        watched(movie).step(frame(movie[-1]), None).probability,
    )


@pytest.mark.parametrize(
    "change",
    [
        {"region": Region(center_yx_m=(1e-5, 0.0), size_yx_m=(64e-6, 112e-6))},
        {"focus_m": 1e-4},
        {"modality": "overview"},
        {"excitation_w": 0.15},
        {"dwell_s": 1e-7},
    ],
)
def test_it_starts_afresh_where_the_past_says_nothing(change: dict[str, Any]) -> None:
    rng = np.random.default_rng(7)
    movie = rng.poisson(cells(rng)[0])
    segmenter = watched(movie)
    assert segmenter.step(frame(movie[-1]), None).labels.max() == 4
    assert segmenter.step(frame(movie[-1], **change), None).labels.max() == 0


def test_a_little_more_light_is_no_activity_and_no_reason_to_forget() -> None:
    rng = np.random.default_rng(8)
    movie = rng.poisson(cells(rng)[0])
    segmenter = watched(movie)
    brighter = frame(rng.poisson(1.44 * cells(np.random.default_rng(8))[0][-1]), excitation_w=0.06)
    assert segmenter.step(brighter, None).labels.max() == 4


def test_a_sample_that_does_nothing_does_nothing_in_a_little_more_light_either() -> None:
    rng = np.random.default_rng(12)
    still = cells(rng, level=10.0)[0].min(axis=0)
    segmenter = watched(rng.poisson(still, (40, *still.shape)))
    for image in rng.poisson(1.44 * still, (40, *still.shape)):
        segmenter.observe(frame(image, excitation_w=0.06))
    assert segmenter.correlation()[1].max() < 5


def test_two_photons_in_the_dark_are_no_cell() -> None:
    movie = np.zeros((40, 48, 48))
    movie[20, 20, 20] = movie[20, 23, 21] = 1
    assert watched(movie).correlation()[1].max() < 3


def test_significance_holds_while_old_frames_are_forgotten() -> None:
    rng = np.random.default_rng(13)
    _, significance = watched(rng.poisson(2.0, (150, 96, 96)), memory_frames=20).correlation()
    assert 0.85 < np.std(significance) < 1.15


def test_what_is_too_small_for_a_cell_is_dropped() -> None:
    rng = np.random.default_rng(14)
    movie = rng.poisson(cells(rng)[0])
    assert found(movie, smallest_area=0.5).max() == 4
    assert found(movie, smallest_area=0.99).max() == 0


def test_reset_forgets_the_past_and_nothing_is_said_without_any() -> None:
    rng = np.random.default_rng(9)
    movie = rng.poisson(cells(rng)[0])
    segmenter = watched(movie)
    segmenter.reset("the stage moved")
    with pytest.raises(RuntimeError, match="before the first frame"):
        segmenter.correlation()
    assert segmenter.step(frame(movie[-1]), None).labels.max() == 0


def _matches(labels: NDArray[np.int32], neurons: NDArray[Any], active: list[int]) -> Matches:
    """Match at an IoU above 0.3. Whoever finds a quiet cell is neither right nor wrong."""
    sizes = np.bincount(neurons.ravel())
    visible = np.where(sizes[neurons] >= 30, neurons, 0)
    wanted = np.where(np.isin(visible, active), visible, 0)
    everyone, found_active = (match_objects(labels, truth, 0.3) for truth in (visible, wanted))
    return Matches(found_active.hits, everyone.wrong, found_active.missed)


def test_of_simulated_movies_it_finds_the_active_cells_better_than_the_mean_image_shows_them() -> None:
    by_activity, by_brightness = Matches(0, 0, 0), Matches(0, 0, 0)
    brain = BrainOptions(
        activity=ActivityOptions(burst_rate_hz=0.4), tissue=TissueOptions(top_m=120e-6, bottom_m=180e-6)
    )
    options = TwoPhotonDatasetOptions(frames=100, line_averages=3, brain=brain)  # 39 frames a second
    # The best options of 48 for the mean image, chosen with the truth of other movies.
    objects = ThresholdWatershedSegmenter.Options(
        object_size_m=12e-6, threshold=20.0, smallest_area=0.5, smoothing=0.15, local_weight=0.0
    )
    for seed in (10, 11, 14):
        item = TwoPhotonDataset(options, seed).item(0)
        traces = {name: t for name, t in item.tables["traces"].items() if name != "time_s"}
        active = [int(name.split("_")[1]) for name, trace in traces.items() if np.ptp(trace) > 0.3]
        photons = (item.images["frames"] - 200.0) / 100.0
        neurons = item.labels["neurons"]
        by_activity += _matches(found(photons), neurons, active)
        total = frame(np.maximum(np.sum(photons, axis=0), 0.0))
        labels = ThresholdWatershedSegmenter(objects).step(total, None).labels
        by_brightness += _matches(labels, neurons, active)
    assert by_activity.f1 > 0.7
    assert by_activity.f1 > by_brightness.f1 + 0.3


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    value=st.sampled_from([0.0, 1e-3, 1.0, 65535.0, 1e12, 1e30]),
    is_noisy=st.booleans(),
    cell_size_m=st.sampled_from([1e-7, 1.2e-5, 1.0]),
)
def test_frames_of_any_shape_and_level_give_a_sound_answer(
    shape: tuple[int, int], value: float, is_noisy: bool, cell_size_m: float
) -> None:
    rng = np.random.default_rng(0)
    segmenter = CorrelationImageSegmenter(CorrelationImageSegmenter.Options(cell_size_m=cell_size_m))
    for _ in range(12):
        image = np.full(shape, value) * ((rng.random(shape) < 0.5) if is_noisy else 1.0)
        clean = Denoised(image.astype(np.float32), np.zeros(shape, np.float32), 0)
        answer = segmenter.step(frame(image), clean)
        assert answer.labels.shape == answer.probability.shape == answer.uncertainty.shape == shape
        for result in (answer.probability, answer.uncertainty):
            assert np.all((result >= 0) & (result <= 1))
    if not is_noisy:
        assert answer.labels.max() == 0
