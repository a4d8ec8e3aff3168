"""Questions that the session's own policy asked: lines of the journal become requests of the store."""

from __future__ import annotations

import math

from controller.core.decision import AskLabel, ImageOption, Question
from controller.core.errors import SessionFolderError
from controller.core.settings import Region, ScanSettings
from controller.labelling.places import field_name
from controller.labels.plan import FIELD_M
from controller.labels.records import NewRequest, NewSample, RequestItem, Roi
from controller.labels.store import LabelStore
from controller.learning.annotations import AMBIGUOUS, NOTHING_HERE, LabelSchema
from controller.recording.documents import CycleDocument
from controller.recording.reader import SessionReader

#: Answers that are always there, so no classes of their own.
_ALWAYS = {NOTHING_HERE, AMBIGUOUS, "unsure"}


class SessionQuestions:
    """Puts each ``AskLabel`` of a session into the store, once.

    Parameters
    ----------
    store
        Where requests go.
    annotators
        How many people are to answer each.
    has_plan
        Whether others are asked as well: then what this session's policy tells apart stands beside it.
    field_m
        Side of a field, as that of the plan.
    """

    def __init__(
        self, store: LabelStore, annotators: int = 1, *, has_plan: bool = False, field_m: float = FIELD_M
    ) -> None:
        self._store, self._annotators, self._has_plan = store, annotators, has_plan
        self._field_m = field_m
        self._next = 0  # cycles before this one have been looked at

    def take_in(self, reader: SessionReader) -> list[str]:
        """Put what is new into the store; return what cannot be asked, and why."""
        problems = []
        for cycle in reader.cycles:
            if cycle.index < self._next:
                continue
            self._next = cycle.index + 1
            if isinstance(cycle.decision, AskLabel) and cycle.refused is None:
                try:
                    self._ask(reader, cycle, cycle.decision)
                except (SessionFolderError, ValueError) as error:
                    problems.append(f"the question of cycle {cycle.index} cannot be asked: {error}")
        return problems

    def _ask(self, reader: SessionReader, cycle: CycleDocument, decision: AskLabel) -> None:
        question = decision.question
        named = tuple(name for name in dict.fromkeys(question.choices) if name not in _ALWAYS)
        schema = self._store.add_schema(LabelSchema(classes=named or ("object",)), is_aside=self._has_plan)
        options = question.options or (ImageOption(),)
        items = tuple(self._item(reader, question, option) for option in options)
        # An old journal says "choice" where one of several words is chosen.
        kind = "tag" if question.kind == "choice" and len(items) == 1 else question.kind
        self._store.add_request(
            NewRequest(
                key=f"{reader.start.run_id}/cycle/{cycle.index}",
                kind=kind,
                text=question.text,
                schema_id=schema.id,
                items=items,
                several=question.several,
                arm="session",
                strategy=cycle.decided_by,
                reason=decision.reason[:2000],
                annotators=self._annotators,
                priority=1.0,
            )
        )

    def _item(self, reader: SessionReader, question: Question, option: ImageOption) -> RequestItem:
        index = question.frame_index if option.frame_index is None else option.frame_index
        region = option.region or question.region
        if index not in reader.frames:
            raise ValueError(f"there is no frame {index}")
        document = reader.frames[index]
        settings = document.settings
        sample = self._store.add_sample(
            NewSample(
                session=reader.start.run_id,
                field=field_name(region, self._field_m),
                uri=document.path,
                frame_index=index,
                roi=roi_of(region, settings),
                pixel_size_m=settings.pixel_size_m,
                dtype=document.dtype,
                modality=settings.modality,
                microscope=str(reader.start.microscope.get("name") or "unknown"),
            )
        )
        return RequestItem(sample_id=sample.id, values=option.values)


def roi_of(region: Region, settings: ScanSettings) -> Roi:
    """Return the pixels of a scan that show a region.

    Raises
    ------
    ValueError
        If it shows nothing of it.
    """
    rows, columns = settings.shape_yx
    top_m, left_m, _, _ = settings.scanned_region.bounds_yx_m
    y0, x0, y1, x1 = region.bounds_yx_m
    pixel_m = settings.pixel_size_m
    # A pixel belongs to a region if its middle does; half a pixel of rounding error is none.
    first_row, first_column = max(0, _nearest(y0 - top_m, pixel_m)), max(0, _nearest(x0 - left_m, pixel_m))
    last_row = min(rows, _nearest(y1 - top_m, pixel_m))
    last_column = min(columns, _nearest(x1 - left_m, pixel_m))
    if last_row <= first_row or last_column <= first_column:
        raise ValueError(f"the scan of {settings.region} does not show {region}")
    return Roi(y=first_row, x=first_column, rows=last_row - first_row, columns=last_column - first_column)


def _nearest(distance_m: float, pixel_m: float) -> int:
    return math.floor(distance_m / pixel_m + 0.5)
