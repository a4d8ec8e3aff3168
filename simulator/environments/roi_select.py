"""ROISelect: an overview shows where something might be; few places of it can have STED light."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from controller.core.errors import DoseBudgetError, LimitExceededError
from controller.core.frame import Frame
from controller.core.settings import NonNegative, Positive, Region, ScanSettings
from simulator.environments.microscope_env import Action, EnvOptions, Info, MicroscopeEnv, Observation
from simulator.environments.parameters import as_point
from simulator.environments.pictures import Bytes, encoded
from simulator.environments.sample_regions import SampleRegions
from simulator.environments.samples import SampleDistribution, TaskName
from simulator.objectives import find_spots

#: What the tasks mean here: samples whose small things lie in few places.
ROI_TASKS: dict[str, SampleDistribution] = {
    "easy": SampleDistribution(
        kinds=("synapses",), bleaching=(1.0, 1.0), brightness=(1.0, 1.0), background_hz=(2000.0, 2000.0)
    ),
    "mid": SampleDistribution(kinds=("synapses", "vesicles"), bleaching=(0.3, 3.0), brightness=(0.3, 1.2)),
    "hard": SampleDistribution(
        kinds=("synapses",), bleaching=(2.0, 6.0), brightness=(0.1, 0.4), background_hz=(2000.0, 8000.0)
    ),
    "held_out": SampleDistribution(
        kinds=("synapses", "vesicles"), maps="held_out", bleaching=(3.2, 6.0), brightness=(0.15, 0.28)
    ),
}

#: A spot is a true one, or one that was found before, within this distance.
_SAME_M = 40e-9
_SPOT_WIDTH_M = 80e-9

Points = NDArray[np.float64]


class ROISelectOptions(EnvOptions):
    """What can be chosen of the selection of regions."""

    task: TaskName | SampleDistribution = "mid"
    """A name of ``ROI_TASKS``, or a distribution of your own."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 8
    sample_m: Positive = 7.68e-6
    """Side of the square sample."""
    overview_pixel_m: Positive = 120e-9
    overview_dwell_s: Positive = 10e-6
    overview_excitation_w: Positive = 10e-6
    roi_m: Positive = 1.28e-6
    """Side of the square region that a step images."""
    pixel_size_m: Positive = 20e-9
    dwell_s: Positive = 10e-6
    excitation_w: Positive = 8e-6
    sted_w: NonNegative = 0.1
    dose_weight: NonNegative = 0.2
    """Price of the whole dose budget."""
    spots_unit: Positive = 20.0
    """Where nobody knows how many spots there are, so many new ones are worth a reward of 1."""

    @model_validator(mode="after")
    def _images_have_one_size(self) -> Self:
        if round(self.sample_m / self.overview_pixel_m) != round(self.roi_m / self.pixel_size_m):
            raise ValueError(
                "sample_m / overview_pixel_m must be roi_m / pixel_size_m: they are shown together"
            )
        return self

    @property
    def pixels(self) -> int:
        """Return the side of both images in pixels."""
        return round(self.roi_m / self.pixel_size_m)


