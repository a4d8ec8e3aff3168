"""The figures of a report: which data go into which map, panel and chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from controller.core.decision import AskLabel
from controller.recording import maps as mapping
from controller.recording.charts import WIDE, Chart, Series, evenly, outline, plot, time_axis
from controller.recording.documents import FrameDocument
from controller.recording.record import MODALITIES, Record, name_of, place_of
from controller.recording.report_panels import question_panel
from controller.recording.units import duration, name_and_unit, percent, plural, quantity

EVIDENCE_MAX = 12
_TILES_MAX = 64
_QUESTIONS_MAX = 12
_BLEACHING_FRAMES_MAX = 200
_BLEACHING_PLACES_MAX = 24


def maps(record: Record) -> dict[str, Any]:
    """Return the map of the sample and the map of the dose, over the same extent."""
    regions = [f.settings.region for f in record.images] + [s.region for _, s, _, _ in record.bookings]
    if not regions:
        return {"sample": None, "dose": None, "note": "", "contrast": ""}
    cell_m = record.limits.dose_cell_m if record.limits else 2e-7
    extent = mapping.union(regions)
    # Both maps show the same piece of the sample, so that they can be compared side by side.
    extent = mapping.snap(extent, mapping.map_cell_m(extent, cell_m))
    overviews = [f for f in record.frames if f.settings.modality == "overview"]
    note = "" if overviews else "No overview was taken: the frames themselves are put in their places."
    tiles = [
        tile for tile in (record.frame(f.index) for f in _one_a_place(overviews or record.frames)) if tile
    ]
    doses = [(settings, dose) for _, settings, _, dose in record.bookings]
    sample, shown = mapping.mosaic(tiles, record.visits, extent) if tiles else (None, None)
    return {
        "sample": sample,
        "contrast": replace(shown, unit=record.frame_unit).text if shown else "",
        "dose": mapping.dose_figure(doses, record.visits, extent, cell_m) if doses else None,
        "note": note,
    }


def settings_charts(record: Record) -> list[Chart]:
    """Return excitation, STED power, dwell and pixel size of all frames over the session's clock."""
    x = time_axis(record.end_s, record.clock)
    charts = []
    for title, field, unit in (
        ("Excitation power", "excitation_w", "W"),
        ("STED power", "sted_w", "W"),
        ("Time on a pixel", "pixel_time_s", "s"),
        ("Pixel size", "pixel_size_m", "m"),
    ):
        frames = [f for f in record.images if field != "sted_w" or f.settings.modality == "sted"]
        if frames:
            values = [float(getattr(f.settings, field)) for f in frames]
            kinds = [f.settings.modality for f in frames]
            names = [f"{MODALITIES[f.settings.modality]}, {name_of(f)}" for f in frames]
            series = Series([f.started_s for f in frames], values, kinds, "none", names)
            charts.append(plot(title, [series], unit=unit, x=x))
    return charts


def evidence_charts(record: Record) -> list[Chart]:
    """Return a chart for each figure that decisions rested on."""
    x = time_axis(record.end_s, record.clock)
    charts = []
    for name in record.evidence_names()[:EVIDENCE_MAX]:
        cycles = [c for c in record.cycles if name in c.decision.evidence]
        title, unit = name_and_unit(name)
        values = [c.decision.evidence[name] for c in cycles]
        labels = [f"cycle {c.index}" for c in cycles]
        charts.append(
            plot(title, [Series([c.now_s for c in cycles], values, "evidence", names=labels)], unit=unit, x=x)
        )
    return charts


def dose_chart(record: Record) -> Chart | None:
    """Return the cumulative light energy against its budget."""
    if not record.bookings:
        return None
    times = [0.0] + [time_s for time_s, *_ in record.bookings]
    energies = [0.0, *np.cumsum([energy_j for _, _, energy_j, _ in record.bookings]).tolist()]
    budget_j = record.budget_j
    # A budget far above the curve would press the curve flat; then only the text says it.
    near = budget_j is not None and energies[-1] >= 0.08 * budget_j
    rules = [(budget_j, f"budget {quantity(budget_j, 'J')}")] if near and budget_j else []
    series = Series(times, energies, "dose", "step")
    x = time_axis(record.end_s, record.clock)
    chart = plot("Light energy so far", [series], unit="J", x=x, rules=rules, width=WIDE)
    if budget_j and not near:
        share = percent(energies[-1] / budget_j)
        chart = replace(
            chart, note=f"{share} of the budget of {quantity(budget_j, 'J')}, which is off the chart"
        )
    return chart


