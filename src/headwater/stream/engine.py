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
from headwater.stream.windows import Series, Values
from headwater.warehouse.measure import events_source, measure, names_for


@dataclass(frozen=True)
class Delta:
    """What a micro-batch adds to one series' window at `bucket` (the narrowest that is kept) and group."""

    series: Series
    bucket: int
    values: Values
    state: State


class EmbeddedEngine:
    """DuckDB over Arrow, in the calling thread. Keeps nothing between two calls."""

    def __init__(self) -> None:
        self._con = duckdb.connect(":memory:", config={"threads": 1})

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
            for dimensions, of_set in _by_dimensions(metrics, capped).items():
                measured = measure(
                    self._con, source, of_set, bucket_us=widths(dimensions)[0], dimension_sets=[dimensions]
                )
                found += [Delta((project, m.metric_key, m.dimensions), m.bucket, m.values, m.state) for m in measured]
        return found

    def close(self) -> None:
        self._con.close()


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
