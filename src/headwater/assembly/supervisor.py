"""`headwater up`: owns the listening socket and the three processes, restarts them, and stops them in order.

Nothing heavy is imported here. The socket outlives every child, so that no connection is refused while one restarts.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater.assembly import lock
from headwater.assembly.settings import Settings
from headwater.errors import Unreachable

ORDER = ("query", "work", "ingest")  # started in this order, stopped in the reverse
STOP_SECONDS = {"ingest": 15.0, "work": 40.0, "query": 15.0}
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
READY_SECONDS = 60.0
BACKOFF_SECONDS = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
STEADY_SECONDS = 30.0


@dataclass
class Child:
    """One process: how often it was restarted, and when it may start next."""

    name: str
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restarts: int = 0
    quick_deaths: int = 0
    due: float = 0.0

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """Runs a system over one data folder until SIGTERM or SIGINT. `say` prints a line for the person who started it;
    what went wrong goes to stderr."""

    def __init__(self, settings: Settings, say: Callable[[str], None], *, testing: bool = False) -> None:
        self._settings = settings
        self._say = say
        self._testing = testing
        self._folder = settings.folder
        self._run = self._folder / "run"
        self._children = [Child(name) for name in ORDER]
        self._pipes: dict[str, int] = {}
        self._stopping = False

    def run(self) -> int:
        """0 after a clean stop. Raises `Locked` where one runs already, `Unreachable` where the port is taken."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        held = lock.take(self._folder)
        self._socket = self._listen()
        host, port = self._socket.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        self._url = f"http://{shown}:{port}"
        self._prepare()
        for child in self._children:
            self._start(child)
        announced = False
        deadline = time.monotonic() + READY_SECONDS
        while not self._stopping:
            if not announced and self._ready(host, port):
                self._announce()
                announced = True
            if not announced and time.monotonic() > deadline:
                self._warn("headwater: not ready after a minute; see the messages above, and run `headwater doctor`")
                deadline = float("inf")
            self._wait(0.05 if not announced else self._pause())
        self._stop_all()
        self._socket.close()
        held.close()
        return 0

    def _warn(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def _listen(self) -> socket.socket:
        try:
            family = socket.AF_INET6 if ":" in self._settings.host else socket.AF_INET
            listening = socket.create_server((self._settings.host, self._settings.port), family=family, backlog=2048)
        except OSError as error:
            raise Unreachable(
                f"cannot listen on {self._settings.host}:{self._settings.port}: {error.strerror or error}; "
                "is something else using it? Try --port 0 for a free one"
            ) from error
        listening.set_inheritable(True)
        return listening

    def _prepare(self) -> None:
        """Before any child: the run folder, the settings that the children read, projects and first keys."""
        if self._run.exists():
            shutil.rmtree(self._run)
        self._run.mkdir(mode=0o700)
        (self._run / "prometheus").mkdir()
        values = {name: getattr(self._settings, name) for name in self._settings.__struct_fields__}
        values["data"] = str(self._folder)
        (self._run / "settings.json").write_text(json.dumps(values))
        outcome = subprocess.run(self._command("bootstrap"), check=False)
        if outcome.returncode:
            raise Unreachable(f"the data folder {self._folder} could not be prepared; see the message above")

    def _command(self, name: str) -> list[str]:
        return [sys.executable, "-m", "headwater.assembly.child", name, str(self._folder)]

    def _start(self, child: Child) -> None:
        # the child holds the reading end: when this process ends, however it ends, the child sees the end of it
        reading, writing = os.pipe()
        environment = dict(os.environ, PROMETHEUS_MULTIPROC_DIR=str(self._run / "prometheus"))
        if not self._testing:
            environment.pop("HEADWATER_STOP_AT", None)
        listening = self._socket.fileno()
        passed = (reading, listening) if child.name == "ingest" else (reading,)
        command = [*self._command(child.name), str(reading), str(listening)]
        child.process = subprocess.Popen(command, pass_fds=passed, env=environment, start_new_session=False)
        os.close(reading)
        os.set_inheritable(writing, False)
        self._pipes[child.name] = writing
        child.started = time.monotonic()
        self._write_state()

    def _wait(self, seconds: float) -> None:
        """Sleeps until a signal or the time is over, then looks after the children."""
        received = signal.sigtimedwait(SIGNALS, seconds)
        if received is not None and received.si_signo in (signal.SIGTERM, signal.SIGINT):
            self._stopping = True
            return
        now = time.monotonic()
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                self._died(child, now)
            if child.process is None and now >= child.due:
                self._start(child)

    def _pause(self) -> float:
        waiting = [c.due for c in self._children if c.process is None]
        return max(0.01, min(waiting) - time.monotonic()) if waiting else 60.0

    def _died(self, child: Child, now: float) -> None:
        assert child.process is not None
        code = child.process.returncode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        child.quick_deaths = 0 if now - child.started > STEADY_SECONDS else child.quick_deaths + 1
        pause = BACKOFF_SECONDS[min(child.quick_deaths, len(BACKOFF_SECONDS)) - 1] if child.quick_deaths else 0.0
        self._warn(f"headwater: {child.name} (pid {child.process.pid}) {how}; starting it again")
        os.close(self._pipes.pop(child.name))
        child.process = None
        child.restarts += 1
        child.due = now + pause
        self._write_state()

    def _ready(self, host: str, port: int) -> bool:
        connection = http.client.HTTPConnection(host, port, timeout=2)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _announce(self) -> None:
        keys = self._folder / "keys"
        event = '{"eventType":"hello","userId":"me","properties":{"from":"curl"}}'
        self._say(f"Headwater is ready at {self._url}  (API: {self._url}/docs)")
        self._say(f"project: default   keys: {keys}/{{write,read,admin}}   stop: Ctrl-C")
        self._say("Send an event:")
        key = f"\"Authorization: Bearer $(cat '{keys / 'write'}')\""
        self._say(f"curl {self._url}/v1/events -H {key} -H 'Content-Type: application/json' -d '{event}'")

    def _stop_all(self) -> None:
        """ingest first, so that nothing new comes in; then work, which archives; query last."""
        for child in reversed(self._children):
            if child.process is None:
                continue
            if child.running():
                child.process.send_signal(signal.SIGTERM)
            try:
                child.process.wait(STOP_SECONDS[child.name])
            except subprocess.TimeoutExpired:
                self._warn(f"headwater: {child.name} did not stop in time and is ended; nothing durable is lost")
                child.process.kill()
                child.process.wait()
        (self._run / "supervisor.json").unlink(missing_ok=True)

    def _write_state(self) -> None:
        """What runs, for `status` and for people who look: run/supervisor.json, replaced whole."""
        processes: list[dict[str, Any]] = [
            {
                "name": c.name,
                "pid": c.process.pid if c.process is not None else None,
                "state": "running" if c.running() else "restarting",
                "restarts": c.restarts,
            }
            for c in self._children
        ]
        state = {"pid": os.getpid(), "url": self._url, "processes": processes}
        path = self._run / "supervisor.json"
        Path(f"{path}.new").write_text(json.dumps(state))
        Path(f"{path}.new").replace(path)
