"""What every denoiser must keep to, as a class of tests; :mod:`controller.testing` tells how to use it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import DeviceError
from controller.core.frame import Denoised, Frame
from controller.core.protocols import Denoiser
from controller.core.settings import Region, ScanSettings

_PIXEL_M = 20e-9
_SHAPE = (40, 44)


def _scan(shape: tuple[int, int] = _SHAPE, **changes: Any) -> ScanSettings:
    size = (shape[0] * _PIXEL_M, shape[1] * _PIXEL_M)
    settings = ScanSettings(
        modality="confocal",
        region=Region(center_yx_m=(0.0, 0.0), size_yx_m=size),
        pixel_size_m=_PIXEL_M,
        dwell_s=10e-6,
        excitation_w=10e-6,
    )
    return settings.replace(**changes)


def _expected(shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return bright bars on a ground, photons."""
    rows, columns = np.indices(shape)
    bars = np.maximum(np.sin(rows / 4) * np.sin(columns / 6), 0)
    return 2 + 8 * np.asarray(bars, np.float64)


def _frames(
    count: int, shape: tuple[int, int] = _SHAPE, *, seed: int = 0, first: int = 0, light: float = 1.0
) -> list[Frame]:
    """Return noisy frames of one still sample, numbered from ``first``."""
    images = np.random.default_rng(seed).poisson(light * _expected(shape), (count, *shape))
    settings = _scan(shape, dwell_s=light * 10e-6)
    return [Frame(image.astype(np.uint16), settings, first + n, 0.1 * n) for n, image in enumerate(images)]


def _same(one: Denoised, other: Denoised) -> bool:
    """Tell whether two answers are the same, bit for bit."""
    return one.mean.tobytes() == other.mean.tobytes() and one.std.tobytes() == other.std.tobytes()


#: Each shows another image, or shows it with other noise than can be reckoned.
_OTHER_IMAGES: tuple[dict[str, Any], ...] = (
    {"region": Region(center_yx_m=(1e-6, 0.0), size_yx_m=(_SHAPE[0] * _PIXEL_M, _SHAPE[1] * _PIXEL_M))},
    {"pixel_size_m": 2 * _PIXEL_M, "region": _scan((2 * _SHAPE[0], 2 * _SHAPE[1])).region},
    {"modality": "overview"},
    {"modality": "sted", "sted_w": 0.05},
    {"focus_m": 1e-6},
)


