"""The report of a session: one HTML page that needs nothing else, for a reader who was not there.

This module gathers what the page says and writes it. Charts, pictures and maps are made in modules
of their own; the template ``report.html.j2`` draws and escapes everything.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from controller.core.decision import AskLabel
from controller.core.errors import RecordingError
from controller.recording import report_figures as figures
from controller.recording import units
from controller.recording.documents import CycleDocument
from controller.recording.reader import SessionReader
from controller.recording.record import Record, name_of
from controller.recording.report_panels import moments
from controller.recording.report_strip import strips

_ROWS_MAX = 400
_ROWS_OPEN = 25

_STATUS = {
    "completed": ("Completed", "✓", "The session ran to its planned end."),
    "failed": ("Failed", "✕", "The session ended because something went wrong."),
    "interrupted": ("Interrupted", "❚❚", "Somebody stopped the session before its planned end."),
    "unfinished": (
        "Unfinished",
        "…",
        "There is no end in the journal: the session is still running, or it was cut off.",
    ),
}


def write_report(
    reader: SessionReader, path: Path, *, answers: Mapping[int, Sequence[str]] | None = None
) -> Path:
    """Write the report of a session to ``path`` and return it; an older report there is replaced.

    Parameters
    ----------
    reader
        The session.
    path
        Where the page goes; its folder is made if need be.
    answers
        What people answered, by the index of the cycle that asked. ``None`` (not known): the report
        says nothing about answers.

    Raises
    ------
    RecordingError
        If the page cannot be written.
    """
    page = render(reader, answers)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(page, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise RecordingError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def render(reader: SessionReader, answers: Mapping[int, Sequence[str]] | None = None) -> str:
    """Return the report as one HTML page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # everything in a session is untrusted; the template marks nothing as safe
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(duration=units.duration, percent=units.percent, plural=units.plural)
    return environment.get_template("report.html.j2").render(**_contents(reader, answers)).strip() + "\n"


def _contents(reader: SessionReader, answers: Mapping[int, Sequence[str]] | None) -> dict[str, Any]:
    record = Record(reader)
    seen, folded = moments(record)
    name, sign, meaning = _STATUS[reader.status]
    contents = {
        "title": record.experiment_name,
        "status": {"name": name, "key": reader.status, "sign": sign, "meaning": meaning},
        "reason": reader.stop.reason if reader.stop else "",
        "summary": record.summary(),
        "created": _wall_time(reader.start.created_utc),
        "clock": record.clock,
        "key_figures": _key_figures(record, answers),
        "maps": figures.maps(record),
        "strips": strips(record),
        "moments": seen,
        "more_moments": folded,
        "is_film": all(len(moment.panels) <= 1 for moment in [*seen, *folded]),
        "has_outlines": any(panel.outline for moment in [*seen, *folded] for panel in moment.panels),
        "settings_charts": figures.settings_charts(record),
        "evidence_charts": figures.evidence_charts(record),
        "evidence_left_out": record.evidence_names()[figures.EVIDENCE_MAX :],
        "dose_chart": figures.dose_chart(record),
        "bleaching": figures.bleaching_chart(record),
        "modalities": figures.legend(record),
        "questions": figures.questions(record, answers),
        "refusals": [_row(record, c) for c in record.cycles if c.refused is not None][:_ROWS_MAX],
        "faults": [(_clock_time(c.now_s), c.index, fault) for c in record.cycles for fault in c.faults][
            :_ROWS_MAX
        ],
        "changes": _changes(record),
        "decisions": _decisions(record),
        "stages": record.stages(),
        "provenance": _provenance(record),
        "folder": shlex.quote(reader.folder.resolve().name),
    }
    # Last: the pictures above may have found something unreadable.
    return contents | {"doubts": record.doubts()}


