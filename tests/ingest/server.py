"""An ingest process of its own, with keys in memory: `python -m tests.ingest.server FOLDER` prints its port."""

import hashlib
import socket
import sys
from pathlib import Path

from headwater.catalog.port import Key
from headwater.clock import SystemClock
from headwater.eventlog.adapters.sqlite import open_writer
from headwater.ingest.process import IngestServices, serve


class Keys:
    """Three keys whose secrets are their roles."""

    def revision(self):
        return 1

    def key_by_hash(self, digest):
        for role in ("write", "read", "admin"):
            if hashlib.sha256(role.encode()).digest() == digest:
                return Key(role, "default", role, role, 0)
        return None


def main(folder: Path) -> None:
    run = folder / "run"
    run.mkdir(parents=True, exist_ok=True)
    log = open_writer(folder / "log")
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    serve(IngestServices(log, Keys(), SystemClock(), run, lambda: 0, log.last_received_at() or 0), listening)
    log.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
