"""A model's proposal is what the segmenter finds in the sample, and nobody is led while the session runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from controller.core.frame import Denoised
from controller.labelling.proposals import Proposer
from controller.labelling.service import LabelService, Where
from controller.labelling.session_images import SessionImages
from controller.labels.records import NewSample, Request, RequestItem, Roi, Sample
from controller.networks.weights import write_weights
from controller.recording.reader import SessionReader
from controller.segmentation.network_options import options_of
from controller.segmentation.published import published_folder
from controller.segmentation.small_unet import SmallUNetSegmenter, find_weights

ROI = Roi(y=0, x=96, rows=128, columns=96)


@pytest.fixture
def folder(recorded: SessionReader, tmp_path: Path) -> Path:
    """Return a session in which a model was published."""
    copy = tmp_path / "session"
    shutil.copytree(recorded.folder, copy)
    published = published_folder(copy)
    published.mkdir(parents=True)
    write_weights(find_weights("spots", copy), published / "0001.safetensors")
    return copy


def sample_of(reader: SessionReader) -> Sample:
    new = NewSample(
        session=reader.start.run_id,
        field="0,0",
        uri=reader.frames[1].path,
        frame_index=1,
        roi=ROI,
        pixel_size_m=20e-9,
        dtype="uint32",
    )
    return Sample(**dict(new), id="1", created_s=0.0)


def request_of(**changes: object) -> Request:
    base = Request(
        id="1",
        key="1",
        kind="mask",
        text="?",
        schema_id="1",
        items=(RequestItem(sample_id="1"),),
        is_live=False,
        created_s=0.0,
        state="open",
    )
    return base.replace(**changes)


def options() -> SmallUNetSegmenter.Options:
    """Return options with which the image is shown to the network pixel by pixel."""
    object_px = options_of(find_weights("spots", Path()).card).object_px
    return SmallUNetSegmenter.Options(weights="spots", object_size_m=object_px * 20e-9)


def proposer_of(folder: Path) -> Proposer:
    return Proposer(folder, SessionImages(folder), options())


def test_what_the_model_finds_in_the_sample_is_proposed(folder: Path, recorded: SessionReader) -> None:
    proposal = proposer_of(folder).propose(request_of(), sample_of(recorded))
    assert proposal is not None
    (mask,) = proposal.annotations
    assert mask.kind == "mask"
    drawn = mask.to_array() > 0
    assert drawn.shape == ROI.shape_yx
    # The same frame as a whole: apart from its edges, a network sees the same around a sample.
    segmenter = SmallUNetSegmenter(options(), find_weights("spots", folder))
    assert proposal.model_sha256 == segmenter.sha256
    clean = recorded.denoised(recorded.cycles[1])
    assert isinstance(clean, Denoised)
    labels = segmenter.step(recorded.frame(1), clean).labels
    whole = labels[ROI.y : ROI.y + ROI.rows, ROI.x : ROI.x + ROI.columns] > 0
    assert drawn.any()
    assert 2 * np.count_nonzero(drawn & whole) / (np.count_nonzero(drawn) + np.count_nonzero(whole)) > 0.9


@pytest.mark.parametrize("changes", [{"is_live": True}, {"kind": "points"}, {"kind": "tag"}])
def test_nobody_is_led_in_other_questions(
    folder: Path, recorded: SessionReader, changes: dict[str, object]
) -> None:
    assert proposer_of(folder).propose(request_of(**changes), sample_of(recorded)) is None


def test_without_a_published_model_nothing_is_proposed(recorded: SessionReader) -> None:
    proposer = Proposer.of_session(recorded.folder, SessionImages(recorded.folder))
    assert proposer.propose(request_of(), sample_of(recorded)) is None


def test_a_model_that_was_published_since_proposes_from_then_on(
    folder: Path, recorded: SessionReader
) -> None:
    proposer = proposer_of(folder)
    before = proposer.propose(request_of(), sample_of(recorded))
    write_weights(find_weights("cells", folder), published_folder(folder) / "0002.safetensors")
    after = proposer.propose(request_of(), sample_of(recorded))
    assert before is not None
    assert after is None or after.model_sha256 != before.model_sha256
    assert json.dumps(before.model_dump(mode="json"))


def test_nothing_is_proposed_where_models_are_judged(folder: Path, recorded: SessionReader) -> None:
    service = LabelService(Where(folder))
    for field, split in (("0,0", "train"), ("0,1", "held_out")):
        service.store.split_of(recorded.start.run_id, field, lambda split=split: split)  # type: ignore[misc]
    sample = sample_of(recorded)
    proposed = [
        service._propose(request_of(), sample.replace(field=field)) is not None
        for field in ("0,0", "0,1", "0,0 + 0,1", "7,7")
    ]
    assert proposed == [True, False, False, False]
    service.server.stop()
    service.run()
