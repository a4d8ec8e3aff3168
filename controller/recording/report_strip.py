"""Strips of pictures in a report: one place over time, as it came from the detector and denoised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from controller.core.frame import Denoised, Frame
from controller.recording.charts import evenly
from controller.recording.documents import FrameDocument
from controller.recording.pictures import Contrast, Panel, aspect, contrast, fit, png_uri, scale_bar
from controller.recording.record import MODALITIES, Record, name_of
from controller.recording.trust import trust
from controller.recording.units import duration, plural
from controller.recording.visits import Visit

_STRIPS_MAX, _COLUMNS_MAX = 2, 8
# With fewer there is no "over time" that the rows of panels would not show.
_COLUMNS_MIN = 4
_SIDE = 160


@dataclass(frozen=True, slots=True)
class Column:
    """One moment: the frame above, its denoised image below."""

    when: str
    raw: Panel
    denoised: Panel
    trust: str


@dataclass(frozen=True, slots=True)
class Strip:
    """One place over time, all pictures in the same colours."""

    heading: str
    note: str
    columns: tuple[Column, ...]


def strips(record: Record) -> list[Strip]:
    """Return the places that were denoised most often, over time, in the order of the visits."""
    found = [
        (visit, frames) for visit in record.visits if len(frames := _alike(record, visit)) >= _COLUMNS_MIN
    ]
    most = sorted(found, key=lambda pair: -len(pair[1]))[:_STRIPS_MAX]
    made = [_strip(record, visit, frames) for visit, frames in sorted(most, key=lambda p: p[0].number)]
    return [strip for strip in made if strip is not None]


def _alike(record: Record, visit: Visit) -> list[FrameDocument]:
    """Return the denoised frames of a visit that can be compared: of its most frequent kind and size."""
    frames = [
        frame for frame in visit.frames if (cycle := record.cycle_of.get(frame.index)) and cycle.denoised
    ]
    kinds = Counter((frame.settings.modality, frame.settings.shape_yx) for frame in frames)
    if not kinds:
        return []
    kind, _ = kinds.most_common(1)[0]
    return [frame for frame in frames if (frame.settings.modality, frame.settings.shape_yx) == kind]


def _strip(record: Record, visit: Visit, frames: Sequence[FrameDocument]) -> Strip | None:
    chosen = [frames[n] for n in evenly(len(frames), _COLUMNS_MAX)]
    read = list(_read(record, chosen))
    if not read:
        return None
    # One contrast for all: what changes from picture to picture is then the sample.
    shown = replace(contrast(*(clean.mean for _, _, clean in read)), unit=record.frame_unit)
    modality = MODALITIES[chosen[0].settings.modality]
    return Strip(
        heading=f"Visit {visit.number} · {modality}, over time",
        note=f"raw above, denoised below; {len(read)} of {plural(len(frames), 'denoised frame')}, "
        f"all in the same colours, {shown.text}",
        columns=tuple(_column(*one, shown) for one in read),
    )


def _read(
    record: Record, documents: Sequence[FrameDocument]
) -> Iterator[tuple[FrameDocument, Frame, Denoised]]:
    """Yield what is readable of the frames and their denoised images."""
    for document in documents:
        frame, clean = record.frame(document.index), record.denoised(record.cycle_of[document.index])
        if frame is not None and clean is not None:
            yield document, frame, clean


def _column(document: FrameDocument, frame: Frame, clean: Denoised, shown: Contrast) -> Column:
    def panel(title: str, uri: str) -> Panel:
        return Panel(title, uri=uri, aspect=aspect(frame.photons.shape))

    bar = scale_bar(document.settings.region.size_yx_m[1])
    return Column(
        when=f"{duration(document.started_s)} · {name_of(document)}",
        raw=replace(panel("raw", png_uri(fit(frame.photons, _SIDE), shown)), bar=bar),
        denoised=panel("denoised", png_uri(fit(clean.mean, _SIDE), shown)),
        trust=trust(clean, brief=True),
    )
