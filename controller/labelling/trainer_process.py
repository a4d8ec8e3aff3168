"""The process that learns from answers: ``python -m controller.labelling.trainer_process FOLDER``.

It ends with its standard input, in the middle of a training too: whoever started it is gone, and nothing
is lost. What it does is told by its signs of life in the store.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from controller.core.errors import ConfigurationError, StedfastError
from controller.labelling.session_images import SessionImages
from controller.labelling.session_plan import plan_of
from controller.labelling.snapshots import answers_in, collect
from controller.labelling.trainer import Beginning, LabelTrainer
from controller.labelling.training_images import CONTEXT_PX, Scale, labelled_images
from controller.labelling.workers import NICENESS
from controller.labels.images import SampleImages
from controller.labels.plan import LabelPlan
from controller.labels.store import LabelStore
from controller.networks.weights import WeightsError, read_weights
from controller.recording.documents import StartDocument
from controller.recording.reader import SessionReader
from controller.segmentation.labelled_image import LabelledImage
from controller.segmentation.network_options import options_of
from controller.segmentation.published import published_folder, session_of
from controller.segmentation.small_unet import SHIPPED, SmallUNetSegmenter, find_weights

#: What is trained where the session finds objects in another way than with the network.
_NETWORK = "small_unet"


def main(arguments: list[str] | None = None) -> int:
    """Learn until standard input ends; return the exit code."""
    parser = argparse.ArgumentParser(prog="trainer_process", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the session")
    parser.add_argument("--database", help="URL of the label store, if it is not in the folder")
    asked = parser.parse_args(arguments)
    try:
        trainer = trainer_of(asked.folder, asked.database)
    except StedfastError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    os.nice(NICENESS)
    try:
        trainer.run(wait_until_end_of(sys.stdin.buffer))
    finally:
        trainer.store.close()
    return 0


def trainer_of(folder: Path, database: str | None = None, images: SampleImages | None = None) -> LabelTrainer:
    """Return what trains for a session, from its record and its label store.

    Raises
    ------
    StedfastError
        If there is no session, no plan of labels, no store, or its weights cannot be read.
    """
    start = SessionReader(folder).start
    plan = plan_of(folder)
    if plan is None:
        raise ConfigurationError(
            f"{folder}: there is nothing to learn: its experiment has no table [labels], and nobody said "
            "what to tell apart (stedfast label --classes)"
        )
    beginning = beginning_of(start, folder, plan)
    store = LabelStore.open(database or folder)
    return LabelTrainer(store, images or SessionImages(folder), plan, beginning)


def beginning_of(start: StartDocument, folder: Path, plan: LabelPlan) -> Beginning:
    """Return the weights of a session and how it uses them; those of spots where it has no network."""
    told = start.experiment.get("segmenter", {})
    options = SmallUNetSegmenter.Options()
    if told.get("name") == _NETWORK:
        options = SmallUNetSegmenter.Options.model_validate_json(_json(told.get("options", {})))
    try:
        weights = find_weights(options.weights, Path(start.config_folder))
    except WeightsError as error:
        raise ConfigurationError(f"segmenter.options.weights: {error}") from error
    path = Path(start.config_folder) / options.weights
    old = () if options.weights in SHIPPED else earlier_judges(path, plan, options)
    return Beginning(weights, options, published_folder(folder), old, seed=start.seed, session=start.run_id)


def earlier_judges(
    path: Path, plan: LabelPlan, options: SmallUNetSegmenter.Options
) -> tuple[LabelledImage, ...]:
    """Return what weights were judged by that were published by another session, as images.

    None if they come from elsewhere, told other classes apart, or the answers or images are gone.
    """
    folder = session_of(path)
    if folder is None:
        return ()
    try:
        weights = read_weights(path)
        store = LabelStore.open(folder)
    except StedfastError:
        return ()
    try:
        known = answers_in(store.snapshot(str(weights.card.training.get("snapshot"))).content)
        material = collect(store, plan.held_out)
    except (StedfastError, KeyError):
        return ()
    finally:
        store.close()
    if material is None or material.label_schema != plan.label_schema:
        return ()
    judges = [item for item in material.judges if known & set(item.answers)]
    scale = Scale(options_of(weights.card), options)
    images, found = SessionImages(folder), list[LabelledImage]()
    for item in judges:
        with suppress(KeyError):
            image = images.image(item.sample, CONTEXT_PX)
            found += labelled_images(item.sample, image, item.annotations, material.label_schema, scale)
    return tuple(found)


def _json(told: Any) -> str:
    return json.dumps(told)  # a strict model takes its tuples from lists only in JSON


def wait_until_end_of(stream: BinaryIO) -> Callable[[float], bool]:
    """Return what waits some seconds and tells whether the stream has ended.

    A moment after that the process ends, whatever it does.
    """
    ended = threading.Event()

    def watch() -> None:
        while stream.read(1):
            continue
        ended.set()
        timer = threading.Timer(1.0, os._exit, (0,))
        timer.daemon = True
        timer.start()

    threading.Thread(target=watch, name="end-of-input", daemon=True).start()
    return ended.wait


if __name__ == "__main__":
    sys.exit(main())
