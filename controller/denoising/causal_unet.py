"""A small network that denoises a live movie frame by frame, from the past and the present alone.

It sees the newest frame and its moving averages, so its memory is a handful of images and its answer never
waits for a later frame. Weights trained on simulated movies come with Stedfast, so it works from the first
frame; a process beside the session trains them further on the session's own frames.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue

from controller.core.clock import SimulatedClock
from controller.core.continuity import brightness_ratio
from controller.core.errors import ConfigurationError
from controller.core.frame import Denoised, FloatImage, Frame
from controller.core.protocols import Clock, ModelChange, Resources
from controller.core.settings import ScanSettings, Settings
from controller.denoising.averages import MovingAverages
from controller.denoising.causal_network import CausalUNet, conditions_of, network_of
from controller.denoising.clips import level_of
from controller.denoising.held_out import HeldOutError
from controller.denoising.learner import Learner, LearnerOptions
from controller.denoising.noise_model import DetectorOptions, NoiseModel
from controller.denoising.photon_transfer import PhotonTransfer
from controller.denoising.raw import check_photons
from controller.denoising.resolution import doubled, halved
from controller.networks.runtime import Runtime, RuntimeOptions
from controller.networks.weights import Weights, WeightsError, check, read_weights

SHIPPED = Path(__file__).parent / "weights" / "causal_unet.safetensors"

#: More in one pixel is a mistake in a unit, and its square would leave float32.
_LARGEST = 1e12

#: The error is measured on a band of each frame: of the first ones large, later a part of it.
_FIRST_FRAMES, _FIRST_PIXELS, _BAND = 4, 65_536, 1 / 32
#: Rows at the edge of a band whose surroundings the network does not see.
_MARGIN = 8
_ALL = slice(None)

#: Where the noise was known within this factor, the measured error may stay: its own scatter is larger.
_SAME_NOISE = 1.2


@dataclass(slots=True)
class _Scene:
    """What is known of the place that is being imaged."""

    settings: ScanSettings
    averages: MovingAverages


@dataclass(frozen=True, slots=True, eq=False)
class _Input:
    """A frame and its averages as the network takes them; ``level`` photons are 1."""

    images: NDArray[np.float32]
    variances: NDArray[np.float64]
    level: float

    @classmethod
    def of(
        cls, image: FloatImage, noise: float, averages: MovingAverages, level: float, rows: slice = _ALL
    ) -> _Input:
        """Put ``image``, of ``noise`` times a frame's noise variance, before ``rows`` of the averages."""
        images = np.concatenate((image[None], averages.images[:, rows])) * np.float32(1 / level)
        return cls(images, np.concatenate(([noise], averages.variances)), level)


