"""The lock of a data folder: whoever runs over it holds it for as long as it runs.

`headwater up`, and a command that opens the stores itself, hold it alone; the single processes of `headwater run` share
it, since each is kept apart from its like by the lock of its own stores.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from headwater.errors import Locked


def take(folder: Path, *, shared: bool = False) -> IO[bytes]:
    """Takes the lock; it is given back when the file is closed or the process ends. Raises `Locked`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / "lock", "ab")  # noqa: SIM115 - held open on purpose
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
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
