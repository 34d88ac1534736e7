import subprocess
import sys

import httpx
import pytest

from headwater.eventlog.adapters.sqlite import open_reader
from headwater.model.batch import to_canonical_json


class Server:
    """A real ingest process; `events()` and `rejected()` are what lies in its log."""

    def __init__(self, folder):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.ingest.server", str(folder)], stdout=subprocess.PIPE, text=True
        )
        self.port = int(self.process.stdout.readline())
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers={"X-API-Key": "write"}, timeout=20)
        self.log = open_reader(folder / "log")
        self.seen = 0

    def post(self, path, content=None, **given):
        return self.client.post(
            path, content=content, headers={"Content-Type": "application/json"} | given.pop("headers", {}), **given
        )

    def new_events(self):
        """Events appended since the last call, as canonical JSON text."""
        found = []
        for record in self.log.read(self.seen, 1 << 30):
            skip = max(0, self.seen - record.first)
            found += to_canonical_json(record.batch.slice(skip))
        self.seen = self.log.end()
        return found

    def rejected(self):
        return [kept.rejection for kept in self.log.rejections("default", limit=1000)]

    def stop(self):
        self.client.close()
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("ingest"))
    yield made
    made.stop()
