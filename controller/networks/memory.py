"""Keeps the memory that one frame or training step frees for the next."""

from __future__ import annotations

import torch

#: Just below the largest block that glibc takes as an example (DEFAULT_MMAP_THRESHOLD_MAX is 32 MiB).
_LARGEST_BLOCK_BYTES = 31 * 2**20


def keep_freed_memory() -> None:
    """Let the C library keep up to 62 MiB of what is freed; it holds for the process, from now on.

    glibc gives freed memory back to the system, and the system zeroes every page of it when it is needed
    again: a sixth of the time of a network with float32, a tenth of its training. What it keeps is twice the
    largest block that it has seen freed. Other C libraries are not affected.
    """
    # Freed at once, and never touched: it takes no memory.
    torch.empty(_LARGEST_BLOCK_BYTES, dtype=torch.uint8)
