"""`headwater run PROCESS`: one process in the foreground, without a supervisor.

On embedded stores each process is the one writer of its stores; a second one ends with exit code 3.
"""

from __future__ import annotations

import json
import os
import socket

import msgspec

from headwater.assembly import child, lock
from headwater.assembly.processes import bootstrap
from headwater.assembly.settings import Settings
from headwater.errors import UsageError

PARTS_OF_WORK = ("stream", "archive", "batch")


def run(name: str, settings: Settings) -> int:
    """Runs until SIGTERM or SIGINT; 0 after a clean stop. Raises `Locked` where `up` runs over the folder, or another
    writer of the same stores."""
    if name in PARTS_OF_WORK:
        raise UsageError(
            f"{name} alone needs stores that several processes can write; on the embedded ones run `work`, which is "
            "stream, archive and batch together"
        )
    folder = settings.folder
    held = lock.take(folder, shared=True)
    run_folder = folder / "run"
    (run_folder / "prometheus").mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(run_folder / "prometheus"))
    values = msgspec.structs.asdict(settings) | {"data": str(folder)}
    (run_folder / "settings.json").write_text(json.dumps(values))
    if not (folder / "keys" / "admin").exists():
        bootstrap(settings)
    listening = None
    if name == "ingest":
        listening = socket.create_server((settings.host, settings.port), backlog=2048)
        print(f"http://{settings.host}:{listening.getsockname()[1]}", flush=True)
    child.run(name, settings, listening)
    held.close()
    return 0
