"""pySTED, the reference that :mod:`simulator.sted.engine` is tested against, behind the same interface.

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
- Light of its own on each pixel, and adaptive scans (:class:`AdaptiveExposure`) of the two kinds that
  pySTED knows, are pySTED's own in one call. They cannot be stopped.

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
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import ConfigurationError
from simulator.specimens import MAP_PIXEL_SIZE_M
from simulator.sted.detector import Detector
from simulator.sted.optics import Optics
from simulator.sted.photophysics import RED, Dye, Gate
from simulator.sted.scanning import (
    AdaptiveExposure,
    Exposure,
    FloatImage,
    Molecules,
    PixelExposure,
    Scanned,
    Seeds,
    always,
    image_shape,
)

# pySTED clears a buffer as large as its map at each pixel, and holds the interpreter for a whole
# call: a band of a few lines keeps both short, and is where a scan can be stopped.
_BAND_ROWS = 16

# numpy's global generator and the C library's are one each for the process.
_one_at_a_time = threading.Lock()


class PystedEngine:
    """The reference engine: pySTED's physics, at pySTED's speed (25 to 60 µs of CPU a pixel).

    Parameters
    ----------
    optics, dye, detector, gate
        As of :class:`simulator.sted.STEDEngine`. Wavelengths are whole nanometres to pySTED, the dye's
        ``excitation_bleaching`` and the detector's dead time do not exist in it.
    """

    map_pixel_size_m = MAP_PIXEL_SIZE_M

    def __init__(
        self,
        optics: Optics | None = None,
        dye: Dye = RED,
        detector: Detector | None = None,
        *,
        gate: Gate | None = None,
    ) -> None:
        self._optics = optics or Optics(excitation_m=dye.excitation_m, sted_m=dye.sted_m)
        self._dye = dye
        self._detector = detector or Detector()
        self._gate = gate or Gate()

    @property
    def margin_px(self) -> int:
        """Half width of the light's kernels in map pixels. The first call computes the kernels."""
        with _pysted_alone():
            return _half_width(self._pysted_microscope())

    def effective_psf(self, excitation_w: float, sted_w: float) -> NDArray[np.float64]:
        """Return pySTED's mean power of fluorescence per molecule and position, before detection.

        Returns
        -------
        W per molecule on the map's grid, odd square shape ``(y, x)``, ≥ 0.
        """
        with _pysted_alone():
            scope = self._pysted_microscope()
            psf = scope.get_effective(self.map_pixel_size_m, float(excitation_w), float(sted_w))
            return np.asarray(psf, dtype=np.float64)

    def scan(
        self,
        molecules: Molecules,
        exposure: Exposure | PixelExposure | AdaptiveExposure,
        seeds: Seeds,
        go_on: Callable[[int], bool] = always,
    ) -> Scanned:
        """Scan the inside of a map, line by line; see :class:`simulator.sted.scanning.ScanningEngine`."""
        lines, columns = image_shape(molecules, exposure.stride_px, self.margin_px)
        if isinstance(exposure, AdaptiveExposure):
            return self._adapt(molecules, exposure, seeds)
        if isinstance(exposure, PixelExposure):
            power_w, left = self._raster(molecules, exposure, _pysted_seeds(seeds.bleaching, 1)[0])
            survivors = left.astype(np.int32)
        elif exposure.sted_w > 0:
            power_w, survivors = self._deplete(molecules, exposure, seeds.bleaching, go_on)
        else:
            power_w, survivors = self._illuminate(molecules, exposure)[:lines, :columns], molecules.copy()
            go_on(lines)
        return Scanned(self._detect(power_w, exposure.dwell_s, seeds.photons), survivors)

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
        lines, columns = image_shape(molecules, exposure.stride_px, self.margin_px)
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
        self, molecules: Molecules, exposure: Exposure | PixelExposure, seed: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Let pySTED scan one map; return the fluorescence in W at each image pixel, and the survivors."""
        stride = exposure.stride_px
        height, width = (size - 2 * self.margin_px for size in molecules.shape)
        light = [
            np.repeat(np.repeat(np.asarray(values, np.float64), stride, 0), stride, 1)
            if np.ndim(values)
            else float(values)
            for values in (exposure.dwell_s, exposure.excitation_w, exposure.sted_w)
        ]
        with _pysted_alone():
            # A strided list at the map's own pixel size: pySTED reads larger ones out of the decimal
            # digits of the float and gets many of them wrong.
            pixels = [
                (row, column)
                for row in range(stride // 2, height, stride)
                for column in range(stride // 2, width, stride)
            ]
            _, survivors, scanned = self._pysted_microscope().get_signal_and_bleach(
                self._datamap(molecules),
                self.map_pixel_size_m,
                *light,
                pixel_list=pixels,
                bleach=True,
                update=False,
                seed=seed,
                filter_bypass=True,
            )
        intensity = np.asarray(scanned["intensity"], dtype=np.float64)
        return intensity[stride // 2 :: stride, stride // 2 :: stride], survivors["base"]

    def _datamap(self, molecules: Molecules) -> Any:
        """Return pySTED's map of molecules, whose inside is scanned."""
        from pysted import base

        datamap = base.Datamap(molecules, self.map_pixel_size_m)
        margin = _half_width(self._pysted_microscope())
        last = [size - margin - 1 for size in molecules.shape]
        # This region of interest only: pySTED's raster starts at the map's corner wherever it lies.
        datamap.set_roi(
            np.empty((2 * margin + 1, 2 * margin + 1)),
            {"rows": [margin, last[0]], "cols": [margin, last[1]]},
        )
        return datamap

    def _adapt(self, molecules: Molecules, exposure: AdaptiveExposure, seeds: Seeds) -> Scanned:
        """Let pySTED make an adaptive scan."""
        if exposure.stride_px != 1:
            raise ValueError(f"stride_px={exposure.stride_px}: pySTED's adaptive scans are made with 1")
        last = exposure.steps[-1]
        with _pysted_alone():
            adaptive = _pysted_adaptive((self._optics, self._dye, self._gate, self._detector), exposure)
            # Its detector draws from numpy's global generator and takes no seed.
            np.random.seed(_pysted_seeds(seeds.photons, 1)[0])  # noqa: NPY002
            photons, survivors, last_steps = adaptive.get_signal_and_bleach(
                self._datamap(molecules),
                self.map_pixel_size_m,
                float(last.dwell_s),
                float(last.excitation_w),
                float(last.sted_w),
                bleach=True,
                update=False,
                seed=_pysted_seeds(seeds.bleaching, 1)[0],
            )
        return Scanned(
            np.rint(photons).astype(np.uint32),
            survivors["base"].astype(np.int32),
            _steps_made(last_steps, adaptive.opts),
        )

    def _detect(
        self, power_w: NDArray[np.float64], dwell_s: FloatImage | float, seeds: np.random.SeedSequence
    ) -> NDArray[np.uint32]:
        """Return pySTED's counts for a fluorescence in W, same shape."""
        with _pysted_alone():
            photons_hz = self._pysted_microscope().fluo.get_photons(power_w)
            counts = _pysted_detector(self._optics, self._gate, self._detector).get_signal(
                photons_hz, dwell_s, self._optics.pulse_rate_hz, seed=_pysted_seeds(seeds, 1)[0]
            )
        return np.asarray(counts).astype(np.uint32)

    def _pysted_microscope(self) -> Any:
        return _pysted_microscope(self._optics, self._dye, self._gate)


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
def _pysted_adaptive(instrument: tuple[Optics, Dye, Gate, Detector], exposure: AdaptiveExposure) -> Any:
    """Return pySTED's microscope for an adaptive scan, which computes its kernels again."""
    from pysted import microscopes

    optics, dye, gate, detector = instrument
    scope = _pysted_microscope(optics, dye, gate)
    name, options = _pysted_options(exposure)
    return getattr(microscopes, name)(
        scope.excitation,
        scope.sted,
        _pysted_detector(optics, gate, detector),
        scope.objective,
        scope.fluo,
        load_cache=False,
        opts=options,
    )


