"""`status`: where each stage is, what waits, up to when answers are complete, and whether every process can serve."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from headwater.clock import SECOND, rfc3339
from headwater.query.question import optional_time
from headwater.query.reading import Reading, Readings
from headwater.query.rendering import time_or_none
from headwater.query.services import Services

FRESH = 10 * SECOND
BEATING = ("ingest", "work")


def status(services: Services, readings: Readings) -> dict[str, Any]:
    """The document of `GET /v1/status`."""
    with readings.open() as reading:
        files = reading.manifest.files()
        stages = _stages(reading, services.clock.now_us())
        complete = reading.complete_up_to()
    work = _read(services.data / "run" / "work.json")
    supervisor = _read(services.data / "run" / "supervisor.json")
    return {
        "completeUpTo": time_or_none(complete),
        "stages": stages,
        "dedupe": work.get("dedupe", {"from": None, "bytes": 0}),
        "disk": {
            "log": _size(services.data / "log"),
            "lake": sum(file.bytes for file in files),
            "state": _size(services.data / "state"),
            "catalog": sum(_size(services.data / name) for name in ("control.db", "manifest.db", "panes.db")),
            "free": shutil.disk_usage(services.data).free,
        },
        "processes": supervisor.get("processes", []),
    }


def _stages(reading: Reading, now_us: int) -> list[dict[str, Any]]:
    manifest = reading.manifest

    def stage(name: str, position: int, behind: int, since: int | None) -> dict[str, Any]:
        seconds = max(0, now_us - since) / SECOND if behind and since is not None else 0
        error = manifest.progress(f"{name}.error") or None
        return {
            "name": name,
            "position": position,
            "backlogEvents": behind,
            "backlogSeconds": round(seconds, 3),
            "lastError": error,
        }

    streamed = reading.stream
    stream_next = streamed.next if streamed is not None else reading.first
    archived = reading.archive
    waiting = _unsettled(reading)
    return [
        stage("ingest", reading.end, 0, None),
        stage("stream", stream_next, max(0, reading.end - stream_next), streamed.received_at if streamed else None),
        stage("archive", archived.next, max(0, reading.end - archived.next), archived.received_at),
        stage("batch", archived.next, waiting, archived.received_at),
    ]


def _unsettled(reading: Reading) -> int:
    """Events in lake files of past hours that no rollup holds."""
    files = [file for file in reading.manifest.files() if file.hour < reading.boundary]
    held: set[int] = set()
    for project in {file.project_id for file in files}:
        for chunk in reading.manifest.chunks(project, -(1 << 62), 1 << 62):
            held.update(chunk.files)
    return sum(file.rows for file in files if file.id not in held)


def ready(services: Services) -> list[str]:
    """What is not able to serve, each with why; empty where everything is."""
    now = services.clock.now_us()
    missing = []
    for name in BEATING:
        at = _read(services.data / "run" / f"{name}.json").get("at")
        beat = optional_time("at", at) if at else None
        if beat is None:
            missing.append(f"{name} has not started")
        elif now - beat > FRESH:
            missing.append(f"{name} was last heard of at {rfc3339(beat)}")
    for process in _read(services.data / "run" / "supervisor.json").get("processes", []):
        if process["state"] != "running":
            missing.append(f"{process['name']} is {process['state']}")
    return missing


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(_size(inner) for inner in path.iterdir())
    return sum(p.stat().st_size for p in (path, Path(f"{path}-wal")) if p.exists())