def _key_figures(
    record: Record, answers: Mapping[int, Sequence[str]] | None
) -> list[tuple[str, str, str, float | None]]:
    """Return label, value, remark and (for the dose) the share of its budget."""
    asked = sum(isinstance(c.decision, AskLabel) and c.refused is None for c in record.cycles)
    refused = sum(c.refused is not None for c in record.cycles)
    faults = sum(len(c.faults) for c in record.cycles)
    answered = "" if answers is None else f"{sum(bool(a) for a in answers.values())} answered"
    share = record.energy_j / record.budget_j if record.budget_j else None
    budget = (
        f"{units.quantity(record.energy_j, 'J')} of {units.quantity(record.budget_j, 'J')}"
        if record.budget_j
        else "no budget is recorded"
    )
    used = units.percent(share) if share is not None else units.quantity(record.energy_j, "J")
    found: list[tuple[str, str, str, float | None]] = [
        ("Frames", str(len(record.frames)), record.modality_counts(), None),
        ("Cycles", str(len(record.cycles)), units.plural(len(record.visits), "visit"), None),
        ("Duration", units.duration(record.end_s), record.clock, None),
        ("Dose budget used", used, budget, share),
        ("Peak dose", units.quantity(record.peak_j_per_m2, "J/m²"), record.peak_remark(), None),
        ("Questions asked", str(asked), answered, None),
        ("Requests refused", str(refused), "no light for these" if refused else "", None),
        ("Faults", str(faults), "recorded below" if faults else "", None),
    ]
    return found


def _changes(record: Record) -> list[dict[str, Any]]:
    """Return what the models learned: from which cycle on it held, and its scores."""
    times_s = {cycle.index: cycle.now_s for cycle in record.cycles}
    return [
        {
            "cycle": change.cycle,
            "time": _clock_time(times_s[change.cycle]) if change.cycle in times_s else "",
            "role": change.role,
            "before": units.number(change.score_before, 4),
            "after": units.number(change.score_after, 4),
            "reason": change.reason,
            "weights": change.sha256[:12],
        }
        for change in record.reader.changes[:_ROWS_MAX]
    ]


def _decisions(record: Record) -> dict[str, Any]:
    cycles, left_out = record.cycles, 0
    if len(cycles) > _ROWS_MAX:
        left_out = len(cycles) - _ROWS_MAX
        cycles = cycles[: _ROWS_MAX // 2] + cycles[-_ROWS_MAX // 2 :]
    return {
        "rows": [_row(record, cycle) for cycle in cycles],
        "left_out": left_out,
        "gap_at": _ROWS_MAX // 2 if left_out else -1,
        "is_long": len(cycles) > _ROWS_OPEN,
    }


def _row(record: Record, cycle: CycleDocument) -> dict[str, Any]:
    decision = cycle.decision
    if cycle.refused is not None or cycle.failure is not None:
        outcome, sort = ("refused" if cycle.refused is not None else "failed"), "refused"
    elif cycle.frame_index is not None:
        outcome, sort = name_of(record.reader.frames[cycle.frame_index]), "done"
    elif isinstance(decision, AskLabel):
        outcome, sort = "asked", "done"
    else:
        outcome, sort = ("end", "done") if record.is_stop(cycle) else ("no frame", "refused")
    return {
        "index": cycle.index,
        "time": _clock_time(cycle.now_s),
        "wants": record.wants(cycle),
        "settings": record.settings_of(cycle),
        "reason": decision.reason,
        "evidence": [units.figure(name, value) for name, value in decision.evidence.items()],
        "outcome": outcome,
        "sort": sort,
        "refused": cycle.refused or "",
        "faults": cycle.faults,
        "decided_by": cycle.decided_by,
    }


def _provenance(record: Record) -> list[tuple[str, str]]:
    start = record.reader.start
    resumes = [f"after {units.duration(d.now_s)}, {_wall_time(d.created_utc)}" for d in record.reader.resumes]
    found = [
        ("Run", start.run_id),
        ("Seed", str(start.seed)),
        ("Started", _wall_time(start.created_utc)),
        ("Microscope", record.microscope_name),
        ("Policy and models", record.models()),
        ("Configuration (SHA-256)", start.config_sha256),
        ("Versions", ", ".join(f"{name} {version}" for name, version in start.versions.items())),
        ("Gone on after a break", "; ".join(resumes) if resumes else "never"),
    ]
    if record.reader.stop is not None:
        found.insert(3, ("Ended", _wall_time(record.reader.stop.created_utc)))
    return [(label, text) for label, text in found if text]


def _clock_time(seconds: float) -> str:
    return units.duration(seconds) if seconds >= 60 else f"{seconds:.2f}\N{NO-BREAK SPACE}s"


def _wall_time(text: str) -> str:
    return text[:19].replace("T", " ") + " UTC" if text[10:11] == "T" and "+00:00" in text else text
