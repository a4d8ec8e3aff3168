"""Tells Gymnasium the ids, by string, so that nothing heavy is imported."""

from __future__ import annotations

#: Ids and where their classes are.
IDS: dict[str, str] = {
    "Stedfast/STEDTune-v0": "simulator.environments.sted_tune:STEDTuneEnv",
    "Stedfast/STEDSequence-v0": "simulator.environments.sted_sequence:STEDSequenceEnv",
    "Stedfast/DyMIN-v0": "simulator.environments.adaptive:DyMINEnv",
    "Stedfast/RESCue-v0": "simulator.environments.adaptive:RESCueEnv",
    "Stedfast/STEDPreference-v0": "simulator.environments.preference:STEDPreferenceEnv",
    "Stedfast/ROISelect-v0": "simulator.environments.roi_select:ROISelectEnv",
    "Stedfast/CalciumEvents-v0": "simulator.environments.calcium_events:CalciumEventsEnv",
    "Stedfast/TwoPhoton-v0": "simulator.environments.two_photon_power:TwoPhotonPowerEnv",
    "Stedfast/LabelRequest-v0": "simulator.environments.label_request:LabelRequestEnv",
    "Stedfast/Session-v0": "simulator.environments.session:SessionEnv",
}

#: Those of them that `make_vec` makes as one.
VECTOR_IDS: dict[str, str] = {
    "Stedfast/STEDTune-v0": "simulator.environments.vector:STEDTuneVectorEnv",
    "Stedfast/STEDSequence-v0": "simulator.environments.vector:STEDSequenceVectorEnv",
}


def register_all() -> None:
    """Register the ids that are not registered yet.

    Raises
    ------
    ImportError
        If gymnasium is not installed: it comes with the extra ``gym``.
    """
    from gymnasium.envs.registration import register, registry

    for name, entry_point in IDS.items():
        if name not in registry:
            # Each environment ends its episodes itself, so that it works without `make`, too.
            register(name, entry_point=entry_point, vector_entry_point=VECTOR_IDS.get(name))
