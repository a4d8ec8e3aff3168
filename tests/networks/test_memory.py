"""Memory that one frame frees is there for the next."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# In a process of its own: what the C library has learned, it does not forget. Without the call this takes
# 9,700 pages a frame, but in one process of three none: it depends on what lies next to them.
FRAMES = """
import resource
import torch
from controller.networks.memory import keep_freed_memory

keep_freed_memory()
for frame in range(20):
    if frame == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    layers = [torch.ones(10_000_000, dtype=torch.uint8) for _ in range(5)]
    del layers
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is about glibc")
def test_a_frame_takes_no_new_pages_from_the_system() -> None:
    command = [sys.executable, "-c", FRAMES]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    assert float(ended.stdout) < 100
