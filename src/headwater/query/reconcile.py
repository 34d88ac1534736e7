"""Reconcile: live, settled and raw hold the same numbers, for every metric, group and hour that two of them complete.

Raw is a recount of the lake's files and the log's tail, at one moment of all stores. Live is the hour's pane and the
sum of its minutes; settled is the rollup, where it covers every file of the hour and no tail event falls into it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import duckdb
import msgspec
import pyarrow as pa

from headwater.catalog.port import LakeFile, ManifestView
from headwater.clock import DAY, HOUR, hour_of, rfc3339
from headwater.lake.objectstore.port import ObjectStore
from headwater.model.aggregate import EMPTY, State, merge, value
from headwater.model.metric import Metric
from headwater.model.pane import widths
from headwater.panes.port import PanesView
from headwater.query.rendering import number_text
from headwater.warehouse.chunk import read_states
from headwater.warehouse.measure import Measured, events_source, files_source, measure, names_for

Values = tuple[str | None, ...]
Place = tuple[str, tuple[str, ...], int]  # metric key, dimension set, hour
States = dict[Place, dict[Values, State]]


class Difference(msgspec.Struct, frozen=True):
    """One group of one hour in which two stores do not agree; None: the store has no complete value."""

    project: str
    metric: str
    dimensions: dict[str, str | None]
    hour: str
    live: str | None
    settled: str | None
    raw: str


class Reconciliation(msgspec.Struct, frozen=True):
    """`checked`: values that were compared. `open`: hours of a metric and dimension set that raw alone completes."""

    ok: bool
    checked: int
    open: int
    differences: list[Difference]


@dataclass(frozen=True)
class Moment:
    """The stores at one moment; `panes` None where they cannot be used."""

    manifest: ManifestView
    panes: PanesView | None
    objects: ObjectStore
    connection: duckdb.DuckDBPyConnection


def reconcile(
    moment: Moment, tails: dict[str, pa.Table], metrics: Sequence[Metric], start: int | None, end: int | None
) -> Reconciliation:
    """Compares for event hours in [start, end); `tails` holds each project's tail: its events at
    positions from the archive's to the stream's that count."""
    found = Reconciliation(True, 0, 0, [])
    by_project: dict[str, list[Metric]] = defaultdict(list)
    for metric in metrics:
        by_project[metric.project_id].append(metric)
    for project, own in by_project.items():
        one = _Project(moment, project, own, tails[project], start, end).compare()
        found = Reconciliation(
            found.ok and one.ok,
            found.checked + one.checked,
            found.open + one.open,
            found.differences + one.differences,
        )
    return found


class _Project:
    def __init__(
        self,
        moment: Moment,
        project: str,
        metrics: list[Metric],
        tail: pa.Table,
        start: int | None,
        end: int | None,
    ) -> None:
        self._moment = moment
        self._project = project
        self._metrics = metrics
        self._start = 0 if start is None else hour_of(start)
        self._end = 1 << 62 if end is None else end
        self._files = [file for file in moment.manifest.files(project) if self._start <= file.hour < self._end]
        self._raw: States = defaultdict(dict)
        self._tail_hours: set[int] = set()
        self._count_raw(tail)

    def compare(self) -> Reconciliation:
        checked = still_open = 0
        differences: list[Difference] = []
        hours = sorted({file.hour for file in self._files} | self._tail_hours)
        chunks = {chunk.hour: chunk for chunk in self._moment.manifest.chunks(self._project, self._start, self._end)}
        files: dict[int, set[int]] = defaultdict(set)
        for file in self._files:
            files[file.hour].add(file.id)
        for metric in self._metrics:
            live_from = self._live_from(metric)
            settled_hours = {
                hour
                for hour in hours
                if hour in chunks
                and set(chunks[hour].files) == files[hour]
                and hour not in self._tail_hours
                and metric.key in chunks[hour].metrics
            }
            paths = [str(self._moment.objects.local_path(chunks[hour].path)) for hour in sorted(settled_hours)]
            for dimensions in metric.dimension_sets:
                settled = self._settled(metric, dimensions, paths, settled_hours)
                capped = self._capped_from(metric, dimensions)
                for hour in hours:
                    live = None
                    if live_from is not None and live_from <= hour < capped:
                        live = self._live(metric, dimensions, hour)
                    stored = settled.get(hour, {}) if hour in settled_hours else None
                    if live is None and stored is None:
                        still_open += 1
                        continue
                    raw = self._raw.get((metric.key, dimensions, hour), {})
                    compared, unequal = _unequal(metric, dimensions, hour, raw, live, stored)
                    checked += compared
                    differences += unequal
        return Reconciliation(not differences, checked, still_open, differences)

    def _count_raw(self, tail: pa.Table) -> None:
        names = names_for(self._metrics, more=[n for m in self._metrics for d in m.dimension_sets for n in d])
        measured: list[Measured] = []
        if self._files:
            source = files_source(self._paths(self._files), names)
            measured += measure(self._moment.connection, source, self._metrics, bucket_us=HOUR)
        if tail.num_rows:
            source = events_source(tail, names)
            measured += measure(
                self._moment.connection,
                source,
                self._metrics,
                bucket_us=HOUR,
                start=self._start,
                end=self._end,
            )
            times = tail.column("timestamp").cast(pa.int64()).to_pylist()
            self._tail_hours = {hour_of(at) for at in times if self._start <= at < self._end}
        for one in measured:
            groups = self._raw[one.metric_key, one.dimensions, one.bucket]
            groups[one.values] = merge([groups.get(one.values, EMPTY), one.state])

    def _paths(self, files: Iterable[LakeFile]) -> list[str]:
        return [str(self._moment.objects.local_path(file.path)) for file in files]

    def _live_from(self, metric: Metric) -> int | None:
        """First hour whose live panes are whole and still kept; None where there are none."""
        panes = self._moment.panes
        if panes is None:
            return None
        whole = panes.live_from(self._project, metric.key)
        received = panes.position().received_at
        if whole is None or received is None:
            return None
        return max(whole, hour_of(received) - DAY + HOUR)

    def _capped_from(self, metric: Metric, dimensions: tuple[str, ...]) -> int:
        panes = self._moment.panes
        caps = panes.caps(self._project, metric.key) if panes is not None else []
        return min((cap.from_hour for cap in caps if cap.dimensions == dimensions), default=1 << 62)

    def _live(self, metric: Metric, dimensions: tuple[str, ...], hour: int) -> list[dict[Values, State]]:
        """The hour's groups as every live width has them."""
        panes = self._moment.panes
        assert panes is not None
        found = []
        for width in widths(dimensions):
            states: dict[Values, list[State]] = defaultdict(list)
            for pane in panes.live(self._project, metric.key, dimensions, width, hour, hour + HOUR):
                states[pane.key.values].append(pane.state)
            found.append({values: merge(held) for values, held in states.items()})
        return found

    def _settled(
        self, metric: Metric, dimensions: tuple[str, ...], paths: list[str], hours: set[int]
    ) -> dict[int, dict[Values, State]]:
        found: dict[int, dict[Values, State]] = defaultdict(dict)
        if not paths:
            return found
        first, last = min(hours), max(hours) + HOUR
        for held in read_states(self._moment.connection, paths, metric.key, "hour", dimensions, first, last):
            found[held.bucket][held.values] = held.state
        return found