class ROISelectEnv(MicroscopeEnv[ROISelectOptions]):
    """One overview, then eight regions that the policy chooses, imaged with fixed STED settings.

    The action is the middle of a region: -1..1 down and across the sample. The reward is the part of all
    spots that this region shows for the first time (a spot counts where a detector finds it within 40 nm
    of a true one), less ``dose_weight`` times the share of the dose budget. Without a truth, new finds
    are counted in ``spots_unit``.
    """

    Options: ClassVar[type[EnvOptions]] = ROISelectOptions
    tasks = ROI_TASKS
    channels = ("overview", "last region", "visited")

    def _set_up(self) -> None:
        self._last: Frame | None = None
        self._set_spaces(actions=2, recorded=4, side_px=self.options.pixels)

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        """Image a region; see ``docs/environments.md`` for what comes back.

        Raises
        ------
        ValueError
            If the action is outside its box.
        DeviceError
            If the microscope failed; its light is off.
        """
        region = self.region(action)
        self._take_step()
        before, new, found, refusal, is_spent = self._stage.microscope.dose.energy_j, 0, 0, "", False
        try:
            frame = self._stage.microscope.acquire(self._sted(region))
        except LimitExceededError as error:
            is_spent, refusal = isinstance(error, DoseBudgetError), str(error)
        else:
            self._last = frame
            self._visited[self._regions.pixels(region)] = 255
            new, found = self._count(frame)
        energy_j = self._stage.microscope.dose.energy_j - before
        cost = self.options.dose_weight * energy_j / self._samples.limits.session_energy_max_j
        reward = -self.options.refusal_cost if refusal else new / self._unit - cost
        self._remember([*action, 2 * min(1.0, found / 20) - 1, -1.0 if refusal else 1.0])
        terminated, truncated = self._ends(terminated=is_spent)
        info: Info = {
            "objectives": {"new_spots": float(new), "found_spots": float(found)},
            "center_yx_m": np.array(region.center_yx_m),
            "energy_j": energy_j,
            "energy_left_j": self._energy_left_j,
            "refused": float(bool(refusal)),
            "refusal": refusal,
        }
        if self._stage.truth is not None:
            info["truth_spots_left"] = float(len(self.points_left()))
        return self._observation(), float(reward), terminated, truncated, info

    def region(self, action: Action) -> Region:
        """Return the region that an action asks for; ``ValueError`` if it is outside its box."""
        return self._regions.region(as_point(action, ("y", "x")))

    def action_for(self, center_yx_m: tuple[float, float]) -> Action:
        """Return the action whose region has this middle, or the nearest that lies inside the sample."""
        return self._regions.point_for(center_yx_m)

    def points_left(self) -> Points:
        """Return where the true spots are that were not found yet: for oracles, not for policies."""
        return self._points[~self._is_found]

    def _fields_needed(self) -> tuple[int, float]:
        return 1, self.options.sample_m

    def _begin(self) -> None:
        options, truth = self.options, self._stage.truth
        self._overview = self._stage.microscope.acquire(
            ScanSettings(
                modality="overview",
                region=self._region,
                pixel_size_m=options.overview_pixel_m,
                dwell_s=options.overview_dwell_s,
                excitation_w=options.overview_excitation_w,
            )
        )
        self._last = None
        self._visited = np.zeros((options.pixels, options.pixels), np.uint8)
        self._points = truth.points(self._region).center_yx_m if truth else np.zeros((0, 2))
        self._is_found = np.zeros(len(self._points), np.bool_)
        self._unit = max(1, len(self._points)) if truth else options.spots_unit

    def images(self) -> Sequence[Bytes | None]:
        scale = self.options.full_scale_photons
        last = None if self._last is None else encoded(self._last.photons, scale)
        return [encoded(self._overview.photons, scale), last, self._visited]

    def _sted(self, region: Region) -> ScanSettings:
        options = self.options
        return ScanSettings(
            modality="sted",
            region=region,
            pixel_size_m=options.pixel_size_m,
            dwell_s=options.dwell_s,
            excitation_w=options.excitation_w,
            sted_w=options.sted_w,
        )

    @property
    def _regions(self) -> SampleRegions:
        return SampleRegions(self._region, self.options.roi_m, self.options.overview_pixel_m)

    def _count(self, frame: Frame) -> tuple[int, int]:
        """Return how many spots a region shows for the first time, and how many it shows."""
        found = find_spots(frame.photons, self.options.pixel_size_m, _SPOT_WIDTH_M)
        found = found + np.array(frame.settings.region.center_yx_m)
        if self._stage.truth is None:
            is_new = ~_near(found, self._points)
            self._points = np.concatenate([self._points, found[is_new]])
            self._is_found = np.ones(len(self._points), np.bool_)
            return int(is_new.sum()), len(found)
        is_seen = _near(self._points, found)
        new = int((is_seen & ~self._is_found).sum())
        self._is_found |= is_seen
        return new, len(found)


def _near(places: Points, others: Points) -> NDArray[np.bool_]:
    """Tell which places have one of the others within the distance of the same spot."""
    if not len(others):
        return np.zeros(len(places), np.bool_)
    distance = np.linalg.norm(places[:, None] - others[None], axis=2)
    return np.asarray((distance <= _SAME_M).any(axis=1))
