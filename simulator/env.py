"""The Gymnasium environments and what they are made of. Needs the extra ``gym``.

``import simulator`` registers the ids; importing this module does so, too.
"""

from simulator.environments.parameters import SCAN_PARAMETERS
from simulator.environments.preference import (
    Learned,
    Ranked,
    STEDPreferenceEnv,
    STEDPreferenceOptions,
)
from simulator.environments.preference_model import Utility
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
from simulator.environments.sted_sequence import SEQUENCE_TASKS, STEDSequenceEnv, STEDSequenceOptions
from simulator.environments.sted_tune import STEDTuneEnv, STEDTuneOptions

register_all()

__all__ = [
    "IDS",
    "ROI_TASKS",
    "SCAN_PARAMETERS",
    "SEQUENCE_TASKS",
    "TASKS",
    "Learned",
    "MicroscopeFields",
    "Prepared",
    "ROISelectEnv",
    "ROISelectOptions",
    "Ranked",
    "STEDPreferenceEnv",
    "STEDPreferenceOptions",
    "STEDSequenceEnv",
    "STEDSequenceOptions",
    "STEDTuneEnv",
    "STEDTuneOptions",
    "SampleDistribution",
    "Samples",
    "ScanEnv",
    "ScanOptions",
    "SimulatedSamples",
    "Utility",
]
