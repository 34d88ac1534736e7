"""The hops of one event: where it was received, where it lies, what it counted in, or why it did not count."""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from headwater.catalog.port import LakeFile, Project
from headwater.clock import rfc3339
from headwater.model.batch import SCHEMA
from headwater.model.rejection import KeptRejection
from headwater.query.lookups import Found, LookUps
from headwater.query.reading import Readings
from headwater.query.services import Services
from headwater.warehouse.measure import events_source, measure, names_for

LOOKED_THROUGH = 1_000
WIDTHS = {"1m": 60_000_000, "5m": 300_000_000, "1h": 3_600_000_000}


class Traces:
    """Follows events of a project. Used by many threads."""

    def __init__(self, services: Services, readings: Readings, look_ups: LookUps) -> None:
        self._services = services
        self._readings = readings
        self._look_ups = look_ups

    def trace(self, project: Project, event_id: str) -> dict[str, Any] | None:
        """None for an id of which nothing is known: neither an event nor rejected input."""
        found = self._look_ups.by_id(project, event_id)
        rejected = self._rejections(project, event_id)
        if found is None and not rejected:
            return None
        document: dict[str, Any] = {"eventId": event_id, "project": project.id}
        if found is None:
            document["status"] = "rejected"
        else:
            document["status"] = "stored" if found.file is not None else "in the log"
            document |= self._hops(project, found)
        document["rejected"] = [_rejection(kept) for kept in rejected]
        return document

    def _hops(self, project: Project, found: Found) -> dict[str, Any]:
        with self._services.reading_log() as log:
            still_there = log.begin() <= found.position
        hops: dict[str, Any] = {
            "receivedAt": found.event["receivedAt"],
            "timestamp": found.event["timestamp"],
            "log": {"position": found.position, "stillThere": still_there},
            "metrics": self._metrics(project, found),
            "file": None,
            "rollup": None,
        }
        if found.file is not None:
            hops["file"] = {
                "path": found.file.path,
                "hour": rfc3339(found.file.hour),
                "rowGroup": self._row_group(found.file, found.position),
                "checksum": found.file.checksum,
            }
            hops["rollup"] = self._rollup(project, found.file)
        return hops

    def _metrics(self, project: Project, found: Found) -> list[dict[str, Any]]:
        """Every metric that counts the event, with the groups and the windows it is in."""
        event = found.event
        row = {
            "event_id": event["eventId"],
            "event_type": event["eventType"],
            "user_id": event["userId"],
            "anonymous_id": event["anonymousId"],
            "timestamp": found.timestamp,
            "received_at": found.timestamp,
            "project_id": project.id,
            "schema_version": event["schemaVersion"],
            "properties": msgspec.json.encode(event["properties"]).decode(),
            "context": msgspec.json.encode(event["context"]).decode(),
        }
        metrics = self._services.control.metrics(project.id)
        source = events_source(pa.RecordBatch.from_pylist([row], schema=SCHEMA), names_for(metrics))
        with self._services.analyst.connection() as connection:
            counted = measure(connection, source, metrics, bucket_us=WIDTHS["1m"])
        return [
            {
                "metric": one.metric_key,
                "dimensions": dict(zip(one.dimensions, one.values, strict=True)),
                "windows": {name: rfc3339(found.timestamp - found.timestamp % us) for name, us in WIDTHS.items()},
            }
            for one in counted
        ]

    def _row_group(self, file: LakeFile, position: int) -> int | None:
        source = pq.ParquetFile(self._services.objects.local_path(file.path))
        for group in range(source.num_row_groups):
            column = source.read_row_group(group, columns=["log_position"]).column(0)
            if position in column.to_pylist():
                return group
        return None

    def _rollup(self, project: Project, file: LakeFile) -> dict[str, Any] | None:
        with self._readings.open() as reading:
            chunks = reading.manifest.chunks(project.id, file.hour, file.hour + 1)
        for chunk in chunks:
            if file.id in chunk.files:
                return {"path": chunk.path, "revision": chunk.revision, "metrics": list(chunk.metrics)}
        return None

    def _rejections(self, project: Project, event_id: str) -> list[KeptRejection]:
        """Among the newest of what was rejected."""
        with self._services.reading_log() as log:
            held = log.rejections(project.id, limit=LOOKED_THROUGH)
        with self._readings.open() as reading:
            held += reading.manifest.rejections(project.id, limit=LOOKED_THROUGH)
        return [kept for kept in held if kept.rejection.event_id == event_id]


def _rejection(kept: KeptRejection) -> dict[str, Any]:
    return {
        "id": kept.id,
        "receivedAt": rfc3339(kept.rejection.received_at),
        "stage": kept.rejection.stage,
        "reason": kept.rejection.reason,
        "detail": kept.rejection.detail,
    }
