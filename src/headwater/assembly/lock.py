"""The lock of a data folder: whoever starts processes over it holds it for as long as it runs."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from headwater.errors import Locked


def take(folder: Path) -> IO[bytes]:
    """Takes the lock; it is given back when the file is closed or the process ends. Raises `Locked`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / "lock", "ab")  # noqa: SIM115 - held open on purpose
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise Locked(
            f"another Headwater already runs over {folder}; stop it first, or give this one another --data"
        ) from error
    return file


def is_held(folder: Path) -> bool:
    """Whether a system runs over `folder` now."""
    if not (folder / "lock").exists():
        return False
    try:
        take(folder).close()
    except Locked:
        return True
    return False
