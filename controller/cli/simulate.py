"""``stedfast simulate``: labelled data sets for training and for comparing methods."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli.terminal import EXIT_FAILURE, EXIT_INTERRUPTED, JsonOption, app, errors_told

if TYPE_CHECKING:
    from controller.core.executor import Executor
    from controller.recording.dataset import DatasetFolder, DatasetPlan, MakeItem, Manifest

# As many problems are told one by one; all of one kind fail alike.
_PROBLEMS_TOLD = 10


@app.command()
def simulate(  # noqa: PLR0913, PLR0917  # one parameter for each option of the command
    output: Annotated[Path, typer.Argument(help="Folder of the data set; one that is there is continued.")],
    config: Annotated[Path | None, typer.Option(help="TOML file with the keys of docs/datasets.md.")] = None,
    microscope: Annotated[str | None, typer.Option(help="'sted' or 'two_photon'.  [default: sted]")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Number of items.  [default: 100]")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of all chance.  [default: 0]")] = None,
    specimen: Annotated[list[str] | None, typer.Option(help="Kind of sample; several take turns.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Side of an image in pixels.")] = None,
    pixel_size: Annotated[float | None, typer.Option(help="Pixel size in metres.")] = None,
    excitation: Annotated[float | None, typer.Option(help="Excitation power in watts.")] = None,
    sted: Annotated[float | None, typer.Option(help="STED power in watts; 0: confocal images.")] = None,
    dwell: Annotated[float | None, typer.Option(help="Dwell time on a pixel in seconds.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames of a two-photon movie.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes at once.  [default: one for each core]")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(help="Ray cluster: host:port, 'auto', or 'local' to start one here.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate labelled images: noisy, clean and the truth, as OME-Zarr. Run again, it continues.

    Ctrl-C ends it after the items under way; a second one at once.
    """
    asked = {
        "microscope": microscope,
        "images": images,
        "seed": seed,
        "options.specimens": specimen or None,
        "options.size_px": size,
        "options.pixel_size_m": pixel_size,
        "options.excitation_w": excitation,
        "options.sted_w": sted,
        "options.dwell_s": dwell,
        "options.frames": frames,
    }
    with errors_told(as_json):
        from controller.recording.dataset import open_dataset

        plan, task = _planned(
            output, config, {key: value for key, value in asked.items() if value is not None}
        )
        executor = _executor(workers, ray)
        with _signals_as_interrupts(), open_dataset(output, plan) as folder:
            already = plan.images - len(folder.missing)
            problems = [*folder.damaged]
            is_interrupted = _make(folder, task, executor, problems, quiet=as_json)
            manifest = folder.finish()
        _tell(output, manifest, already, problems, as_json, is_interrupted=is_interrupted)


def _planned(output: Path, config: Path | None, asked: dict[str, Any]) -> tuple[DatasetPlan, MakeItem]:
    """Return what the data set is to be, and the task that makes one item of it."""
    from controller.assemble import versions
    from controller.config import load_dataset
    from controller.plugins import find_dataset_maker
    from controller.recording.dataset import DatasetPlan, MakeItem

    dataset, options = load_dataset(config, asked)
    maker = find_dataset_maker(dataset.microscope)
    maker(options, dataset.seed)  # what can be refused is refused before anything is written
    plan = DatasetPlan(
        microscope=dataset.microscope,
        seed=dataset.seed,
        images=dataset.images,
        options=options.model_dump(mode="json"),
        versions=versions(),
    )
    return plan, MakeItem(maker, options, dataset.seed, output.resolve())


def _executor(workers: int | None, ray: str | None) -> Executor:
    from controller.plugins import find_executor

    if ray is not None:
        return find_executor("ray")(ray, workers)
    count = workers or len(os.sched_getaffinity(0))
    return find_executor("serial")() if count == 1 else find_executor("processes")(count)


def _make(
    folder: DatasetFolder, task: MakeItem, executor: Executor, problems: list[str], *, quiet: bool
) -> bool:
    """Make what is missing, add what failed to the problems, and tell whether it was interrupted."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    total = folder.plan.images
    bar = Progress(
        TextColumn("items"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("[red]{task.fields[failed]}"),
        console=Console(stderr=True, quiet=quiet),
    )
    try:
        with bar, closing(executor.map(task, folder.missing)) as finished:  # type: ignore[type-var]
            shown = bar.add_task("items", total=total, completed=total - len(folder.missing), failed="")
            failures = 0
            for done in finished:
                error = done.error or folder.absence(done.item)
                if error is None:
                    bar.advance(shown)
                else:
                    failures += 1
                    problems.append(f"item {done.item:06d}: {error}")
                    bar.update(shown, failed=f"{failures} failed")
    except KeyboardInterrupt:
        return True
    return False


@contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """Let a request to end, or a closed terminal, count like Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(
    output: Path,
    manifest: Manifest,
    already: int,
    problems: list[str],
    as_json: bool,
    *,
    is_interrupted: bool,
) -> None:
    """Say how it ended, and exit with the code of it."""
    made = len(manifest.items)
    status = "interrupted" if is_interrupted else manifest.status
    if as_json:
        told = {
            "status": status,
            "dataset": str(output),
            "items": made,
            "of": manifest.plan.images,
            "there_before": already,
            "split": manifest.split,
            "problems": problems,
        }
        typer.echo(json.dumps(told))
    else:
        for problem in problems[:_PROBLEMS_TOLD]:
            typer.echo(problem, err=True)
        if len(problems) > _PROBLEMS_TOLD:
            typer.echo(f"and {len(problems) - _PROBLEMS_TOLD} more problems", err=True)
        parts = ", ".join(f"{count} {part}" for part, count in manifest.split.items())
        typer.echo(f"{status}: {made} of {manifest.plan.images} items, {already} of them there before")
        typer.echo(f"split:   {parts}")
        typer.echo(f"dataset: {output}")
        if manifest.status != "complete":
            typer.echo("the same command goes on with it")
    if is_interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if manifest.status != "complete":
        raise typer.Exit(EXIT_FAILURE)
