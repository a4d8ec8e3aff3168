"""What can be chosen of a session."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from controller.core.settings import NonNegative, Positive
from controller.core.spaces import Parameter
from simulator.environments.annotator import AnnotatorOptions, LabelKind
from simulator.environments.label_pool import PATCH_PX
from simulator.environments.microscope_env import EnvOptions
from simulator.environments.parameters import SCAN_PARAMETERS
from simulator.environments.samples import SampleDistribution, TaskName
from simulator.specimens import MAP_PIXEL_SIZE_M


class SessionOptions(EnvOptions):
    """What can be chosen of a session."""

    task: TaskName | SampleDistribution = "mid"
    """A name of ``RARE_TASKS``, or a distribution of samples with two classes of things."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 16
    session_s: Positive = 60.0
    """Seconds of scans, of what lies between them, and of answers, for which the microscope waits."""
    between_scans_s: NonNegative = 2.0
    """To move, to focus and to set up a scan."""
    annotator_s: Positive = 40.0
    """Seconds of a person's time."""
    annotator: AnnotatorOptions = AnnotatorOptions()
    question: LabelKind = "class"
    """What is asked about a thing."""
    sample_m: Annotated[float, Field(ge=5e-6, le=10.24e-6)] = 10.24e-6
    """Side of the square sample."""
    overview_pixel_m: Positive = 160e-9
    overview_dwell_s: Positive = 10e-6
    overview_excitation_w: Positive = 10e-6
    roi_m: Positive = 1.28e-6
    """Side of the square region that a step images; pixels are those of the map, 20 nm."""
    parameters: Annotated[tuple[Parameter, ...], Field(min_length=1)] = SCAN_PARAMETERS
    """What the policy tunes of a scan: STED power, excitation, dwell time, or some of these."""
    fixed: dict[str, float] = Field(default={"sted_w": 0.1, "excitation_w": 10e-6, "dwell_s": 10e-6})
    """Settings of what is not tuned."""
    likeness: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """A structure is seen well from this likeness to the truth on."""
    rare_worth: Positive = 5.0
    """What a structure of the rare class is worth; a usual one is worth 1."""
    worth_unit: Positive = 10.0
    """So much worth is a reward of 1."""
    dose_weight: NonNegative = 0.2
    """Price of the whole dose budget."""

    @model_validator(mode="after")
    def _images_have_one_size(self) -> Self:
        if round(self.sample_m / self.overview_pixel_m) != self.pixels:
            raise ValueError(
                f"sample_m / overview_pixel_m must be roi_m / {MAP_PIXEL_SIZE_M:g}: they are shown together"
            )
        if self.pixels < PATCH_PX:
            raise ValueError(
                f"roi_m must be {PATCH_PX * MAP_PIXEL_SIZE_M:g} or more: things are asked about in "
                f"patches of {PATCH_PX} pixels"
            )
        unknown = {parameter.name for parameter in self.parameters} - {part.name for part in SCAN_PARAMETERS}
        if unknown:
            raise ValueError(
                f"parameters: {sorted(unknown)} cannot be tuned here, only "
                f"{[parameter.name for parameter in SCAN_PARAMETERS]}"
            )
        return self

    @property
    def pixels(self) -> int:
        """Return the side of both images in pixels."""
        return round(self.roi_m / MAP_PIXEL_SIZE_M)
