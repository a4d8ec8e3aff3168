"""``python -m controller`` is ``stedfast``."""

import os
import sys

# The working directory must not provide code: a configuration names only what is installed.
if sys.path and sys.path[0] in {"", os.getcwd()}:  # noqa: PTH109
    del sys.path[0]

from controller.cli import main

main()
