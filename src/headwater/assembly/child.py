"""Entry of every process: `python -m headwater.assembly.child NAME FOLDER [PIPE SOCKET]`.

PIPE is the reading end of the supervisor's pipe: when it ends, this process ends within a second. SOCKET is the
listening socket (ingest). The settings were written to run/settings.json.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from headwater.assembly.settings import Settings
from headwater.errors import HeadwaterError, Unreachable

GRACE_SECONDS = 0.8


def main(arguments: list[str]) -> int:
    """0 after a clean stop, 3 where something that is needed cannot be had."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
    name, folder = arguments[0], Path(arguments[1])
    settings = Settings(**json.loads((folder / "run" / "settings.json").read_text()))
    if len(arguments) > 2:
        # Ctrl-C reaches the whole foreground group; the supervisor stops the children in order
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_follow, args=(int(arguments[2]),), daemon=True).start()
    listening = socket.socket(fileno=int(arguments[3])) if name == "ingest" else None
    try:
        run(name, settings, listening)
    except Unreachable as error:
        print(f"headwater {name}: {error}", file=sys.stderr)
        return 3
    except HeadwaterError as error:
        print(f"headwater {name}: {error}", file=sys.stderr)
        return 1
    return 0


def run(name: str, settings: Settings, listening: socket.socket | None) -> None:
    """Runs one process in the foreground until it is told to stop."""
    if name == "bootstrap":
        from headwater.assembly.processes import bootstrap

        bootstrap(settings)
    elif name == "ingest":
        from headwater.assembly.processes import run_ingest

        assert listening is not None
        run_ingest(settings, listening)
    elif name == "query":
        from headwater.assembly.processes import run_query

        run_query(settings)
    else:
        from headwater.assembly.work import run_work

        run_work(settings, name)


def _follow(pipe: int) -> None:
    """Ends this process when the supervisor has ended: first as by SIGTERM, then for good."""
    while True:
        try:
            if not os.read(pipe, 1):
                break
        except InterruptedError:
            continue
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(GRACE_SECONDS)
    os._exit(3)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
