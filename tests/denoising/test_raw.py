import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.errors import DeviceError
from controller.core.frame import Frame
from controller.core.protocols import Denoiser, Plugin
from controller.core.settings import Region, ScanSettings
from controller.denoising.raw import RawDenoiser
from controller.testing import resources

SCAN = ScanSettings(
    modality="confocal",
    region=Region(center_yx_m=(0.0, 0.0), size_yx_m=(1e-6, 1e-6)),
    pixel_size_m=1e-7,
    dwell_s=1e-5,
    excitation_w=1e-5,
)


def frame(photons: object, index: int = 0) -> Frame:
    return Frame(np.asarray(photons), SCAN, index, 0.0)


def test_it_is_a_plugin_and_a_denoiser() -> None:
    plugin: object = RawDenoiser
    assert isinstance(plugin, Plugin)
    assert isinstance(RawDenoiser.from_options(RawDenoiser.Options(), resources()), Denoiser)


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 1000),
    level=st.sampled_from([0.0, 0.1, 5.0, 1e6]),
    dtype=st.sampled_from(["uint16", "int32", "float32", "float64"]),
)
def test_the_mean_is_the_frame_and_the_std_is_positive(
    shape: tuple[int, int], seed: int, level: float, dtype: str
) -> None:
    photons = np.random.default_rng(seed).poisson(level, shape).astype(dtype)
    denoised = RawDenoiser().step(frame(photons, 7))
    np.testing.assert_array_equal(denoised.mean, photons.astype(np.float32))
    assert denoised.index == 7
    assert denoised.std.shape == shape
    assert np.all(np.isfinite(denoised.std))
    assert np.all(denoised.std > 0)


@pytest.mark.parametrize("level", [1.0, 5.0, 100.0])
def test_the_95_percent_interval_of_a_flat_sample_covers_about_95_percent(level: float) -> None:
    denoised = RawDenoiser().step(frame(np.random.default_rng(1).poisson(level, (200, 200))))
    covered = np.abs(denoised.mean - level) <= 1.96 * denoised.std
    assert 0.92 < covered.mean() < 0.985


@pytest.mark.parametrize("photons", [np.full((3, 3), 4294967295, np.uint32), np.full((2, 5), 1e38)])
def test_saturated_and_huge_frames_pass(photons: np.ndarray) -> None:
    denoised = RawDenoiser().step(frame(photons))
    assert np.all(np.isfinite(denoised.mean))
    assert np.all(np.isfinite(denoised.std))


@pytest.mark.parametrize(
    "photons", [np.full((2, 2), np.nan), [[1.0, np.inf]], [[1e39]], np.zeros((0, 4)), np.zeros(4), [["a"]]]
)
def test_what_is_no_image_of_numbers_is_refused_with_a_reason(photons: object) -> None:
    with pytest.raises(DeviceError, match="frame 0"):
        RawDenoiser().step(frame(photons))
