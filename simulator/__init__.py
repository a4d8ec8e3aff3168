"""Simulated microscopes and samples. They answer like real ones, through the same protocol.

Where gymnasium is installed, importing this registers the environments, so that
``gymnasium.make("simulator:Stedfast/STEDTune-v0")`` finds them.
"""

from importlib.util import find_spec

if find_spec("gymnasium") is not None:
    from simulator.environments.registration import register_all

    register_all()
