"""What a mapping's files alone say: what no longer holds, and what limits allow and devices cannot do."""

from __future__ import annotations

from datetime import UTC, datetime

from controller.core.checking import corner_scans
from controller.core.limits import SafetyLimits
from controller.core.protocols import Resources
from controller.microscopes.device_mapping import ScanMapping
from controller.microscopes.device_plan import Refusal, refusals


def common_problems(mapping: ScanMapping, resources: Resources) -> list[str]:
    """Return what of a mapping no longer holds, or contradicts the table ``[safe]``."""
    return mapping.expired(datetime.now(UTC).date()) + mapping.unsafe(resources.safe)


def undoable(mapping: ScanMapping, limits: SafetyLimits) -> list[str]:
    """Return what the limits allow and the devices cannot do: of each setting the two extremes."""
    found: dict[str, list[Refusal]] = {}
    for scan in corner_scans(limits, mapping.modalities):
        for refusal in refusals(mapping, scan):
            found.setdefault(refusal.subject, []).append(refusal)
    notes = []
    for refused in found.values():
        ends = (min(refused, key=lambda one: one.amount), max(refused, key=lambda one: one.amount))
        notes += [f"[limits] allow what the devices cannot do: {end.text}" for end in dict.fromkeys(ends)]
    return notes
