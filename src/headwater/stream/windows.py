"""Windows in memory: aggregate states that grow in place, by series, width, start and group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Context, Decimal

from datasketches import hll_sketch, hll_union, tgt_hll_type

from headwater.clock import HOUR
from headwater.model.aggregate import State
from headwater.model.pane import Pane, PaneKey
from headwater.model.sketch import LG_K

_EXACT = Context(prec=60)

Series = tuple[str, str, tuple[str, ...]]  # project, metric key, dimensions
Values = tuple[str | None, ...]
Window = tuple[int, int, Values]  # width, start, values


class Cell:
    """A state that grows: `add` has the law of `aggregate.merge`."""

    __slots__ = ("_bytes", "_union", "count", "max", "min", "not_numbers", "numbers", "sum")

    def __init__(self, state: State | None = None) -> None:
        self.count = self.numbers = self.not_numbers = 0
        self.sum: Decimal | None = None
        self.min: Decimal | None = None
        self.max: Decimal | None = None
        self._bytes: bytes | None = None
        self._union: hll_union | None = None
        if state is not None:
            self.add(state)

    def add(self, state: State) -> None:
        self.count += state.count
        if state.numbers or state.not_numbers:
            self.numbers += state.numbers
            self.not_numbers += state.not_numbers
        if state.sum is not None:
            self.sum = state.sum if self.sum is None else _EXACT.add(self.sum, state.sum)
        if state.min is not None and (self.min is None or state.min < self.min):
            self.min = state.min
        if state.max is not None and (self.max is None or state.max > self.max):
            self.max = state.max
        if state.sketch is not None:
            self._add_sketch(state.sketch)

    def state(self) -> State:
        """What was added so far."""
        if self._bytes is None and self._union is not None:
            self._bytes = bytes(self._union.get_result(tgt_hll_type.HLL_8).serialize_compact())
        return State(self.count, self.numbers, self.not_numbers, self.sum, self.min, self.max, self._bytes)

    def _add_sketch(self, sketch: bytes) -> None:
        if self._union is None:
            if self._bytes is None:
                self._bytes = sketch
                return
            self._union = hll_union(LG_K)
            self._union.update(hll_sketch.deserialize(self._bytes))
        self._union.update(hll_sketch.deserialize(sketch))
        self._bytes = None


class Windows:
    """Cells by series and window, and which of them changed since `settled`."""

    def __init__(self) -> None:
        self._cells: dict[Series, dict[Window, Cell]] = {}
        self._changed: dict[Series, set[Window]] = {}
        self._groups: dict[tuple[Series, int], int] = {}

    def __len__(self) -> int:
        return sum(len(cells) for cells in self._cells.values())

    def missing(self, wanted: Iterable[tuple[Series, Window]]) -> list[PaneKey]:
        """Keys of those of `wanted` that are not in memory, each once."""
        keys = {(series, window): None for series, window in wanted if window not in self._cells.get(series, _NOTHING)}
        return [_key(series, window) for series, window in keys]

    def put(self, panes: Iterable[Pane]) -> None:
        """Takes panes as they are stored; they do not count as changed."""
        for pane in panes:
            series = (pane.key.project_id, pane.key.metric, pane.key.dimensions)
            window = (pane.key.width, pane.key.start, pane.key.values)
            if window not in self._cells.setdefault(series, {}):
                self._new(series, window).add(pane.state)

    def add(self, series: Series, widths: Sequence[int], bucket: int, values: Values, state: State) -> None:
        """Adds a state to the window of each width that holds `bucket`."""
        cells = self._cells.get(series)
        if cells is None:
            cells = self._cells[series] = {}
        changed = self._changed.get(series)
        if changed is None:
            changed = self._changed[series] = set()
        for width in widths:
            window = (width, bucket - bucket % width, values)
            cell = cells.get(window)
            if cell is None:
                cell = self._new(series, window)
            cell.add(state)
            changed.add(window)

    def groups(self, series: Series, hour: int) -> int:
        """How many groups of a series are in memory for a UTC hour."""
        return self._groups.get((series, hour), 0)

    def changed(self) -> Iterator[Pane]:
        """Absolute panes of everything that changed."""
        for series, windows in self._changed.items():
            cells = self._cells[series]
            for window in windows:
                yield Pane(_key(series, window), cells[window].state())

    def settled(self) -> None:
        """What changed is stored now."""
        self._changed = {}

    def forget(self, before: int) -> None:
        """Drops unchanged windows that end at or before `before` from memory."""
        for series, cells in self._cells.items():
            changed = self._changed.get(series, set())
            for window in [w for w in cells if w[0] + w[1] <= before and w not in changed]:
                del cells[window]
        self._groups = {key: groups for key, groups in self._groups.items() if key[1] + HOUR > before}

    def clear(self) -> None:
        self._cells, self._changed, self._groups = {}, {}, {}

    def _new(self, series: Series, window: Window) -> Cell:
        cell = self._cells[series][window] = Cell()
        if window[0] == HOUR:
            at = (series, window[1])
            self._groups[at] = self._groups.get(at, 0) + 1
        return cell


_NOTHING: dict[Window, Cell] = {}


def load_missing(
    windows: Windows, wanted: Iterable[tuple[Series, Window]], load: Callable[[Sequence[PaneKey]], list[Pane]]
) -> None:
    """Brings those of `wanted` that are stored but not in memory into memory."""
    keys = windows.missing(wanted)
    if keys:
        windows.put(load(keys))


def _key(series: Series, window: Window) -> PaneKey:
    return PaneKey(series[0], series[1], window[0], window[1], series[2], window[2])
