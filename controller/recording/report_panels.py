"""The rows of panels in a report: raw, denoised, segmented, and what was there before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from controller.core.decision import Question
from controller.core.frame import Frame
from controller.core.settings import ScanSettings
from controller.recording.charts import evenly
from controller.recording.documents import CycleDocument, FrameDocument
from controller.recording.pictures import Contrast, Panel, aspect, contrast, fit, outlines, png_uri, scale_bar
from controller.recording.record import MODALITIES, Record, describe, name_of, place_of
from controller.recording.trust import trust
from controller.recording.units import duration, figure, plural
from controller.recording.visits import Moment, Visit, choose_moments, lead_moments, merits

_MOMENTS_MAX, _MOMENTS_OPEN = 12, 6
# All panels together stay below about 3 MB of pixels, however large the frames are.
_PANEL_PIXELS = 2_600_000
_PANEL_SIDE_MAX, _PANEL_SIDE_MIN = 320, 96


@dataclass(frozen=True, slots=True)
class MomentFigure:
    """A row of panels about one frame, with what is said beneath."""

    heading: str
    when: str
    place: str
    settings: str
    reason: str
    evidence: tuple[str, ...]
    panels: tuple[Panel, ...]


def moments(record: Record) -> tuple[list[MomentFigure], list[MomentFigure]]:
    """Return the rows of panels in the order of time: those to see at once, and those to unfold."""
    merit = merits(record.evidence_of_frame)
    chosen = choose_moments(record.visits, merit, _MOMENTS_MAX)
    first = {m.key.index for m in lead_moments(chosen, merit, _MOMENTS_OPEN)}
    if len(chosen) <= _MOMENTS_OPEN + 2:
        first = {m.key.index for m in chosen}
    if not chosen:
        chosen = _moments_of_overviews(record)
        first = {m.key.index for m in chosen}
    panels = sum(4 + (m.before is not None) + (m.after is not None) for m in chosen)
    side = int((_PANEL_PIXELS / max(1, panels)) ** 0.5)
    side = min(max(side, _PANEL_SIDE_MIN), _PANEL_SIDE_MAX)
    shown: list[MomentFigure] = []
    folded: list[MomentFigure] = []
    for moment in chosen:
        (shown if moment.key.index in first else folded).append(_moment(record, moment, side))
    return shown, folded


def _moments_of_overviews(record: Record) -> list[Moment]:
    some = [record.images[n] for n in evenly(len(record.images), 4)]
    return [Moment(Visit(0, (frame,)), frame) for frame in some]


def _moment(record: Record, moment: Moment, side: int) -> MomentFigure:
    key = moment.key
    cycle = record.cycle_of.get(key.index)
    evidence = record.evidence_of_frame.get(key.index, {})
    where = f"Visit {moment.visit.number}" if moment.visit.number else "Overview"
    return MomentFigure(
        heading=f"{where} · {MODALITIES[key.settings.modality]}" if moment.visit.number else where,
        when=f"{duration(key.started_s)} · {name_of(key)}{', the last of them' if key.plane else ''}",
        place=place_of(key.settings),
        settings=describe(key.settings),
        reason=cycle.decision.reason if cycle else "",
        evidence=tuple(figure(name, value) for name, value in list(evidence.items())[:6]),
        panels=tuple(_panels(record, moment, cycle, side)),
    )


def _panels(record: Record, moment: Moment, cycle: CycleDocument | None, side: int) -> list[Panel]:
    """Return before | raw | denoised | segmented | uncertainty | after, as far as they are there."""
    sides = [record.frame(f.index) if f else None for f in (moment.before, moment.after)]
    # One contrast for before and after: their difference is what bleached.
    pair = _contrast(record, [f.photons for f in sides if f])
    found = _key_panels(record, moment.key, cycle, side)
    if moment.before:
        found.insert(0, _photons("Before, confocal", moment.before, sides[0], pair, side))
    if moment.after:
        found.append(_photons("After, confocal", moment.after, sides[1], pair, side))
    return found


def _key_panels(
    record: Record, document: FrameDocument, cycle: CycleDocument | None, side: int
) -> list[Panel]:
    frame, settings = record.frame(document.index), document.settings
    denoised = record.denoised(cycle) if cycle and cycle.denoised else None
    images = [frame.photons] if frame else []
    images += [denoised.mean] if denoised else []
    # The denoised image says where the signal lies; noise that sticks out of it need not be told apart.
    shown = _contrast(record, images[-1:])
    draw = _Drawing(settings, side, shown)
    found = [_photons(f"{MODALITIES[settings.modality]}, raw", document, frame, shown, side)]
    if cycle and cycle.denoised:
        note = f"{shown.text} · {trust(denoised)}" if denoised else ""
        found.append(draw.panel("Denoised", denoised.mean if denoised else None, note))
    if cycle and cycle.segmentation:
        segmentation = record.segmentation(cycle)
        path, grid = outlines(segmentation.labels) if segmentation else ("", (1, 1))
        # Drawn over the denoised image, or over the raw one.
        panel = draw.panel(
            "Segmented",
            images[-1] if images and segmentation else None,
            plural(cycle.segmentation.objects, "object"),
        )
        found.append(replace(panel, outline=path, grid_yx=grid))
        draw = _Drawing(settings, side, Contrast(0, 1), "viridis")
        found.append(
            draw.panel("Uncertainty", segmentation.uncertainty if segmentation else None, "0 to 1 bit")
        )
    return found


def _contrast(record: Record, images: Sequence[NDArray[Any]]) -> Contrast:
    """Return a range that shows the images well together, in the unit of the session's frames."""
    return replace(contrast(*images) if images else Contrast(0, 1), unit=record.frame_unit)


