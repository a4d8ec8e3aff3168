"""The tables of an exported session: one row a frame, a cycle, a question, an object. SI units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.core.decision import Acquire, AskLabel, Decision
from controller.core.errors import SessionFolderError
from controller.core.settings import ScanSettings
from controller.recording.documents import CycleDocument, FrameDocument
from controller.recording.reader import SessionReader

_SETTINGS = (
    "modality",
    "center_y_m",
    "center_x_m",
    "height_m",
    "width_m",
    "pixel_size_m",
    "dwell_s",
    "line_averages",
    "excitation_w",
    "sted_w",
    "focus_m",
    "adaptive",
)

FRAME_COLUMNS = (
    *("frame", "cycle", "file", "plane", "started_s"),
    *_SETTINGS,
    *("dose_j_per_m2", "energy_j", "blake2b", "problem"),
    *("denoised_file", "denoised_plane", "labels_file", "labels_plane"),
)
QUESTION_COLUMNS = (
    *("cycle", "now_s", "frame", "kind", "text", "choices"),
    *("center_y_m", "center_x_m", "height_m", "width_m", "reason", "refused"),
)
OBJECT_COLUMNS = (
    *("frame", "label", "center_y_m", "center_x_m", "area_m2", "pixels"),
    *("mean_photons", "mean_probability", "mean_uncertainty_bit"),
)


def cycle_columns(reader: SessionReader) -> tuple[str, ...]:
    """Return the columns of ``cycles.csv``: the evidence and the stages differ from session to session."""
    evidence = _names(cycle.decision.evidence for cycle in reader.cycles)
    stages = _names(cycle.timings_s for cycle in reader.cycles)
    return (
        *("cycle", "now_s", "decision", "decided_by", "reason", "frame", "frames", "refused", "faults"),
        *_SETTINGS,
        *("decided_on_age_s", "level", "weights", "objects", "dose_energy_j", "dose_peak_j_per_m2"),
        *(f"evidence_{name}" for name in evidence),
        *(f"time_{name}_s" for name in stages),
    )


def _settings_row(settings: ScanSettings | None) -> dict[str, Any]:
    if settings is None:
        return dict.fromkeys(_SETTINGS, "")
    region = settings.region
    values = (
        settings.modality,
        *region.center_yx_m,
        *region.size_yx_m,
        settings.pixel_size_m,
        settings.dwell_s,
        settings.line_averages,
        settings.excitation_w,
        settings.sted_w,
        "" if settings.focus_m is None else settings.focus_m,
        "" if settings.adaptive is None else settings.adaptive.model_dump_json(),
    )
    return dict(zip(_SETTINGS, values, strict=True))


def frame_row(document: FrameDocument, name: str, plane: int | None, problem: str) -> dict[str, Any]:
    """Return the row of a frame: in which file and plane it is, or why it is not."""
    return {
        "frame": document.index,
        "cycle": document.cycle,
        "file": name,
        "plane": "" if plane is None else plane,
        "started_s": document.started_s,
        **_settings_row(document.settings),
        "dose_j_per_m2": document.settings.dose_j_per_m2,
        "energy_j": document.settings.energy_j,
        "blake2b": document.blake2b,
        "problem": problem,
    }


def cycle_rows(reader: SessionReader) -> Iterator[dict[str, Any]]:
    """Return one row for each cycle."""
    for cycle in reader.cycles:
        decision: Decision = cycle.decision
        kind = (
            "acquire"
            if isinstance(decision, Acquire)
            else "ask"
            if isinstance(decision, AskLabel)
            else "stop"
        )
        yield {
            "cycle": cycle.index,
            "now_s": cycle.now_s,
            "decision": kind,
            "decided_by": cycle.decided_by,
            "reason": decision.reason,
            "frame": "" if cycle.frame_index is None else cycle.frame_index,
            "frames": decision.frames if isinstance(decision, Acquire) else "",
            "refused": cycle.refused or "",
            "faults": "; ".join(cycle.faults),
            **_settings_row(decision.settings if isinstance(decision, Acquire) else None),
            "decided_on_age_s": "" if cycle.decided_on_age_s is None else cycle.decided_on_age_s,
            "level": cycle.denoised.level if cycle.denoised else "",
            "weights": " ".join(f"{role}:{name}" for role, name in sorted(cycle.weights.items())),
            "objects": cycle.segmentation.objects if cycle.segmentation else "",
            "dose_energy_j": cycle.dose.energy_j,
            "dose_peak_j_per_m2": cycle.dose.peak_j_per_m2,
            **{f"evidence_{name}": value for name, value in decision.evidence.items()},
            **{f"time_{name}_s": value for name, value in cycle.timings_s.items()},
        }


def question_rows(reader: SessionReader) -> Iterator[dict[str, Any]]:
    """Return one row for each question, those refused by the budget too."""
    for cycle in reader.cycles:
        if not isinstance(cycle.decision, AskLabel):
            continue
        question = cycle.decision.question
        (y, x), (height, width) = question.region.center_yx_m, question.region.size_yx_m
        yield {
            "cycle": cycle.index,
            "now_s": cycle.now_s,
            "frame": question.frame_index,
            "kind": question.kind,
            "text": question.text,
            "choices": " | ".join(question.choices),
            "center_y_m": y,
            "center_x_m": x,
            "height_m": height,
            "width_m": width,
            "reason": cycle.decision.reason,
            "refused": cycle.refused or "",
        }


def object_rows(reader: SessionReader) -> tuple[list[dict[str, Any]], list[str]]:
    """Return one row for each segmented object, and what could not be read."""
    rows: list[dict[str, Any]] = []
    unreadable = []
    for cycle in reader.cycles:
        if cycle.segmentation is None or cycle.frame_index is None:
            continue
        try:
            rows += _objects_of(reader, cycle, cycle.frame_index)
        except (SessionFolderError, IndexError):
            unreadable.append(f"segmentation of cycle {cycle.index}")
    return rows, unreadable


def _objects_of(reader: SessionReader, cycle: CycleDocument, frame_index: int) -> Iterator[dict[str, Any]]:
    found = reader.segmentation(cycle)
    frame = reader.frame(frame_index)
    if found is None:
        return
    labels = found.labels.ravel()
    pixels = np.bincount(labels)

    def means(image: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(labels, weights=image.ravel().astype(float)) / np.maximum(pixels, 1)

    grid = np.indices(found.labels.shape)
    y, x = means(grid[0]), means(grid[1])
    photons, probability, doubt = (
        means(image) for image in (frame.photons, found.probability, found.uncertainty)
    )
    pixel_m = frame.settings.pixel_size_m
    top_m, left_m, _, _ = frame.settings.scanned_region.bounds_yx_m
    for label in np.flatnonzero(pixels):
        if label == 0:
            continue
        yield {
            "frame": frame_index,
            "label": int(label),
            # The region's bounds are the outer edges of its pixels.
            "center_y_m": top_m + (float(y[label]) + 0.5) * pixel_m,
            "center_x_m": left_m + (float(x[label]) + 0.5) * pixel_m,
            "area_m2": int(pixels[label]) * pixel_m**2,
            "pixels": int(pixels[label]),
            "mean_photons": float(photons[label]),
            "mean_probability": float(probability[label]),
            "mean_uncertainty_bit": float(doubt[label]),
        }


def _names(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return all keys, in the order of their first appearance."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))
