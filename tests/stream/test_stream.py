"""The stream keeps panes that equal a recount of the log, whatever the batches, restarts and failures."""

import itertools
import random
import tempfile
from collections import defaultdict
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from headwater.catalog.port import Project
from headwater.clock import DAY, HOUR, MINUTE, SECOND
from headwater.errors import Corrupt, StoreFull, UsageError
from headwater.model.aggregate import State, merge, value
from headwater.model.batch import SCHEMA
from headwater.model.metric import Condition, Filter, Metric, MetricDefinition, built_in
from headwater.model.pane import PaneKey, widths
from headwater.model.sketch import sketch_of
from headwater.model.value import number_of, text_of
from headwater.panes.adapters.sqlite import open_writer
from headwater.panes.port import StreamPosition
from headwater.state.decision import DecidedBatch
from headwater.stream import process
from headwater.stream.engine import EmbeddedEngine
from headwater.stream.process import Stream

T0 = 472_222 * HOUR + 7 * MINUTE

DEFINITIONS = {
    "views": MetricDefinition(aggregate="count", event_type="view", dimensions=(("country",),)),
    "revenue": MetricDefinition(aggregate="sum", property="amount", dimensions=(("country", "device"),)),
    "cheapest": MetricDefinition(
        aggregate="min", property="amount", filter=Filter(all=(Condition("country", "eq", "DE"),))
    ),
    "people": MetricDefinition(aggregate="unique", dimensions=(("device",),)),
}


class ControlInMemory:
    """Projects and metrics as a test changes them."""

    def __init__(self, metrics=(), projects=("p",)):
        self.defined = {project: list(metrics) for project in projects}
        self.changes = 1

    def revision(self):
        return self.changes

    def projects(self):
        return [Project(name, i, 0) for i, name in enumerate(self.defined)]

    def metrics(self, project_id):
        return [
            *built_in(project_id),
            *(Metric(project_id, name, 1, 0, DEFINITIONS[name]) for name in self.defined[project_id]),
        ]

    def define(self, name, project="p"):
        self.defined.setdefault(project, []).append(name)
        self.changes += 1


def event(received=T0, timestamp=None, kind="view", user="u", project="p", **properties):
    return ("id", kind, user, None, received if timestamp is None else timestamp, received, project, None,
            msgspec.json.encode(properties).decode(), "{}")  # fmt: skip


def decided(first, events, skipped=()):
    columns = zip(*events, strict=True)
    arrays = [pa.array(list(c), type=f.type) for c, f in zip(columns, SCHEMA, strict=True)]
    verdict = np.zeros(len(events), np.uint8)
    verdict[[p - first for p in skipped if first <= p < first + len(events)]] = 1
    return DecidedBatch(first, pa.RecordBatch.from_arrays(arrays, schema=SCHEMA), verdict)


def recount(metrics, events, skipped=()):
    """Every pane of `metrics` over `events`, event by event."""
    found = defaultdict(list)
    for position, e in enumerate(events):
        if position in skipped:
            continue
        properties = {k: text_of(v) for k, v in msgspec.json.decode(e[8]).items()}
        for m in metrics:
            d = m.definition
            if m.project_id != e[6] or (d.event_type and d.event_type != e[1]):
                continue
            if d.filter and properties.get("country") != "DE":
                continue
            text = properties.get(d.property) if d.property else None
            number = number_of(text) if text is not None else None
            taken = {d.aggregate: number} if d.aggregate in ("sum", "min") and number is not None else {}
            state = State(1, **taken)
            if d.property:
                state = msgspec.structs.replace(
                    state, numbers=int(number is not None), not_numbers=int(text is not None and number is None)
                )
            if d.aggregate == "unique":
                state = msgspec.structs.replace(state, sketch=sketch_of([e[2]]))
            for dimensions in m.dimension_sets:
                values = tuple(properties.get(name) for name in dimensions)
                for width in widths(dimensions):
                    found[PaneKey(m.project_id, m.key, width, e[4] - e[4] % width, dimensions, values)].append(state)
    return {key: seen(merge(states), key) for key, states in found.items()}


