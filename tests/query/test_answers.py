"""Answers are those of brute force, however the events are spread over log, panes, lake and rollups."""

import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.clock import DAY, HOUR, MINUTE, SECOND, rfc3339
from headwater.model.aggregate import EMPTY, value
from headwater.query.question import metric_question
from tests.query.world import T0, World
from tests.warehouse.brute import event, holds, states

NAMES = ("country", "device")
VALUES = ("US", "DE", "", None)
METRICS = {
    "views": {"aggregate": "count", "eventType": "view", "dimensions": [["country"], ["country", "device"]]},
    "revenue": {"aggregate": "sum", "property": "amount", "dimensions": [["country"]]},
    "mean": {"aggregate": "avg", "property": "amount"},
    "highest": {"aggregate": "max", "property": "amount", "dimensions": [["device"]]},
    "people": {"aggregate": "unique", "dimensions": [["country"]]},
}
ids = itertools.count()


@st.composite
def events(draw):
    age = draw(st.sampled_from([0, SECOND, 7 * MINUTE, HOUR, 3 * HOUR, 26 * HOUR, 49 * HOUR]))
    properties = {name: v for name in NAMES if (v := draw(st.sampled_from(VALUES))) is not None}
    amount = draw(st.sampled_from([None, 1, 2.5, "no number", "1e3", -7]))
    if amount is not None:
        properties["amount"] = amount
    return age, draw(st.sampled_from(["view", "buy"])), draw(st.sampled_from(["ann", "bob", None])), properties


steps = st.one_of(
    st.tuples(st.just("send"), st.lists(events(), min_size=1, max_size=6)),
    st.tuples(st.just("wait"), st.sampled_from([SECOND, 10 * MINUTE, HOUR, 5 * HOUR, DAY])),
    st.tuples(st.sampled_from(["stream", "archive", "settle"]), st.none()),
    st.tuples(st.just("define"), st.sampled_from(sorted(METRICS))),
)
questions = st.fixed_dictionaries(
    {
        "metric": st.sampled_from(["events", *METRICS]),
        "granularity": st.sampled_from(["minute", "5m", "hour", "day", "week", "total"]),
        "timezone": st.sampled_from(["UTC", "Asia/Kathmandu", "America/New_York"]),
        "groupBy": st.sampled_from(["", "country", "device", "device,country", "$eventType"]),
        "filter": st.sampled_from(
            ["", "country:US", "device:DE", '{"property":"country","op":"exists","value":false}']
        ),
        "back": st.sampled_from([30 * MINUTE, 3 * HOUR, 3 * HOUR + 17 * SECOND, 50 * HOUR]),
    }
)


def do(world, step, given):
    if step == "wait":
        world.clock.now += given
    elif step == "define":
        world.define(given, **METRICS[given])
    elif step == "send":
        made = []
        for age, kind, person, properties in given:
            at = world.clock.now - age
            made.append(event(at, kind, event_id=f"e{next(ids)}", user_id=person, properties=properties))
        world.send(made)
    else:
        world.stream()
        if step != "stream":
            world.archive()
        if step == "settle":
            world.settle()


def expected(world, metric, question):
    matching = [e for e in world.sent if question.filter is None or holds(question.filter, e)]
    found = states(matching, metric, question.dimensions, question.edges)
    if not question.group_by:
        found = {(edge, ()): EMPTY for edge in question.edges[:-1]} | found
    return {key: value(state, metric.definition.aggregate) for key, state in found.items()}


def check(world, asked):
    name = asked["metric"]
    if name not in {m.name for m in world.control.metrics("default")}:
        return
    parameters = {key: asked[key] for key in ("granularity", "timezone", "groupBy", "filter")}
    if asked["granularity"] in ("minute", "5m") and asked["back"] > DAY:
        return
    parameters |= {"startTime": rfc3339(world.clock.now - asked["back"]), "endTime": rfc3339(world.clock.now + MINUTE)}
    question = metric_question(name, parameters, world.clock.now)
    answer = world.ask(name, **parameters)
    assert {(r.timestamp, r.values): r.value for r in answer.counted.rows} == expected(
        world, world.metric(name), question
    ), [(part.store, rfc3339(part.start), rfc3339(part.end)) for part in answer.parts]
    spans = [(part.start, part.end) for part in answer.parts]
    assert spans[0][0] == question.start
    assert spans[-1][1] == question.end
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(steps, min_size=3, max_size=14), st.lists(questions, min_size=6, max_size=6))
def test_answers_are_those_of_brute_force(script, asked):
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            for step, given_ in script:
                do(world, step, given_)
            world.stream()
            for question in asked:
                check(world, question)
        finally:
            world.close()


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()


