"""Rolling up one hour, and its commit protocol (docs/specs/rollup.md).

    1  the states of the new files are counted and merged with those of the chunk before
    2  the new chunk is stored, durably, under a name that was never used
    3  one transaction of the manifest: the hour's chunk is the new one, with the files and metrics it holds
    4  the chunk before is left to be deleted once no reader can have it open

A stop before 3 leaves a file that nobody names (the sweep removes it); repeating makes the same states again. No step
reads or changes anything that another process writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import duckdb

from headwater.batch.plan import HourWork
from headwater.catalog.port import Chunk, LakeFile, Manifest
from headwater.lake.layout import chunk_key, token
from headwater.lake.objectstore.port import ObjectStore
from headwater.model.aggregate import State
from headwater.model.metric import Metric
from headwater.warehouse.chunk import FINEST, GRANULARITIES, Cell, merge_cells, read_chunk, with_hours, write_chunk
from headwater.warehouse.measure import files_source, measure, names_for

Promoted = dict[tuple[str, str], str]
# Called with the name of each step as it begins; tests stop a process there.
Step = Callable[[str], None]


def no_step(name: str) -> None:
    """Steps pass unnoticed."""


class Roller:
    """Makes chunks, one hour at a time, in the calling thread."""

    def __init__(
        self,
        manifest: Manifest,
        objects: ObjectStore,
        epoch: int,
        random_bytes: Callable[[int], bytes],
        con: duckdb.DuckDBPyConnection,
        step: Step = no_step,
    ) -> None:
        self._manifest, self._objects, self._epoch = manifest, objects, epoch
        self._random_bytes, self._con, self._step = random_bytes, con, step

    def roll(self, work: HourWork, now_us: int) -> str | None:
        """Steps 1 to 3; returns the key of the chunk that was replaced, for step 4. Idempotent: the same work again
        gives the same states. Raises `Fenced` when a file was compacted meanwhile or another owner has taken over."""
        self._step("rollup.1.count")
        cells = self._cells(work)
        metrics = (*work.kept, *work.missing)
        data = write_chunk(cells, metrics, revision=work.revision, now_us=now_us)
        name = token(now_us, self._random_bytes(5))
        key = chunk_key(work.project.root, work.hour, work.revision, name)
        self._step("rollup.2.store")
        self._objects.put(key, data)
        self._step("rollup.3.transaction")
        files = tuple(sorted(file.id for file in work.files))
        chunk = Chunk(work.project.id, work.hour, key, work.revision, files, tuple(m.key for m in metrics))
        replaced = self._manifest.put_chunk(self._epoch, chunk)
        self._step("rollup.4.retire")
        return replaced

    def _cells(self, work: HourWork) -> dict[Cell, State]:
        promoted = self._manifest.promoted(work.project.id)
        held = self._held(work)
        if held is None:
            return with_hours(merge_cells(list(self._counted(work.files, (*work.kept, *work.missing), promoted))))
        parts = [held]
        if work.kept and work.new_files:
            parts += self._counted(work.new_files, work.kept, promoted)
        if work.missing:
            parts += self._counted(work.files, work.missing, promoted)
        return with_hours(merge_cells(parts))

    def _held(self, work: HourWork) -> dict[Cell, State] | None:
        """What the chunk before says of the metrics that are kept; None where it is lost or damaged: the events are all
        there, so it is only made again."""
        if work.old is None or not work.kept:
            return {}
        try:
            path = str(self._objects.local_path(work.old.path))
            return read_chunk(self._con, path, [metric.key for metric in work.kept])
        except (duckdb.IOException, duckdb.InvalidInputException, FileNotFoundError):
            return None

    def _counted(
        self, files: Sequence[LakeFile], metrics: Sequence[Metric], promoted: Promoted
    ) -> Iterator[dict[Cell, State]]:
        names = names_for(metrics)
        for alike, columns in by_columns(files, promoted):
            paths = [str(self._objects.local_path(file.path)) for file in alike]
            measured = measure(self._con, files_source(paths, names, columns), metrics, bucket_us=GRANULARITIES[FINEST])
            yield {Cell(m.metric_key, FINEST, m.dimensions, m.bucket, m.values): m.state for m in measured}


def by_columns(files: Sequence[LakeFile], promoted: Promoted) -> list[tuple[list[LakeFile], Promoted]]:
    """Files with the same promoted columns together, and what those columns hold."""
    groups: dict[frozenset[str], list[LakeFile]] = {}
    for file in files:
        groups.setdefault(frozenset(file.promoted.values()), []).append(file)
    return [
        (alike, {what: column for what, column in promoted.items() if column in columns})
        for columns, alike in groups.items()
    ]