def seen(state, key):
    aggregate = {"views": "count", "revenue": "sum", "cheapest": "min", "people": "unique"}.get(
        key.metric.partition("@")[0], "count"
    )
    if key.metric.startswith("daily"):
        aggregate = "unique"
    return state.count, state.numbers, state.not_numbers, value(state, aggregate)


def stored(panes, keys):
    return {pane.key: seen(pane.state, pane.key) for pane in panes.load(list(keys))}


def tail_of(panes, segment):
    return {pane.key: seen(pane.state, pane.key) for pane in panes.load_tail(segment)}


@pytest.fixture
def panes(tmp_path):
    writer = open_writer(tmp_path / "panes.db")
    yield writer
    writer.close()


@pytest.fixture(scope="module")
def engine():
    made = EmbeddedEngine()
    yield made
    made.close()


def stream_over(panes, engine, control=None, archived=0, archived_received_at=None, **options):
    return Stream(panes, control or ControlInMemory(), engine, archived=archived,
                  archived_received_at=archived_received_at, **options)  # fmt: skip


def test_an_event_is_in_minute_5_minutes_and_hour_after_the_commit(panes, engine):
    stream = stream_over(panes, engine, ControlInMemory(["views"]))
    stream.take(decided(0, [event(country="DE"), event(kind="buy"), event()], skipped=[2]))
    assert stream.commit(T0)
    keys = [PaneKey("p", "views@1", w, T0 - T0 % w) for w in (MINUTE, 5 * MINUTE, HOUR)]
    assert stored(panes, keys) == dict.fromkeys(keys, (1, 0, 0, 1))
    assert stored(panes, [PaneKey("p", "views@1", HOUR, T0 - T0 % HOUR, ("country",), ("DE",))]).popitem()[1][0] == 1
    assert panes.position() == StreamPosition(3, T0, 0, 0)
    assert panes.skipped(0, 9) == [2]
    assert not stream.commit(T0)


def test_every_window_is_whole_for_a_stream_that_begins_with_the_log(panes, engine):
    stream = stream_over(panes, engine, ControlInMemory(["views"]))
    stream.commit(T0)
    assert panes.live_from()["p", "views@1"] == 0
    assert panes.position() == StreamPosition(0, None, 0, 0)


def test_a_metric_defined_before_the_first_event_of_its_project_is_whole_from_the_start(panes, engine):
    control = ControlInMemory()
    stream = stream_over(panes, engine, control)
    stream.take(decided(0, [event()]))
    control.define("views", "new")
    stream.take(decided(1, [event(project="new")]))
    stream.commit(T0)
    assert panes.live_from()["new", "views@1"] == 0
    assert stored(panes, [PaneKey("new", "views@1", HOUR, T0 - T0 % HOUR)]).popitem()[1][0] == 1


def test_a_metric_defined_later_is_whole_from_the_first_hour_that_no_earlier_event_can_touch(panes, engine):
    control = ControlInMemory()
    stream = stream_over(panes, engine, control)
    stream.take(decided(0, [event(T0)]))
    control.define("views")
    assert stream.poll()
    assert not stream.poll()
    stream.take(decided(1, [event(T0 + 56 * MINUTE)]))
    stream.commit(T0 + HOUR)
    assert panes.live_from()["p", "views@1"] == T0 - T0 % HOUR + HOUR
    control.define("revenue")
    stream.poll()
    stream.commit(T0 + HOUR)
    assert panes.live_from()["p", "revenue@1"] == T0 - T0 % HOUR + 2 * HOUR


def test_an_event_for_a_window_that_is_settled_goes_to_the_tail_only(panes, engine):
    stream = stream_over(panes, engine)
    stream.archived(0, T0, T0)
    stream.commit(T0)
    late = T0 - 3 * DAY
    stream.take(decided(0, [event(T0, late), event(T0, T0 - HOUR)]))
    stream.commit(T0)
    old, new = (PaneKey("p", "events@1", HOUR, t - t % HOUR) for t in (late, T0 - HOUR))
    assert set(stored(panes, [old, new])) == {new}
    assert {old, new} <= set(tail_of(panes, 0))