def _unequal(
    metric: Metric,
    dimensions: tuple[str, ...],
    hour: int,
    raw: dict[Values, State],
    live: list[dict[Values, State]] | None,
    settled: dict[Values, State] | None,
) -> tuple[int, list[Difference]]:
    """How many groups were compared, and those that differ."""
    stores = [*(live or []), *([settled] if settled is not None else [])]
    groups = set(raw).union(*stores)
    differences = []
    for values in sorted(groups, key=lambda v: tuple(part or "" for part in v)):
        truth = _seen(metric, raw.get(values, EMPTY))
        lives = [_seen(metric, held.get(values, EMPTY)) for held in live or []]
        kept = _seen(metric, settled.get(values, EMPTY)) if settled is not None else None
        if all(seen == truth for seen in lives) and kept in (None, truth):
            continue
        odd = next((seen for seen in lives if seen != truth), truth if lives else None)
        differences.append(
            Difference(
                project=metric.project_id,
                metric=metric.name,
                dimensions=dict(zip(dimensions, values, strict=True)),
                hour=rfc3339(hour),
                live=_text(odd),
                settled=_text(kept),
                raw=_text(truth) or "null",
            )
        )
    return len(groups) or 1, differences


Seen = tuple[int, Decimal | int | None]


def _seen(metric: Metric, state: State) -> Seen:
    """What must agree: how many events matched, and the value."""
    return state.count, value(state, metric.definition.aggregate)


def _text(seen: Seen | None) -> str | None:
    if seen is None:
        return None
    count, shown = seen
    return f"{'null' if shown is None else number_text(shown)} ({count} events)"
