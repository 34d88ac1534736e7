"""What every panes adapter does. Subclass `PanesConformance` in a test module and give it a `stores` fixture.

class TestMyPanes(PanesConformance):
    @pytest.fixture
    def stores(self, tmp_path):
        return Stores(writer=lambda: open_writer(tmp_path / "p"), reader=lambda: open_reader(tmp_path / "p"))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal

import pytest

from headwater.clock import HOUR, MINUTE
from headwater.errors import Fenced, Locked, Unreachable
from headwater.model import sketch
from headwater.model.aggregate import State
from headwater.model.pane import Pane, PaneKey
from headwater.panes.port import Cap, PanesReader, PanesWriter, StreamCommit, StreamPosition

H0 = 472_222 * HOUR
FULL = State(7, 5, 1, Decimal("12.500000000"), Decimal("-1"), Decimal("99999999999999999999.999999999"), b"\x02\x00")


@dataclass(frozen=True)
class Stores:
    """Open the writer and a reader of one and the same store, which does not exist before the first writer."""

    writer: Callable[[], PanesWriter]
    reader: Callable[[], PanesReader]


def pane(
    count: int,
    start: int = H0,
    *,
    width: int = HOUR,
    metric: str = "m@1",
    dimensions: tuple[str, ...] = (),
    values: tuple[str | None, ...] = (),
) -> Pane:
    return Pane(PaneKey("p", metric, width, start, dimensions, values), State(count))


EMPTY_COMMIT = StreamCommit(first=0, next=0, received_at=H0, segment=0)


class PanesConformance:
    """Each test is one promise of `panes.port`."""

    def test_panes_that_nobody_has_written_yet_are_unreachable_and_not_an_error_of_the_reader(
        self, stores: Stores
    ) -> None:
        reader = stores.reader()
        with pytest.raises(Unreachable, match="yet"):
            reader.view()
        stores.writer().close()
        with reader.view() as view:
            assert view.position() == StreamPosition(0, None, 0, 0)

    def test_a_second_writer_is_locked_out_until_the_first_one_closes(self, stores: Stores) -> None:
        first = stores.writer()
        with pytest.raises(Locked):
            stores.writer()
        first.close()
        stores.writer().close()

    def test_a_commit_is_read_back_whole(self, stores: Stores) -> None:
        writer, reader = stores.writer(), stores.reader()
        key = PaneKey("p", "m@1", HOUR, H0, ("a", "b"), (None, "x:y"))
        writer.commit(
            StreamCommit(
                0, 9, H0 + 5, 0, [Pane(key, FULL)], [pane(2)], [3, 4], {("p", "m@1"): H0}, [Cap("p", "m@1", ("c",), H0)]
            )
        )
        with reader.view() as view:
            assert view.position() == StreamPosition(9, H0 + 5, 0, 0)
            assert view.live("p", "m@1", ("a", "b"), HOUR, H0, H0 + 1) == [Pane(key, FULL)]
            assert view.live("p", "m@1", (), HOUR, H0, H0 + 1) == []
            assert view.tail("p", "m@1", (), HOUR, H0, H0 + 1, 0) == [pane(2)]
            assert view.skipped(0, 9) == [3, 4]
            assert view.skipped(4, 9) == [4]
            assert view.live_from("p", "m@1") == H0
            assert view.live_from("p", "m@2") is None
            assert view.caps("p", "m@1") == [Cap("p", "m@1", ("c",), H0)]
            assert view.caps("p", "m@2") == []

    def test_a_sketch_comes_back_to_the_byte(self, stores: Stores) -> None:
        writer = stores.writer()
        state = State(3, sketch=sketch.sketch_of(f"user-{i}" for i in range(5000)))
        writer.commit(replace(EMPTY_COMMIT, next=1, live=[Pane(pane(0).key, state)]))
        assert writer.load([pane(0).key]) == [Pane(pane(0).key, state)]

    def test_a_pane_replaces_the_one_before(self, stores: Stores) -> None:
        writer = stores.writer()
        writer.commit(replace(EMPTY_COMMIT, next=1, live=[pane(1)], tail=[pane(1)]))
        writer.commit(replace(EMPTY_COMMIT, first=1, next=2, live=[pane(5)], tail=[pane(6)]))
        assert writer.load([pane(0).key]) == [pane(5)]
        assert writer.load_tail(0) == [pane(6)]

    def test_a_commit_below_the_stored_position_is_fenced_and_changes_nothing(self, stores: Stores) -> None:
        writer = stores.writer()
        once = replace(EMPTY_COMMIT, next=5, live=[pane(1)])
        writer.commit(once)
        with pytest.raises(Fenced):
            writer.commit(replace(once, live=[pane(2)]))
        assert writer.load([pane(0).key]) == [pane(1)]
        assert writer.position().next == 5

    def test_a_commit_that_does_not_connect_starts_over(self, stores: Stores) -> None:
        writer = stores.writer()
        writer.commit(replace(EMPTY_COMMIT, next=5, live=[pane(1)], tail=[pane(1)], skipped=[2]))
        writer.commit(StreamCommit(20, 21, H0 + 9, 20, live=[pane(4, H0 + HOUR)]))
        assert writer.position() == StreamPosition(21, H0 + 9, 20, 20)
        assert writer.load([pane(0).key, pane(0, H0 + HOUR).key]) == [pane(4, H0 + HOUR)]
        assert writer.load_tail(0) == []
        assert writer.skipped(0, 30) == []

    def test_a_commit_without_events_may_open_a_segment(self, stores: Stores) -> None:
        writer = stores.writer()
        writer.commit(replace(EMPTY_COMMIT, next=5))
        writer.commit(StreamCommit(5, 5, H0, 5))
        assert writer.position() == StreamPosition(5, H0, 0, 5)

    def test_windows_come_in_order_of_start_then_values_and_half_open(self, stores: Stores) -> None:
        writer, reader = stores.writer(), stores.reader()
        group = [
            pane(i, H0 + start * HOUR, dimensions=("d",), values=(value,))
            for i, (start, value) in enumerate([(0, None), (0, ""), (0, "a"), (0, "b"), (1, "a"), (2, "a")])
        ]
        writer.commit(replace(EMPTY_COMMIT, next=1, live=list(reversed(group))))
        with reader.view() as view:
            assert view.live("p", "m@1", ("d",), HOUR, H0, H0 + 2 * HOUR) == group[:5]
            assert view.live("p", "m@1", ("d",), MINUTE, H0, H0 + 2 * HOUR) == []

    def test_the_tail_since_a_position_is_the_segments_from_there_on(self, stores: Stores) -> None:
        writer, reader = stores.writer(), stores.reader()
        for segment in (0, 10, 20):
            writer.commit(StreamCommit(segment, segment + 10, H0, segment, tail=[pane(segment + 1)]))
        with reader.view() as view:
            counts = [
                [p.state.count for p in view.tail("p", "m@1", (), HOUR, H0, H0 + 1, s)] for s in (0, 1, 10, 20, 21)
            ]
        assert [sorted(c) for c in counts] == [[1, 11, 21], [11, 21], [11, 21], [21], []]
        assert writer.load_tail(10) == [pane(11)]

    def test_a_view_stays_at_its_moment_while_the_writer_goes_on(self, stores: Stores) -> None:
        writer, reader = stores.writer(), stores.reader()
        writer.commit(replace(EMPTY_COMMIT, next=1, live=[pane(1)]))
        with reader.view() as view:
            before = view.position()
            writer.commit(replace(EMPTY_COMMIT, first=1, next=2, live=[pane(2)]))
            assert view.position() == before
            assert view.live("p", "m@1", (), HOUR, H0, H0 + 1) == [pane(1)]
            with reader.view() as later:
                assert later.live("p", "m@1", (), HOUR, H0, H0 + 1) == [pane(2)]

    def test_pruning_drops_old_windows_and_segments_with_what_was_skipped_in_them(self, stores: Stores) -> None:
        writer = stores.writer()
        old, new = pane(1), pane(1, H0 + HOUR)
        minute = pane(1, H0 + HOUR - MINUTE, width=MINUTE)
        writer.commit(replace(EMPTY_COMMIT, next=10, live=[old, new, minute], tail=[old], skipped=[1, 9]))
        writer.commit(StreamCommit(10, 20, H0, 10, tail=[new], skipped=[11]))
        writer.prune(H0 + HOUR, 10)
        assert writer.load([old.key, new.key, minute.key]) == [new]
        assert (writer.load_tail(0), writer.load_tail(10)) == ([], [new])
        assert writer.skipped(0, 20) == [11]
        assert writer.position().segments_from == 10

    def test_the_open_segment_is_never_pruned(self, stores: Stores) -> None:
        writer = stores.writer()
        writer.commit(replace(EMPTY_COMMIT, next=10, tail=[pane(1)], skipped=[1]))
        writer.prune(0, 10)
        assert writer.load_tail(0) == [pane(1)]
        assert writer.skipped(0, 10) == [1]

    def test_everything_is_there_after_a_restart(self, stores: Stores) -> None:
        writer = stores.writer()
        caps = [Cap("p", "m@1", ("d",), H0)]
        writer.commit(
            replace(EMPTY_COMMIT, next=3, live=[pane(1)], tail=[pane(2)], live_from={("p", "m@1"): 0}, caps=caps)
        )
        position = writer.position()
        writer.close()
        again = stores.writer()
        assert again.position() == position
        assert again.load([pane(0).key]) == [pane(1)]
        assert again.load_tail(0) == [pane(2)]
        assert again.live_from() == {("p", "m@1"): 0}
        assert again.caps() == caps