RANGE = {"startTime": rfc3339(T0 - DAY), "endTime": rfc3339(T0 + DAY)}


def test_an_event_is_counted_once_on_every_step_of_its_way(world):
    world.define("views", **METRICS["views"])
    world.send([event(T0 - 5 * HOUR, "view", event_id="late", country="US"), event(T0, "view", event_id="now")])
    for step in (world.stream, world.archive, world.settle, world.stream):
        step()
        assert sum(world.values("views", **RANGE)) == 2
        assert sum(world.values("views", groupBy="country", **RANGE)) == 2
        assert sum(world.values("views", groupBy="browser", granularity="total", **RANGE)) == 2


def test_an_event_sent_twice_is_counted_once(world):
    for _ in range(2):
        world.send([event(T0, "view", event_id="same")])
        world.stream()
    assert sum(world.values("events", **RANGE)) == 1
    world.archive()
    assert sum(world.values("events", groupBy="$eventId", **RANGE)) == 1


def test_the_parts_say_where_an_answer_is_from(world):
    old = {"startTime": rfc3339(T0 - 9 * HOUR), "endTime": rfc3339(T0 - 2 * HOUR), "granularity": "hour"}
    world.send([event(T0 - 5 * HOUR, "view", event_id="a")])
    world.stream()
    assert world.stores("events", **old) == ["live"]
    world.archive()
    assert world.stores("events", **old) == ["lake"]
    world.clock.now += HOUR
    world.settle()
    assert world.stores("events", **old) == ["settled"]
    assert world.stores("events", groupBy="country", **old) == ["lake"]
    now = {"startTime": rfc3339(T0 - 6 * HOUR), "endTime": rfc3339(T0 + HOUR), "granularity": "hour"}
    assert world.stores("events", **now) == ["settled", "live"]
    world.send([event(T0 - 5 * HOUR, "view", event_id="b")])
    world.stream()
    assert world.values("events", **old)[4] == 2


def test_an_answer_is_complete_up_to_what_the_stream_has(world):
    assert world.ask("events", **RANGE).complete_up_to is None
    world.send([event(T0, event_id="a")])
    assert world.ask("events", **RANGE).complete_up_to == 0  # null only before the first event
    world.stream()
    world.clock.now += 7 * SECOND
    assert world.ask("events", **RANGE).complete_up_to == world.clock.now
    world.send([event(T0, event_id="b")])
    world.clock.now += 8 * SECOND
    behind = world.ask("events", **RANGE)
    assert (behind.complete_up_to, behind.stale) == (T0, True)


def test_a_cached_answer_is_given_until_something_it_rests_on_changes(world):
    old = {"startTime": "2024-01-10", "endTime": "2024-01-12"}
    world.send([event(T0 - 4 * DAY, event_id="a")])
    world.stream()
    world.archive()
    assert [world.ask("events", **old).hit for _ in range(2)] == [False, True]
    world.send([event(T0, event_id="of another hour")])
    world.stream()
    assert world.ask("events", **old).hit
    world.send([event(T0 - 4 * DAY, event_id="late")])
    world.stream()
    answer = world.ask("events", **old)
    assert (answer.hit, sum(row.value for row in answer.counted.rows)) == (False, 2)
    world.archive()
    world.settle()
    answer = world.ask("events", **old)
    assert (answer.hit, sum(row.value for row in answer.counted.rows)) == (False, 2)


def test_a_metric_defined_now_answers_over_all_history(world):
    world.send([event(T0 - 30 * HOUR, "view", event_id="a"), event(T0, "view", event_id="b")])
    world.stream()
    world.archive()
    world.send([event(T0, "view", event_id="c"), event(T0, "buy", event_id="d")])
    world.stream()
    world.define("views", **METRICS["views"])
    everything = {"startTime": "2024-01-13", "endTime": "2024-01-16"}
    assert sum(world.values("views", **everything)) == 3
    world.stream()
    world.clock.now += 2 * HOUR
    world.send([event(world.clock.now, "view", event_id="e")])
    world.stream()
    assert sum(world.values("views", **everything)) == 4
