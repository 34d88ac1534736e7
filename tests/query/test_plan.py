"""Plans and parts cover the range once; each event has exactly one way into the answer."""

from itertools import pairwise
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from headwater.catalog.port import Chunk, LakeFile
from headwater.clock import DAY, HOUR, MINUTE, SECOND
from headwater.model.interval import Interval, window_edges
from headwater.model.metric import Condition, Filter, Metric, definition_from
from headwater.query.plan import Facts, declared_set, parts, plan
from headwater.query.question import Question
from tests.query.world import T0

METRIC = Metric("p", "m", 1, 0, definition_from({"aggregate": "count", "dimensions": [["a"], ["a", "b"]]}))
H0 = T0 - T0 % HOUR


def lake_file(hour, number):
    return LakeFile(f"f{number}", "p", hour, 1, 1, hour, hour, hour, hour, 0, 1, "", 1, {}, number)


@st.composite
def facts(draw):
    files, chunks = [], []
    for at in range(-30, 3):
        hour = H0 + at * HOUR
        ids = [len(files) + i for i in range(draw(st.integers(0, 2)))]
        files += [lake_file(hour, i) for i in ids]
        if ids and draw(st.booleans()):
            named = draw(st.lists(st.sampled_from([*ids, 999]), min_size=1, unique=True))
            metrics = draw(st.sampled_from([("m@1",), ("other@1",)]))
            chunks.append(Chunk("p", hour, f"c{hour}", 1, tuple(named), metrics))
    return Facts(
        boundary=H0 + draw(st.integers(-5, 1)) * HOUR,
        live_from=draw(st.sampled_from([None, 0, H0 - 3 * HOUR, H0 + HOUR])),
        archived_received_at=draw(st.sampled_from([None, H0, H0 - 4 * HOUR])),
        capped_from=draw(st.sampled_from([{}, {("a",): H0 - 2 * HOUR}])),
        files=files,
        chunks=chunks,
    )


@st.composite
def questions(draw):
    start = H0 - draw(st.integers(0, 30 * 60)) * MINUTE - draw(st.sampled_from([0, 17 * SECOND]))
    interval = Interval(start, start + draw(st.integers(1, 2 * 24 * 60)) * MINUTE)
    granularity = draw(st.sampled_from(["minute", "5m", "hour", "day", "total"]))
    zone = draw(st.sampled_from(["UTC", "Asia/Kathmandu", "Australia/Lord_Howe"]))
    edges = window_edges(interval, granularity, ZoneInfo(zone))
    return Question(
        "m", tuple(edges), granularity, zone, draw(st.sampled_from([(), ("a",), ("b",), ("c",)])),
        draw(st.sampled_from([None, Filter(all=(Condition("a", "eq", "x"),))])),
    )  # fmt: skip


@given(questions(), facts(), st.booleans())
def test_stretches_and_parts_cover_the_range_without_gap_or_overlap(question, known, tail_used):
    planned = plan(question, METRIC, known)
    for found in (planned.stretches, parts((s, tail_used) for s in planned.stretches)):
        assert found[0].start == question.start
        assert found[-1].end == question.end
        assert all(a.end == b.start for a, b in pairwise(found))
        assert all(s.start < s.end for s in found)


@given(questions(), facts())
def test_every_file_of_a_stretch_is_read_once_by_chunk_or_by_itself(question, known):
    for stretch in plan(question, METRIC, known).stretches:
        if stretch.live is not None:
            assert (stretch.files, stretch.chunks, stretch.tail) == ((), (), None)
            continue
        read = [file.id for file in stretch.files] + [i for chunk in stretch.chunks for i in chunk.files]
        hours = {f.id for f in known.files if f.hour < stretch.end and f.hour + HOUR > stretch.start}
        assert sorted(read) == sorted(hours)
        assert stretch.tail is not None


@given(questions(), facts())
def test_live_panes_are_used_only_where_they_are_whole_and_fit_the_windows(question, known):
    for stretch in plan(question, METRIC, known).stretches:
        width = stretch.live or (stretch.tail if isinstance(stretch.tail, int) else None)
        if width is not None:
            edges = [stretch.start, stretch.end, *(e for e in question.edges if stretch.start < e < stretch.end)]
            assert all(edge % width == 0 for edge in edges)
        if stretch.live is not None:
            assert stretch.start >= max(known.boundary, known.live_from)
            dimensions = declared_set(question, METRIC)
            assert stretch.end <= known.capped_from.get(dimensions, stretch.end)


def test_the_smallest_set_that_tells_apart_what_is_asked_is_read():
    def of(*names, where=None):
        return declared_set(Question("m", (0, DAY), "total", "UTC", names, where), METRIC)

    assert of() == ()
    assert of("a") == ("a",)
    assert of("b") == ("a", "b")
    assert of("b", where=Filter(all=(Condition("a", "eq", 1),))) == ("a", "b")
    assert of("c") is None
