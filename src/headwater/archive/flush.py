"""The archive's commit protocol: a closed tail segment becomes lake files (docs/specs/manifest.md).

    1  group: the rows that count, by project and event hour
    2  write: a file for each, under a name with a random part, durable before anything names it
    3  commit: one transaction adds the files, raises the revisions of their hours, adds what was skipped and what was
       rejected, and moves the archive's position from the segment's first to its next
    4  current: manifest/current.json of each project touched, for tools from outside; then a marker that it is done

Why this order: files before the commit, because the manifest may only name what is there; a stop before 3 leaves files
that nobody names (a sweep removes them), and the same events come again from the log. The position moves in the same
transaction as the files, so a segment is in the lake once or not at all. 4 repeats what the manifest says; where a
stop left it out, the next flush makes it for all projects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headwater.archive.tail import Segment
from headwater.catalog.port import ArchiveCommit, LakeFile, Manifest, Skipped
from headwater.clock import HOUR, hour_of
from headwater.lake import layout
from headwater.lake.columns import event_from_log_row, to_lake
from headwater.lake.current import write_current
from headwater.lake.file import Compression, sort_order, write
from headwater.lake.objectstore.port import ObjectStore
from headwater.lake.sweep import check_incarnation
from headwater.model.rejection import Rejection
from headwater.state.decision import CONFLICT, COPY, COUNTS, DecidedBatch

Step = Callable[[str], None]
POINTED = "archive.current"  # the marker: up to which position every current.json is true


@dataclass(frozen=True)
class Archive:
    """What a flush works with. `roots`: project id -> its root in the lake. `at` is called with the name of each step
    as it begins; tests stop a process there."""

    manifest: Manifest
    objects: ObjectStore
    epoch: int
    roots: Callable[[str], str]
    random_bytes: Callable[[int], bytes]
    compression: Compression = "snappy"
    at: Step = lambda name: None

    def flush(self, segment: Segment, now_us: int) -> list[LakeFile]:
        """Archives a segment; returns its files. Raises `Fenced` when another owner has gone on, `StoreFull` when there
        is no room, `HeadwaterError` when the lake is another catalog's; then nothing of the segment is visible."""
        self.at("archive.1.group")
        groups = list(_groups(segment))
        self.at("archive.2.write")
        check_incarnation(self.manifest, self.objects)
        files = [self._write(project, hour, rows, now_us) for project, hour, rows in groups]
        self.at("archive.3.commit")
        added = self.manifest.commit(
            ArchiveCommit(
                segment.first,
                segment.next,
                segment.received_at,
                self.epoch,
                files,
                _skipped(segment.batches),
                list(_conflicts(segment.batches)),
            )
        )
        self.at("archive.4.current")
        self._point(segment, {file.project_id for file in added})
        return added

    def _point(self, segment: Segment, projects: set[str]) -> None:
        """Step 4, and that of the flush before for all projects where it was stopped in it."""
        with self.manifest.view() as view:
            if (view.progress(POINTED) or "0") != str(segment.first):
                projects |= {file.project_id for file in view.files()}
        write_current(self.manifest, self.objects, {project: self.roots(project) for project in sorted(projects)})
        self.manifest.set_progress(POINTED, str(segment.next))

    def _write(self, project: str, hour: int, rows: _Rows, now_us: int) -> LakeFile:
        promoted = self.manifest.promoted(project)
        first = int(rows.positions.min())
        key = layout.events_key(self.roots(project), hour, first, layout.token(now_us, self.random_bytes(5)))
        data, facts = write(
            to_lake(rows.events, rows.positions, promoted),
            key=key,
            project_id=project,
            hour=hour,
            epoch=self.epoch,
            promoted=columns_of(promoted),
            compression=self.compression,
        )
        self.objects.put(key, data)
        return facts


def columns_of(promoted: Mapping[tuple[str, str], str]) -> dict[str, str]:
    """`kind:property` -> column, as a manifest row names the promoted columns of its file."""
    return {f"{kind}:{name}": column for (name, kind), column in promoted.items()}


@dataclass(frozen=True)
class _Rows:
    """The rows of one file, in the order of the file."""

    events: pa.RecordBatch
    positions: npt.NDArray[np.int64]


def _groups(segment: Segment) -> Iterator[tuple[str, int, _Rows]]:
    """The rows that count, by project and event hour, in a stable order."""
    batches = [decided.kept() for decided in segment.batches]
    if not sum(batch.num_rows for batch in batches):
        return
    events = pa.concat_batches(batches)
    positions = np.concatenate([decided.kept_positions() for decided in segment.batches])
    times = events.column("timestamp").cast(pa.int64()).to_numpy()
    projects = events.column("project_id").dictionary_encode()
    names = projects.dictionary.to_pylist()
    hours = times // HOUR
    codes = projects.indices.to_numpy()
    order = sort_order(events.column("event_type"), times, codes, hours)
    edges = np.flatnonzero((np.diff(codes[order]) != 0) | (np.diff(hours[order]) != 0)) + 1
    for rows in np.split(order, edges):
        at = int(rows[0])
        yield names[codes[at]], int(hours[at]) * HOUR, _Rows(events.take(pa.array(rows)), positions[rows])


def _skipped(batches: Sequence[DecidedBatch]) -> list[Skipped]:
    """How many events of each project and receipt hour are copies, and how many were rejected as conflicts."""
    counts: dict[int, Counter[tuple[str, int]]] = {COPY: Counter(), CONFLICT: Counter()}
    for decided in batches:
        rows = np.flatnonzero(decided.verdict != COUNTS)
        if not len(rows):
            continue
        skipped = decided.events.take(pa.array(rows))
        received = skipped.column("received_at").cast(pa.int64()).to_pylist()
        for project, at, verdict in zip(
            skipped.column("project_id").to_pylist(), received, decided.verdict[rows].tolist(), strict=True
        ):
            counts[verdict][project, hour_of(at)] += 1
    places = sorted(counts[COPY].keys() | counts[CONFLICT].keys())
    return [Skipped(*place, counts[COPY][place], counts[CONFLICT][place]) for place in places]


def _conflicts(batches: Sequence[DecidedBatch]) -> Iterator[Rejection]:
    """Events that carry the id of another one and are not a copy of it."""
    for decided in batches:
        for row in np.flatnonzero(decided.verdict == CONFLICT).tolist():
            shown = event_from_log_row(decided.events, row)
            # what a client could have sent, so that it can be sent again
            event = {k: v for k, v in shown.items() if v is not None and k not in ("receivedAt", "schemaVersion")}
            received = decided.events.column("received_at")[row].cast(pa.int64()).as_py()
            yield Rejection(
                project_id=decided.events.column("project_id")[row].as_py(),
                received_at=received,
                stage="archive",
                reason="conflict",
                detail=f"another event with this eventId was accepted first, at log position {decided.originals[row]}",
                body=msgspec.json.encode(event),
                event_id=event["eventId"],
            )
