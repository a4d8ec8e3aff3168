"""Samples to scan: maps of fluorescent molecules, with the truth about what is in them.

What each sample is modelled on, and what it is not, is in ``docs/specimens.md``.
"""

from simulator.specimens.catalogue import GENERATED, SHIPPED, SpecimenName, make_specimen
from simulator.specimens.specimen import MAP_PIXEL_SIZE_M, Specimen, SpecimenOptions, TruthPoints

__all__ = [
    "GENERATED",
    "MAP_PIXEL_SIZE_M",
    "SHIPPED",
    "Specimen",
    "SpecimenName",
    "SpecimenOptions",
    "TruthPoints",
    "make_specimen",
]
