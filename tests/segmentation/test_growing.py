"""A network that is given other classes finds objects as it did, and published models never change."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from controller.core.errors import RecordingError
from controller.networks.modules import tensors_of
from controller.networks.weights import Weights, pack
from controller.segmentation.growing import with_classes
from controller.segmentation.heads import HeadMaps, head_maps
from controller.segmentation.labelled_image import LabelledImage, example_of
from controller.segmentation.network_options import ARCHITECTURE, NetworkOptions, options_of
from controller.segmentation.published import (
    Follower,
    next_number,
    number_of,
    path_of,
    publish,
    published_numbers,
)
from controller.segmentation.training import answer_of, build, network_of


def weights(*classes: str, seed: int = 0, number: int = 0) -> Weights:
    options = NetworkOptions(
        kind="spots", object_px=3.0, heads=3, width=8, deep=8, classes=("background", *classes)
    )
    return pack(
        tensors_of(build(options, np.random.default_rng(seed))),
        architecture=ARCHITECTURE,
        options=options.model_dump(mode="json"),
        training={"published": number},
        licence="CC0-1.0",
    )


def maps(one: Weights) -> HeadMaps:
    options = options_of(one.card)
    photons = np.random.default_rng(1).poisson(4.0, (16, 20)).astype(np.float32)
    example = example_of(LabelledImage(photons, np.zeros((16, 20), np.int32)), options)
    return head_maps(answer_of(network_of(one, options), example), options)


def test_new_classes_share_what_was_foreground_and_move_no_object() -> None:
    old = weights("object")
    grown = with_classes(old, ("background", "ring", "fibre", "cluster"))
    before, after = maps(old), maps(grown)
    np.testing.assert_allclose(after.by_head, before.by_head, atol=1e-5)
    np.testing.assert_allclose(after.centers, before.centers, atol=1e-6)
    np.testing.assert_allclose(after.depth, before.depth, atol=1e-6)
    for name in range(1, 4):
        np.testing.assert_allclose(after.classes[name], before.classes[1] / 3, atol=1e-5)
    assert grown.card.parent == old.sha256
    assert grown.card.licence == "CC0-1.0"


def test_classes_that_were_known_keep_their_scores_in_any_order() -> None:
    old = weights("ring", "fibre")
    turned = with_classes(old, ("background", "fibre", "ring"))
    before, after = maps(old), maps(turned)
    np.testing.assert_allclose(after.classes[[0, 2, 1]], before.classes, atol=1e-6)
    assert with_classes(old, ("background", "ring", "fibre")) is old


def test_only_complete_models_are_seen_and_none_is_ever_changed(tmp_path: Path) -> None:
    folder = tmp_path / "labels" / "published"
    assert published_numbers(folder) == []
    assert next_number(folder) == 1
    publish(weights("a", number=1), folder, 1)
    with pytest.raises(RecordingError, match="never change"):
        publish(weights("b"), folder, 1)
    for name in ("0002.json", ".0003.safetensors.next", "4.safetensors", "0005.txt", "x0006.safetensors"):
        (folder / name).write_bytes(b"")
    assert published_numbers(folder) == [1]
    assert next_number(folder) == 3, "whoever published number 2 was killed on the way"
    assert number_of(json.loads((folder / "0001.json").read_text())) == 1


@pytest.mark.parametrize(
    "training", [None, [], {}, {"published": True}, {"published": -1}, {"published": "1"}]
)
def test_a_card_that_names_no_number_was_not_published(training: object) -> None:
    assert number_of({"training": training}) == 0


def test_a_follower_takes_the_newest_only_once_and_never_an_older_one(tmp_path: Path) -> None:
    follower = Follower(tmp_path / "later")
    assert follower.newer() is None
    folder = tmp_path / "later"
    for number in (1, 2):
        publish(weights("a", seed=number), folder, number)
    found = follower.newer()
    assert found is not None
    assert found.number == 2
    follower.took(2)
    assert follower.newer() is None
    follower.took(1)
    assert follower.number == 2
    path_of(folder, 2).unlink()
    assert follower.newer() is None


def test_a_damaged_model_is_told_once_and_the_one_before_it_is_taken(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    for number in (1, 2):
        publish(weights("a", seed=number), tmp_path, number)
    path_of(tmp_path, 2).write_bytes(b"half")
    found = follower.newer()
    assert found is not None
    assert found.number == 1
    problem = follower.problem()
    assert problem is not None
    assert "published model 2" in problem
    assert "damaged" in problem
    assert follower.newer() is not None
    assert follower.problem() is None


def _publish_many(folder: Path) -> None:
    for number in range(1, 13):
        publish(weights("a", seed=number, number=number), folder, number)


def test_who_follows_while_somebody_publishes_never_sees_half_a_model(tmp_path: Path) -> None:
    publisher = threading.Thread(target=_publish_many, args=(tmp_path,))
    publisher.start()
    follower, seen = Follower(tmp_path), []
    while publisher.is_alive() or follower.number < 12:
        found = follower.newer()
        assert follower.problem() is None
        if found is not None:
            assert number_of(found.weights.card) == found.number
            follower.took(found.number)
            seen.append(found.number)
    publisher.join()
    assert seen == sorted(set(seen))
    assert seen[-1] == 12
