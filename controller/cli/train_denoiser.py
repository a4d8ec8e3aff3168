"""``stedfast train denoiser``: the causal network learns from noisy movies alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli.denoise import check_positive, need_torch, progress_bar
from controller.cli.terminal import JsonOption, errors_told
from controller.cli.train import train_app

if TYPE_CHECKING:
    from controller.training.denoiser_trial import Material, Trial


@train_app.command("denoiser")
def train_denoiser(  # noqa: PLR0913, PLR0917  # one parameter for each option of the command
    movies: Annotated[list[Path], typer.Argument(help="TIFF or OME-Zarr movies, one channel: (t, y, x).")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Weights to write; a card and a picture beside.")
    ] = Path("denoiser.safetensors"),
    parent: Annotated[
        Path | None, typer.Option(help="Weights to go on from.  [default: those of Stedfast]")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of training.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all chance.")] = 0,
    units_per_photon: Annotated[
        float | None,
        typer.Option(help="Detector units that one photon gives.  [default: found in the movies]"),
    ] = None,
    offset: Annotated[
        float, typer.Option(help="Detector units at no light, if --units-per-photon is given.")
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Train the denoiser on noisy movies, and tell whether it is better than what was there.

    No clean images are needed: it learns to predict one part of the photons from the rest. The last quarter
    of the frames is held out. The new weights, those it began with and the adaptive Kalman filter are judged
    by photons of these frames that none of them has seen.
    """
    with errors_told(as_json):
        check_positive({"--units-per-photon": units_per_photon})
        need_torch("training")
        _check_target(output)
        from controller.core.errors import ConfigurationError
        from controller.denoising.adaptation import AdaptationOptions
        from controller.denoising.causal_network import network_of
        from controller.denoising.causal_unet import SHIPPED
        from controller.denoising.training import TrainingOptions
        from controller.networks.weights import WeightsError, read_weights, write_weights
        from controller.training.denoiser_picture import write_side_by_side
        from controller.training.denoiser_trial import Detector, materials_of, try_denoiser
        from controller.training.movie_files import MovieFile

        try:
            weights = read_weights(parent or SHIPPED)
            network_of(weights)
        except WeightsError as error:
            raise ConfigurationError(f"--parent: {error}") from error
        detector = None if units_per_photon is None else Detector(units_per_photon, offset)
        with ExitStack() as opened:
            files = [opened.enter_context(MovieFile(movie)) for movie in movies]
            materials = materials_of(files, seed, detector)
        if not as_json:
            for movie, material in zip(movies, materials, strict=True):
                _tell_material(movie, material)
        options = AdaptationOptions(training=TrainingOptions(steps=steps, learning_rate=1e-3))
        with _one_thread(), progress_bar("steps", steps, quiet=as_json) as done:
            trial = try_denoiser(materials, weights, options, seed=seed, progress=lambda step, _: done(step))
        write_weights(trial.weights, output)
        picture = output.with_suffix(".png")
        write_side_by_side(picture, [trial.frame, trial.before, trial.after])
        _tell(trial, materials, output, picture, as_json=as_json)


def _check_target(output: Path) -> None:
    from controller.core.errors import ConfigurationError

    if output.suffix != ".safetensors":
        raise ConfigurationError(f"--output {output}: weights are a .safetensors file")
    if not output.parent.is_dir():
        raise ConfigurationError(f"--output {output}: there is no folder {output.parent}")
    for target in (output, output.with_suffix(".json"), output.with_suffix(".png")):
        if target.exists():
            raise ConfigurationError(f"{target} exists already; choose another name with --output")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: the same bits each time, and the microscope keeps its processor."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tell_material(movie: Path, material: Material) -> None:
    pieces = material.sample.movies
    frames, rows, columns = pieces[0].shape
    typer.echo(f"{movie}:")
    typer.echo(f"  {material.detector}")
    typer.echo(f"  {material.scheme}")
    typer.echo(f"  learns from {len(pieces)} x {frames} frames of {rows} x {columns} pixels")


def _tell(trial: Trial, materials: list[Material], output: Path, picture: Path, *, as_json: bool) -> None:
    if as_json:
        told = {
            "status": "ok",
            "weights": str(output),
            "picture": str(picture),
            "detectors": [material.detector for material in materials],
            "schemes": [material.scheme for material in materials],
            "held_out_gain_db": trial.gains_db,
            "is_better": trial.is_better,
            "is_better_than_adaptive_kalman": trial.is_better_than_kalman,
        }
        typer.echo(json.dumps(told))
        return
    gains = trial.gains_db
    typer.echo("error on held-out photons, below that of the frames themselves:")
    if not all(material.is_noise_known for material in materials):
        typer.echo(
            "  (where pixels are hidden: below that of their neighbours, and with the pixels' own noise)"
        )
    for name, shown in (
        ("before", "before training"),
        ("after", "after training"),
        ("adaptive_kalman", "adaptive_kalman"),
    ):
        typer.echo(f"  {shown:<16} {gains[name]:5.1f} dB")
    typer.echo(_verdict("the weights it began with", trial.is_better, gains["after"] - gains["before"]))
    difference = gains["after"] - gains["adaptive_kalman"]
    typer.echo(_verdict("adaptive_kalman", trial.is_better_than_kalman, difference))
    typer.echo(f"weights: {output}\npicture: {picture} (frame, before, after)")


def _verdict(rival: str, is_better: bool, difference_db: float) -> str:
    if is_better:
        return f"better than {rival} by {difference_db:.2f} dB"
    return f"not better than {rival} beyond chance ({difference_db:+.2f} dB)"
