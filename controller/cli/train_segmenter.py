"""``stedfast train segmenter``: a small network learns from labelled images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli.terminal import JsonOption, errors_told
from controller.cli.train import train_app

if TYPE_CHECKING:
    from controller.networks.weights import Weights
    from controller.segmentation.training import Checkpoint
    from controller.training.segmenter_trial import Trial


@train_app.command("segmenter")
def train_segmenter(  # noqa: PLR0913, PLR0917  # one parameter for each option of the command
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Data sets of `stedfast simulate`, NAME.tif with NAME.labels.tif, folders, sessions."
        ),
    ],
    object_size: Annotated[float, typer.Option(help="Width of a spot, or diameter of an object, in metres.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Weights to write; a card and a picture beside.")
    ] = Path("segmenter.safetensors"),
    start: Annotated[str, typer.Option(help="'spots', 'cells', or weights to go on from.")] = "cells",
    pixel_size: Annotated[float | None, typer.Option(help="Pixel size of TIFF files in metres.")] = None,
    units_per_photon: Annotated[float, typer.Option(help="Detector units that one photon gives.")] = 1.0,
    offset: Annotated[float, typer.Option(help="Detector units at no light.")] = 0.0,
    object_answer: Annotated[
        list[str] | None, typer.Option(help="Answer in a session that says that an object is there.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of training.")] = 400,
    oversample_rare: Annotated[
        float, typer.Option(min=0, max=1, help="How much more often what is rare is shown; 0 is not at all.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all chance.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train a segmenter, and tell whether it is better than what was there.

    A fifth of the labelled images is held out. The new weights, those it began with and the classical methods
    are judged by them.
    """
    with errors_told(as_json):
        _check_numbers(object_size, pixel_size, units_per_photon)
        _need_torch()
        from controller.networks.weights import write_weights
        from controller.segmentation.imbalance import Imbalance
        from controller.segmentation.network_options import options_of
        from controller.segmentation.small_unet import SmallUNetSegmenter
        from controller.segmentation.training import TrainingOptions
        from controller.training.image_files import Reading, read_pictures
        from controller.training.segmenter_picture import write_before_after
        from controller.training.segmenter_trial import TrialOptions, try_segmenter

        weights = _start_weights(start)
        network = options_of(weights.card)
        reading = Reading(
            network.kind, object_size, pixel_size, network.classes[1], tuple(object_answer or ())
        )
        pictures = [picture for source in sources for picture in read_pictures(source, reading)]
        options = TrialOptions(object_size, units_per_photon, offset)
        training = TrainingOptions(steps=steps, imbalance=Imbalance(oversampling=oversample_rare))
        with _one_thread(), _progress(steps, quiet=as_json) as report:
            trial = try_segmenter(pictures, weights, options, training, seed=seed, report=report)
        write_weights(trial.weights, output)
        segmenters = [
            SmallUNetSegmenter(SmallUNetSegmenter.Options(object_size_m=object_size), one)
            for one in (weights, trial.weights)
        ]
        tile = trial.example
        found = [one.step(tile.frame, tile.denoised).labels for one in segmenters]
        picture = output.with_suffix(".png")
        write_before_after(picture, tile.frame.photons, [tile.labels, *found])  # type: ignore[list-item]
        _tell(trial, output, picture, start, as_json=as_json)


def _check_numbers(object_size: float, pixel_size: float | None, units_per_photon: float) -> None:
    from controller.core.errors import ConfigurationError

    given = {"--object-size": object_size, "--pixel-size": pixel_size, "--units-per-photon": units_per_photon}
    for name, value in given.items():
        if value is not None and not 0 < value < float("inf"):
            raise ConfigurationError(f"{name} {value:g} must be more than 0")


def _need_torch() -> None:
    from importlib.util import find_spec

    from controller.core.errors import ConfigurationError

    if find_spec("torch") is None or find_spec("safetensors") is None:
        raise ConfigurationError("training needs PyTorch: pip install 'stedfast[learn]'")


def _start_weights(name: str) -> Weights:
    from controller.core.errors import ConfigurationError
    from controller.networks.weights import WeightsError
    from controller.segmentation.small_unet import find_weights

    try:
        return find_weights(name, Path())
    except WeightsError as error:
        raise ConfigurationError(f"--start {name}: {error}") from error


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


@contextmanager
def _progress(steps: int, *, quiet: bool) -> Iterator[Callable[[Checkpoint], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("steps"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("held-out loss {task.fields[loss]}"),
        console=Console(stderr=True, quiet=quiet),
    )
    with bar:
        shown = bar.add_task("steps", total=steps, loss="-")
        yield lambda checkpoint: bar.update(
            shown, completed=checkpoint.step, loss=f"{checkpoint.held_out_loss:.3f}"
        )


def _tell(trial: Trial, output: Path, picture: Path, start: str, *, as_json: bool) -> None:
    scores = {name: {"f1": s.f1, "dice": s.dice} for name, s in trial.scores.items()}
    if as_json:
        told = {
            "status": "ok",
            "weights": str(output),
            "picture": str(picture),
            "scores": scores,
            "is_better": trial.is_better,
        }
        typer.echo(json.dumps(told))
        return
    for name, score in trial.scores.items():
        shown = {"before": f"before ({start})", "after": "after training"}.get(name, name)
        typer.echo(f"{shown:<24} objects F1 {score.f1:.3f}, pixels Dice {score.dice:.3f}")
    rival, after = trial.scores[trial.rival].f1, trial.scores["after"].f1
    if trial.is_better:
        typer.echo(f"better: F1 {after - rival:+.3f} against the best of what was there ({trial.rival})")
    else:
        typer.echo(f"not better than {trial.rival} (F1 {after - rival:+.3f}); go on with that")
    typer.echo(f"weights: {output}\npicture: {picture} (image, truth, before, after)")
