"""CPU of ingest per event, from the request to the durable 202.

python -m bench.ingest [--batch 100] [--requests 3000]
"""

from __future__ import annotations

import argparse
import http.client
import subprocess
import sys
import tempfile
import threading

from bench.chain import cpu_seconds
from bench.events import bodies


def post(port: int, path: str, prepared: list[bytes], failures: list[int]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for body in prepared:
        connection.request("POST", path, body, {"X-API-Key": "write", "Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 202:
            failures.append(answer.status)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--batch", type=int, default=100)
    arguments.add_argument("--requests", type=int, default=3000)
    arguments.add_argument("--clients", type=int, default=8)
    given = arguments.parse_args()
    prepared = list(bodies(given.requests, given.batch))
    path = "/v1/events/batch"
    if given.batch == 1:
        prepared = [body[1:-1] for body in prepared]
        path = "/v1/events"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.ingest.server", folder]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        port = int(server.stdout.readline())
        failures: list[int] = []
        before = cpu_seconds(server.pid)
        threads = [
            threading.Thread(target=post, args=(port, path, prepared[i :: given.clients], failures))
            for i in range(given.clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        spent = cpu_seconds(server.pid) - before
        server.terminate()
        server.wait()
    events = given.requests * given.batch
    print(f"ingest, batches of {given.batch}: {spent / events * 1e6:.2f} us CPU per event, {len(failures)} not 202")


if __name__ == "__main__":
    main()
