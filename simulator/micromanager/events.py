"""What a client asks of an acquisition: one event, one image."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, ValidationError

from controller.core.errors import InvalidRequestError
from controller.core.settings import Settings
from simulator.micromanager.knobs import Z_STAGE, Knobs, in_unit, problems, property_text
from simulator.micromanager.scanner import Scanner


class Event(Settings):
    """What a client may ask in one event: lengths in µm, exposure in ms, times in s."""

    axes: dict[str, int | str]
    min_start_time: float | None = None
    timeout_ms: float | None = None
    config_group: tuple[str, str] | None = None
    exposure: float | None = None
    x: float | None = None
    y: float | None = None
    z: float | None = None
    stage_positions: tuple[tuple[str, float], ...] = ()
    camera: Literal["", "Scanner"] = ""
    properties: tuple[tuple[str, str, bool | int | float | str], ...] = ()
    tags: dict[str, Any] = Field(default_factory=dict)
    row: int | None = None
    col: int | None = None

    def turned(self, scanner: Scanner, knobs: Knobs) -> Knobs:
        """Return ``knobs`` as this event asks, in the order of Micro-Manager's engine."""
        for stage, place_um in [*self.stage_positions, *([(Z_STAGE, self.z)] if self.z is not None else [])]:
            if stage != Z_STAGE:
                raise InvalidRequestError(f"stage {stage!r} is asked, there is {Z_STAGE!r} alone")
            knobs = scanner.with_focus(knobs, place_um)
        if self.x is not None or self.y is not None:
            y_m, x_m = knobs.stage_yx_m
            x_um = self.x if self.x is not None else in_unit(x_m, -6)
            y_um = self.y if self.y is not None else in_unit(y_m, -6)
            knobs = scanner.with_stage(knobs, x_um, y_um)
        if self.config_group is not None:
            knobs = scanner.with_preset(knobs, *self.config_group)
        if self.exposure is not None:
            knobs = scanner.with_exposure(knobs, self.exposure)
        for device, name, value in self.properties:
            knobs = scanner.written(knobs, device, name, property_text(value))
        return knobs


def parsed_event(event: dict[str, Any]) -> Event:
    """Return an event if it is well-formed and holds nothing unknown, or say what is wrong with it."""
    try:
        return Event.model_validate_json(json.dumps(event))
    except ValidationError as error:
        raise InvalidRequestError(f"event {json.dumps(event)[:300]}: {problems(error)}") from error
