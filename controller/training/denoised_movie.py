"""Denoises a movie in a file, frame by frame, as a session would have seen it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import ConfigurationError, DeviceError
from controller.core.frame import Frame
from controller.core.protocols import Denoiser
from controller.core.settings import MAX_PIXELS, Region, ScanSettings
from controller.denoising.adaptive_kalman import AdaptiveKalmanDenoiser
from controller.denoising.photon_transfer import find_photon_transfer
from controller.training.movie_files import MovieFile

DenoiserName = Literal["causal_unet", "adaptive_kalman"]

#: So many frames, as a square of so many pixels in the middle, tell what a photon is.
_FRAMES_SEEN, _SIDE_SEEN = 32, 256


@dataclass(frozen=True, slots=True)
class Denoising:
    """What to denoise with.

    Attributes
    ----------
    denoiser
        Which one.
    weights
        Of the network; ``None``: those that come with Stedfast.
    units_per_photon, offset_units
        Of the detector; found in the first frames if the former is ``None``.
    pixel_size_m
        For the file that is written; ``None`` if it is not known.
    """

    denoiser: DenoiserName = "causal_unet"
    weights: Path | None = None
    units_per_photon: float | None = None
    offset_units: float = 0.0
    pixel_size_m: float | None = None


def denoise_movie(
    movie: MovieFile,
    output: Path,
    options: Denoising,
    *,
    std: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> str:
    """Write the denoised movie as an OME-TIFF of float32 in the units of the movie.

    Parameters
    ----------
    std
        Where to write the standard deviation of each pixel's error, if anywhere.
    progress
        Told how many frames are done.

    Returns
    -------
    What is known of the detector, in words.

    Raises
    ------
    ConfigurationError
        If a target exists, the weights cannot be used, or a frame cannot be read; nothing is left behind
        then.
    """
    targets = [output, *([] if std is None else [std])]
    _check_targets(targets)
    denoiser, detector = _denoiser(movie, options)
    scan = scan_of(movie.shape[1:], options.pixel_size_m or 1e-6)
    with ExitStack() as undo:
        images = [undo.enter_context(_written(target, movie.shape, options)) for target in targets]
        for number in range(len(movie)):
            try:
                answer = denoiser.step(Frame(movie.frame(number), scan, number, 0.0))
            except DeviceError as error:
                raise ConfigurationError(f"{movie.path}: {error}") from error
            for image, values in zip(images, (answer.mean, answer.std), strict=False):
                image[number] = values
            if progress is not None:
                progress(number + 1)
    return detector()


def scan_of(shape_yx: tuple[int, ...], pixel_size_m: float) -> ScanSettings:
    """Return settings of a frame of which nothing but its size is known."""
    rows, columns = shape_yx
    if rows * columns > MAX_PIXELS:
        raise ConfigurationError(f"frames of {rows} x {columns} pixels; no more than {MAX_PIXELS} are read")
    region = Region(center_yx_m=(0.0, 0.0), size_yx_m=(rows * pixel_size_m, columns * pixel_size_m))
    return ScanSettings(
        modality="overview", region=region, pixel_size_m=pixel_size_m, dwell_s=1e-6, excitation_w=1e-6
    )


def first_frames(movie: MovieFile) -> NDArray[Any]:
    """Return the first frames, the middle of large ones: enough to see what the detector does."""
    middle = []
    for side in movie.shape[1:]:
        start = max(0, (side - _SIDE_SEEN) // 2)
        middle.append(slice(start, start + _SIDE_SEEN))
    return movie.piece(slice(_FRAMES_SEEN), *middle)


def _denoiser(movie: MovieFile, options: Denoising) -> tuple[Denoiser, Callable[[], str]]:
    """Return the denoiser, and what tells afterwards what it knows of the detector."""
    if options.denoiser not in get_args(DenoiserName):
        raise ConfigurationError(
            f"--denoiser {options.denoiser!r} is none of {', '.join(get_args(DenoiserName))}"
        )
    gain, offset = options.units_per_photon, options.offset_units
    if options.denoiser == "causal_unet":
        # Here and not above: it needs torch, which the other does not.
        from controller.denoising.causal_unet import SHIPPED, CausalUNetDenoiser
        from controller.denoising.noise_model import DetectorOptions
        from controller.networks.weights import WeightsError, read_weights

        detector = DetectorOptions(units_per_photon=gain, offset_units=offset)
        unet_options = CausalUNetDenoiser.Options(learn=False, detector=detector)
        try:
            unet = CausalUNetDenoiser(unet_options, read_weights(options.weights or SHIPPED))
        except WeightsError as error:
            raise ConfigurationError(f"--weights: {error}") from error
        return unet, lambda: detector_in_words(unet.transfer.units_per_photon, unet.transfer.reason)
    if options.weights is not None:
        raise ConfigurationError("--weights: adaptive_kalman has none; leave them out")
    reason = "given"
    if gain is None:
        found = find_photon_transfer(first_frames(movie))
        reason = found.reason
        if found.transfer is not None:
            gain, offset = found.transfer.units_per_photon, found.transfer.offset_units
    kalman = AdaptiveKalmanDenoiser.Options(units_per_photon=gain or 1.0, offset_units=offset)
    told = detector_in_words(gain or 1.0, reason)
    return AdaptiveKalmanDenoiser(kalman), lambda: told


def detector_in_words(units_per_photon: float, reason: str) -> str:
    """Return what a photon is taken for, and how that is known."""
    return f"{units_per_photon:.4g} detector units for a photon ({reason})"


def _check_targets(targets: list[Path]) -> None:
    for target in targets:
        if target.suffix.lower() not in {".tif", ".tiff"}:
            raise ConfigurationError(f"{target}: the result is an OME-TIFF; let its name end with .ome.tif")
        if target.exists():
            raise ConfigurationError(f"{target} exists already; choose another name")
        if not target.parent.is_dir():
            raise ConfigurationError(f"{target.parent}: there is no such folder")
    if len(set(targets)) < len(targets):
        raise ConfigurationError(f"{targets[0]} cannot hold both the mean and the standard deviation")


@contextmanager
def _written(target: Path, shape: tuple[int, ...], options: Denoising) -> Iterator[NDArray[np.float32]]:
    """Lend the images of a file that is there at the end, or not at all."""
    import tifffile

    unfinished = target.with_name(f".{target.name}.unfinished")
    metadata: dict[str, Any] = {"axes": "TYX"}
    if options.pixel_size_m is not None:
        for axis in "XY":
            metadata[f"PhysicalSize{axis}"] = float(f"{options.pixel_size_m * 1e6:.9g}")
            metadata[f"PhysicalSize{axis}Unit"] = "µm"
    try:
        images = tifffile.memmap(unfinished, shape=shape, dtype=np.float32, ome=True, metadata=metadata)
        yield images.reshape(shape)
        images.flush()
        del images
        unfinished.rename(target)
    finally:
        unfinished.unlink(missing_ok=True)