class CausalUNetDenoiser:
    """Denoises with :class:`~controller.denoising.causal_network.CausalUNet`.

    It starts afresh by itself when the region, the sampling, the modality or the STED power change; when
    excitation or dwell time do, its memory is scaled to the new light. ``std`` is measured all the time on
    photons that the network was not shown (:mod:`controller.denoising.held_out`). Where the noise cannot be
    split, single pixels are hidden instead, and ``std`` then holds their noise, too: an upper bound.
    """

    class Options(Settings):
        """Which weights, what detector, what to run on, and whether to learn."""

        weights: Annotated[str, Field(min_length=1)] | None = None
        """A ``.safetensors`` file with its card beside it; none: those that come with Stedfast."""
        detector: DetectorOptions = DetectorOptions()
        """What a photon is in the detector's units; found in the first frames if it is not given."""
        runtime: RuntimeOptions = RuntimeOptions()
        """What the network runs on."""
        learn: bool = True
        """Whether a process beside the session learns from its frames."""
        learner: LearnerOptions = LearnerOptions()
        """When, and from how much."""

    def __init__(
        self,
        options: Options | None = None,
        weights: Weights | None = None,
        *,
        rng: np.random.Generator | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.options = options or self.Options()
        self.weights = weights or read_weights(SHIPPED)
        network = network_of(self.weights)
        self._taus = network.options.taus_frames
        self._runtime = Runtime(network, self.options.runtime)
        self._clock = clock
        self._noise = NoiseModel(self.options.detector)
        self._errors = _errors(network)
        self._scene: _Scene | None = None
        rng = rng or np.random.default_rng(0)
        # One seed for each frame, so that what comes of a frame does not depend on how many there were.
        self._seed, learner_seed = (int(seed) for seed in rng.integers(2**62, size=2))
        self._learner: Learner | None = None
        if self.options.learn:
            waits = isinstance(clock, SimulatedClock)
            self._learner = Learner(self.options.learner, learner_seed, waits=waits)

    @classmethod
    def from_options(cls, options: Any, resources: Resources) -> Self:
        """Make the denoiser; ``options`` is a :class:`CausalUNetDenoiser.Options`."""
        options = cls.Options.model_validate(options)
        try:
            weights = read_weights(SHIPPED if options.weights is None else resources.folder / options.weights)
            return cls(options, weights, rng=resources.rng, clock=resources.clock)
        except WeightsError as error:
            raise ConfigurationError(f"denoiser.options.weights: {error}") from error

    @property
    def transfer(self) -> PhotonTransfer:
        """What is known of the detector by now."""
        return self._noise.transfer

    def reset(self, reason: str) -> None:  # noqa: ARG002 - the role's signature
        """Forget the past: the next frame is the first of its region."""
        self._scene = None
        self._forget_error()
        self._noise.forget()

    def _forget_error(self) -> None:
        for error in self._errors:
            error.forget()

    def observe(self, frame: Frame) -> None:
        """Take a frame into the averages, and into what is known of the error, without an answer.

        Raises
        ------
        DeviceError
            If the frame holds something that cannot be a photon count; the state stays as it was.
        """
        photons, scene = self._enter(frame)
        self._measure_error(photons, scene.averages, frame.index, is_coarse=False)
        scene.averages.add(photons)

    def step(self, frame: Frame) -> Denoised:
        """Take a frame into the averages and return the estimate of its noise-free image.

        Returns
        -------
        ``mean`` and ``std`` in the unit of ``frame.photons``, shape ``(y, x)``, finite; ``mean`` never
        below the detector's value at no light.

        Raises
        ------
        DeviceError
            If the frame holds something that cannot be a photon count; the state stays as it was.
        """
        return self._step(frame, is_coarse=False)

    def step_coarse(self, frame: Frame) -> Denoised:
        """Do as :meth:`step` does at half the resolution, in about a quarter of the time."""
        return self._step(frame, is_coarse=True)

    def improve(self) -> ModelChange | None:
        """Take better weights into use, if the learning process has found any by now.

        Raises
        ------
        LearningFailedError
            If that process failed. A session does not ask again then.
        """
        proposal = self._learner.proposal() if self._learner else None
        if proposal is None:
            return None
        self._take(proposal.weights)
        return ModelChange(
            role="denoiser",
            sha256=proposal.weights.sha256,
            weights=proposal.weights.data,
            card=proposal.weights.card.model_dump(mode="json", by_alias=True),
            score_before=proposal.score_before_db,
            score_after=proposal.score_after_db,
            reason=proposal.reason,
        )

    @property
    def improve_s(self) -> float:
        """Return how long :meth:`improve` may take: with a simulated clock it waits."""
        return self._learner.patience_s if self._learner else 0.0

    def adopt(self, weights: bytes, card: Mapping[str, JsonValue]) -> None:
        """Take recorded weights into use."""
        self._take(check(weights, json.dumps(dict(card)), "recorded weights"))

    def close(self) -> None:
        """End the learning process."""
        if self._learner is not None:
            self._learner.close()

    def _take(self, weights: Weights) -> None:
        network = network_of(weights)
        if network.options.taus_frames != self._taus:
            raise WeightsError(
                f"weights {weights.sha256[:12]} need averages of {network.options.taus_frames} frames; "
                f"here are {self._taus}"
            )
        self._runtime.replace(network)
        if self._learner is not None:
            self._learner.took(self.weights)
        self.weights = weights
        self._errors = _errors(network)

    def _enter(self, frame: Frame) -> tuple[FloatImage, _Scene]:
        """Return a frame in photons and the place it is of: the one so far, in its light, or a new one."""
        check_photons(frame, _LARGEST)
        shape = (frame.photons.shape[0], frame.photons.shape[1])
        scene, ratio = self._scene, None
        if scene is not None and scene.averages.images.shape[1:] == shape:
            ratio = brightness_ratio(scene.settings, frame.settings)
        if scene is None or ratio is None:
            self.reset("another place, or another kind of image")
            scene = _Scene(frame.settings, MovingAverages(self._taus, shape))
        elif ratio != 1:
            scene.averages.scale(ratio)
        scene.settings = frame.settings
        self._scene = scene
        old = self._noise.transfer
        new = self._noise.look(frame.photons)
        if new is not None:
            gain = old.units_per_photon / new.units_per_photon
            shift = (old.offset_units - new.offset_units) / new.units_per_photon
            if scene.averages.frames:
                scene.averages.convert(gain, shift)
            if self._learner is not None:
                self._learner.convert(gain, shift)
            if _is_other_noise(old, new, float(frame.photons.mean())):
                self._forget_error()  # it was measured against noise that was not there
        photons = self._noise.transfer.as_photons(frame.photons)
        if self._learner is not None:
            is_new = scene.averages.frames == 0 or ratio != 1
            self._learner.show(photons, self.weights, self._noise.transfer, is_new_place=is_new)
        return photons, scene

    def _step(self, frame: Frame, *, is_coarse: bool) -> Denoised:
        started_s = self._clock.now_s() if self._clock else 0.0
        photons, scene = self._enter(frame)
        averages = scene.averages
        level = self._level(photons, averages)
        given = _Input.of(photons, 1.0, averages, level)
        mean = self._estimate(given, is_coarse=is_coarse)
        self._measure_error(photons, averages, frame.index, is_coarse=is_coarse)
        averages.add(photons)
        std = self._errors[is_coarse].std(mean, self._conditions(given))
        latency_s = self._clock.now_s() - started_s if self._clock else 0.0
        transfer = self._noise.transfer
        units = np.float32(level * transfer.units_per_photon)
        return Denoised(
            transfer.as_units(mean * np.float32(level)), std * units, frame.index, latency_s=latency_s
        )

    def _level(self, photons: FloatImage, averages: MovingAverages) -> float:
        return level_of(averages.mean_with(photons), self._noise.transfer.read_noise_photons**2)

    def _conditions(self, given: _Input) -> NDArray[np.float32]:
        """Return what the network is told of the noise."""
        return conditions_of(given.variances, given.level, self._noise.transfer.read_noise_photons**2)

    def _estimate(self, given: _Input, *, is_coarse: bool) -> FloatImage:
        """Return the estimate in units of the level, not below 0."""
        conditions = self._conditions(given)
        if not is_coarse:
            return _not_negative(self._runtime.run(given.images[None], conditions[None])[0, 0])
        # Four pixels put together have a quarter of the noise's variance, a half of the noise.
        quieter = conditions - np.float32(np.log(2))
        rows, columns = given.images.shape[1:]
        answer = self._runtime.run(halved(given.images)[None], quieter[None])[0, 0]
        return _not_negative(doubled(answer)[:rows, :columns])

    def _measure_error(
        self, photons: FloatImage, averages: MovingAverages, index: int, *, is_coarse: bool
    ) -> None:
        """Denoise one part of a band's photons, and compare with the other."""
        rows = len(photons)
        rng = np.random.default_rng([self._seed, abs(index)])
        part = _FIRST_PIXELS / photons.size if averages.frames < _FIRST_FRAMES else _BAND
        height = min(rows, max(4 * _MARGIN, int(np.ceil(rows * part))))
        top = int(rng.integers(rows - height + 1))
        band = slice(top, top + height)
        pair = self._noise.pair(photons[band], rng)
        if pair is None:
            return
        level = self._level(photons, averages)
        given = _Input.of(pair.source, pair.source_noise, averages, level, band)
        estimate = self._estimate(given, is_coarse=is_coarse)
        inner = slice(_MARGIN if top else 0, height if top + height == rows else height - _MARGIN)
        noise = np.zeros_like(photons[band]) if pair.target_variance is None else pair.target_variance
        self._errors[is_coarse].add(
            estimate[inner],
            pair.target[inner] / np.float32(level),
            noise[inner] / np.float32(level**2),
            pair.weight[inner],
            self._conditions(given),
        )


def _is_other_noise(old: PhotonTransfer, new: PhotonTransfer, mean_units: float) -> bool:
    """Tell whether a frame of this mean has much more or less noise than was thought before."""
    before, now = (
        one.units_per_photon * max(mean_units - one.offset_units, 0.0) + one.read_noise_units**2
        for one in (old, new)
    )
    return not before / _SAME_NOISE <= now <= before * _SAME_NOISE


def _errors(network: CausalUNet) -> tuple[HeldOutError, HeldOutError]:
    """Return what measures the error of whole and of coarse answers: in a sharp image they differ a lot."""
    usual = network.options.usual_error
    return HeldOutError(usual), HeldOutError(usual)


def _not_negative(image: FloatImage) -> FloatImage:
    positive: FloatImage = np.maximum(image, np.float32(0))
    return positive
