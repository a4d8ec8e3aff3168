"""The Gymnasium environments and what they are made of. Needs the extra ``gym``.

``import simulator`` registers the ids; importing this module does so, too.
"""

from simulator.environments.adaptive import (
    ADAPTIVE_TASKS,
    DyMINEnv,
    DyMINOptions,
    DyMINParameter,
    RESCueEnv,
    RESCueOptions,
    RESCueParameter,
)
from simulator.environments.parameters import SCAN_PARAMETERS
from simulator.environments.registration import IDS, register_all
from simulator.environments.roi_select import ROI_TASKS, ROISelectEnv, ROISelectOptions
from simulator.environments.samples import (
    TASKS,
    MicroscopeFields,
    Prepared,
    SampleDistribution,
    Samples,
    SimulatedSamples,
)
from simulator.environments.scan_env import ScanEnv, ScanOptions
from simulator.environments.sted_sequence import STEDSequenceEnv, STEDSequenceOptions
from simulator.environments.sted_tune import STEDTuneEnv, STEDTuneOptions
from simulator.environments.vector import ScanVectorEnv, STEDSequenceVectorEnv, STEDTuneVectorEnv

register_all()

__all__ = [
    "ADAPTIVE_TASKS",
    "IDS",
    "ROI_TASKS",
    "SCAN_PARAMETERS",
    "TASKS",
    "DyMINEnv",
    "DyMINOptions",
    "DyMINParameter",
    "MicroscopeFields",
    "Prepared",
    "RESCueEnv",
    "RESCueOptions",
    "RESCueParameter",
    "ROISelectEnv",
    "ROISelectOptions",
    "STEDSequenceEnv",
    "STEDSequenceOptions",
    "STEDSequenceVectorEnv",
    "STEDTuneEnv",
    "STEDTuneOptions",
    "STEDTuneVectorEnv",
    "SampleDistribution",
    "Samples",
    "ScanEnv",
    "ScanOptions",
    "ScanVectorEnv",
    "SimulatedSamples",
]