def _photons(title: str, document: FrameDocument, frame: Frame | None, shown: Contrast, side: int) -> Panel:
    image = frame.photons if frame else None
    return _Drawing(document.settings, side, shown).panel(title, image, shown.text)


@dataclass(frozen=True, slots=True)
class _Drawing:
    """How the images of one frame are drawn."""

    settings: ScanSettings
    side: int
    shown: Contrast
    colours: str = "inferno"

    def panel(self, title: str, image: NDArray[Any] | None, note: str) -> Panel:
        """Return the panel of an image, or one that says that it is unreadable."""
        if image is None:
            return Panel(title, problem="unreadable", aspect=aspect(self.settings.shape_yx))
        return Panel(
            title=title,
            note=note,
            uri=png_uri(fit(image, self.side), self.shown, self.colours),
            aspect=aspect(image.shape),
            bar=scale_bar(self.settings.region.size_yx_m[1]),
        )


def question_panel(record: Record, question: Question) -> Panel:
    """Return the frame asked about, around the region of the question, which is outlined."""
    document = record.reader.frames.get(question.frame_index)
    frame = record.frame(question.frame_index)
    if frame is None or document is None:
        return Panel("", problem="unreadable")
    pixel_m = document.settings.pixel_size_m
    top_m, left_m, _, _ = document.settings.scanned_region.bounds_yx_m
    y0, x0, y1, x1 = (
        (bound - start) / pixel_m
        for bound, start in zip(question.region.bounds_yx_m, (top_m, left_m, top_m, left_m), strict=True)
    )
    rows, columns = frame.photons.shape
    margin = max(4.0, y1 - y0, x1 - x0)
    a, b = max(0, int(y0 - margin)), max(0, int(x0 - margin))
    c, d = min(rows, int(y1 + margin) + 1), min(columns, int(x1 + margin) + 1)
    if c - a < 1 or d - b < 1:
        a, b, c, d = 0, 0, rows, columns
    crop = frame.photons[a:c, b:d]
    height, width = crop.shape
    return Panel(
        title="",
        uri=png_uri(fit(crop, 200), contrast(frame.photons)),
        aspect=aspect(crop.shape),
        bar=scale_bar(width * pixel_m),
        box=((x0 - b) / width, (y0 - a) / height, (x1 - x0) / width, (y1 - y0) / height),
    )
