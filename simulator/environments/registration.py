"""Tells Gymnasium the ids, by string, so that nothing heavy is imported."""

from __future__ import annotations

#: Ids and where their classes are.
IDS: dict[str, str] = {
    "Stedfast/STEDTune-v0": "simulator.environments.sted_tune:STEDTuneEnv",
    "Stedfast/STEDSequence-v0": "simulator.environments.sted_sequence:STEDSequenceEnv",
    "Stedfast/ROISelect-v0": "simulator.environments.roi_select:ROISelectEnv",
    "Stedfast/LabelRequest-v0": "simulator.environments.label_request:LabelRequestEnv",
    "Stedfast/Session-v0": "simulator.environments.session:SessionEnv",
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
            register(name, entry_point=entry_point)
