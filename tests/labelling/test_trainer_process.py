"""The training process works from a session's folder alone, and ends with whoever started it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sqlalchemy")

from controller.labelling.session_images import SessionImages
from controller.labelling.session_plan import plan_of, write_plan
from controller.labelling.snapshots import collect
from controller.labelling.trainer import Beginning, LabelTrainer
from controller.labelling.trainer_process import earlier_judges, main, trainer_of
from controller.labels.plan import LabelPlan
from controller.labels.records import Reply, Roi
from controller.labels.store import LabelStore
from controller.learning.annotations import LabelSchema, TagAnnotation
from controller.networks.weights import Weights
from controller.recording.reader import SessionReader
from controller.segmentation.published import PUBLISHED, path_of, publish
from controller.segmentation.small_unet import SmallUNetSegmenter
from tests.labelling.answered import Answered, fresh
from tests.labelling.fake_session import fake_session

SEGMENTER = """name = "small_unet"
options = { weights = "cells", object_size_m = 320e-9 }
"""
LABELS = """
[labels]
classes = ["disc"]
train_after = 5
train_s = 600.0
"""
SIDE = 16


def session(folder: Path, *, labels: str = LABELS) -> Path:
    return fake_session(folder, SEGMENTER + labels)


def answered(folder: Path) -> Answered:
    """Return the store of a session in which parts of its frames were tagged, half of them to judge by."""
    made = Answered(folder, LabelSchema(classes=("disc",)))
    reader = SessionReader(folder)
    made.session, frame = reader.start.run_id, reader.frame(0)
    across = frame.photons.shape[1] // SIDE
    for number in range(20):
        row, column = divmod(number, across)
        field = f"{number % 2} of {number}"
        made.split(field, ("train", "held_out")[number % 2])
        sample = made.sample(
            field,
            roi=Roi(y=row * SIDE, x=column * SIDE, rows=SIDE, columns=SIDE),
            frame_index=0,
            pixel_size_m=frame.settings.pixel_size_m,
        )
        there = Reply(annotations=(TagAnnotation(present=("disc",)),))
        made.answer(sample, there if number % 3 else Reply(outcome="nothing here"), "tag")
    return made


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    return answered(session(tmp_path_factory.mktemp("asked")))


@contextmanager
def process(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "controller.labelling.trainer_process", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        try:
            yield running
        finally:
            running.kill()


def until_it_trains(running: subprocess.Popen[bytes], made: Answered) -> None:
    for _ in range(600):
        if any(worker.message.startswith("train") for worker in made.store.workers()):
            return
        with suppress(subprocess.TimeoutExpired):
            running.wait(0.1)
            assert running.stderr is not None
            pytest.fail(running.stderr.read().decode())
    pytest.fail("it does not train")


@pytest.mark.timeout(120)
def test_it_ends_with_its_input_in_the_middle_of_a_training_and_nothing_is_lost(asked: Answered) -> None:
    before = asked.store.answers()
    with process(asked.folder) as running:
        until_it_trains(running, asked)
        assert running.stdin is not None
        running.stdin.close()
        assert running.wait(30) == 0
    assert asked.store.models() == []
    assert asked.store.answers() == before
    trainer = trainer_of(asked.folder)
    trainer.beginning = Beginning(
        trainer.beginning.weights, trainer.beginning.options, trainer.beginning.folder, steps=2
    )
    record = trainer.look()
    trainer.store.close()
    assert record is not None
    assert (record.metrics["samples"], record.metrics["samples_held_out"], record.answers) == (10, 10, 20)
    assert [model.sha256 for model in asked.store.models()] == [record.sha256]


def test_it_uses_the_weights_the_plan_and_the_scale_of_its_session(asked: Answered) -> None:
    trainer = trainer_of(asked.folder)
    trainer.store.close()
    assert trainer.plan.train_after == 5
    assert trainer.beginning.options == SmallUNetSegmenter.Options(weights="cells", object_size_m=320e-9)
    assert trainer.beginning.weights.card.options["kind"] == "objects"
    assert trainer.beginning.folder == asked.folder / PUBLISHED
    assert trainer.beginning.seed == 5
    assert trainer.beginning.old_domain == ()


def test_a_folder_that_cannot_be_learned_from_is_told(
    tmp_path: Path, asked: Answered, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "nothing")]) == 1
    assert str(tmp_path / "nothing") in capsys.readouterr().err
    silent = session(tmp_path / "silent", labels="")
    assert main([str(silent)]) == 1
    assert "[labels]" in capsys.readouterr().err
    unasked = session(tmp_path / "unasked")
    assert main([str(unasked)]) == 1
    assert "nothing was asked there" in capsys.readouterr().err


def test_it_learns_by_the_plan_that_was_written_when_the_session_had_none(tmp_path: Path) -> None:
    folder = session(tmp_path, labels="")
    plan = LabelPlan(classes=("ring", "fibre"), train_after=7)
    write_plan(folder, plan)
    LabelStore.open(folder, create=True).close()
    trainer = trainer_of(folder)
    trainer.store.close()
    assert trainer.plan == plan


def test_weights_of_another_session_bring_along_what_they_were_judged_by(asked: Answered) -> None:
    material = collect(asked.store, 0.25)
    assert material is not None
    snapshot = asked.store.add_snapshot(material.content())
    weights = fresh()
    card = weights.card.replace(training={"snapshot": snapshot.sha256, "published": 900})
    folder = asked.folder / PUBLISHED
    path = publish(Weights(weights.data, card), folder, 900)
    plan, options = plan_of(asked.folder), SmallUNetSegmenter.Options()
    assert plan is not None
    old = earlier_judges(path, plan, options)
    path.unlink()
    assert len(old) == 2 * len(material.judges), "each with and without its denoised image"
    shown = {image.photons.tobytes() for image in old}
    images = SessionImages(asked.folder)
    for item in material.learned:
        photons = np.asarray(images.image(item.sample, 16).photons, np.float32)
        assert photons.tobytes() not in shown
    trainer = LabelTrainer(
        asked.store, images, plan, Beginning(weights, options, asked.folder / "other", old, steps=2)
    )
    record = trainer._learn(material)
    assert record.metrics["old_domain_loss_before"] > 0
    assert record.metrics["old_domain_loss"] != record.metrics["old_domain_loss_before"]


@pytest.mark.parametrize("place", ["elsewhere", "labels/published"])
def test_weights_that_come_from_no_session_bring_nothing_along(tmp_path: Path, place: str) -> None:
    path = publish(fresh(), tmp_path / place, 1)
    asked = LabelSchema(classes=("disc",))
    from controller.labels.plan import LabelPlan

    plan = LabelPlan(classes=asked.classes)
    assert earlier_judges(path, plan, SmallUNetSegmenter.Options()) == ()
    assert earlier_judges(path_of(tmp_path, 9), plan, SmallUNetSegmenter.Options()) == ()
