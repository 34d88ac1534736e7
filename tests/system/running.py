"""A real system over a folder, started as a user would, and a load that remembers what was acknowledged."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

HEADWATER = [sys.executable, "-m", "headwater.cli"]


def eventually(condition: Callable[[], Any], seconds: float = 60, what: str = "the condition") -> Any:
    """The first truthy value of `condition`, asked again until `seconds` have passed."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        try:
            value = condition()
        except (httpx.HTTPError, OSError, ValueError, KeyError) as error:
            value = None
            last: object = error
        else:
            last = value
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come true in {seconds} s; last seen: {last!r}"
        pause.wait(0.05)


class System:
    """One `headwater up` over `data`, with the address and keys that it prints and keeps."""

    def __init__(self, data: Path, *, testing: bool = False) -> None:
        self.data = data
        self.errors = open(data.parent / f"{data.name}.stderr", "ab")  # noqa: SIM115
        command = [*HEADWATER, "up", "--data", str(data), "--port", "0", *(["--testing"] if testing else [])]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self.printed: list[str] = []
        reader = threading.Thread(target=self._drain, daemon=True)
        reader.start()
        self.curl = eventually(
            lambda: next((p for p in self.printed if p.startswith("curl ")), None), 60, "a curl line"
        )
        self.url = str(self.state()["url"]).rstrip("/")
        self.client = httpx.Client(base_url=self.url, timeout=30)

    def _drain(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.printed.append(line.rstrip("\n"))

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.data / "run" / "supervisor.json").read_text())
        return state

    def key(self, role: str) -> str:
        return (self.data / "keys" / role).read_text().strip()

    def headers(self, role: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key(role)}"}

    def get(self, path: str, role: str = "admin", **parameters: Any) -> httpx.Response:
        return self.client.get(path, params=parameters, headers=self.headers(role))

    def pid(self, name: str) -> int | None:
        """Of a process that runs now."""
        found = [p["pid"] for p in self.state()["processes"] if p["name"] == name and p["state"] == "running"]
        return found[0] if found else None

    def kill(self, name: str) -> int:
        pid = eventually(lambda: self.pid(name), 30, f"a running {name}")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: self.pid(name) not in (None, pid), 30, f"a restarted {name}")
        return int(pid)

    def command(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*HEADWATER, *arguments, "--data", str(self.data)],
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def stop(self) -> int:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        self.errors.close()
        return code


@contextmanager
def running(data: Path, *, testing: bool = False) -> Iterator[System]:
    system = System(data, testing=testing)
    try:
        yield system
    finally:
        system.stop()


class Load:
    """Sends batches until told to stop; `acknowledged` maps each id that a 202 covered to its minute and country."""

    COUNTRIES = ("US", "DE", "IN", None)

    def __init__(self, system: System, seed: int, batch: int = 50) -> None:
        self.system = system
        self.random = random.Random(seed)
        self.batch = batch
        self.acknowledged: dict[str, dict[str, Any]] = {}
        self.unknown: dict[str, dict[str, Any]] = {}
        self.sent = 0
        self.requests = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def event(self) -> dict[str, Any]:
        chance = self.random.random()
        if self.acknowledged and chance < 0.1:  # a client that sends again what was acknowledged
            known = self.random.choice(list(self.acknowledged)[-500:])
            return self.acknowledged[known]
        self.sent += 1
        now = datetime.now(UTC)
        age = timedelta(hours=self.random.uniform(1, 60)) if chance > 0.9 else timedelta(0)
        event: dict[str, Any] = {
            "eventId": f"e-{self.sent:08d}",
            "eventType": self.random.choice(["view", "click", "purchase"]),
            "userId": f"u{self.random.randrange(500)}",
            "timestamp": (now - age).isoformat(timespec="milliseconds"),
            "properties": {"amount": self.random.randrange(10_000) / 100, "n": self.sent},
        }
        country = self.random.choice(self.COUNTRIES)
        if country:
            event["properties"]["country"] = country
        return event

    def _run(self) -> None:
        headers = self.system.headers("write")
        with httpx.Client(base_url=self.system.url, timeout=10) as client:
            retry: list[dict[str, Any]] | None = None
            while not self._stop.is_set():
                events = retry or [self.event() for _ in range(self.batch)]
                try:
                    answer = client.post("/v1/events/batch", json={"events": events}, headers=headers)
                except httpx.HTTPError:
                    retry = events
                    self.unknown.update((e["eventId"], e) for e in events)
                    self._stop.wait(0.05)
                    continue
                self.requests += 1
                if answer.status_code == 202:
                    assert answer.json()["rejected"] == [], answer.text
                    self.acknowledged.update((e["eventId"], e) for e in events)
                    retry = None
                else:
                    assert answer.status_code == 503, answer.text
                    self.unknown.update((e["eventId"], e) for e in events)
                    retry = events
                    self._stop.wait(0.1)


def count_of(system: System, metric: str = "events", **parameters: Any) -> Any:
    """The total of a metric over the last 10 days and the next hour."""
    now = datetime.now(UTC)
    answer = system.get(
        f"/v1/metrics/{metric}",
        startTime=(now - timedelta(days=10)).isoformat(),
        endTime=(now + timedelta(hours=1)).isoformat(),
        granularity="total",
        **parameters,
    )
    answer.raise_for_status()
    return answer.json()["data"][0]["value"]
