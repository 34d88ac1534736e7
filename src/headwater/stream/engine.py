"""The embedded stream engine: micro-batches of events to states by window and group, vectorised.

Deltas are at the finest live window (a minute for totals, 5 minutes for groups); wider windows are folded from them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from headwater.model.aggregate import State
from headwater.model.metric import Metric
from headwater.model.pane import widths
from headwater.stream.job import StreamJob
from headwater.stream.windows import Cell, Series, Values
from headwater.warehouse.measure import Source, events_source, measure, names_for

ROWS_PER_GROUP = 8  # with fewer events a group, merging in Python costs more than grouping again
ENOUGH_ROWS = 1_000  # a batch below this says nothing about how many groups there are


@dataclass(frozen=True)
class Delta:
    """What a micro-batch adds to one series' window at `bucket` (the narrowest that is kept) and group."""

    series: Series
    bucket: int
    values: Values
    state: State


class EmbeddedEngine:
    """DuckDB over Arrow, in the calling thread. Between two calls it keeps only what helps to choose a plan.

    Where one dimension set of a project holds all others, the events are grouped once, by that set, and totals and
    smaller sets are merged from its groups (states have a merge law, so the panes are the same); unless there are
    nearly as many groups as events. Distinct counts are measured for each set: merging sketches costs more.
    """

    def __init__(self) -> None:
        self._con = duckdb.connect(":memory:", config={"threads": 1})
        self._many_groups: set[tuple[str, tuple[str, ...]]] = set()

    def apply(self, job: StreamJob, events: pa.RecordBatch | pa.Table, capped: Collection[Series] = ()) -> list[Delta]:
        """The deltas of `events` (EventBatch v1, any projects) for the job's metrics, without the series in `capped`.

        Depends on the events alone: any split of them gives deltas that fold to the same panes.
        """
        found: list[Delta] = []
        for project, rows in _by_project(events):
            metrics = job.metrics.get(project, ())
            if not metrics:
                continue
            source = events_source(rows, names_for(metrics))
            sets = _by_dimensions(metrics, capped)
            widest = max(sets, key=len, default=())
            if widest and (project, widest) not in self._many_groups and all(set(s) <= set(widest) for s in sets):
                mergeable, sets = _split_mergeable(sets, widest)
                if mergeable:
                    deltas, groups = self._merged(project, source, mergeable, widest)
                    found += deltas
                    if groups * ROWS_PER_GROUP > rows.num_rows >= ENOUGH_ROWS:
                        self._many_groups.add((project, widest))
            for dimensions, of_set in sets.items():
                found += self._measured(project, source, of_set, dimensions, widths(dimensions)[0])
        return found

    def close(self) -> None:
        self._con.close()

    def _measured(
        self, project: str, source: Source, metrics: Sequence[Metric], dimensions: tuple[str, ...], width: int
    ) -> list[Delta]:
        measured = measure(self._con, source, metrics, bucket_us=width, dimension_sets=[dimensions])
        return [Delta((project, m.metric_key, m.dimensions), m.bucket, m.values, m.state) for m in measured]

    def _merged(
        self, project: str, source: Source, sets: dict[tuple[str, ...], list[Metric]], widest: tuple[str, ...]
    ) -> tuple[list[Delta], int]:
        """Deltas of `sets`, merged from the groups of `widest`; and how many groups there were for each metric."""
        metrics = sets[widest]
        fine = self._measured(project, source, metrics, widest, widths(())[0])
        cells: dict[tuple[Series, int, Values], Cell] = {}
        for dimensions, of_set in sets.items():
            at = [widest.index(name) for name in dimensions]
            width, keys = widths(dimensions)[0], {metric.key for metric in of_set}
            for delta in fine:
                if delta.series[1] in keys:
                    values = tuple([delta.values[i] for i in at])
                    key = ((project, delta.series[1], dimensions), delta.bucket - delta.bucket % width, values)
                    cell = cells.get(key)
                    if cell is None:
                        cell = cells[key] = Cell()
                    cell.add(delta.state)
        return [Delta(*key, cell.state()) for key, cell in cells.items()], len(fine) // max(1, len(metrics))


def _by_project(events: pa.RecordBatch | pa.Table) -> Iterator[tuple[str, pa.RecordBatch | pa.Table]]:
    projects = pc.unique(events.column("project_id")).to_pylist()
    if len(projects) == 1:
        yield projects[0], events
        return
    for project in projects:
        yield project, events.filter(pc.equal(events.column("project_id"), project))


def _by_dimensions(metrics: Sequence[Metric], capped: Collection[Series]) -> dict[tuple[str, ...], list[Metric]]:
    found: dict[tuple[str, ...], list[Metric]] = {}
    for metric in metrics:
        for dimensions in metric.dimension_sets:
            if (metric.project_id, metric.key, dimensions) not in capped:
                found.setdefault(dimensions, []).append(metric)
    return found


def _split_mergeable(
    sets: dict[tuple[str, ...], list[Metric]], widest: tuple[str, ...]
) -> tuple[dict[tuple[str, ...], list[Metric]], dict[tuple[str, ...], list[Metric]]]:
    """`sets` of the metrics that are measured by `widest` anyway and can be merged from it; and the rest."""
    keys = {metric.key for metric in sets[widest] if metric.definition.aggregate != "unique"}
    merged: dict[tuple[str, ...], list[Metric]] = {}
    rest: dict[tuple[str, ...], list[Metric]] = {}
    for dimensions, metrics in sets.items():
        for metric in metrics:
            (merged if metric.key in keys else rest).setdefault(dimensions, []).append(metric)
    return merged, rest
