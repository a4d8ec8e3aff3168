"""Samples by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np

from controller.core.errors import ConfigurationError
from controller.core.settings import MAX_PIXELS
from simulator.specimens.actin import draw_filaments
from simulator.specimens.canvas import Canvas
from simulator.specimens.microtubules import draw_microtubules
from simulator.specimens.neurons import draw_neurons
from simulator.specimens.particles import draw_beads, draw_vesicles
from simulator.specimens.shipped import shipped_density
from simulator.specimens.specimen import Specimen, SpecimenOptions
from simulator.specimens.synapses import draw_synapses

SpecimenName = Literal[
    "synapses",
    "filaments",
    "microtubules",
    "vesicles",
    "beads",
    "neurons",
    "factin",
    "psd95",
    "tubulin",
]
SHIPPED: tuple[SpecimenName, ...] = ("factin", "psd95", "tubulin")

_Generator = Callable[[Canvas, SpecimenOptions, np.random.Generator], None]

# The last class of each is the rare one.
_GENERATORS: dict[str, tuple[_Generator, tuple[str, ...]]] = {
    "synapses": (draw_synapses, ("background", "synapse", "perforated synapse")),
    "filaments": (draw_filaments, ("background", "rings", "fibres", "smooth axon")),
    "microtubules": (draw_microtubules, ("background", "microtubule", "pair")),
    "vesicles": (draw_vesicles, ("background", "vesicle", "dense-core vesicle")),
    "beads": (draw_beads, ("background", "bead", "aggregate")),
    "neurons": (draw_neurons, ("background", "soma", "dendrite", "spine", "filopodium")),
}
GENERATED = tuple(_GENERATORS)

#: More molecules than this do not fit into a pixel of 20 nm, nor a bead of them into a 32-bit count.
_MOLECULES_MAX = 1e6


def make_specimen(
    name: SpecimenName,
    shape_yx: tuple[int, int],
    molecules_per_pixel: float,
    rng: np.random.Generator,
    options: SpecimenOptions | None = None,
) -> Specimen:
    """Make a sample by name.

    Parameters
    ----------
    name
        ``factin``, ``psd95`` and ``tubulin`` are put together from the maps that the pysted package
        ships; the others are generated.
    shape_yx
        Size of the sample in map pixels of 20 nm.
    molecules_per_pixel
        Expected molecules in the brightest map pixels: how bright the sample is.
    rng
        Where all chance comes from: the same state gives the same sample.
    options
        See :class:`~simulator.specimens.specimen.SpecimenOptions`.

    Raises
    ------
    ConfigurationError
        If there is no such sample, it cannot be so large or so bright, or the package that ships it is
        not installed.
    """
    if name not in get_args(SpecimenName):
        raise ConfigurationError(f"there is no specimen {name!r}, known are {list(get_args(SpecimenName))}")
    rows, columns = shape = _checked_shape(shape_yx)
    if not (math.isfinite(molecules_per_pixel) and 0 < molecules_per_pixel <= _MOLECULES_MAX):
        raise ConfigurationError(
            f"molecules_per_pixel={molecules_per_pixel!r} must be above 0 and at most {_MOLECULES_MAX:g}"
        )
    options = options or SpecimenOptions()
    if name in _GENERATORS:
        draw, class_names = _GENERATORS[name]
        canvas = Canvas(shape, class_names)
        draw(canvas, options, rng)
    else:
        canvas = Canvas(shape, ("background", name))
        density, structures = shipped_density(name, (rows, columns), rng)
        canvas.density[:] = density.ravel()
        canvas.structures[:] = structures.ravel()
        canvas.classes[:] = structures.ravel() > 0
    return canvas.finish(name, molecules_per_pixel, options, rng)


def _checked_shape(shape_yx: Any) -> tuple[int, int]:
    """Return the shape as two plain integers, or say what is wrong with it."""
    try:
        rows, columns = shape_yx
    except (TypeError, ValueError):
        raise ConfigurationError(f"shape_yx={shape_yx!r} must be two numbers of map pixels") from None
    whole = all(
        isinstance(size, (int, np.integer)) and not isinstance(size, bool) for size in (rows, columns)
    )
    if not (whole and rows >= 1 and columns >= 1 and int(rows) * int(columns) <= MAX_PIXELS):
        raise ConfigurationError(
            f"shape_yx={shape_yx!r} must be two whole numbers of map pixels, each 1 or more, "
            f"together at most {MAX_PIXELS} pixels"
        )
    return int(rows), int(columns)
