"""A small lake, catalog, log and set of panes with real stores, filled without the processes that fill them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.batch.process import Batch
from headwater.catalog.adapters.control_sqlite import open_control
from headwater.catalog.adapters.manifest_sqlite import open_manifest
from headwater.catalog.port import ArchiveCommit, Chunk, LakeFile
from headwater.clock import HOUR, hour_of
from headwater.lake import file as lake_file
from headwater.lake.columns import to_lake
from headwater.lake.layout import events_key, token
from headwater.lake.objectstore.adapters.local import LocalObjectStore
from headwater.model.metric import definition_from
from headwater.warehouse.chunk import read_states
from tests.warehouse.brute import Event, batch, states

T0 = 1_705_312_800_000_000  # 2024-01-15T10:00:00Z
LATER = T0 + 50 * HOUR  # when everything is received, unless a test says otherwise


class World:
    """One project, `default`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.control = open_control(folder / "control.db")
        self.manifest = open_manifest(folder / "manifest.db")
        self.objects = LocalObjectStore(folder / "lake")
        self.epoch = self.manifest.take_lease()
        self.project = self.control.project("default") or self.control.create_project("default", 0)
        self.events: list[Event] = []
        self.compacted: list[tuple[str, int]] = []
        self.swept: list[int] = []
        self.steps: list[str] = []
        self.stop_at: str | None = None
        self._random = itertools.count(1)

    def define(self, name: str, **definition: Any) -> Any:
        return self.control.define_metric("default", name, definition_from(definition), T0)[0]

    def metric(self, name: str) -> Any:
        return next(m for m in self.control.metrics("default") if m.name == name)

    def random_bytes(self, count: int) -> bytes:
        return next(self._random).to_bytes(count, "big")

    def batch(self, **given: Any) -> Batch:
        def step(name: str) -> None:
            self.steps.append(name)
            if name == self.stop_at:
                self.stop_at = None
                raise KeyboardInterrupt(name)

        return Batch(
            self.manifest,
            self.control,
            self.objects,
            self.epoch,
            compact=given.pop("compact", lambda project, hour, now: self.compacted.append((project, hour))),
            sweep=self.swept.append,
            random_bytes=self.random_bytes,
            step=step,
            **given,
        )

    def archive(self, events: Sequence[Event], *, promoted: bool = False) -> list[LakeFile]:
        """Writes a file for each event hour and commits them as the next positions of the log."""
        first = self.manifest.view().__enter__().position().next
        rows = batch(events)
        names = self.manifest.promoted("default") if promoted else {}
        files = []
        hours = sorted({hour_of(event["timestamp"]) for event in events})
        for hour in hours:
            mask = [hour_of(event["timestamp"]) == hour for event in events]
            positions = first + np.flatnonzero(mask)
            files.append(self.store(to_lake(rows.filter(pa.array(mask)), positions, names), hour, names))
        received = max(event["received_at"] for event in events)
        commit = ArchiveCommit(first, first + len(events), received, self.epoch, files=files)
        self.events += events
        return self.manifest.commit(commit)

    def store(self, table: pa.Table, hour: int, promoted: dict[tuple[str, str], str] | None = None) -> LakeFile:
        """A lake file with these rows, not in the manifest yet."""
        key = events_key(
            self.project.root, hour, pc.min(table["log_position"]).as_py(), token(T0, self.random_bytes(5))
        )
        columns = {f"{name}:{kind}": column for (name, kind), column in (promoted or {}).items()}
        data, facts = lake_file.write(
            table, key=key, project_id="default", hour=hour, epoch=self.epoch, promoted=columns
        )
        self.objects.put(key, data)
        return facts

    def files(self) -> list[LakeFile]:
        with self.manifest.view() as view:
            return view.files("default")

    def chunks(self) -> list[Chunk]:
        with self.manifest.view() as view:
            return view.chunks("default", 0, 1 << 60)

    def settled(self, metric: Any, dimensions: tuple[str, ...] = (), granularity: str = "hour") -> dict[Any, Any]:
        """(window, values) -> state, from the chunks that hold the metric."""
        paths = [str(self.objects.local_path(c.path)) for c in self.chunks() if metric.key in c.metrics]
        with duckdb.connect() as con:
            found = read_states(con, paths, metric.key, granularity, dimensions, 0, 1 << 60)
        assert len({(s.bucket, s.values) for s in found}) == len(found), "a window came from two chunks"
        return {(s.bucket, s.values): s.state for s in found}

    def expected(self, metric: Any, dimensions: tuple[str, ...] = (), width: int = HOUR) -> dict[Any, Any]:
        """The same by plain Python over everything that was archived."""
        if not self.events:
            return {}
        first = hour_of(min(e["timestamp"] for e in self.events))
        last = max(e["timestamp"] for e in self.events)
        return states(self.events, metric, dimensions, list(range(first, last + 2 * width, width)))

    def progress(self, name: str) -> str | None:
        with self.manifest.view() as view:
            return view.progress(name)
