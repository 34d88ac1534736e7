"""What `ingest`, `query` and the preparation of a data folder are made of."""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import TYPE_CHECKING

from headwater.assembly.build import Build
from headwater.assembly.settings import Settings
from headwater.clock import SystemClock
from headwater.telemetry.log import configure

if TYPE_CHECKING:
    from headwater.query.services import Services


def bootstrap(settings: Settings) -> None:
    """Makes the stores that others wait for, the project `default` and its first keys. Idempotent."""
    from headwater.catalog.adapters.control_sqlite import bootstrap as first_projects_and_keys

    build = Build(settings)
    control = build.control()
    first_projects_and_keys(control, build.folder / "keys", SystemClock().now_us(), os.urandom)
    control.close()
    build.manifest().close()
    build.panes_writer().close()


def run_ingest(settings: Settings, listening: socket.socket) -> None:
    """Serves the port until SIGTERM; the sole writer of the event log."""
    from headwater.ingest.process import IngestServices, serve

    configure()
    build = Build(settings)
    log = build.log_writer()
    manifest = build.manifest_reader()
    panes = build.panes_reader()

    def read_up_to() -> int:
        """Below this position stream and archive have read everything."""
        with manifest.view() as archived, panes.view() as streamed:
            return min(archived.position().next, streamed.position().next)

    services = IngestServices(
        log=log,
        control=build.control_reader(),
        clock=SystemClock(),
        run_folder=build.folder / "run",
        read_up_to=read_up_to,
        last_received_at=log.last_received_at() or 0,
    )
    try:
        serve(services, listening)
    finally:
        log.close()


def query_services(settings: Settings) -> Services:
    """What the query process works with; the sole writer of control."""
    from headwater.query.services import Services

    build = Build(settings)
    return Services(
        clock=SystemClock(),
        control=build.control(),
        log=build.log_reader(),
        manifest=build.manifest_reader(),
        panes=build.panes_reader(),
        objects=build.objects(),
        data=build.folder,
        random_bytes=os.urandom,
        sql_memory_mb=settings.query_memory_mb,
        sql_seconds=float(settings.query_seconds),
    )


def run_query(settings: Settings) -> None:
    """Answers questions on the Unix socket until SIGTERM."""
    from headwater.query.process import serve

    configure()
    services = query_services(settings)
    try:
        serve(services, settings.folder / "run" / "query.sock")
    finally:
        services.close()


def stop_event() -> threading.Event:
    """Set by SIGTERM or SIGINT."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: stopping.set())
    return stopping