def bleaching_chart(record: Record) -> Chart | None:
    """Return the signal of places that were imaged again with the same settings, as % of their first."""
    together: dict[str, list[FrameDocument]] = {}
    for frame in record.frames:
        if frame.settings.modality != "sted":
            together.setdefault(frame.settings.model_dump_json(), []).append(frame)
    groups = [group for group in together.values() if len(group) > 1]
    places = len(groups)
    groups = [groups[n] for n in evenly(len(groups), _BLEACHING_PLACES_MAX)]
    if not groups:
        return None
    each = max(2, _BLEACHING_FRAMES_MAX // len(groups))
    series, last = [], []
    for group in groups:
        times, values, names = _signals(record, [group[n] for n in evenly(len(group), each)])
        if len(values) > 1 and values[0] > 0:
            relative = [value / values[0] for value in values]
            series.append(Series(times, relative, group[0].settings.modality, names=names))
            last.append(relative[-1])
    if not series:
        return None
    x = time_axis(record.end_s, record.clock)
    chart = plot("Signal left at places imaged again", series, unit="%", x=x, width=WIDE)
    shown = f"{plural(len(series), 'place')} of {places}" if len(series) < places else plural(places, "place")
    note = (
        f"{shown} imaged more than once with the same settings; the median kept "
        f"{percent(float(np.median(last)))} of its first signal. Signal: mean {record.frame_unit} per pixel, "
        f"background included, so the loss of fluorescence is larger than this where there is background."
    )
    return replace(chart, note=note)


def legend(record: Record) -> list[tuple[str, str, str]]:
    """Return key, name and mark of the modalities that occur."""
    used = {frame.settings.modality for frame in record.frames}
    return [(key, name, outline(key, 7, 7, 4)) for key, name in MODALITIES.items() if key in used]


def questions(record: Record, answers: Mapping[int, Sequence[str]] | None) -> dict[str, Any]:
    """Return the questions that were asked, the first of them with their picture."""
    asked = [c for c in record.cycles if isinstance(c.decision, AskLabel) and c.refused is None]
    found = []
    for number, cycle in enumerate(asked[: 10 * _QUESTIONS_MAX]):
        assert isinstance(cycle.decision, AskLabel)  # noqa: S101  # for the type checker
        question = cycle.decision.question
        found.append(
            {
                "cycle": cycle.index,
                "when": duration(cycle.now_s),
                "text": question.text,
                "choices": question.choices,
                "frame": question.frame_index,
                "kind": question.kind,
                "reason": cycle.decision.reason,
                "panel": question_panel(record, question) if number < _QUESTIONS_MAX else None,
                "answers": None if answers is None else tuple(answers.get(cycle.index, ())),
            }
        )
    return {"rows": found, "left_out": len(asked) - len(found)}


def _one_a_place(frames: Sequence[FrameDocument]) -> list[FrameDocument]:
    """Return the first frame of each place, before it was bleached; a limited number of them."""
    first: dict[tuple[int, ...], FrameDocument] = {}
    for frame in frames:
        first.setdefault(tuple(round(b * 1e9) for b in frame.settings.region.bounds_yx_m), frame)
    found = list(first.values())
    return [found[n] for n in evenly(len(found), _TILES_MAX)]


def _signals(record: Record, group: Sequence[FrameDocument]) -> tuple[list[float], list[float], list[str]]:
    """Return times, mean pixels (background included) and names of the readable frames."""
    times, values, names = [], [], []
    for document in group:
        frame = record.frame(document.index)
        if frame is not None and np.isfinite(frame.photons).any():
            times.append(document.started_s)
            values.append(float(np.nanmean(frame.photons)))
            names.append(f"frame {document.index}, {place_of(document.settings)}")
    return times, values, names
