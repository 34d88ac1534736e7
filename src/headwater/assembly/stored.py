"""What the copy decision asks of the stores: events that were stored before its window, and firsts to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from headwater.catalog.port import LakeFile, ManifestReader
from headwater.clock import HOUR, hour_of
from headwater.eventlog.port import EventLogReader, sliced
from headwater.lake.columns import from_lake
from headwater.lake.find import find_events
from headwater.lake.objectstore.port import ObjectStore
from headwater.state.decision import event_at


class StoredEvents:
    """Looks events up in the lake by (id, timestamp), and in the log by position."""

    def __init__(self, manifest: ManifestReader, objects: ObjectStore, log: EventLogReader) -> None:
        self._manifest = manifest
        self._objects = objects
        self._log = log

    def find(
        self, project_id: str, wanted: Sequence[tuple[str, int]], received_before: int
    ) -> dict[tuple[str, int], tuple[int, dict[str, Any]]]:
        """Those of `wanted` that lie in a lake file of their hour with rows received before `received_before`."""
        ids_of_hour: dict[int, list[str]] = {}
        for event_id, at in wanted:
            ids_of_hour.setdefault(hour_of(at), []).append(event_id)
        first, last = min(ids_of_hour), max(ids_of_hour)
        with self._manifest.view() as view:
            files = [
                file
                for file in view.files(project_id, first, last + HOUR)
                if file.hour in ids_of_hour and file.min_received_at < received_before
            ]
        asked = set(wanted)
        found: dict[tuple[str, int], tuple[int, dict[str, Any]]] = {}
        for file in files:
            for key, position, event in self._in_file(file, ids_of_hour[file.hour]):
                if key in asked and (key not in found or position < found[key][0]):
                    found[key] = (position, event)
        return found

    def _in_file(self, file: LakeFile, ids: list[str]) -> list[tuple[tuple[str, int], int, dict[str, Any]]]:
        table = find_events([self._objects.local_path(file.path)], ids)
        if not table.num_rows:
            return []
        times = table.column("timestamp").cast(pa.int64()).to_pylist()
        positions = table.column("log_position").to_pylist()
        events = from_lake(table)
        return [
            (
                (event["eventId"], times[i]),
                positions[i],
                {
                    "event_type": event["eventType"],
                    "user_id": event.get("userId"),
                    "anonymous_id": event.get("anonymousId"),
                    "properties": event["properties"],
                },
            )
            for i, event in enumerate(events)
        ]

    def load(self, position: int) -> dict[str, Any] | None:
        """The event at a log position, where the log still has it."""
        if position < self._log.begin():
            return None
        for record in sliced(self._log.read(position, 1), position):
            return event_at(record.batch, 0)
        return None
