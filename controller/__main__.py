"""``python -m controller`` is ``stedfast``."""

from controller.cli import main

main()
