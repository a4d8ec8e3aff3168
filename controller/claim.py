"""One session at a time on one microscope: two programs that drive one stage would hit the sample."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from controller.core.errors import ConfigurationError


def claim_microscope(name: str, *, folder: Path | None = None) -> Callable[[], None]:
    """Take the microscope that a hardware configuration calls ``name``; return how to give it back.

    The claim is a locked file in ``folder``, by default the computer's folder for temporary files. It
    ends with the process, however that ends.

    Raises
    ------
    ConfigurationError
        If another program on this computer has it.
    """
    digest = blake2b(name.encode(), digest_size=8).hexdigest()
    path = (folder or Path(tempfile.gettempdir())) / f"stedfast-microscope-{digest}.lock"
    try:
        # Not followed where it is a link, and for everybody: a microscope has several users.
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise ConfigurationError(
            f"name: {path} cannot be opened ({error.strerror}); it shows who has the microscope"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(file, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(file)
        raise ConfigurationError(
            f"name: the microscope {name!r} is in use by process {holder} on this computer: end that one "
            f"first (two microscopes need two names)"
        ) from error
    with suppress(OSError):  # who has it is for messages only
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
    return lambda: os.close(file)
