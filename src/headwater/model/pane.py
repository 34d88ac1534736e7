"""Panes: the aggregate state of one metric version, window and group, as the stream keeps it."""

from __future__ import annotations

import msgspec

from headwater.clock import HOUR, MINUTE
from headwater.model.aggregate import State

# Widths of live windows in microseconds: totals are kept by minute, 5 minutes and hour; groups by 5 minutes and hour.
TOTAL_WIDTHS = (MINUTE, 5 * MINUTE, HOUR)
GROUP_WIDTHS = (5 * MINUTE, HOUR)


class PaneKey(msgspec.Struct, frozen=True, order=True):
    """`metric` is `Metric.key`; `dimensions` the sorted names of the set, `values` theirs in that order (None: the
    event has no such property); `width` and `start` the window in microseconds."""

    project_id: str
    metric: str
    width: int
    start: int
    dimensions: tuple[str, ...] = ()
    values: tuple[str | None, ...] = ()


class Pane(msgspec.Struct, frozen=True):
    """An absolute value: writing a pane replaces what its key had."""

    key: PaneKey
    state: State


def widths(dimensions: tuple[str, ...]) -> tuple[int, ...]:
    """Which windows are kept live for a dimension set."""
    return GROUP_WIDTHS if dimensions else TOTAL_WIDTHS
