"""The ``stedfast`` command. Nothing heavy is imported before a subcommand runs.

Exit codes: 0 success, 1 failure, 2 bad configuration or usage, 130 interrupted.
"""

from __future__ import annotations

import os

# Each registers its commands; the help lists them in this order.
from controller.cli import (  # isort: skip
    new,  # noqa: F401
    check,  # noqa: F401
    run,  # noqa: F401
    results,  # noqa: F401
    label,  # noqa: F401
    labels,  # noqa: F401
    labels_reward,  # noqa: F401
    simulate,  # noqa: F401
    denoise,  # noqa: F401
    train,  # noqa: F401
    train_denoiser,  # noqa: F401
    train_segmenter,  # noqa: F401
)
from controller.cli.terminal import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line."""
    # The matrices here are small: a second BLAS thread makes decisions slower, and less repeatable.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    app()
