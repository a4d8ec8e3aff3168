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
from simulator.environments.annotator import AnnotatorOptions
from simulator.environments.brain_env import BrainEnv, BrainEnvOptions
from simulator.environments.brain_samples import BrainDistribution, SimulatedBrains
from simulator.environments.calcium_events import EVENT_TASKS, CalciumEventsEnv, CalciumEventsOptions
from simulator.environments.label_request import LabelRequestEnv, LabelRequestOptions
from simulator.environments.parameters import SCAN_PARAMETERS
from simulator.environments.preference import (
    Learned,
    Ranked,
    STEDPreferenceEnv,
    STEDPreferenceOptions,
)
from simulator.environments.preference_model import Utility
from simulator.environments.rare_samples import RARE_TASKS
from simulator.environments.registration import IDS, register_all
from simulator.environments.roi_select import ROI_TASKS, ROISelectEnv, ROISelectOptions
from simulator.environments.samples import (
    DYE_CLASSES,
    TASKS,
    MicroscopeFields,
    Prepared,
    SampleDistribution,
    Samples,
    SimulatedSamples,
)
from simulator.environments.scan_env import ScanEnv, ScanOptions
from simulator.environments.session import SessionEnv
from simulator.environments.session_options import SessionOptions
from simulator.environments.sted_sequence import SEQUENCE_TASKS, STEDSequenceEnv, STEDSequenceOptions
from simulator.environments.sted_tune import STEDTuneEnv, STEDTuneOptions
from simulator.environments.two_photon_power import POWER_TASKS, TwoPhotonPowerEnv, TwoPhotonPowerOptions
from simulator.environments.vector import ScanVectorEnv, STEDSequenceVectorEnv, STEDTuneVectorEnv

register_all()

__all__ = [
    "ADAPTIVE_TASKS",
    "DYE_CLASSES",
    "EVENT_TASKS",
    "IDS",
    "POWER_TASKS",
    "RARE_TASKS",
    "ROI_TASKS",
    "SCAN_PARAMETERS",
    "SEQUENCE_TASKS",
    "TASKS",
    "AnnotatorOptions",
    "BrainDistribution",
    "BrainEnv",
    "BrainEnvOptions",
    "CalciumEventsEnv",
    "CalciumEventsOptions",
    "DyMINEnv",
    "DyMINOptions",
    "DyMINParameter",
    "LabelRequestEnv",
    "LabelRequestOptions",
    "Learned",
    "MicroscopeFields",
    "Prepared",
    "RESCueEnv",
    "RESCueOptions",
    "RESCueParameter",
    "ROISelectEnv",
    "ROISelectOptions",
    "Ranked",
    "STEDPreferenceEnv",
    "STEDPreferenceOptions",
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
    "SessionEnv",
    "SessionOptions",
    "SimulatedBrains",
    "SimulatedSamples",
    "TwoPhotonPowerEnv",
    "TwoPhotonPowerOptions",
    "Utility",
]
