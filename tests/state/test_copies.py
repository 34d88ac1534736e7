"""The copy decision: what counts, what is a copy, what is a conflict; the same whatever the batches and restarts."""

import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from headwater.clock import DAY, HOUR, MINUTE, SECOND
from headwater.model.batch import SCHEMA
from headwater.state.copies import CopyIndex
from headwater.state.decision import CONFLICT, COPY, COUNTS, fingerprint, same_json

T0 = 1_700_000_000 * SECOND


def event(event_id="a", received=T0, timestamp=None, project="p", properties='{"n":1}', user="u", kind="view"):
    return (event_id, kind, user, None, received if timestamp is None else timestamp, received, project, None,
            properties, "{}")  # fmt: skip


def batch_of(events):
    columns = zip(*events, strict=True) if events else [[] for _ in SCHEMA]
    return pa.RecordBatch.from_arrays(
        [pa.array(list(c), type=f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


class Log:
    """The events of a test, with look-ups as the archive and the log give them."""

    def __init__(self, events, verdicts=None):
        self.events = list(events)
        self.verdicts = verdicts  # only what counts is stored

    def load(self, position):
        e = self.events[position]
        return {"event_type": e[1], "user_id": e[2], "anonymous_id": e[3], "properties": e[8]}

    def find_stored(self, project, keys, received_before):
        found = {}
        for position in reversed(range(len(self.events))):
            e = self.events[position]
            if self.verdicts is not None and self.verdicts[position : position + 1] != [COUNTS]:
                continue
            if e[6] == project and (e[0], e[4]) in set(keys) and e[5] < received_before:
                found[(e[0], e[4])] = (position, self.load(position))
        return found


def index_over(log, folder, **options):
    return CopyIndex(Path(folder), find_stored=log.find_stored, load_event=log.load, **options)


def verdicts(events, tmp_path, **options):
    log = Log(events)
    return index_over(log, tmp_path, **options).decide(0, batch_of(events)).verdict.tolist()


def test_the_second_event_of_an_id_is_a_copy_and_names_the_first(tmp_path):
    log = Log([event("a"), event("b"), event("a"), event("a")])
    index = index_over(log, tmp_path)
    decided = index.decide(0, batch_of(log.events[:3]))
    assert decided.verdict.tolist() == [COUNTS, COUNTS, COPY]
    assert decided.originals == {2: 0}
    assert decided.kept().column("event_id").to_pylist() == ["a", "b"]
    assert index.decide(3, batch_of(log.events[3:])).originals == {0: 0}


def test_ids_of_different_projects_are_different_ids(tmp_path):
    assert verdicts([event("a", project="p"), event("a", project="q")], tmp_path) == [COUNTS, COUNTS]


def test_a_copy_that_says_something_else_is_a_conflict(tmp_path):
    events = [event(), event(properties='{"n":2}'), event(user="v"), event(kind="buy"), event()]
    assert verdicts(events, tmp_path) == [COUNTS, CONFLICT, CONFLICT, CONFLICT, COPY]


def test_a_conflict_is_found_across_batches_by_reading_the_first_again(tmp_path):
    log = Log([event(properties='{"a":1,"b":2}'), event(properties='{"b":2,"a":1}'), event(properties='{"a":1}')])
    index = index_over(log, tmp_path)
    found = [index.decide(i, batch_of([e])).verdict[0] for i, e in enumerate(log.events)]
    assert found == [COUNTS, COPY, CONFLICT]


def test_properties_are_compared_as_json_values():
    assert same_json({"a": 1, "b": [1.0, None]}, {"b": [1, None], "a": 1.0})
    assert not same_json({"a": 1}, {"a": True})
    assert not same_json({"a": "1"}, {"a": 1})


def test_an_id_counts_again_one_second_after_the_window_has_passed(tmp_path):
    day = [event("a", T0), event("a", T0 + DAY, T0 + DAY), event("a", T0 + 2 * DAY + SECOND, T0 + 2 * DAY)]
    assert verdicts(day, tmp_path) == [COUNTS, COPY, COUNTS]


def test_an_event_that_carries_the_same_old_timestamp_is_a_copy_however_late_it_comes(tmp_path):
    events = [event("a", T0), event("a", T0 + 40 * DAY, T0), event("a", T0 + 40 * DAY, T0 + 1)]
    assert verdicts(events, tmp_path) == [COUNTS, COPY, COUNTS]


def test_stored_events_are_only_asked_for_when_the_window_cannot_know(tmp_path):
    asked = []
    index = CopyIndex(tmp_path, find_stored=lambda *a: asked.append(a) or {}, load_event=lambda p: None)
    index.decide(0, batch_of([event("a", T0), event("b", T0, T0 - DAY + 5 * MINUTE)]))
    assert asked == []
    index.decide(2, batch_of([event("c", T0, T0 - DAY + 5 * MINUTE - 1)]))
    assert asked == [("p", [("c", T0 - DAY + 5 * MINUTE - 1)], T0 - DAY)]


def test_runs_hold_24_bytes_an_id_and_stay_few(tmp_path):
    index = index_over(Log([]), tmp_path)
    for i in range(40):
        index.decide(i * 500, batch_of([event(f"{i}-{n}", T0 + i * SECOND) for n in range(500)]))
        index.flush((i + 1) * 500)
    files = list(tmp_path.glob("*.run"))
    assert len(files) <= 6
    assert sum(f.stat().st_size for f in files) <= 20_000 * 24 + 40 * 16 + 64 * len(files) + 16 * len(files)
    assert index.bytes_held == sum(f.stat().st_size for f in files)


def test_what_was_flushed_is_known_after_a_restart_and_a_replay_is_not_its_own_copy(tmp_path):
    log = Log([event(str(i % 7), T0 + i) for i in range(20)])
    first = index_over(log, tmp_path)
    whole = first.decide(0, batch_of(log.events)).verdict.tolist()
    first.flush(12)
    again = index_over(log, tmp_path)
    assert again.covered == 12
    assert again.decide(5, batch_of(log.events[5:])).verdict.tolist() == whole[5:]
    again.flush(20)
    assert index_over(log, tmp_path).covered == 20


def test_runs_out_of_the_window_are_dropped_and_the_window_is_told(tmp_path):
    index = index_over(Log([]), tmp_path, window_us=HOUR)
    for i in range(12):
        index.decide(i, batch_of([event(f"id-{i}", T0 + i * HOUR)]))
        index.flush(i + 1)
    assert len(list(tmp_path.glob("*.run"))) <= 5
    assert T0 + 7 * HOUR <= index.window_from() <= T0 + 10 * HOUR


def test_a_damaged_run_is_left_out_and_can_be_rebuilt(tmp_path):
    log = Log([event(str(i), T0 + i * SECOND) for i in range(10)])
    index = index_over(log, tmp_path)
    index.decide(0, batch_of(log.events))
    index.flush(10)
    (path,) = tmp_path.glob("*.run")
    stored = bytearray(path.read_bytes())
    stored[-5] ^= 1
    path.write_bytes(stored)
    mended = index_over(log, tmp_path)
    assert mended.covered == 0
    mended.rebuild(
        ((e[6], e[0], i, e[5], fingerprint(e[1], e[2], e[3], e[8])) for i, e in enumerate(log.events)), 10, T0
    )
    assert mended.covered == 10
    assert mended.window_from() == T0
    log.events.append(event("3", T0 + 30 * SECOND))
    assert mended.decide(10, batch_of(log.events[10:])).originals == {0: 3}
    assert index_over(log, tmp_path).decide(10, batch_of(log.events[10:])).originals == {0: 3}


@pytest.mark.parametrize("left", [0, 4])
def test_an_interrupted_write_leaves_nothing_that_is_read(tmp_path, left):
    (tmp_path / "000000000000000-000000000000005.tmp").write_bytes(b"x" * left)
    index = index_over(Log([]), tmp_path)
    assert index.covered == 0
    assert list(tmp_path.iterdir()) == []


ids = st.sampled_from(["a", "b", "c", "d"])
gaps = st.sampled_from([0, 1, 10 * SECOND, 59 * MINUTE, HOUR - SECOND, HOUR, HOUR + SECOND, 5 * HOUR])
ages = st.sampled_from([0, 0, MINUTE, HOUR, HOUR - 5 * MINUTE, 3 * HOUR])
bodies = st.sampled_from(['{"n":1}', '{"n":1}', '{"n":2}'])


@st.composite
def logs(draw):
    now, made = T0, []
    for _ in range(draw(st.integers(1, 25))):
        now += draw(gaps)
        stamp = now - draw(ages)
        made.append(event(draw(ids), now, stamp - stamp % HOUR, properties=draw(bodies)))
    return made


def reference(events, window=HOUR):
    """The rule, event by event, over the whole log."""
    found = []
    log = Log(events, found)
    for i, e in enumerate(events):
        second = e[5] // SECOND
        firsts = [j for j in range(i) if found[j] == COUNTS and events[j][0] == e[0]]
        near = [j for j in firsts if events[j][5] // SECOND >= second - window // SECOND]
        if near:
            original = near[-1]
        else:
            start = second * SECOND - window
            stored = log.find_stored(e[6], [(e[0], e[4])], start) if e[4] < start + 5 * MINUTE else {}
            original = next((p for p, _ in stored.values() if p < i), None)
        if original is None:
            found.append(COUNTS)
        else:
            found.append(COPY if events[original][8] == e[8] else CONFLICT)
    return found


@settings(deadline=None, max_examples=60, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(logs(), st.data())
def test_verdicts_are_a_pure_function_of_the_log(events, data):
    expected = reference(events)
    log = Log(events, expected)
    with tempfile.TemporaryDirectory() as folder:
        index, at, archived = index_over(log, folder, window_us=HOUR), 0, 0
        seen: dict[int, int] = {}
        while at < len(events):
            size = data.draw(st.integers(1, 6))
            decided = index.decide(at, batch_of(events[at : at + size]))
            for row, verdict in enumerate(decided.verdict.tolist()):
                assert seen.setdefault(at + row, verdict) == verdict
            at = decided.next
            step = data.draw(st.sampled_from(["on", "flush", "crash", "crash before the flush"]))
            if step in ("flush", "crash"):
                archived = data.draw(st.integers(min(archived, at), at))
                index.flush(archived)
            if step.startswith("crash"):
                index = index_over(log, folder, window_us=HOUR)
                spared = [p for p in range(archived) if events[p][5] >= events[archived - 1][5] - HOUR] or [0]
                at = min(index.covered, data.draw(st.sampled_from([*spared, archived])))
    assert [seen[i] for i in range(len(events))] == expected
