"""The `ingest` process: opens what it needs, serves until it is told to stop, loses nothing on the way out."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvicorn

from headwater.catalog.port import ControlReader
from headwater.clock import Clock, rfc3339
from headwater.eventlog.port import EventLogWriter
from headwater.ingest.app import Ingest
from headwater.ingest.commit import GroupCommit
from headwater.ingest.keys import KeyCache
from headwater.ingest.protocol import Protocol
from headwater.ingest.relay import Relay
from headwater.ingest.tally import Tally

TRIM_SECONDS = 60.0
_log = structlog.get_logger("ingest")


@dataclass(frozen=True)
class IngestServices:
    """Everything outside that ingest touches. `read_up_to` tells below which position every reader is done;
    `last_received_at` is that of the log, 0 for an empty one; `randomness(n)` gives n random bytes."""

    log: EventLogWriter
    control: ControlReader
    clock: Clock
    run_folder: Path
    read_up_to: Callable[[], int]
    last_received_at: int = 0
    retention_days: int | None = None
    randomness: Callable[[int], bytes] = os.urandom


class _Server(uvicorn.Server):
    """Leaves signals to `serve`: uvicorn raises a caught one again when it is done, which would end the process
    before the log is closed."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(services: IngestServices, listening: socket.socket) -> None:
    """Serves on a listening socket until SIGTERM or SIGINT; what was taken is durable when it returns."""
    config = uvicorn.Config(
        app=lambda: None,
        http=Protocol,
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_level="error",
        log_config=None,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        ws="none",
        backlog=2048,
    )
    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(_serve(services, config, listening))


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


async def _serve(services: IngestServices, config: uvicorn.Config, listening: socket.socket) -> None:
    tally = Tally()
    commit = GroupCommit(services.log, services.last_received_at, tally)
    keys = KeyCache(services.control, services.run_folder / "known-keys.json")
    relay = Relay(services.run_folder / "query.sock")
    config.app = Ingest(keys, commit, relay, services.clock, services.retention_days, services.randomness, tally)
    # start-up objects live as long as the process: the collector need not look at them again
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)
    server = _Server(config)

    def stop() -> None:
        server.should_exit = True

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
    tasks = [
        asyncio.create_task(_trim(services, commit)),
        asyncio.create_task(_every_second(services, commit, tally, server)),
    ]
    try:
        await server.serve(sockets=[listening])
    finally:
        for task in tasks:
            task.cancel()
        await commit.drain()
        tally.publish()


async def _trim(services: IngestServices, commit: GroupCommit) -> None:
    """Every minute, and soon after the log was full, drops what everybody has read."""
    while True:
        await commit.full_or_after(TRIM_SECONDS)
        try:
            await commit.in_turn(lambda: services.log.trim(services.read_up_to(), services.clock.now_us()))
        except Exception as error:
            # the manifest or the disk is not there now: what was not read stays, and it is tried again
            _log.warning("trim put off", error=str(error))


async def _every_second(services: IngestServices, commit: GroupCommit, tally: Tally, server: _Server) -> None:
    """Late requests are ended, counts published, and a sign of life is left for `status`."""
    path = services.run_folder / "ingest.json"
    temporary = path.with_suffix(".new")
    loop = asyncio.get_running_loop()
    while True:
        now = loop.time()
        for connection in list(server.server_state.connections):
            if isinstance(connection, Protocol):
                connection.check(now)
        tally.publish()
        beat = {"pid": os.getpid(), "at": rfc3339(services.clock.now_us()), "position": commit.position}
        with contextlib.suppress(OSError):  # a full disk: the beat is late, and that is what it shows
            temporary.write_text(json.dumps(beat))
            temporary.replace(path)
        await asyncio.sleep(1)