def _pysted_detector(optics: Optics, gate: Gate, detector: Detector) -> Any:
    from pysted import base

    return base.Detector(
        n_airy=optics.pinhole_airy,
        det_delay=gate.delay_s,
        det_width=gate.width_s,
        # pySTED's background is that of an ungated detector.
        background=detector.background_hz / (gate.width_s * optics.pulse_rate_hz),
        pcef=detector.collected,
        pdef=detector.detected,
    )


def _steps_made(told: NDArray[np.float64], options: dict[str, list[float]]) -> NDArray[np.uint8]:
    """Return how many steps pixels made; pySTED tells a DyMIN pixel's last power.

    Of a RESCue pixel it tells 0 for dark, 1 for both steps and 2 for bright.
    """
    if "scale_power" in options:
        made = np.abs(told[..., None] - np.array(options["scale_power"])).argmin(axis=-1) + 1
        return np.asarray(made, dtype=np.uint8)
    return np.asarray(np.where(told == 1, 2, 1), dtype=np.uint8)


def _half_width(scope: Any) -> int:
    return int(scope.cache(MAP_PIXEL_SIZE_M)[0].shape[0] // 2)


def _pysted_options(exposure: AdaptiveExposure) -> tuple[str, dict[str, list[float]]]:
    """Return the kind of pySTED's microscope that makes an adaptive scan, and its options.

    Raises
    ------
    ValueError
        If pySTED has none that does it.
    """
    steps, last = exposure.steps, exposure.steps[-1]
    # pySTED writes -1 for the last step's time and takes the time of the pixel for it.
    times_s = [*(step.dwell_s for step in steps[:-1]), -1.0]
    same_excitation = len({step.excitation_w for step in steps}) == 1
    ends_dark = exposure.dark_is_zero and last.fewest_photons == 0 and last.enough_photons is None
    enough = [step.enough_photons for step in steps[:-1]]
    if exposure.sums:
        same_light = same_excitation and len({step.sted_w for step in steps}) == 1
        if (
            len(steps) == 2
            and ends_dark
            and same_light
            and None not in enough
            and exposure.scaled_to_s == last.dwell_s
        ):
            lower = [*(float(step.fewest_photons) for step in steps[:-1]), -1.0]
            upper = [*(float(photons) for photons in enough if photons is not None), -1.0]
            return "RESCueMicroscope", {
                "lower_threshold": lower,
                "upper_threshold": upper,
                "decision_time": times_s,
            }
    elif ends_dark and same_excitation and not any(enough) and last.sted_w > 0:
        return "DyMINMicroscope", {
            "scale_power": [step.sted_w / last.sted_w for step in steps],
            "decision_time": times_s,
            "threshold_count": [float(step.fewest_photons) for step in steps],
        }
    raise ValueError(f"pySTED has no microscope that does {exposure}")


@lru_cache(maxsize=4)
def _pysted_microscope(optics: Optics, dye: Dye, gate: Gate) -> Any:
    """Return pySTED's microscope with its kernels, which take about 2 s of CPU, computed once."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pysted import base
    except ImportError as error:
        raise ConfigurationError(
            "the engine 'pysted' needs pysted, which has wheels for Python 3.11 and 3.12: "
            "pip install 'stedfast[sim]', or choose the engine 'exact'"
        ) from error
    excitation_nm, sted_nm, emission_nm = (
        round(wavelength_m * 1e9) for wavelength_m in (optics.excitation_m, optics.sted_m, dye.emission_m)
    )
    fluorophore = base.Fluorescence(
        emission_nm * 1e-9,
        qy=dye.quantum_yield,
        sigma_abs={excitation_nm: dye.absorption_m2, sted_nm: 0.0},
        sigma_ste={sted_nm: dye.stimulated_emission_m2},
        tau=dye.lifetime_s,
        tau_vib=dye.vibration_s,
        tau_tri=1.2e-6,
        k0=0.0,
        k1=dye.sted_bleaching,
        b=dye.sted_bleaching_order,
    )
    transmission = {
        excitation_nm: optics.excitation_transmission,
        sted_nm: optics.sted_transmission,
        emission_nm: optics.emission_transmission,
    }
    scope = base.Microscope(
        base.GaussianBeam(excitation_nm * 1e-9),
        base.DonutBeam(
            sted_nm * 1e-9,
            zero_residual=optics.zero_residual,
            anti_stoke=False,
            tau=optics.pulse_s,
            rate=optics.pulse_rate_hz,
        ),
        base.Detector(
            n_airy=optics.pinhole_airy, det_delay=gate.delay_s, det_width=gate.width_s, noise=False
        ),
        base.Objective(
            f=2e-3, n=optics.refractive_index, na=optics.numerical_aperture, transmission=transmission
        ),
        fluorophore,
        load_cache=False,  # its cache is a pickle in the working directory
    )
    scope.cache(MAP_PIXEL_SIZE_M)
    return scope
