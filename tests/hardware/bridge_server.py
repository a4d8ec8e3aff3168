"""A Micro-Manager server in a process of its own, to be stopped, killed and closed by tests.

Usage: ``python bridge_server.py MICROSCOPE [FRAME_S]``. It prints its port, then a line for each scan that
begins, and ends when its standard input does.
"""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import replace
from typing import Any

from controller.config import load, shipped_hardware
from controller.core.clock import SystemClock
from controller.core.frame import Frame
from controller.core.guard import GuardedMicroscope
from controller.core.limits import SafetyLimits
from controller.core.settings import ScanSettings
from controller.plugins import find
from controller.testing import LIMITS, FakeMicroscope, resources
from simulator.micromanager.server import MicroManagerServer


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class TellingMicroscope(FakeMicroscope):
    """Says when its light is on."""

    def acquire(self, settings: ScanSettings) -> Frame:
        tell("lit")
        return super().acquire(settings)


def shipped(name: str, **changes: Any) -> tuple[Any, SafetyLimits]:
    config = load(shipped_hardware(name)).hardware.config
    driver = find("microscopes", config.microscope.driver)
    options = driver.Options.model_validate_json(json.dumps({**config.microscope.options, **changes}))
    given = replace(resources(clock=SystemClock()), limits=config.limits, safe=config.safe)
    return driver.from_options(options, given), config.limits


def stop_at_end_of_input(server: MicroManagerServer) -> None:
    sys.stdin.read()
    server.stop()


def main(kind: str, frame_s: str = "0") -> None:
    limits: SafetyLimits
    if kind == "fake":
        options = TellingMicroscope.Options(frame_s=float(frame_s))
        microscope, limits = TellingMicroscope(clock=SystemClock(), options=options), LIMITS
    else:
        microscope, limits = shipped(kind)
    with MicroManagerServer(GuardedMicroscope(microscope, limits), port=0) as server:
        tell(str(server.port))
        threading.Thread(target=stop_at_end_of_input, args=(server,), daemon=True).start()
        server.serve()
    microscope.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
