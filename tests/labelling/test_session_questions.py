"""What a session's policy asks becomes a question for people, once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from controller.core.decision import AskLabel, ImageOption, Question
from controller.core.settings import Region
from controller.labelling.places import Run, places_of
from controller.labelling.session_questions import SessionQuestions, roi_of
from controller.labels.plan import LabelPlan
from controller.labels.store import LabelStore
from controller.learning.annotations import LabelSchema
from controller.recording.reader import SessionReader


def asking(reader: SessionReader, *questions: Question) -> SessionReader:
    """Return the session with cycles at its end in which its policy asks."""
    cycles = [
        reader.cycles[-1].replace(
            index=reader.cycles[-1].index + 1 + n, decision=AskLabel(reason="unsure", question=question)
        )
        for n, question in enumerate(questions)
    ]
    found = SessionReader(reader.folder, reader.documents)
    found.cycles = [*reader.cycles, *cycles]
    return found


def question_of(reader: SessionReader, **changes: object) -> Question:
    region = reader.frames[0].settings.region
    return Question(
        frame_index=0, region=region, kind="tag", text="What is it?", choices=("synapse", "nothing here")
    ).replace(**changes)


def test_each_question_is_put_once_with_the_pixels_that_it_is_about(
    recorded: SessionReader, tmp_path: Path
) -> None:
    store = LabelStore.open(tmp_path, create=True)
    whole = recorded.frames[0].settings.region
    y_m, x_m = whole.center_yx_m
    quarter = Region(center_yx_m=(y_m + whole.size_yx_m[0] / 4, x_m), size_yx_m=(2.56e-6, 2.56e-6))
    reader = asking(recorded, question_of(recorded), question_of(recorded, region=quarter))
    for _ in range(2):
        assert SessionQuestions(store).take_in(reader) == []
    requests = store.requests()
    assert [r.arm for r in requests] == ["session", "session"]
    assert store.schema(requests[0].schema_id).label_schema.classes == ("synapse",)
    rois = [store.sample(r.items[0].sample_id).roi for r in requests]
    assert [(r.y, r.x, r.rows, r.columns) for r in rois] == [(0, 0, 256, 256), (128, 64, 128, 128)]


def test_what_a_policy_tells_apart_does_not_replace_the_classes_of_the_plan(
    recorded: SessionReader, tmp_path: Path
) -> None:
    store = LabelStore.open(tmp_path, create=True)
    planned = store.add_schema(LabelSchema(classes=("ring", "fibre")))
    other = question_of(recorded, choices=("spine", "shaft"))
    reader = asking(recorded, question_of(recorded), other)
    assert SessionQuestions(store, has_plan=True).take_in(reader) == []
    assert store.schema() == planned
    assert [s.label_schema.classes for s in store.schemas()] == [
        ("spine", "shaft"),
        ("synapse",),
        ("ring", "fibre"),
    ]
    assert store.add_schema(LabelSchema(classes=("ring",))).number == planned.number + 1


def test_a_choice_is_between_several_images_with_what_is_known_of_them(
    recorded: SessionReader, tmp_path: Path
) -> None:
    store = LabelStore.open(tmp_path, create=True)
    options = tuple(
        ImageOption(frame_index=n, region=recorded.frames[n].settings.region, values={"snr": float(n)})
        for n in (0, 1)
    )
    asked = question_of(recorded, kind="choice", choices=(), options=options)
    assert SessionQuestions(store).take_in(asking(recorded, asked)) == []
    (request,) = store.requests()
    assert request.kind == "choice"
    assert [item.values for item in request.items] == [{"snr": 0.0}, {"snr": 1.0}]


def test_old_journals_say_choice_where_one_of_several_words_is_chosen(
    recorded: SessionReader, tmp_path: Path
) -> None:
    store = LabelStore.open(tmp_path, create=True)
    SessionQuestions(store).take_in(asking(recorded, question_of(recorded, kind="choice")))
    assert [request.kind for request in store.requests()] == ["tag"]


@pytest.mark.parametrize(
    "changes",
    [{"frame_index": 99}, {"region": Region(center_yx_m=(1.0, 1.0), size_yx_m=(1e-6, 1e-6))}],
)
def test_what_cannot_be_asked_is_told_and_the_rest_is_asked(
    recorded: SessionReader, tmp_path: Path, changes: dict[str, object]
) -> None:
    store = LabelStore.open(tmp_path, create=True)
    bad, good = question_of(recorded, **changes), question_of(recorded)
    (problem,) = SessionQuestions(store).take_in(asking(recorded, bad, good))
    assert "cannot be asked" in problem
    assert len(store.requests()) == 1


def test_a_question_lies_in_the_same_field_as_what_the_selector_asks_about_that_place(
    recorded: SessionReader, tmp_path: Path
) -> None:
    plan = LabelPlan(classes=("synapse",), crop_px=32, field_m=2e-6)
    document = recorded.frames[0]
    run = Run(recorded.start.run_id, "scope")
    found = list(places_of(document, np.asarray(recorded.frame(0).photons, np.float32), plan, run))
    store = LabelStore.open(tmp_path, create=True)
    top_m, left_m, _, _ = document.settings.scanned_region.bounds_yx_m
    regions = [
        Region(
            center_yx_m=(top_m + (roi.y + 16) * 20e-9, left_m + (roi.x + 16) * 20e-9),
            size_yx_m=(0.64e-6, 0.64e-6),
        )
        for roi in (place.sample.roi for place in found)
    ]
    reader = asking(recorded, *(question_of(recorded, region=region) for region in regions))
    assert SessionQuestions(store, has_plan=True, field_m=plan.field_m).take_in(reader) == []
    asked = {(s.roi.y, s.roi.x): s.field for s in store.samples()}
    assert asked == {
        (place.sample.roi.y, place.sample.roi.x): " + ".join(sorted(place.fields)) for place in found
    }
    assert len({field for field in asked.values() if "+" in field}) > 1
    SessionQuestions(store, field_m=1e-7).take_in(asking(recorded, question_of(recorded)))
    assert store.samples()[-1].field == "many fields"


def test_a_region_is_the_pixels_whose_middles_lie_in_it(recorded: SessionReader) -> None:
    settings = recorded.frames[0].settings
    y0, x0, _, _ = settings.scanned_region.bounds_yx_m
    pixel_m = settings.pixel_size_m
    region = Region(
        center_yx_m=(y0 + 10.4 * pixel_m, x0 + 5 * pixel_m), size_yx_m=(4 * pixel_m, 100 * pixel_m)
    )
    roi = roi_of(region, settings)
    assert (roi.y, roi.rows, roi.x, roi.columns) == (8, 4, 0, 55)
