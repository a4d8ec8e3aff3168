"""Groups the frames of a session into visits, and picks the moments that are worth a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from controller.core.settings import Region
from controller.recording.charts import evenly
from controller.recording.documents import FrameDocument

#: Evidence that says how good an image was, the most telling first.
_MERITS = ("utility", "quality", "detail_snr", "snr", "score")


@dataclass(frozen=True, slots=True)
class Visit:
    """Frames taken at one place, one after the other."""

    number: int
    frames: tuple[FrameDocument, ...]

    @property
    def region(self) -> Region:
        """Return where it was."""
        return self.frames[0].settings.region


@dataclass(frozen=True, slots=True)
class Moment:
    """A frame worth looking at, with the frames before and after it in the same visit."""

    visit: Visit
    key: FrameDocument
    before: FrameDocument | None = None
    after: FrameDocument | None = None


def find_visits(frames: Iterable[FrameDocument]) -> list[Visit]:
    """Return the visits in order; overviews are not visits, and end the one before."""
    visits: list[Visit] = []
    open_frames: list[FrameDocument] = []
    for frame in frames:
        if frame.settings.modality == "overview":
            open_frames = []
            continue
        if open_frames and _same_place(open_frames[0].settings.region, frame.settings.region):
            open_frames.append(frame)
            visits[-1] = Visit(visits[-1].number, tuple(open_frames))
        else:
            open_frames = [frame]
            visits.append(Visit(len(visits) + 1, (frame,)))
    return visits


def merits(evidence: Mapping[int, Mapping[str, float]]) -> dict[int, float]:
    """Return how good each frame was found, from the evidence of the decision that followed it."""
    for name in _MERITS:
        found = {index: figures[name] for index, figures in evidence.items() if name in figures}
        if found:
            return found
    return {}


def choose_moments(visits: Sequence[Visit], merit: Mapping[int, float], limit: int = 12) -> list[Moment]:
    """Return at most ``limit`` moments in order: first, last, and the best (or evenly spread) between.

    Few visits: several frames of each. Many visits: one frame of each, a STED frame if there is one.
    """
    per_visit = [[f for f in visit.frames if f.settings.modality == "sted"] for visit in visits]
    candidates: list[tuple[Visit, FrameDocument]] = []
    for visit, sted in zip(visits, per_visit, strict=True):
        shown = sted or list(visit.frames)
        if len(visits) * 2 > limit:
            shown = [max(shown, key=lambda frame: (merit.get(frame.index, float("-inf")), -frame.index))]
        candidates += [(visit, frame) for frame in shown]
    return [_moment(*candidates[index]) for index in _pick(candidates, merit, limit)]


def lead_moments(moments: Sequence[Moment], merit: Mapping[int, float], limit: int) -> list[Moment]:
    """Return those of ``moments`` to look at first, by the same rule."""
    return [moments[n] for n in _pick([(m.visit, m.key) for m in moments], merit, limit)]


def _pick(
    candidates: Sequence[tuple[Visit, FrameDocument]], merit: Mapping[int, float], limit: int
) -> list[int]:
    count = len(candidates)
    scored = sum(frame.index in merit for _, frame in candidates)
    # Merit that few frames have would hide the others.
    if count <= limit or scored < count / 2:
        return evenly(count, limit)
    between = sorted(range(1, count - 1), key=lambda n: -merit.get(candidates[n][1].index, float("-inf")))
    return sorted({0, count - 1, *between[: limit - 2]})


def _moment(visit: Visit, key: FrameDocument) -> Moment:
    if key.settings.modality != "sted":
        return Moment(visit, key)
    others = [f for f in visit.frames if f.settings.modality == "confocal"]
    before = next((f for f in reversed(others) if f.index < key.index), None)
    after = next((f for f in others if f.index > key.index), None)
    return Moment(visit, key, before, after)


def _same_place(one: Region, other: Region) -> bool:
    near = [
        abs(a - b) <= 0.25 * min(size_a, size_b)
        for a, b, size_a, size_b in zip(
            one.center_yx_m, other.center_yx_m, one.size_yx_m, other.size_yx_m, strict=True
        )
    ]
    return all(near)
