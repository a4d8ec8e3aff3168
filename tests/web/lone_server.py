"""The label page of a folder in a process of its own, so that a test can kill it; prints its port."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.web.browser import Lab

if __name__ == "__main__":
    server = Lab(Path(sys.argv[1])).make_server()
    print(server.port, flush=True)  # noqa: T201 (whoever started it reads that)
    server.run()