class DenoiserContract:
    """What every denoiser must keep to.

    Attributes
    ----------
    largest_lag_frames
        By how much a flash may come too late, in frames: see :func:`flash_response`.
    smallest_amplitude
        How much of a flash must be left at its peak.
    """

    largest_lag_frames: ClassVar[float] = 3.0
    smallest_amplitude: ClassVar[float] = 0.5

    def make(self) -> Denoiser:
        """Return a fresh denoiser; two of them must answer alike."""
        raise NotImplementedError

    def _after(self, frames: list[Frame]) -> Denoised:
        """Return what a fresh denoiser answers to the last of some frames."""
        denoiser = self.make()
        return [denoiser.step(frame) for frame in frames][-1]

    def test_the_answer_describes_the_frame_it_was_given(self) -> None:
        """Its index, whatever the numbers are; its shape; finite numbers, and a deviation not below 0."""
        denoiser = self.make()
        assert isinstance(denoiser, Denoiser)
        for frame, index in zip(_frames(5), (3, 4, 9, 10, 1000), strict=True):
            answer = denoiser.step(replace(frame, index=index))
            assert answer.index == index
            assert answer.mean.shape == answer.std.shape == frame.photons.shape
            assert np.isfinite(answer.mean).all()
            assert np.isfinite(answer.std).all()
            assert (answer.std >= 0).all()

    def test_later_frames_change_nothing(self) -> None:
        """The answer to frame t has the same bits whatever comes after it, and keeps them."""
        one, other = self.make(), self.make()
        past = _frames(3)
        answers = [one.step(frame) for frame in past]
        held = [(answer.mean.tobytes(), answer.std.tobytes()) for answer in answers]
        for frame in _frames(3, seed=1, first=3):
            one.step(frame)
        one.reset("the stage moved")
        one.step(_frames(1, seed=2, first=6)[0])
        assert held == [(answer.mean.tobytes(), answer.std.tobytes()) for answer in answers]
        assert all(_same(other.step(frame), answer) for frame, answer in zip(past, answers, strict=True))

    def test_observing_a_frame_counts_as_much_as_stepping(self) -> None:
        """A stream where some answers were not asked for ends as one where all were."""
        mixed = self.make()
        *past, last = _frames(7)
        for number, frame in enumerate(past):
            if number % 3 == 1:
                mixed.step(frame)
            else:
                mixed.observe(frame)
        assert _same(mixed.step(last), self._after([*past, last]))

    def test_reset_forgets_the_past(self) -> None:
        """After ``reset`` a denoiser answers like a new one."""
        used = self.make()
        *past, last = _frames(4)
        for frame in past:
            used.step(frame)
        used.reset("the stage moved")
        assert _same(used.step(last), self._after([last]))

    def test_another_kind_of_image_starts_afresh(self) -> None:
        """Another region, sampling, modality, STED power or focus: nothing of the past shows."""
        *past, last = _frames(4)
        for changes in _OTHER_IMAGES:
            elsewhere = replace(last, settings=_scan(**changes))
            assert _same(self._after([*past, elsewhere]), self._after([elsewhere])), changes

    def test_another_size_starts_afresh(self) -> None:
        """Also if nothing in the settings tells."""
        small = _frames(1, (21, 33))[0]
        assert _same(self._after([*_frames(2), small]), self._after([small]))

    def test_more_or_less_light_makes_no_ghost_of_the_past(self) -> None:
        """With another dwell time the past helps, or is forgotten; it does not pull towards the old level."""
        past = _frames(8)
        for light in (0.25, 4.0):
            last = _frames(1, seed=1, first=8, light=light)[0]
            truth = light * _expected(_SHAPE)
            kept, fresh = self._after([*past, last]).mean, self._after([last]).mean
            assert np.mean((kept - truth) ** 2) <= 1.05 * np.mean((fresh - truth) ** 2)
            assert abs(float(kept.mean()) / float(truth.mean()) - 1) < 0.15

    def test_what_is_no_photon_count_is_refused_and_leaves_no_trace(self) -> None:
        """The error names the frame; the past is what it was before."""
        *past, last = _frames(4)
        expected = self._after([*past, last])
        for bad in (np.nan, np.inf, -np.inf):
            denoiser = self.make()
            for frame in past:
                denoiser.step(frame)
            photons = last.photons.astype(np.float32)
            photons[5, 7] = bad
            broken = replace(last, photons=photons, index=4711)
            try:
                denoiser.step(broken)
            except DeviceError as error:
                assert "frame 4711" in str(error)  # noqa: PT017  # plug-in authors need no pytest.raises
            else:
                raise AssertionError(f"{bad} passed for a photon count")
            with suppress(DeviceError):  # one without a past need not look
                denoiser.observe(broken)
            assert _same(denoiser.step(last), expected)

    def test_odd_dark_and_saturated_frames_pass(self) -> None:
        """One pixel, one line, odd sizes; no photon at all, all pixels at the top; integers and floats."""
        for shape in ((1, 1), (1, 7), (9, 1), (5, 3), (33, 21)):
            for dtype, top in (("uint8", 255), ("uint16", 65535), ("int32", 2**31 - 1), ("float64", 0.3)):
                denoiser = self.make()
                noisy = np.random.default_rng(0).poisson(4.0, shape) * (0.1 if dtype == "float64" else 1)
                for index, image in enumerate((np.zeros(shape), noisy, np.full(shape, top), noisy)):
                    frame = Frame(image.astype(dtype), _scan(shape), index, 0.0)
                    answer = denoiser.step(frame)
                    assert answer.mean.shape == shape
                    assert np.isfinite(answer.mean).all()
                    assert np.isfinite(answer.std).all()
                    assert (answer.std >= 0).all()

    def test_the_raw_frame_is_left_alone(self) -> None:
        """Not changed, and not handed out as the answer's own memory."""
        for frame in _frames(3):
            before = frame.photons.tobytes()
            answer = self.make().step(frame)
            assert frame.photons.tobytes() == before
            assert not np.shares_memory(answer.mean, frame.photons)

    def test_the_global_random_state_is_left_alone(self) -> None:
        """A denoiser that draws by chance has a stream of its own."""
        before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
        self._after(_frames(2))
        assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002

    def test_a_flash_comes_in_time_and_keeps_its_height(self) -> None:
        """Cells that light up for a few frames: see the two limits of the contract."""
        lag_frames, amplitude = flash_response(self.make())
        assert lag_frames <= self.largest_lag_frames
        assert amplitude >= self.smallest_amplitude


def flash_response(denoiser: Denoiser, seed: int = 0) -> tuple[float, float]:
    """Measure how a denoiser follows cells that flash as calcium makes them.

    16 cells on a ground of 2 photons get up to 32 more: within 4 frames, and fade with a time constant of 14.

    Returns
    -------
    By how many frames the course that fits best is late, and how much of the height is left at the peak.
    """
    side, spacing, start, height = 64, 16, 16, 32.0
    rows, columns = np.indices((side, side)) % spacing - spacing / 2 + 0.5
    cells = np.exp(-(rows**2 + columns**2) / (2 * 2.5**2))
    time = np.arange(56.0)
    since = np.maximum(time - start + 1, 0)
    course = (1 - np.exp(-since / 2)) * np.exp(-since / 14)
    course *= height / course.max()
    rng = np.random.default_rng(seed)
    settings = _scan((side, side))
    seen = []
    for index, more in enumerate(course):
        photons = rng.poisson(2 + more * cells).astype(np.uint16)
        answer = denoiser.step(Frame(photons, settings, index, 0.1 * index))
        seen.append(float((answer.mean * cells).sum() / (cells**2).sum()))
    found = np.array(seen) - np.mean(seen[start // 2 : start])
    peak = slice(start, start + 8)
    return _lag(time, course, found), float(found[peak].max() / course[peak].max())


def _lag(time: NDArray[np.float64], course: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """Return by how much ``course``, of any height, has to be shifted to come nearest to ``found``."""
    lags = np.arange(-2.0, 8.0, 0.02)
    errors = []
    for lag in lags:
        late = np.interp(time - lag, time, course)
        scaled = late * (late @ found) / (late @ late)
        errors.append(float(((scaled - found) ** 2).sum()))
    return float(lags[int(np.argmin(errors))])
