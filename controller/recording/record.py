"""What a session's journal says, as a report and an export need it: counts, dose, evidence, wording."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import ValidationError

from controller.core.decision import Acquire, AskLabel, Stop
from controller.core.errors import SessionFolderError
from controller.core.frame import LEVELS, Denoised, Frame, Segmentation
from controller.core.limits import SafetyLimits
from controller.core.settings import ScanSettings
from controller.recording.documents import CycleDocument, FrameDocument
from controller.recording.reader import SessionReader
from controller.recording.units import TIMES, number, percent, plural, quantity
from controller.recording.visits import Visit, find_visits

MODALITIES = {"overview": "overview", "confocal": "confocal", "sted": "STED", "two_photon": "two-photon"}
_ABOUT_THE_NEXT = ("expected_", "score_")
_LOOKED_FOR = ("utility", "detail_snr", "bleached_fraction")


class Record:
    """A session as a report sees it. What cannot be read is written down instead of raised."""

    def __init__(self, reader: SessionReader) -> None:
        self.reader = reader
        self.cycles = reader.cycles
        self.frames: list[FrameDocument] = [reader.frames[index] for index in sorted(reader.frames)]
        # One for each scan: of a movie the last frame, the one that was worked on.
        self.images: list[FrameDocument] = list({frame.path: frame for frame in self.frames}.values())
        self.visits: list[Visit] = find_visits(self.images)
        self.cycle_of = {c.frame_index: c for c in self.cycles if c.frame_index is not None}
        self.unreadable: list[str] = []

    @cached_property
    def limits(self) -> SafetyLimits | None:
        """Return the limits that held, or ``None`` if the record of them is not understood."""
        try:
            return SafetyLimits.model_validate_json(json.dumps(self.reader.start.hardware["limits"]))
        except (KeyError, ValidationError, TypeError, ValueError):
            return None

    @property
    def experiment_name(self) -> str:
        """Return what the experiment is called."""
        return str(self.reader.start.experiment.get("name") or "Unnamed experiment")

    @property
    def microscope_name(self) -> str:
        """Return what the microscope is called, and that it is simulated if it is."""
        start = self.reader.start
        name = str(start.hardware.get("name") or start.microscope.get("name") or "unnamed")
        return f"{name} (simulated)" if start.microscope.get("simulated") is True else name

    @property
    def frame_unit(self) -> str:
        """Return what a pixel of a frame counts, as the microscope told it: photons if it did not."""
        unit = _table(self.reader.start.microscope, "details").get("unit")
        return unit if isinstance(unit, str) and unit else "photons"

    @property
    def clock(self) -> str:
        """Return which clock the times are on."""
        configured = _table(self.reader.start.hardware, "microscope").get("clock")
        simulated = self.reader.start.microscope.get("simulated") is True
        if configured is not None:
            simulated = configured == "simulated"
        return "simulated clock" if simulated else "session clock"

    @cached_property
    def end_s(self) -> float:
        """Return the latest time that is written down."""
        times = [c.now_s for c in self.cycles]
        times += [f.started_s + f.settings.duration_s for f in self.frames]
        return max([0.0, *times, *([self.reader.stop.now_s] if self.reader.stop else [])])

    @cached_property
    def bookings(self) -> list[tuple[float, ScanSettings, float, float]]:
        """Return each scan's time, settings, energy in J and dose in J/m²: as delivered, or as booked.

        A reservation without a frame counts in full, as in the ledger.
        """
        found, time_s = [], 0.0
        for booking in self.reader.reservations:
            index = self.reader.frame_of.get(booking.number)
            lit, settings = self.reader.lit(booking), booking.settings
            if index is not None:
                frame = self.reader.frames[index]
                time_s, settings = frame.started_s + frame.settings.duration_s, frame.settings
            found.append((time_s, settings, lit.energy_j, lit.dose_j_per_m2))
        return found

    @property
    def energy_j(self) -> float:
        """Return the light energy of all scans, unsettled ones in full."""
        return sum(energy_j for _, _, energy_j, _ in self.bookings)

    @property
    def budget_j(self) -> float | None:
        """Return the energy budget: the lower of the limits' and the experiment's."""
        asked = _table(self.reader.start.experiment, "budget").get("session_energy_j")
        known = [self.limits.session_energy_max_j] if self.limits else []
        known += [float(asked)] if isinstance(asked, int | float) and asked > 0 else []
        return min(known) if known else None

    @property
    def peak_j_per_m2(self) -> float:
        """Return the largest dose that the ledger wrote down."""
        entries = [c.dose.peak_j_per_m2 for c in self.cycles]
        return max([0.0, *entries, *([self.reader.stop.dose.peak_j_per_m2] if self.reader.stop else [])])

    def peak_remark(self) -> str:
        """Return how the peak compares with its limit."""
        if self.limits is None:
            return ""
        limit = self.limits.pixel_dose_max_j_per_m2
        return f"{percent(self.peak_j_per_m2 / limit)} of {quantity(limit, 'J/m²')} allowed"

    def modality_counts(self) -> str:
        """Return how many frames of each modality there are, in words."""
        counts: Counter[str] = Counter(frame.settings.modality for frame in self.frames)
        found = [f"{counts[key]} {name}" for key, name in MODALITIES.items() if counts[key]]
        movies = sum(image.plane is not None for image in self.images)
        return ", ".join([*found, *([f"in {plural(movies, 'movie')}"] if movies else [])])

    def summary(self) -> str:
        """Return the session in one sentence."""
        policy = _table(self.reader.start.experiment, "policy").get("name") or "unnamed"
        took = plural(len(self.frames), "frame")
        where = f" at {plural(len(self._places()), 'place')}" if self.visits else ""
        return f"Policy “{policy}” on {self.microscope_name} took {took}{where}."

    def models(self) -> str:
        """Return the names of policy, denoiser and segmenter."""
        experiment = self.reader.start.experiment
        names = {role: _table(experiment, role).get("name") for role in ("policy", "denoiser", "segmenter")}
        return ", ".join(f"{role} {name}" for role, name in names.items() if name)

    @cached_property
    def evidence_of_frame(self) -> dict[int, dict[str, float]]:
        """Return, by frame, the evidence of the decisions made after seeing it, up to the next scan.

        A STED frame is often judged only after a confocal frame of the same place, so there the time
        goes on to the next scan elsewhere or the next STED scan. Figures about a scan to come do not count.
        """
        follow_ups = {f.index for visit in self.visits for f in visit.frames if f.settings.modality != "sted"}
        visit_of = {f.index: visit.number for visit in self.visits for f in visit.frames}
        found: dict[int, dict[str, float]] = {}
        judged: list[int] = []
        for cycle in self.cycles:
            past = {n: v for n, v in cycle.decision.evidence.items() if not n.startswith(_ABOUT_THE_NEXT)}
            for index in judged:
                found[index] = past | found.get(index, {})
            new = cycle.frame_index
            if new is None:
                continue
            judged = [
                old
                for old in judged
                if old not in follow_ups and new in follow_ups and visit_of.get(old, -1) == visit_of.get(new)
            ]
            judged.append(new)
        return found

    def evidence_names(self) -> list[str]:
        """Return the names of all evidence figures: those a reader looks for, then the most frequent."""
        counts = Counter(name for cycle in self.cycles for name in cycle.decision.evidence)
        return sorted(counts, key=lambda name: (name not in _LOOKED_FOR, -counts[name]))

    def stages(self) -> list[tuple[str, str, str, int]]:
        """Return each stage of the loop with its median and worst wall time and how often it ran."""
        times: dict[str, list[float]] = {}
        for cycle in self.cycles:
            for name, seconds in cycle.timings_s.items():
                times.setdefault(name, []).append(seconds)
        return [
            (name, quantity(float(np.median(all_s)), "s"), quantity(max(all_s), "s"), len(all_s))
            for name, all_s in times.items()
        ]

    @staticmethod
    def is_stop(cycle: CycleDocument) -> bool:
        """Tell whether the policy wanted to end the session."""
        return isinstance(cycle.decision, Stop)

    @staticmethod
    def wants(cycle: CycleDocument) -> str:
        """Return what a decision asked for, in a word."""
        decision = cycle.decision
        if isinstance(decision, Acquire):
            return MODALITIES[decision.settings.modality]
        return "question" if isinstance(decision, AskLabel) else "stop"

    @staticmethod
    def settings_of(cycle: CycleDocument) -> str:
        """Return the settings of a request, or the text of a question."""
        decision = cycle.decision
        if isinstance(decision, Acquire):
            movie = f" · movie of {decision.frames} frames" if decision.frames > 1 else ""
            return describe(decision.settings) + movie
        return decision.question.text if isinstance(decision, AskLabel) else ""

    def frame(self, index: int) -> Frame | None:
        """Return a frame, or ``None`` if it is unreadable."""
        try:
            return self.reader.frame(index)
        except SessionFolderError:
            self._note(f"frame {index}")
            return None

    def denoised(self, cycle: CycleDocument) -> Denoised | None:
        """Return a denoised image, or ``None`` if it is unreadable."""
        try:
            return self.reader.denoised(cycle)
        except (SessionFolderError, IndexError):
            self._note(f"denoised image of cycle {cycle.index}")
            return None

    def segmentation(self, cycle: CycleDocument) -> Segmentation | None:
        """Return a segmentation, or ``None`` if it is unreadable."""
        try:
            return self.reader.segmentation(cycle)
        except (SessionFolderError, IndexError):
            self._note(f"segmentation of cycle {cycle.index}")
            return None

    def doubts(self) -> list[str]:
        """Return what a reader has to know before believing the rest."""
        found = []
        if self.unreadable:
            listed = ", ".join(self.unreadable[:8]) + (" …" if len(self.unreadable) > 8 else "")
            found.append(f"Unreadable or not matching their checksum: {listed}. The rest is as recorded.")
        lost = self.reader.unsettled()
        if lost:
            found.append(
                f"{plural(len(lost), 'scan')} booked without all frames (failed, cut off or still running); "
                f"the worst case of {quantity(sum(b.energy_j for b in lost), 'J')} counts as delivered."
            )
        stop = self.reader.stop
        if stop and stop.frames != len(self.frames):
            found.append(f"The end counts {stop.frames} frames, the journal holds {len(self.frames)}.")
        if stop and abs(stop.dose.energy_j - self.energy_j) > 1e-6 * max(stop.dose.energy_j, self.energy_j):
            found.append(
                f"The ledger ended at {quantity(stop.dose.energy_j, 'J')}, the recorded scans add up to "
                f"{quantity(self.energy_j, 'J')}."
            )
        worked_at = Counter(cycle.denoised.level for cycle in self.cycles if cycle.denoised)
        lower = [
            f"{count} at level {level} ({LEVELS[level]})"
            for level, count in sorted(worked_at.items())
            if level
        ]
        if lower:
            found.append(
                f"For want of time or memory, or after a fault, not all of the {worked_at.total()} denoised "
                f"frames were worked on in full: {'; '.join(lower)}."
            )
        if self.limits is None:
            found.append("The safety limits in the record are not understood; budgets are not shown.")
        return found

    def _note(self, what: str) -> None:
        if what not in self.unreadable:
            self.unreadable.append(what)

    def _places(self) -> set[tuple[int, ...]]:
        return {tuple(round(b * 1e9) for b in visit.region.bounds_yx_m) for visit in self.visits}


def describe(settings: ScanSettings) -> str:
    """Return scan settings as a person would say them."""
    rows, columns = settings.shape_yx
    passes = f" {TIMES} {settings.line_averages} passes" if settings.line_averages > 1 else ""
    parts = [
        f"{columns} {TIMES} {rows} px of {quantity(settings.pixel_size_m, 'm')}",
        f"dwell {quantity(settings.dwell_s, 's')}{passes}",
        f"excitation {quantity(settings.excitation_w, 'W')}",
    ]
    if settings.modality == "sted":
        parts.append(f"STED {quantity(settings.sted_w, 'W')}")
    if settings.adaptive is not None:
        parts.append(f"adaptive, at most {len(settings.adaptive.steps)} steps")
    return " · ".join(parts)


def name_of(frame: FrameDocument) -> str:
    """Return how a frame is called; the last one of a movie stands for all of it."""
    if not frame.plane:
        return f"frame {frame.index}"
    return f"frames {frame.index - frame.plane} to {frame.index}"


def place_of(settings: ScanSettings) -> str:
    """Return the centre of a scan in sample coordinates."""
    y_m, x_m = settings.region.center_yx_m
    return f"x {number(x_m * 1e6)} µm, y {number(y_m * 1e6)} µm"


def _table(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = mapping.get(key)
    return found if isinstance(found, Mapping) else {}
