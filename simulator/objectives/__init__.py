"""What makes an image good, measured: resolution, signal, bleaching, spots found, likeness to the truth.

Pure functions for training, tests and benchmarks. Those that take the truth can be had in a simulator
only. ``docs/specimens.md`` says what each is good for and how far it can be trusted.
"""

from simulator.objectives.goals import GOALS, Goal
from simulator.objectives.likeness import (
    fitted,
    mean_squared_error,
    peak_snr_db,
    scaled_error,
    similarity,
)
from simulator.objectives.measure import Measure, unmeasured
from simulator.objectives.resolution import (
    decorrelation_resolution_m,
    frc,
    frc_resolution_m,
    single_frame_frc_resolution_m,
    thinned,
)
from simulator.objectives.signal import (
    bleached_fraction,
    foreground,
    lost_fraction,
    signal_ratio,
    signal_to_noise,
)
from simulator.objectives.spots import Matched, find_spots, match_spots

__all__ = [
    "GOALS",
    "Goal",
    "Matched",
    "Measure",
    "bleached_fraction",
    "decorrelation_resolution_m",
    "find_spots",
    "fitted",
    "foreground",
    "frc",
    "frc_resolution_m",
    "lost_fraction",
    "match_spots",
    "mean_squared_error",
    "peak_snr_db",
    "scaled_error",
    "signal_ratio",
    "signal_to_noise",
    "similarity",
    "single_frame_frc_resolution_m",
    "thinned",
    "unmeasured",
]
