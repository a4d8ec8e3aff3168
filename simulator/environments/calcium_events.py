"""CalciumEvents: neurons fire when they like; look at the right place in time, for little light."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from controller.core.frame import Frame
from controller.core.settings import NonNegative, Positive, Region, ScanSettings
from controller.core.spaces import Parameter
from simulator.environments.brain_env import BrainEnv, BrainEnvOptions, Taken
from simulator.environments.brain_samples import BrainDistribution
from simulator.environments.event_truth import EventOptions, Events
from simulator.environments.microscope_env import Action, EnvOptions, Info, Observation
from simulator.environments.parameters import ActionMap, as_point
from simulator.environments.pictures import Bytes
from simulator.two_photon.focal_plane import MAP_PIXEL_M

#: What the tasks mean here. ``held_out`` has tissue, an indicator and depths that ``easy`` and ``mid``
#: do not have, and weaker expression.
EVENT_TASKS: dict[str, BrainDistribution] = {
    "easy": BrainDistribution(
        indicators=("gcamp6f",),
        dye_molar=(10e-6, 10e-6),
        depth_m=(150e-6, 150e-6),
        burst_rate_hz=(0.2, 0.2),
        bleaching=(10.0, 10.0),
    ),
    "mid": BrainDistribution(),
    "hard": BrainDistribution(dye_molar=(4e-6, 8e-6), depth_m=(150e-6, 275e-6), bleaching=(30.0, 100.0)),
    "held_out": BrainDistribution(
        indicators=("jgcamp8s",),
        tissue="held_out",
        dye_molar=(4e-6, 5.9e-6),
        depth_m=(250e-6, 275e-6),
        bleaching=(50.0, 100.0),
    ),
}


class CalciumEventsOptions(BrainEnvOptions):
    """What can be chosen of the watch for events."""

    steps: Annotated[int, Field(ge=1, le=1000)] = 1000
    """Most looks of an episode, should time not end it before."""
    duration_s: Annotated[float, Field(gt=1, le=600)] = 10.0
    """How long an episode lasts on the simulated clock."""
    latency_s: NonNegative = 0.02
    """How long a decision takes. It passes before each look, and the neurons do not wait."""
    episode_energy_j: Positive = 0.12
    power: Parameter = Parameter(name="excitation_w", low=1e-3, high=50e-3, scale="log")
    """What the policy may choose from."""
    dwell_s: Positive = 10e-6
    event: EventOptions = EventOptions()
    false_weight: NonNegative = 0.3
    """Price of spending the whole episode on parts of the field where nothing happens."""


class CalciumEventsEnv(BrainEnv[CalciumEventsOptions]):
    """A field of neurons on the wall clock: each step is a look at all of it, or closer at a part.

    The action is ``(power, y, x, size)``: power on a logarithmic scale; the middle of the look, -1..1 as
    far as it stays in the field; and how large it is, a quarter (-1), half, three quarters or all (1) of
    the side. Every look has as many pixels and takes as long, so a smaller one gives each cell more light.

    The reward of a look is how much more it shows of events, as part of all events of the episode (a
    quality of 0..1 each, see :class:`~simulator.environments.event_truth.EventOptions`), less its price of
    light, less ``false_weight`` times its share of the time if it is a false trigger: a look at less than
    the whole field with no event going on there.

    ``terminated``: a look did not fit into the dose budget. ``truncated``: the time is over.
    """

    Options: ClassVar[type[EnvOptions]] = CalciumEventsOptions
    brain_tasks: ClassVar[Mapping[str, BrainDistribution]] = EVENT_TASKS
    channels = ("last overview", "overview before", "last look", "its place")
    budgets = ("time left", "energy left", "signal left")

    def _set_up(self) -> None:
        super()._set_up()
        self._power = ActionMap((self.options.power,), self._samples.limits)
        self._zooms = max(1, round(self.options.pixel_size_m / MAP_PIXEL_M))
        self._set_spaces(actions=4, recorded=6, side_px=self.options.pixels)

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        """Decide, which takes its time, and look; see ``docs/environments.md`` for what comes back.

        Raises
        ------
        ValueError
            If the action is outside its box.
        DeviceError
            If the microscope failed; its light is off.
        """
        settings = self.settings(action)
        self._take_step()
        begun_s = self._stage.clock.now_s()
        self._stage.clock.sleep(self.options.latency_s)
        taken = self._take(settings)
        reward = -self.options.refusal_cost
        if taken.frame is not None:
            reward = self._look(taken.frame, begun_s) - self._cost(taken)
        shown = 0.0 if taken.frame is None else float(self.photons(taken.frame).mean())
        brightness = 2 * np.sqrt(min(1.0, max(0.0, shown / self.options.full_scale_photons))) - 1
        self._remember([*action, brightness, -1.0 if taken.refusal else 1.0])
        terminated, truncated = self._ends(terminated=taken.is_spent)
        return self._observation(), float(reward), terminated, truncated, self._info(settings, taken)

    def settings(self, action: Action) -> ScanSettings:
        """Return the scan that an action asks for; ``ValueError`` if it is outside its box."""
        point = as_point(action, ("power", "y", "x", "size"))
        power_w = self._power.settings(np.asarray(point[:1]))["excitation_w"]
        zoom = min(int((point[3] + 1) / 2 * self._zooms), self._zooms - 1)
        pixel_size_m = (zoom + 1) * MAP_PIXEL_M
        side_m = self.options.pixels * pixel_size_m
        y, x = (
            centre + round(float(part) * (self.field_m - side_m) / 2 / MAP_PIXEL_M) * MAP_PIXEL_M
            for centre, part in zip(self._region.center_yx_m, point[1:3], strict=True)
        )
        return ScanSettings(
            modality="two_photon",
            region=Region(center_yx_m=(y, x), size_yx_m=(side_m, side_m)),
            pixel_size_m=pixel_size_m,
            dwell_s=self.options.dwell_s,
            excitation_w=power_w,
            focus_m=self.depth_m,
        )

    def action_for(
        self, excitation_w: float, center_yx_m: tuple[float, float] | None = None, part: float = 1.0
    ) -> Action:
        """Return the action of a look with this power at a place, as near as the field allows.

        ``part`` of the side of the field is what the look is to have; ``center_yx_m`` is the field's if
        it is not given.
        """
        sizes = (np.arange(self._zooms) + 1) / self._zooms
        zoom = int(np.argmin(abs(sizes - part)))
        reach_m = self.field_m * (1 - sizes[zoom]) / 2
        place = np.zeros(2)
        if center_yx_m is not None and reach_m > 0:
            place = np.clip((np.array(center_yx_m) - self._region.center_yx_m) / reach_m, -1, 1)
        power = self._power.action({"excitation_w": excitation_w})
        return np.array([*power, *place, 2 * (zoom + 0.5) / self._zooms - 1], np.float32)

    @property
    def events(self) -> Events:
        """The events of this episode, future ones included: for oracles and figures, not for policies."""
        return self._events

    @property
    def now_s(self) -> float:
        """Return the time on the session's clock, of which ``events`` tell."""
        return self._stage.clock.now_s()

    def images(self) -> Sequence[Bytes | None]:
        return [*(self._encoded(frame) for frame in (self._now, self._before, self._last)), self._place]

    def _fields_needed(self) -> tuple[int, float]:
        return 1, self.field_m

    def _begin(self) -> None:
        self._now: Frame | None = None
        self._before: Frame | None = None
        self._last: Frame | None = None
        self._place = np.zeros((self.options.pixels, self.options.pixels), np.uint8)
        stage, start_s = self._stage, self._stage.clock.now_s()
        self._start_s, self._false_looks = start_s, 0
        end_s = start_s + self.options.duration_s
        self._events = Events(
            stage.brain, self.depth_m, self._region, self.options.event, start_s=start_s, end_s=end_s
        )

    def _part_over(self) -> float:
        passed_s = self._stage.clock.now_s() - self._start_s
        return max(passed_s / self.options.duration_s, super()._part_over())

    def _look(self, frame: Frame, begun_s: float) -> float:
        """Book a look that took the time since ``begun_s``; return what it is worth, light not counted."""
        is_whole = self._see(frame)
        before = self._events.quality().sum()
        is_true = self._events.look(frame)
        worth = float(self._events.quality().sum() - before) / max(1, len(self._events))
        if not (is_whole or is_true):
            self._false_looks += 1
            passed_s = self._stage.clock.now_s() - begun_s
            worth -= self.options.false_weight * passed_s / self.options.duration_s
        return worth

    def _see(self, frame: Frame) -> bool:
        """Keep the image of a look; tell whether it is one of the whole field."""
        region = frame.settings.region
        is_whole = region.size_yx_m[0] >= self.field_m - MAP_PIXEL_M
        self._last = frame
        if is_whole:
            self._before, self._now = self._now, frame
        corner = np.array(self._region.bounds_yx_m[:2])
        y0, x0, y1, x1 = (
            (np.array(region.bounds_yx_m).reshape(2, 2) - corner) / self.options.pixel_size_m
        ).ravel()
        self._place[:] = 0
        self._place[round(y0) : round(y1), round(x0) : round(x1)] = 255
        return is_whole

    def _info(self, settings: ScanSettings, taken: Taken) -> Info:
        events, now_s = self._events, self._stage.clock.now_s()
        is_seen = ~np.isnan(events.seen_s)
        begun = int((events.onset_s <= now_s).sum())
        delay_s = events.seen_s[is_seen] - events.onset_s[is_seen]
        return {
            **self._told(settings, taken),
            "center_yx_m": np.array(settings.region.center_yx_m),
            "pixel_size_m": settings.pixel_size_m,
            "latency_s": self.options.latency_s,
            "truth_events": float(begun),
            "truth_events_seen": float(is_seen.sum()),
            "truth_recall": float(is_seen.sum()) / max(1, begun),
            "truth_quality": float(events.quality().sum()) / max(1, begun),
            "truth_delay_s": float(delay_s.mean()) if len(delay_s) else 0.0,
            "truth_false_looks": float(self._false_looks),
        }
