"""The optics, dye and detector of pySTED, behind a small interface: molecules in, photons and survivors out.

This is the only file that imports pysted, and only inside functions: the import takes seconds.

What is pySTED's and what is not:

- A scan with the STED beam is pySTED's own: its raster, its kernels, its bleaching.
- A scan without it is the correlation of the molecules with pySTED's own effective point spread
  function. pySTED's bleaching rate grows with a power of the STED intensity and is exactly zero
  without it, whatever the excitation, so there is nothing to simulate molecule by molecule. The
  consequence: **confocal and overview scans never bleach in this engine**, real ones do.
- Detected counts are pySTED's detector in both cases.
- The dwell times of all passes over a line are spent in one. pySTED's hazard is linear in time and
  its counts are Poisson, so the expected dose, survival and noise agree; only the bleaching between
  two passes of the same line is not seen by the second. One pass is cheaper by the number of passes.

pySTED draws from the C library's ``rand`` and from numpy's global generator, and rewinds the latter.
Here every draw has a seed of its own and the caller's global state is put back. Images are
bit-identical for one seed on one machine; the C library decides whether they are on another.

Sources: Bilodeau et al., Nat. Mach. Intell. 6:1197 (2024), doi 10.1038/s42256-024-00903-w; bleaching
after Oracz et al., Sci. Rep. 7:11354 (2017); depletion after Leutenegger et al., Opt. Express
18:26417 (2010).
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import ConfigurationError
from simulator.specimens import MAP_PIXEL_SIZE_M

Molecules = NDArray[np.int32]

EXCITATION_NM, STED_NM, EMISSION_NM = 640, 775, 670
STED_PULSE_S, PULSE_RATE_HZ = 400e-12, 40e6
GATE_DELAY_S, GATE_WIDTH_S = 750e-12, 8e-9
COLLECTED, DETECTED = 0.05, 0.5  # of the photons that pass the pinhole

# pySTED clears a buffer as large as its map at each pixel, and holds the interpreter for a whole
# call: a band of a few lines keeps both short, and is where a scan can be stopped.
_BAND_ROWS = 16

# numpy's global generator and the C library's are one each for the process.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True)
class Exposure:
    """How each pixel is lit.

    ``stride_px`` is the pixel size in map pixels, ``dwell_s`` the time on a pixel, all passes
    together; powers are mean powers at the sample in watts.
    """

    stride_px: int
    dwell_s: float
    excitation_w: float
    sted_w: float = 0.0


@dataclass(frozen=True, slots=True)
class Seeds:
    """Hashed seeds of one scan, one stream for each kind of chance."""

    bleaching: np.random.SeedSequence
    photons: np.random.SeedSequence


@dataclass(frozen=True, slots=True, eq=False)
class Scanned:
    """What a scan left.

    Attributes
    ----------
    photons
        Detected counts, shape ``(lines, x)``, uint32. Fewer lines than asked if it was stopped.
    survivors
        Molecules that still fluoresce, same shape and grid as the map that went in, int32.
    """

    photons: NDArray[np.uint32]
    survivors: Molecules


class ScanningEngine(Protocol):
    """What turns a map of molecules into an image. Pure: the map that goes in stays as it is."""

    @property
    def map_pixel_size_m(self) -> float:
        """Pixel size of the maps it takes, in metres."""

    @property
    def margin_px(self) -> int:
        """Map pixels beyond each edge of the scanned region that the light still reaches."""

    def scan(
        self,
        molecules: Molecules,
        exposure: Exposure,
        seeds: Seeds,
        go_on: Callable[[int], bool] = ...,
    ) -> Scanned:
        """Scan the inside of ``molecules`` in raster order; see :meth:`PystedEngine.scan`."""


def _always(lines: int) -> bool:  # noqa: ARG001
    return True


class PystedEngine:
    """The reference engine: pySTED's physics, at pySTED's speed (25 to 60 µs of CPU a pixel).

    Parameters
    ----------
    background_hz
        Counts per second that the gated detector reports without any sample.
    bleaching
        Bleaching rate of the dye relative to the default dye, which loses about a fifth of its
        molecules to one scan of 10 µs, 10 µW and 150 mW at 20 nm. 0 is a dye that never bleaches.

    The optics are a usual set-up for red dyes: excitation at 640 nm, STED at 775 nm in pulses of
    400 ps at 40 MHz, NA 1.4 oil, detection from 0.75 ns on, pinhole of 0.7 Airy units. The dye
    resembles ATTO 647N.
    """

    map_pixel_size_m = MAP_PIXEL_SIZE_M

    def __init__(self, background_hz: float = 0.0, bleaching: float = 1.0) -> None:
        self._background_hz = background_hz
        self._bleaching = bleaching

    @property
    def margin_px(self) -> int:
        """Half width of the light's kernels in map pixels. The first call computes the kernels."""
        return int(self.effective_psf(1e-6, 0.0).shape[0] // 2)

    def effective_psf(self, excitation_w: float, sted_w: float) -> NDArray[np.float64]:
        """Return pySTED's mean power of fluorescence per molecule and position, before detection.

        Returns
        -------
        W per molecule on the map's grid, odd square shape ``(y, x)``, ≥ 0.
        """
        with _pysted_alone():
            scope = _pysted_microscope(self._bleaching)
            psf = scope.get_effective(self.map_pixel_size_m, float(excitation_w), float(sted_w))
            return np.asarray(psf, dtype=np.float64)

    def scan(
        self,
        molecules: Molecules,
        exposure: Exposure,
        seeds: Seeds,
        go_on: Callable[[int], bool] = _always,
    ) -> Scanned:
        """Scan the inside of a map, line by line.

        Parameters
        ----------
        molecules
            Molecules per map pixel, int32, shape ``(y, x)``: the scanned region and ``margin_px``
            beyond each of its edges. The beam rests on the map pixel in the middle of each image
            pixel (just below and right of the middle if the stride is even).
        exposure, seeds
            How each pixel is lit, and the chance of this scan.
        go_on
            Called after a few lines with the number of lines done; ``False`` ends the scan there.

        Raises
        ------
        ValueError
            If the map without its margin is not a whole number of image pixels, at least one.
        """
        lines, columns = self._image_shape(molecules, exposure.stride_px)
        if exposure.sted_w > 0:
            power_w, survivors = self._deplete(molecules, exposure, seeds.bleaching, go_on)
        else:
            power_w, survivors = self._illuminate(molecules, exposure)[:lines, :columns], molecules.copy()
            go_on(lines)
        return Scanned(self._detect(power_w, exposure.dwell_s, seeds.photons), survivors)

    def _image_shape(self, molecules: Molecules, stride_px: int) -> tuple[int, int]:
        margin = self.margin_px
        lines, columns = ((size - 2 * margin) // stride_px for size in molecules.shape)
        inside = (lines * stride_px + 2 * margin, columns * stride_px + 2 * margin)
        if not (lines >= 1 and columns >= 1 and molecules.shape == inside):
            raise ValueError(
                f"a map of {molecules.shape} is not a margin of {margin} around whole pixels of {stride_px}"
            )
        return lines, columns

    def _illuminate(self, molecules: Molecules, exposure: Exposure) -> NDArray[np.float64]:
        """Return the fluorescence in W at each image pixel, shape ``(y, x)``, without depletion."""
        from scipy.signal import oaconvolve

        psf = self.effective_psf(exposure.excitation_w, 0.0)
        power_w = oaconvolve(molecules.astype(np.float64), psf[::-1, ::-1], mode="valid")
        start, step = exposure.stride_px // 2, exposure.stride_px
        # The Fourier transform leaves rounding noise of either sign where nothing shines.
        return np.maximum(power_w[start::step, start::step], 0.0)

    def _deplete(
        self,
        molecules: Molecules,
        exposure: Exposure,
        seeds: np.random.SeedSequence,
        go_on: Callable[[int], bool],
    ) -> tuple[NDArray[np.float64], Molecules]:
        """Return the fluorescence in W of the lines that were scanned, and the survivors."""
        lines, columns = self._image_shape(molecules, exposure.stride_px)
        stride = exposure.stride_px
        band = max(1, _BAND_ROWS // stride)
        band_seeds = _pysted_seeds(seeds, -(-lines // band))
        survivors = molecules.copy()
        power_w = np.zeros((lines, columns))
        for number, first in enumerate(range(0, lines, band)):
            last = min(first + band, lines)
            rows = slice(first * stride, last * stride + 2 * self.margin_px)
            power_w[first:last], survivors[rows] = self._raster(survivors[rows], exposure, band_seeds[number])
            if not go_on(last) and last < lines:
                return power_w[:last], survivors
        return power_w, survivors

    def _raster(
        self, molecules: Molecules, exposure: Exposure, seed: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Let pySTED scan one map; return the fluorescence in W at each image pixel, and the survivors."""
        margin, stride = self.margin_px, exposure.stride_px
        height, width = (size - 2 * margin for size in molecules.shape)
        with _pysted_alone():
            from pysted import base

            scope = _pysted_microscope(self._bleaching)
            datamap = base.Datamap(molecules, self.map_pixel_size_m)
            # This region of interest only: pySTED's raster starts at the map's corner wherever it lies.
            datamap.set_roi(
                np.empty((2 * margin + 1, 2 * margin + 1)),
                {"rows": [margin, margin + height - 1], "cols": [margin, margin + width - 1]},
            )
            # A strided list at the map's own pixel size: pySTED reads larger ones out of the decimal
            # digits of the float and gets many of them wrong.
            pixels = [
                (row, column)
                for row in range(stride // 2, height, stride)
                for column in range(stride // 2, width, stride)
            ]
            _, survivors, scanned = scope.get_signal_and_bleach(
                datamap,
                self.map_pixel_size_m,
                float(exposure.dwell_s),
                float(exposure.excitation_w),
                float(exposure.sted_w),
                pixel_list=pixels,
                bleach=True,
                update=False,
                seed=seed,
                filter_bypass=True,
            )
        intensity = np.asarray(scanned["intensity"], dtype=np.float64)
        return intensity[stride // 2 :: stride, stride // 2 :: stride], survivors["base"]

    def _detect(
        self, power_w: NDArray[np.float64], dwell_s: float, seeds: np.random.SeedSequence
    ) -> NDArray[np.uint32]:
        """Return pySTED's counts for a fluorescence in W, same shape."""
        with _pysted_alone():
            from pysted import base

            # pySTED's background is that of an ungated detector.
            ungated_hz = self._background_hz / (GATE_WIDTH_S * PULSE_RATE_HZ)
            detector = base.Detector(
                det_delay=GATE_DELAY_S,
                det_width=GATE_WIDTH_S,
                background=ungated_hz,
                pcef=COLLECTED,
                pdef=DETECTED,
            )
            photons_hz = _pysted_microscope(self._bleaching).fluo.get_photons(power_w)
            counts = detector.get_signal(
                photons_hz, float(dwell_s), PULSE_RATE_HZ, seed=_pysted_seeds(seeds, 1)[0]
            )
        return np.asarray(counts).astype(np.uint32)


@contextmanager
def _pysted_alone() -> Iterator[None]:
    """Let nobody else call pySTED, and put numpy's global random state back afterwards."""
    with _one_at_a_time:
        state = np.random.get_state(legacy=False)  # noqa: NPY002  # saved because pySTED rewinds it
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002


def _pysted_seeds(seeds: np.random.SeedSequence, count: int) -> list[int]:
    # Zero means "take the time of day" to pySTED; more than 31 bits do not fit everywhere in it.
    return [int(word) % (2**31 - 1) + 1 for word in seeds.generate_state(count)]


@lru_cache(maxsize=4)
def _pysted_microscope(bleaching: float) -> Any:
    """Return pySTED's microscope with its kernels, which take about 2 s of CPU, computed once."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pysted import base
    except ImportError as error:
        raise ConfigurationError(
            "the simulated STED microscope needs pysted, which has wheels for Python 3.11 and 3.12: "
            "pip install 'stedfast[sim]'"
        ) from error
    # The red dye of pySTED's companion gym-sted, with its STED cross-section at 750 nm taken for 775 nm
    # and its excitation moved from 635 to 640 nm. The rate k1 is lower, set for the bleaching per scan
    # that the docstring of PystedEngine states.
    dye = base.Fluorescence(
        EMISSION_NM * 1e-9,
        qy=0.65,
        sigma_abs={EXCITATION_NM: 2.14e-20, STED_NM: 3.5e-25},
        sigma_ste={STED_NM: 3.0e-22},
        tau=3.5e-9,
        tau_vib=1e-12,
        tau_tri=1.2e-6,
        k0=0.0,
        k1=3.5e-16 * bleaching,
        b=1.6,
    )
    scope = base.Microscope(
        base.GaussianBeam(EXCITATION_NM * 1e-9),
        base.DonutBeam(
            STED_NM * 1e-9, zero_residual=0.005, anti_stoke=False, tau=STED_PULSE_S, rate=PULSE_RATE_HZ
        ),
        base.Detector(det_delay=GATE_DELAY_S, det_width=GATE_WIDTH_S, noise=False),
        base.Objective(
            f=2e-3, n=1.5, na=1.4, transmission={EXCITATION_NM: 0.85, EMISSION_NM: 0.85, STED_NM: 0.85}
        ),
        dye,
        load_cache=False,  # its cache is a pickle in the working directory
    )
    scope.cache(MAP_PIXEL_SIZE_M)
    return scope