def test_while_the_archive_lags_old_windows_stay_live(panes, engine):
    stream = stream_over(panes, engine, archived_received_at=T0 - 3 * DAY)
    stream.take(decided(0, [event(T0, T0 - 2 * DAY)]))
    stream.commit(T0)
    old = PaneKey("p", "events@1", HOUR, (T0 - 2 * DAY) // HOUR * HOUR)
    assert set(stored(panes, [old])) == {old}


def test_a_new_segment_holds_only_what_comes_after_it_and_old_ones_go_a_minute_after_their_archive_commit(
    panes, engine
):
    stream = stream_over(panes, engine)
    stream.take(decided(0, [event(), event()]))
    stream.roll_segment(2, T0)
    assert panes.position().segment == 2
    stream.take(decided(2, [event()]))
    stream.commit(T0)
    hour = PaneKey("p", "events@1", HOUR, T0 - T0 % HOUR)
    assert [tail_of(panes, s)[hour][0] for s in (0, 2)] == [2, 1]
    assert stored(panes, [hour])[hour][0] == 3
    stream.archived(2, T0, T0)
    stream.commit(T0 + 59 * SECOND)
    assert panes.position().segments_from == 0
    stream.commit(T0 + 60 * SECOND)
    assert panes.position().segments_from == 2
    assert tail_of(panes, 0) == {}


def test_a_segment_cannot_end_where_the_stream_is_not(panes, engine):
    stream = stream_over(panes, engine)
    stream.take(decided(0, [event(), event()]))
    with pytest.raises(UsageError, match="at 2, not at 1"):
        stream.roll_segment(1, T0)


def test_a_gap_in_the_log_is_refused_and_what_was_taken_is_left_out(panes, engine):
    stream = stream_over(panes, engine)
    with pytest.raises(UsageError, match="position 0"):
        stream.take(decided(5, [event()]))
    stream.take(decided(0, [event(), event()]))
    stream.take(decided(0, [event(), event(), event()]))
    stream.commit(T0)
    assert panes.position().next == 3
    assert stored(panes, [PaneKey("p", "events@1", HOUR, T0 - T0 % HOUR)]).popitem()[1][0] == 3


def test_panes_that_do_not_reach_the_archive_begin_anew_there(panes, engine):
    stream = stream_over(panes, engine)
    stream.take(decided(0, [event()]))
    stream.commit(T0)
    again = stream_over(panes, engine, archived=10, archived_received_at=T0 + HOUR)
    assert again.start == 10
    again.take(decided(10, [event(T0 + HOUR)]))
    again.commit(T0)
    assert panes.position() == StreamPosition(11, T0 + HOUR, 10, 10)
    assert panes.live_from()["p", "events@1"] == T0 - T0 % HOUR + 2 * HOUR
    assert tail_of(panes, 0) == {}


def test_an_archive_of_another_folder_is_noticed(panes, engine):
    stream = stream_over(panes, engine)
    stream.take(decided(0, [event()] * 5))
    stream.commit(T0)
    with pytest.raises(Corrupt, match="not of one data folder"):
        stream_over(panes, engine, archived=3)


class FullDisk:
    """Panes whose commit fails as long as `full`."""

    def __init__(self, inner):
        self.inner, self.full = inner, True

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def commit(self, commit):
        if self.full:
            raise StoreFull("no room")
        self.inner.commit(commit)


def test_a_failed_commit_loses_nothing_and_doubles_nothing(panes, engine):
    disk = FullDisk(panes)
    stream = stream_over(disk, engine)
    stream.take(decided(0, [event(), event()], skipped=[1]))
    with pytest.raises(StoreFull):
        stream.commit(T0)
    stream.take(decided(2, [event()]))
    with pytest.raises(StoreFull):
        stream.commit(T0)
    disk.full = False
    stream.commit(T0)
    assert stored(panes, [PaneKey("p", "events@1", HOUR, T0 - T0 % HOUR)]).popitem()[1][0] == 2
    assert panes.skipped(0, 9) == [1]
    assert panes.position().next == 3


def test_a_dimension_with_too_many_values_in_an_hour_ends_with_the_next_hour(panes, engine, monkeypatch):
    monkeypatch.setattr(process, "MAX_GROUPS", 3)
    stream = stream_over(panes, engine, ControlInMemory(["views"]))
    stream.take(decided(0, [event(T0, country=str(i)) for i in range(4)]))
    stream.commit(T0)
    hour = T0 - T0 % HOUR
    assert [(c.metric, c.dimensions, c.from_hour) for c in panes.caps()] == [("views@1", ("country",), hour + HOUR)]
    stream.take(decided(4, [event(T0 + 1, country="0"), event(T0 + HOUR, country="0")]))
    stream.commit(T0 + HOUR)
    group = [PaneKey("p", "views@1", HOUR, hour + h * HOUR, ("country",), ("0",)) for h in (0, 1)]
    assert stored(panes, group) == {group[0]: (2, 0, 0, 2)}
    totals = [PaneKey("p", "views@1", HOUR, hour + h * HOUR) for h in (0, 1)]
    assert [s[0] for s in stored(panes, totals).values()] == [5, 1]


def some_log(chance):
    now, made = T0, []
    for _ in range(chance.randint(1, 30)):
        now += chance.choice([0, SECOND, 50 * SECOND, 7 * MINUTE, 3 * HOUR])
        properties = {
            "country": chance.choice(["DE", "US", None]),
            "device": chance.choice(["web", "app"]),
            "amount": chance.choice([1, 2.5, -0.1, "3", "x", None, 10**19]),
        }
        given_properties = {k: v for k, v in properties.items() if v is not None}
        late = chance.choice([0, 0, 0, MINUTE, 20 * HOUR, 30 * HOUR])
        made.append(event(now, now - late, chance.choice(["view", "buy"]), chance.choice("abc"), chance.choice("pq"),
                          **given_properties))  # fmt: skip
    return made


@settings(deadline=None, max_examples=25, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(seed=st.integers(0, 1 << 40))
def test_panes_equal_a_recount_for_any_micro_batches_segments_and_restarts(engine, seed):
    chance = random.Random(seed)
    events = some_log(chance)
    control = ControlInMemory(DEFINITIONS, projects=("p", "q"))
    skipped = {p for p in range(len(events)) if chance.random() < 0.2}
    metrics = [m for p in ("p", "q") for m in control.metrics(p)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "panes.db"
        panes = open_writer(path)
        stream, at, segments = stream_over(panes, engine, control), 0, [0]
        while at < len(events) or stream.committed < len(events):
            size = chance.randint(1, 10)
            if at < len(events):
                stream.take(decided(at, events[at : at + size], skipped))
                at = min(at + size, len(events))
            step = chance.choice(["on", "commit", "roll", "crash", "stop"])
            if step in ("commit", "stop"):
                stream.commit(events[at - 1][5])
            if step == "roll" and at == stream.start:
                stream.roll_segment(at, events[at - 1][5])
                segments += [at]
            if step in ("crash", "stop"):
                panes.close()
                panes = open_writer(path)
                stream = stream_over(panes, engine, control)
                at = chance.randint(0, stream.start)  # a replay may begin anywhere below
        expected = recount(metrics, events, skipped)
        assert panes.skipped(0, len(events)) == sorted(skipped)
        assert stored(panes, expected) == expected
        bounds = [*dict.fromkeys(segments), len(events)]
        for start, end in itertools.pairwise(bounds):
            part = {p - start for p in skipped if start <= p < end}
            assert tail_of(panes, start) == recount(metrics, events[start:end], part)
        panes.close()
