"""Named steps of the commit protocols, for tests: `headwater up --testing` lets HEADWATER_STOP_AT end a process there.

`HEADWATER_STOP_AT=stream.4.settle` kills the process with SIGKILL the first time it gets to that step. The supervisor
hands the variable on only with `--testing`, and the restarted process finds the mark left in the run folder.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path


def stopping_step(mark: Path | None = None) -> Callable[[str], None]:
    """Called with the name of each step as it begins."""
    wanted = os.environ.get("HEADWATER_STOP_AT", "")
    if not wanted:
        return lambda name: None

    def step(name: str) -> None:
        if name != wanted:
            return
        if mark is not None:
            if mark.exists():
                return
            mark.write_text(name)
        os.kill(os.getpid(), signal.SIGKILL)

    return step
