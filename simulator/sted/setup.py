"""What a configuration says of the simulated STED microscope and its sample."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from controller.core.settings import MAX_PIXELS, NonNegative, Positive, Settings
from simulator.specimens import MAP_PIXEL_SIZE_M, SpecimenName, SpecimenOptions
from simulator.sted.aberrations import Aberrations
from simulator.sted.diffusion import Moving
from simulator.sted.photophysics import DYES, DyeName, Window
from simulator.sted.species import SecondLabel


class STEDOptions(Settings):
    """The simulated sample and instrument, as a configuration states them."""

    specimen: SpecimenName = "synapses"
    """Kind of sample; what each looks like is in ``simulator/specimens/``."""
    molecules_per_pixel: Positive = 5.0
    """Expected fluorescent molecules in the brightest 20 nm pixels of the sample."""
    specimen_options: SpecimenOptions = SpecimenOptions()
    """How crowded the sample is, how much of it is of the rare class, and what sticks to glass."""
    fields_yx: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (2, 2)
    """Size of the sample in fields of view, down and across."""
    field_size_m: Positive = 10.24e-6
    """Side of the field of view: what can be scanned without moving the stage. Multiple of 20 nm."""
    stage_speed_m_per_s: Positive = 1e-3
    """Speed of each axis of the stage."""
    stage_settle_s: NonNegative = 0.1
    """Wait after each move of the stage."""
    background_hz: NonNegative = 2000.0
    """Counts per second without any sample: dark counts and stray light."""
    bleaching: NonNegative = 1.0
    """Bleaching rate, relative to the dye's own. The default one loses about a fifth of its molecules
    in a STED scan of 10 µW, 150 mW and 10 µs at 20 nm, and about a seventieth in the same scan
    without the STED beam. 0 never bleaches."""
    dye: DyeName = "red"
    """What fluoresces; see ``simulator/sted/photophysics.py``. The lasers have the dye's wavelengths."""
    drift_m_per_s: NonNegative = 0.0
    """Speed at which the stage carries the sample away, in a direction that the seed decides."""
    vibration_m: NonNegative = 0.0
    """Vibration of the stage along each axis, root mean square."""
    vibration_hz: Positive = 50.0
    """Frequency of the vibration, within a twentieth."""
    diffusion_m2_per_s: NonNegative = 0.0
    """Diffusion of what moves in the sample between scans: 2 D t of variance along each axis."""
    diffusing: Moving = "structures"
    """What moves: ``"structures"`` as wholes, or ``"molecules"``, each by itself."""
    aberrations: Aberrations = Aberrations()
    """Errors of the light's path; see ``simulator/sted/aberrations.py``."""
    second_label: SecondLabel | None = None
    """Another structure in another dye, under the same light; see ``simulator/sted/species.py``."""
    detection_m: Window | None = None
    """Shortest and longest wavelength that is counted, of each dye its part; not given: all of them."""
    engine: Literal["exact", "pysted"] = "exact"
    """``"exact"`` is Stedfast's own engine. ``"pysted"`` is the reference, about a hundred times
    slower: it needs pysted, does not bleach without the STED beam, and knows no moving stage, no
    aberrations, no second dye and no colours."""

    @model_validator(mode="after")
    def _sample_is_a_map(self) -> Self:
        side_px = self.field_size_m / MAP_PIXEL_SIZE_M
        if not (side_px >= 1 and abs(side_px - round(side_px)) < 1e-6):
            raise ValueError(
                f"field_size_m={self.field_size_m:g} is not a multiple of the map pixel, "
                f"{MAP_PIXEL_SIZE_M:g} m"
            )
        if not self.fields_yx[0] * self.fields_yx[1] * side_px**2 <= MAX_PIXELS:
            raise ValueError(
                f"{self.fields_yx} fields of {self.field_size_m:g} m have more than {MAX_PIXELS} "
                f"map pixels of {MAP_PIXEL_SIZE_M:g} m: lower fields_yx or field_size_m"
            )
        return self

    @model_validator(mode="after")
    def _engine_can_do_it(self) -> Self:
        if self.engine == "pysted":
            keys = ("drift_m_per_s", "vibration_m", "aberrations", "second_label", "detection_m")
            for key in keys:
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} is not known to the engine 'pysted': choose 'exact'")
        dye = DYES[self.dye]
        dye.emitted_within(self.detection_m)
        if self.second_label is not None:
            DYES[self.second_label.dye].check_lasers(dye.excitation_m, dye.sted_m)
        return self
