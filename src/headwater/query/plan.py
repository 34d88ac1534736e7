"""Which store answers which stretch of a question; pure.

A range is cut into *stretches* where the answer's ways change: at ragged ends, at the live boundary, where a dimension
set was capped. Within a stretch an event is counted by exactly one of:

    live panes     windows at or after the boundary that the stream holds whole
    chunk          settled states of an hour, over the files that the chunk names
    files          lake files that no usable chunk names, read event by event
    tail           what is in no file yet: tail panes, or the events themselves from the log
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from headwater.catalog.port import Chunk, LakeFile
from headwater.clock import HOUR, MINUTE
from headwater.model.metric import Metric, filter_names
from headwater.model.pane import widths
from headwater.query.question import Question

QUARTER = 15 * MINUTE
Grain = Literal["15m", "hour"]
Store = Literal["live", "settled", "lake"]


@dataclass(frozen=True)
class Facts:
    """What the planner knows of one reading, for one metric version and the question's hours.

    `boundary`: first hour of which live panes are kept. `live_from`: first window that live panes hold whole; None:
    the stream does not know the metric, or there are no panes. `archived_received_at`: receipt of the last event in
    the lake. `capped_from`: dimension set -> first hour without panes of it.
    """

    boundary: int = 0
    live_from: int | None = None
    archived_received_at: int | None = None
    capped_from: dict[tuple[str, ...], int] = field(default_factory=dict)
    files: Sequence[LakeFile] = ()
    chunks: Sequence[Chunk] = ()


@dataclass(frozen=True)
class Stretch:
    """[start, end) of the range, answered by `live` panes alone (their width), or by `chunks` at `grain` and `files`,
    and then by `tail`: the width of tail panes, or `events`."""

    start: int
    end: int
    live: int | None = None
    grain: Grain | None = None
    chunks: tuple[Chunk, ...] = ()
    files: tuple[LakeFile, ...] = ()
    tail: int | Literal["events"] | None = None


@dataclass(frozen=True)
class Plan:
    """`dimensions`: the declared set whose states are read and merged down to the groups asked for; None: none fits,
    and the events themselves are read."""

    dimensions: tuple[str, ...] | None
    stretches: tuple[Stretch, ...]

    @property
    def files(self) -> list[LakeFile]:
        return [file for stretch in self.stretches for file in stretch.files]

    @property
    def chunks(self) -> list[Chunk]:
        return [chunk for stretch in self.stretches for chunk in stretch.chunks]

    @property
    def uses_live(self) -> bool:
        return any(stretch.live for stretch in self.stretches)


@dataclass(frozen=True)
class Part:
    """[start, end) of an answer and the store that gave it."""

    start: int
    end: int
    store: Store


def plan(question: Question, metric: Metric, facts: Facts) -> Plan:
    """Stretches in order; together they are exactly the question's range, and none is empty."""
    dimensions = declared_set(question, metric)
    live_start, tail_panes = _live_start(facts), _tail_has_panes(facts)
    if dimensions is None:
        live_start, tail_panes, capped = None, False, None
    else:
        capped = facts.capped_from.get(dimensions)
    cuts = _cuts(question, live_start, capped)
    by_hour = _Hours(facts, metric.key)
    stretches = []
    for start, end in pairwise(cuts):
        edges = _edges_within(question.edges, start, end)
        panes = widths(dimensions) if dimensions is not None and (capped is None or start < capped) else ()
        width = _fitting(edges, panes)
        if live_start is not None and start >= live_start and width is not None:
            stretches.append(Stretch(start, end, live=width))
            continue
        grain: Grain | None = None
        if dimensions is not None:
            fits = _fitting(edges, (QUARTER, HOUR))
            grain = None if fits is None else "hour" if fits == HOUR else "15m"
        chunks, files = by_hour.between(start, end, settled=grain is not None)
        stretches.append(
            Stretch(
                start,
                end,
                grain=grain,
                chunks=chunks,
                files=files,
                tail=width if tail_panes and width is not None else "events",
            )
        )
    return Plan(dimensions, tuple(stretches))


def declared_set(question: Question, metric: Metric) -> tuple[str, ...] | None:
    """The smallest declared dimension set that tells apart all that is grouped and filtered by."""
    needed = {*question.group_by, *filter_names(question.filter)}
    fitting = [declared for declared in metric.dimension_sets if needed <= set(declared)]
    return min(fitting, key=lambda declared: (len(declared), declared)) if fitting else None


