"""The Gymnasium environments and what they are made of. Needs the extra ``gym``.

``import simulator`` registers the ids; importing this module does so, too.
"""

from simulator.environments.annotator import AnnotatorOptions
from simulator.environments.label_request import LabelRequestEnv, LabelRequestOptions
from simulator.environments.parameters import SCAN_PARAMETERS
from simulator.environments.rare_samples import RARE_TASKS
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
from simulator.environments.session import SessionEnv
from simulator.environments.session_options import SessionOptions
from simulator.environments.sted_sequence import STEDSequenceEnv, STEDSequenceOptions
from simulator.environments.sted_tune import STEDTuneEnv, STEDTuneOptions

register_all()

__all__ = [
    "IDS",
    "RARE_TASKS",
    "ROI_TASKS",
    "SCAN_PARAMETERS",
    "TASKS",
    "AnnotatorOptions",
    "LabelRequestEnv",
    "LabelRequestOptions",
    "MicroscopeFields",
    "Prepared",
    "ROISelectEnv",
    "ROISelectOptions",
    "STEDSequenceEnv",
    "STEDSequenceOptions",
    "STEDTuneEnv",
    "STEDTuneOptions",
    "SampleDistribution",
    "Samples",
    "ScanEnv",
    "ScanOptions",
    "SessionEnv",
    "SessionOptions",
    "SimulatedSamples",
]
