"""Samples in which a few things are of a rare class, and a truth from which questions can be answered."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import ConfigurationError
from controller.core.settings import Region
from simulator.environments.samples import SampleDistribution, Samples, Truth
from simulator.specimens import SpecimenOptions

#: Background, the usual and the rare.
CLASSES = 3
RARE = CLASSES - 1

#: What the tasks mean here and in whole sessions: samples in which a few things are of a rare class.
RARE_TASKS: dict[str, SampleDistribution] = {
    "easy": SampleDistribution(
        kinds=("beads",),
        bleaching=(1.0, 1.0),
        brightness=(1.0, 1.0),
        background_hz=(2000.0, 2000.0),
        specimen=SpecimenOptions(density=1.5, rare_fraction=0.15),
    ),
    "mid": SampleDistribution(
        kinds=("beads", "synapses"), specimen=SpecimenOptions(density=2.0, rare_fraction=0.1)
    ),
    "hard": SampleDistribution(
        kinds=("beads", "synapses"),
        bleaching=(2.0, 6.0),
        brightness=(0.1, 0.4),
        background_hz=(2000.0, 8000.0),
        specimen=SpecimenOptions(density=2.0, rare_fraction=0.06),
    ),
    "held_out": SampleDistribution(
        kinds=("vesicles",),
        maps="held_out",
        bleaching=(3.2, 6.0),
        brightness=(0.15, 0.28),
        specimen=SpecimenOptions(density=2.0, rare_fraction=0.1),
    ),
}


def check_answerable(samples: Samples) -> None:
    """Refuse samples about which nobody could answer, with a ``ConfigurationError``."""
    if not samples.is_simulated:
        raise ConfigurationError(
            "the person who answers is simulated and looks at the truth: simulated samples are needed"
        )


def true_classes(truth: Truth | None, region: Region) -> NDArray[np.int32]:
    """Return the class of each map pixel of a region.

    Raises
    ------
    ConfigurationError
        If the sample has other than two classes of things.
    """
    if truth is None:
        raise ConfigurationError("a sample without a truth is under the microscope")
    names = truth.class_names
    if len(names) != CLASSES:
        raise ConfigurationError(
            f"task.kinds: samples with two classes of things are needed, this one has {list(names[1:])}"
        )
    return truth.classes(region)
