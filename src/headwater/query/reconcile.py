"""Reconciliation: for every metric, dimension set and hour the live panes, the settled rollups and a recount of the
events themselves must be the same state.

*raw* is counted from all lake files of the hour and the tail of the log, from the properties as they are stored and
not from promoted columns. *live* is the hour's panes, the narrower windows summed up, and every 5 minutes by
themselves. *settled* is the hour's chunk (its hour and each of its quarters) and the tail. A side takes part where it
calls itself complete; an hour of which neither live nor settled does is `open`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import duckdb
import msgspec
import numpy as np
import pyarrow as pa

from headwater.catalog.port import Chunk, LakeFile, ManifestView
from headwater.clock import DAY, HOUR, MINUTE, hour_of, rfc3339
from headwater.errors import Corrupt
from headwater.lake.objectstore.port import ObjectStore
from headwater.model import aggregate, sketch
from headwater.model.aggregate import EMPTY, State
from headwater.model.metric import Metric
from headwater.model.pane import Pane, widths
from headwater.model.value import decimal_text
from headwater.panes.port import PanesView
from headwater.warehouse.chunk import read_chunk
from headwater.warehouse.measure import Measured, Source, events_source, files_source, measure, names_for

_SHOWN_DIFFERENCES = 1_000
_EVER = 1 << 60
FINE = 5 * MINUTE  # the narrowest live window that every dimension set has
QUARTER = 15 * MINUTE  # the finest grain of a rollup
Values = tuple[str | None, ...]
Series = tuple[str, tuple[str, ...]]  # metric key, dimension set
Groups = dict[Values, State]
Sides = dict[tuple[Series, int], Groups]  # of each series and start of a window, an hour where nothing else is said
Number = int | msgspec.Raw | None


class Difference(msgspec.Struct, frozen=True):
    """A group of an hour in which a side differs from `raw`. `dimensions` holds the group's values; a side that took no
    part is null. Values are JSON numbers; where the values are equal and the states are not, `state` says how."""

    project: str
    metric: str
    dimensions: dict[str, str | None]
    hour: str
    live: Number
    settled: Number
    raw: Number
    state: str | None = None


class Reconciliation(msgspec.Struct, frozen=True):
    """`checked` series and hours were compared, `open` could not be yet. The first 1,000 `differences` are listed, by
    time."""

    ok: bool
    checked: int
    open: int
    differences: list[Difference]


@dataclass(frozen=True)
class Moment:
    """One moment of the stores (`query.reading`): the manifest at P, and the panes at S that were opened after it;
    None: there are none."""

    manifest: ManifestView
    panes: PanesView | None
    objects: ObjectStore
    con: duckdb.DuckDBPyConnection


def reconcile(
    moment: Moment, tails: Mapping[str, pa.Table], metrics: Sequence[Metric], start: int | None, end: int | None
) -> Reconciliation:
    """Compares `metrics`, of any projects, for event hours that begin in [start, end); None: no bound.

    `tails`: project -> its events at log positions [P, S) that count, as EventBatch v1. Raises `Corrupt` where a lake
    file cannot be read.
    """
    comparison = _Comparison(moment)
    for project_id in dict.fromkeys(metric.project_id for metric in metrics):
        of_project = [metric for metric in metrics if metric.project_id == project_id]
        comparison.project(project_id, of_project, tails.get(project_id), start, end)
    ordered = sorted(comparison.differences, key=lambda d: (d.hour, d.project, d.metric))
    return Reconciliation(not ordered, comparison.checked, comparison.open, ordered[:_SHOWN_DIFFERENCES])


class _Comparison:
    """What was found so far."""

    def __init__(self, moment: Moment) -> None:
        self.checked = self.open = 0
        self.differences: list[Difference] = []
        self.con, self.manifest, self.panes, self.objects = moment.con, moment.manifest, moment.panes, moment.objects
        position = self.manifest.position()
        self._first, self._archived_received_at = position.next, position.received_at
        self._boundary = 0 if position.received_at is None else hour_of(position.received_at)
        received_at = self.panes.position().received_at if self.panes is not None else None
        # Live panes of hours before this one may have been dropped already.
        self._live_floor = 0 if received_at is None else hour_of(received_at) - DAY

    def project(
        self, project_id: str, metrics: Sequence[Metric], tail: pa.Table | None, start: int | None, end: int | None
    ) -> None:
        """All metrics of one project, a day of event hours at a time."""
        files = self.manifest.files(project_id, start, end)
        hours = {file.hour for file in files} | self._live_hours(project_id, metrics)
        hours |= {c.hour for c in self.manifest.chunks(project_id, start or 0, _EVER if end is None else end)}
        source = None
        if tail is not None and tail.num_rows:
            source = events_source(tail, names_for(metrics))
            times = tail.column("timestamp").cast(pa.int64()).to_numpy()
            hours |= set(np.unique(times - times % HOUR).tolist())
        inside = {h for h in hours if (start is None or h >= start) and (end is None or h < end)}
        for day in sorted({hour // DAY for hour in inside}):
            of_day = [file for file in files if file.hour // DAY == day]
            self._day(metrics, day * DAY, sorted(h for h in inside if h // DAY == day), of_day, source)

    def _day(
        self,
        metrics: Sequence[Metric],
        day: int,
        hours: list[int],
        files: list[LakeFile],
        tail: Source | None,
    ) -> None:
        counted = measure(self.con, tail, metrics, bucket_us=FINE, start=day, end=day + DAY) if tail else []
        raw_tail = _by_width(counted, HOUR)
        counted_files = self._files(files, metrics)
        raw = _add(_by_width(counted_files, HOUR), raw_tail)
        fine = {width: _by_width([*counted_files, *counted], width) for width in (FINE, QUARTER)}
        fine_tail = _by_width(counted, QUARTER)
        chunks = {chunk.hour: chunk for chunk in self.manifest.chunks(metrics[0].project_id, day, day + DAY)}
        live_files = {hour: {file.id for file in files if file.hour == hour} for hour in hours}
        complete = {
            hour: chunk for hour, chunk in chunks.items() if hour in live_files and live_files[hour] == set(chunk.files)
        }
        settled = [self._chunks(complete.values(), metrics, granularity, HOUR) for granularity in ("hour", "15m")]
        quarters = self._chunks(complete.values(), metrics, "15m", QUARTER)
        for metric in metrics:
            for dimensions in metric.dimension_sets:
                series = (metric.key, dimensions)
                panes = self._series_panes(metric, dimensions, day)
                for hour in hours:
                    sides: list[tuple[str, Groups]] = []
                    finer: list[tuple[str, int, Sides]] = []
                    if panes.live_from <= hour < panes.capped_from:
                        sides += [("live", groups.get((series, hour), {})) for groups in panes.live]
                        finer.append(("live", FINE, panes.fine))
                    if hour < self._boundary and hour in complete and metric.key in complete[hour].metrics:
                        use_panes = panes.has_tail and hour < panes.capped_from
                        after = (panes.tail if use_panes else raw_tail).get((series, hour), {})
                        sides += [("settled", _add_groups(s.get((series, hour), {}), after)) for s in settled]
                        finer.append(("settled", QUARTER, _add(quarters, fine_tail)))
                    if self._compare(metric, dimensions, hour, sides, raw.get((series, hour), {})):
                        self._compare_within(metric, dimensions, hour, finer, fine)

    def _compare(
        self, metric: Metric, dimensions: tuple[str, ...], hour: int, sides: list[tuple[str, Groups]], raw: Groups
    ) -> bool:
        """Whether every side has the hour as the recount has it."""
        if not sides:
            # nothing happened, or nobody can say yet
            self.open += bool(raw)
            return True
        self.checked += 1
        before = len(self.differences)
        for values in sorted({v for _, groups in [*sides, ("raw", raw)] for v in groups}, key=str):
            recount = raw.get(values, EMPTY)
            wrong = [(n, g.get(values, EMPTY)) for n, g in sides if not same(g.get(values, EMPTY), recount)]
            if not wrong:
                continue
            # Of a side that was read in two widths the one that is wrong is shown.
            shown = {name: groups.get(values, EMPTY) for name, groups in sides} | dict(wrong)
            value = {name: _value(state, metric) for name, state in shown.items()}
            equal = all(value[name] == _value(recount, metric) for name, _ in wrong)
            self.differences.append(
                Difference(
                    metric.project_id,
                    metric.name,
                    dict(zip(dimensions, values, strict=True)),
                    rfc3339(hour),
                    value.get("live"),
                    value.get("settled"),
                    _value(recount, metric),
                    f"{wrong[0][0]} {_facts(wrong[0][1])}, raw {_facts(recount)}" if equal else None,
                )
            )
        return len(self.differences) == before

    def _compare_within(
        self,
        metric: Metric,
        dimensions: tuple[str, ...],
        hour: int,
        finer: list[tuple[str, int, Sides]],
        raw: Mapping[int, Sides],
    ) -> None:
        """Finds events that lie in another part of an hour whose sums agree."""
        series = (metric.key, dimensions)
        for name, width, sides in finer:
            for start in range(hour, hour + HOUR, width):
                held = sides.get((series, start), {})
                recount = raw[width].get((series, start), {})
                for values in sorted({*held, *recount}, key=str):
                    one, other = held.get(values, EMPTY), recount.get(values, EMPTY)
                    if same(one, other):
                        continue
                    shown = {name: _value(one, metric)}
                    self.differences.append(
                        Difference(
                            metric.project_id,
                            metric.name,
                            dict(zip(dimensions, values, strict=True)),
                            rfc3339(hour),
                            shown.get("live"),
                            shown.get("settled"),
                            _value(other, metric),
                            f"in the part from {rfc3339(start)}: {name} {_facts(one)}, raw {_facts(other)}",
                        )
                    )

    def _files(self, files: Sequence[LakeFile], metrics: Sequence[Metric]) -> list[Measured]:
        if not files:
            return []
        paths = [str(self.objects.local_path(file.path)) for file in files]
        try:
            return measure(self.con, files_source(paths, names_for(metrics)), metrics, bucket_us=FINE)
        except duckdb.Error as error:
            raise Corrupt(
                f"lake: a file of {rfc3339(files[0].hour)} or the hours after cannot be read ({error}); "
                "`headwater audit` names it"
            ) from error

    def _chunks(self, chunks: Iterable[Chunk], metrics: Sequence[Metric], granularity: str, width: int) -> Sides:
        found: list[tuple[Series, int, Values, State]] = []
        for chunk in chunks:
            path = str(self.objects.local_path(chunk.path))
            for cell, state in read_chunk(self.con, path, [m.key for m in metrics], granularity).items():
                start = cell.bucket - cell.bucket % width
                found.append(((cell.metric_key, cell.dimensions), start, cell.values, state))
        return _grouped(found)

    def _live_hours(self, project_id: str, metrics: Sequence[Metric]) -> set[int]:
        if self.panes is None:
            return set()
        return {
            pane.key.start
            for metric in metrics
            for pane in self.panes.live(project_id, metric.key, (), HOUR, self._live_floor, _EVER)
        }

    def _series_panes(self, metric: Metric, dimensions: tuple[str, ...], day: int) -> _SeriesPanes:
        """What the panes hold of a day, and where they are whole."""
        nothing = _SeriesPanes([], {}, {}, False, _EVER, _EVER)
        if self.panes is None:
            return nothing
        whole_from = self.panes.live_from(metric.project_id, metric.key)
        if whole_from is None:
            return nothing
        read = (metric.project_id, metric.key, dimensions)
        capped = [c.from_hour for c in self.panes.caps(*read[:2]) if c.dimensions == dimensions]
        live = [_of_panes(self.panes.live(*read, width, day, day + DAY)) for width in (HOUR, widths(dimensions)[0])]
        fine = _of_panes(self.panes.live(*read, FINE, day, day + DAY), FINE)
        tail = _of_panes(self.panes.tail(*read, HOUR, day, day + DAY, self._first))
        archived = self._archived_received_at
        # The segments from P on know the metric where the archive has come past the stream's first event for it.
        has_tail = whole_from == 0 or (archived is not None and whole_from <= archived)
        return _SeriesPanes(live, fine, tail, has_tail, max(whole_from, self._live_floor), min(capped, default=_EVER))


@dataclass(frozen=True)
class _SeriesPanes:
    """`live`: hours, read as hours and as the narrowest windows; `fine`: the 5-minute windows. Whole for hours in
    [live_from, capped_from)."""

    live: list[Sides]
    fine: Sides
    tail: Sides
    has_tail: bool
    live_from: int
    capped_from: int


def same(a: State, b: State) -> bool:
    """Whether two states are of the same events: decimals equal, sketches equal in their registers."""
    if (a.count, a.numbers, a.not_numbers, a.sum, a.min, a.max) != (
        b.count,
        b.numbers,
        b.not_numbers,
        b.sum,
        b.min,
        b.max,
    ):
        return False
    if a.sketch is None or b.sketch is None:
        return a.sketch is b.sketch
    return a.sketch == b.sketch or _registers(a.sketch) == _registers(b.sketch)


def _registers(stored: bytes) -> object:
    """What a sketch knows, whatever its merge history: its 4,096 registers, or its coupons in order (compact form of
    Apache DataSketches: 2 or 3 words before coupons, 10 before registers)."""
    words = stored[0]
    if words == 10:
        return stored[-4096:]
    return sorted(np.frombuffer(stored[4 * words :], np.uint32).tolist())


def _by_width(measured: Iterable[Measured], width: int) -> Sides:
    return _grouped([((m.metric_key, m.dimensions), m.bucket - m.bucket % width, m.values, m.state) for m in measured])


def _of_panes(panes: Iterable[Pane], width: int = HOUR) -> Sides:
    return _grouped(
        [((p.key.metric, p.key.dimensions), p.key.start - p.key.start % width, p.key.values, p.state) for p in panes]
    )


def _grouped(found: Iterable[tuple[Series, int, Values, State]]) -> Sides:
    """States by series and hour, then group; those of the same group merged."""
    parts: dict[tuple[Series, int], dict[Values, list[State]]] = {}
    for series, hour, values, state in found:
        parts.setdefault((series, hour), {}).setdefault(values, []).append(state)
    return {
        place: {values: aggregate.merge(states) for values, states in groups.items()} for place, groups in parts.items()
    }


def _add(a: Sides, b: Sides) -> Sides:
    return _grouped(_flat(a, b))


def _flat(*sides: Sides) -> Iterator[tuple[Series, int, Values, State]]:
    for side in sides:
        for (series, hour), groups in side.items():
            for values, state in groups.items():
                yield series, hour, values, state


def _add_groups(a: Groups, b: Groups) -> Groups:
    if not b:
        return a
    return {values: aggregate.merge([a.get(values, EMPTY), b.get(values, EMPTY)]) for values in {*a, *b}}


def _value(state: State, metric: Metric) -> Number:
    value = aggregate.value(state, metric.definition.aggregate)
    return msgspec.Raw(decimal_text(value).encode()) if isinstance(value, Decimal) else value


def _facts(state: State) -> str:
    numbers = f", {state.numbers} numbers, {state.not_numbers} others" if state.numbers or state.not_numbers else ""
    distinct = "" if state.sketch is None else f", about {sketch.estimate(state.sketch)} distinct"
    return f"{state.count} events{numbers}{distinct}"