def parts(stretches: Iterable[tuple[Stretch, bool]]) -> list[Part]:
    """The parts of an answer: in order, without gap or overlap. The flag tells whether the stretch's tail held
    anything. Hours without an event go with their neighbour."""
    pieces: list[tuple[int, int, Store | None]] = []
    for stretch, tail_used in stretches:
        pieces += _pieces(stretch, tail_used)
    named = [store for _, _, store in pieces if store is not None]
    current: Store = named[0] if named else "settled"
    found: list[Part] = []
    for start, end, store in pieces:
        current = store or current
        if found and found[-1].store == current:
            found[-1] = Part(found[-1].start, end, current)
        else:
            found.append(Part(start, end, current))
    return found


def _pieces(stretch: Stretch, tail_used: bool) -> list[tuple[int, int, Store | None]]:
    if stretch.live is not None:
        return [(stretch.start, stretch.end, "live")]
    by_tail: Store | None = None if not tail_used else "lake" if stretch.tail == "events" else "live"
    if by_tail == "lake":
        return [(stretch.start, stretch.end, "lake")]
    stores: dict[int, Store] = {chunk.hour: "settled" for chunk in stretch.chunks}
    stores |= {file.hour: "lake" for file in stretch.files}
    pieces: list[tuple[int, int, Store | None]] = []
    at = stretch.start
    for hour in sorted(stores):
        start, end = max(at, hour), min(stretch.end, hour + HOUR)
        if start > at:
            pieces.append((at, start, by_tail))
        if end > start:
            pieces.append((start, end, stores[hour]))
            at = end
    if at < stretch.end:
        pieces.append((at, stretch.end, by_tail))
    return pieces


def _live_start(facts: Facts) -> int | None:
    return None if facts.live_from is None else max(facts.boundary, facts.live_from)


def _tail_has_panes(facts: Facts) -> bool:
    """Whether the tail segments after the archive's position all know the metric.

    The stream took it up when it had seen receipts up to some time r, and `live_from` is above r. So where the archive
    has come to `live_from`, it has come past the first event that the stream counted for the metric. A `live_from` of
    0 means from the first event on.
    """
    if facts.live_from is None:
        return False
    return facts.live_from == 0 or (
        facts.archived_received_at is not None and facts.live_from <= facts.archived_received_at
    )


def _cuts(question: Question, live_start: int | None, capped: int | None) -> list[int]:
    start, end = question.start, question.end
    wanted = {start, end}
    # ragged ends and ragged inner edges are cut off in whole hours, so that the hours between keep their fast way
    for edge in (start, end) if len(question.edges) == 2 else ():
        wanted |= {edge - edge % HOUR, -(-edge // HOUR) * HOUR}
    wanted |= {at for at in (live_start, capped) if at is not None}
    return sorted(at for at in wanted if start <= at <= end)


def _edges_within(edges: Sequence[int], start: int, end: int) -> list[int]:
    low, high = bisect_right(edges, start), bisect_right(edges, end)
    return [start, *edges[low:high], end]


def _fitting(edges: Sequence[int], allowed: Sequence[int]) -> int | None:
    """The widest of the allowed widths of which every edge is a multiple."""
    common = math.gcd(*edges)
    return max((width for width in allowed if common % width == 0), default=None)


class _Hours:
    """Files and usable chunks by hour."""

    def __init__(self, facts: Facts, metric_key: str) -> None:
        self._files: dict[int, list[LakeFile]] = {}
        for file in facts.files:
            self._files.setdefault(file.hour, []).append(file)
        self._chunks: dict[int, Chunk] = {}
        for chunk in facts.chunks:
            live = {file.id for file in self._files.get(chunk.hour, ())}
            # a chunk over files that are not all live any more says nothing certain
            if metric_key in chunk.metrics and live >= set(chunk.files):
                self._chunks[chunk.hour] = chunk
        self._hours = sorted(self._files)

    def between(self, start: int, end: int, *, settled: bool) -> tuple[tuple[Chunk, ...], tuple[LakeFile, ...]]:
        """What covers the events of the files in hours that touch [start, end)."""
        chunks: list[Chunk] = []
        files: list[LakeFile] = []
        for hour in self._hours[bisect_right(self._hours, start - HOUR) :]:
            if hour >= end:
                break
            chunk = self._chunks.get(hour) if settled else None
            if chunk is not None:
                chunks.append(chunk)
            named = set(chunk.files) if chunk is not None else set()
            files += [file for file in self._files[hour] if file.id not in named]
        return tuple(chunks), tuple(files)
