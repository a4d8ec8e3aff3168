"""``stedfast denoise``: a movie in a file, denoised as a session would have seen it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from controller.cli.terminal import JsonOption, app, errors_told


@app.command()
def denoise(  # noqa: PLR0913, PLR0917  # one parameter for each option of the command
    movie: Annotated[Path, typer.Argument(help="TIFF or OME-Zarr, one channel: (t, y, x) or one picture.")],
    output: Annotated[Path, typer.Argument(help="OME-TIFF to write, float32, in the units of the movie.")],
    std: Annotated[
        Path | None, typer.Option(help="OME-TIFF to write with the standard deviation of each pixel.")
    ] = None,
    denoiser: Annotated[str, typer.Option(help="'causal_unet' or 'adaptive_kalman'.")] = "causal_unet",
    weights: Annotated[
        Path | None, typer.Option(help="Weights of the network.  [default: those of Stedfast]")
    ] = None,
    pixel_size: Annotated[float | None, typer.Option(help="Pixel size in metres, for the result.")] = None,
    units_per_photon: Annotated[
        float | None,
        typer.Option(help="Detector units that one photon gives.  [default: found in the movie]"),
    ] = None,
    offset: Annotated[
        float, typer.Option(help="Detector units at no light, if --units-per-photon is given.")
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Denoise a movie. Each frame is made from itself and those before it, never from a later one."""
    with errors_told(as_json):
        check_positive({"--pixel-size": pixel_size, "--units-per-photon": units_per_photon})
        if denoiser == "causal_unet":
            need_torch("the denoiser 'causal_unet'", otherwise="; --denoiser adaptive_kalman needs nothing")
        from controller.training.denoised_movie import Denoising, denoise_movie
        from controller.training.movie_files import MovieFile

        options = Denoising(denoiser, weights, units_per_photon, offset, pixel_size)  # type: ignore[arg-type]  # checked there
        with MovieFile(movie) as opened, progress_bar("frames", len(opened), quiet=as_json) as done:
            detector = denoise_movie(opened, output, options, std=std, progress=done)
        if as_json:
            told = {"status": "ok", "frames": len(opened), "output": str(output), "detector": detector}
            typer.echo(json.dumps(told | ({"std": str(std)} if std else {})))
            return
        typer.echo(f"detector: {detector}")
        typer.echo(f"denoised: {output}" + (f"\nstandard deviation: {std}" if std else ""))


def check_positive(given: dict[str, float | None]) -> None:
    """Refuse numbers that must be positive and are not."""
    from controller.core.errors import ConfigurationError

    for name, value in given.items():
        if value is not None and not 0 < value < float("inf"):
            raise ConfigurationError(f"{name} {value:g} must be more than 0")


def need_torch(what: str, otherwise: str = "") -> None:
    """Refuse what needs PyTorch where it is not installed, and say how to get it."""
    from importlib.util import find_spec

    from controller.core.errors import ConfigurationError

    if find_spec("torch") is None or find_spec("safetensors") is None:
        raise ConfigurationError(f"{what} needs PyTorch: pip install 'stedfast[learn]'{otherwise}")


@contextmanager
def progress_bar(unit: str, total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show how much is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(unit), BarColumn(bar_width=32), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, quiet=quiet)) as bar:
        shown = bar.add_task(unit, total=total)
        yield lambda done: bar.update(shown, completed=done)
