"""Bodies become events: the fast way and the careful way agree, and every edge has its verdict."""

import json
from itertools import count

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.clock import MINUTE
from headwater.errors import Refused
from headwater.model import event as event_module
from headwater.model.event import parse_body
from headwater.model.value import text_of

NOW = 1_700_000_000_000_000


def parse(body, shape="batch", **given):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    rules = {"received_at": NOW, "project_id": "p", "new_id": numbered(), **given}
    return parse_body(body, shape, **rules)


def numbered():
    made = count()
    return lambda: f"made-{next(made)}"


def reasons(parsed):
    return [(v.index, v.reason) for v in parsed.verdicts]


def refused(body, shape="batch"):
    with pytest.raises(Refused) as caught:
        parse(body, shape)
    return caught.value.status, caught.value.reason


scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["\x00", "a\x7f", "\x85", "{[:", '\\u0000"']
)
values = st.recursive(
    scalars | texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
stamps = st.sampled_from(
    [
        "2023-11-14T22:13:20Z", "2023-11-14T22:13:20.5+00:00", "2023-11-14 22:13:20.123456", "2023-02-30T00:00:00Z",
        "2999-01-01T00:00:00Z", "1969-12-31T23:59:59Z", 1700000000000, 1700000000000.0, 1.5, -1, True, "", [], None,
    ]
)  # fmt: skip
usual = st.fixed_dictionaries(
    {"eventType": st.just("view"), "eventId": st.uuids().map(str)},
    optional={
        "userId": texts,
        "timestamp": st.just("2023-11-14T22:13:20.250Z"),
        "properties": st.dictionaries(texts, values, max_size=4),
        "context": st.dictionaries(st.sampled_from(["ip", "page", "extra", "screen"]), values, max_size=3),
    },
)
unusual = st.dictionaries(
    st.sampled_from(
        ["eventType", "eventId", "userId", "anonymousId", "timestamp", "properties", "context", "foo", "sanitized"]
    ),
    values | stamps | st.sampled_from(["x" * 101, "x" * 256, ""]),
    max_size=6,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(usual | unusual | values, max_size=12), st.booleans())
def test_a_batch_is_its_events_one_by_one_whatever_way_they_are_read(events, ascii_only):
    bodies = [json.dumps(e, ensure_ascii=ascii_only).encode() for e in events]
    together = parse(b"[" + b",".join(bodies) + b"]")
    wrapped = parse(b'{"sentAt":1,"events":[' + b" , ".join(bodies) + b"]}")
    lines = parse(b"\n".join(bodies), "ndjson")
    careful = event_module._one_by_one(bodies, NOW, "p", numbered(), None)
    for other in (wrapped, lines, careful):
        assert other.columns == together.columns
        assert other.verdicts == together.verdicts
    assert together.accepted + len(together.verdicts) == len(events)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=5), values, max_size=5)
)
def test_the_text_of_properties_is_made_once_and_never_changes_again(properties):
    try:
        (text,) = parse({"eventType": "x", "properties": properties}, "single").columns.properties
    except ValueError:
        return  # refused: too deep
    assert msgspec.json.encode(msgspec.json.decode(text)) == text
    for value in msgspec.json.decode(text).values():
        shown = text_of(value)
        if shown is not None and not isinstance(value, str):
            assert text_of(msgspec.json.decode(shown)) == shown


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=60) | st.text(alphabet='{}[],:"\\ue0dtrn1 -.', max_size=40).map(str.encode),
    st.sampled_from(["single", "batch", "ndjson"]),
)
def test_no_body_is_more_than_a_refusal(body, shape):
    try:
        parsed = parse(body, shape)
    except Refused:
        return
    assert parsed.accepted + len(parsed.verdicts) <= len(body) + 1


def test_an_event_that_the_decoder_cannot_take_does_not_touch_its_neighbours():
    deep = b'{"eventType":"x","properties":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001
    bad = [
        b'{"eventType":"x","properties":{"a":NaN}}',
        b'{"eventType":"x","properties":{"a":1e999}}',
        b'{"eventType":"x","properties":{"a":"\xff"}}',
        b'{"eventType":"x" "eventId":1}',
        deep,
    ]
    good = b'{"eventType":"x","eventId":"g"}'
    parsed = parse(b"[" + b",".join([good, *bad, good]) + b"]")
    assert parsed.event_ids == ["g", "g"]
    assert reasons(parsed) == [(i + 1, "invalid_json") for i in range(len(bad))]
    assert [v.body for v in parsed.verdicts] == bad


def test_lone_surrogates_are_replaced_and_pairs_and_escaped_backslashes_are_not():
    properties = rb'{"a":"\ud800","b":"\\ud800","c":"\uD83D\uDE00\udc00","d":"\ud800\ud83d\ude00"}'
    parsed = parse(b'[{"eventType":"x","properties":' + properties + b'},{"eventType":"y"}]')
    assert json.loads(parsed.columns.properties[0]) == {"a": "�", "b": "\\ud800", "c": "😀�", "d": "�😀"}
    assert parsed.columns.context == [b'{"extra":{"sanitized":true}}', b"{}"]


def test_nul_is_replaced_in_keys_and_values_everywhere_but_refused_in_ids():
    body = rb'{"eventType":"x","properties":{"k\u0000":["\u0000"]},"context":{"ip":"\u0000"},"foo":"\u0000"}'
    columns = parse(body, "single").columns
    assert json.loads(columns.properties[0]) == {"k�": ["�"]}
    assert json.loads(columns.context[0]) == {"ip": "�", "extra": {"foo": "�", "sanitized": True}}
    assert reasons(parse(rb'{"eventType":"x","userId":"\u0000"}', "single")) == [(0, "invalid_field")]


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ({}, {"extra": {"foo": 1}}),
        ({"extra": {"bar": 2}}, {"extra": {"foo": 1, "bar": 2}}),
        ({"extra": {"foo": 2}}, {"extra": {"foo": 2}}),
        ({"extra": "text"}, {"extra": {"foo": 1, "extra": "text"}}),
        ({"foo": 5}, {"foo": 5, "extra": {"foo": 1}}),
    ],
)
def test_unknown_fields_join_the_clients_own_extra_and_never_replace_it(context, expected):
    columns = parse({"eventType": "x", "foo": 1, "context": context}, "single").columns
    assert json.loads(columns.context[0]) == expected


def test_five_minutes_ahead_is_taken_and_a_millisecond_more_becomes_the_receipt():
    edge = (NOW + 5 * MINUTE) // 1000
    for size in (1, 20):
        columns = parse(
            [{"eventType": "x", "timestamp": edge}, *[{"eventType": "x", "timestamp": edge + 1}] * size]
        ).columns
        assert columns.timestamp == [NOW + 5 * MINUTE] + [NOW] * size
        assert columns.context == [b"{}"] + [b'{"extra":{"originalTimestamp":%d}}' % (edge + 1)] * size


def test_events_older_than_the_retention_are_refused_only_where_there_is_one():
    events = [{"eventType": "x", "timestamp": 1000}, {"eventType": "x"}]
    assert parse(events).accepted == 2
    assert reasons(parse(events, oldest=1_000_001)) == [(0, "too_old")]
    assert parse(events, oldest=1_000_000).accepted == 2


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, "invalid_json")),
        (b"nonsense", (400, "invalid_json")),
        (b"[1,]", (400, "invalid_json")),
        (b"[[]", (400, "invalid_json")),
        (b'[{"eventType":"x"}] trailing', (400, "invalid_json")),
        (b'{"events":[{"eventType":NaN}]', (400, "invalid_json")),
        (b'{"eventType":"x"}', (422, "missing_field")),
        (b'{"events":{}}', (422, "invalid_field")),
        (b"5", (422, "invalid_field")),
        (b"\xff\xfe[\x00]\x00", (415, "unsupported_encoding")),
        (b"[\x00]\x00", (415, "unsupported_encoding")),
        (b"[" + b" " * (10 << 20) + b"]", (413, "body_too_large")),
        (b"[" + b"{}," * 10_000 + b"{}]", (413, "too_many_events")),
        (b"[" + b"NaN," * 10_000 + b"NaN]", (413, "too_many_events")),
        (b"[" * 600_000, (400, "invalid_json")),
    ],
)
def test_a_body_that_is_no_batch_is_refused_as_a_whole(body, expected):
    assert refused(body) == expected


@pytest.mark.parametrize("shape", ["batch", "ndjson"])
def test_one_event_too_large_is_refused_alone_in_a_large_batch(shape):
    good = b'{"eventType":"x","eventId":"g"}'
    large = b'{"eventType":"x","properties":{"a":"' + b"a" * (1 << 20) + b'"}}'
    joined = (b"\n" if shape == "ndjson" else b",").join([good, large, good])
    for body in [joined] if shape == "ndjson" else [b"[" + joined + b"]", b'{"events":[' + joined + b"]}"]:
        parsed = parse(body, shape)
        assert parsed.event_ids == ["g", "g"]
        assert reasons(parsed) == [(1, "event_too_large")]


def test_nesting_and_keys_are_counted_exactly_at_their_limits_also_inside_a_batch():
    def nested(levels):
        inner = 1
        for _ in range(levels - 2):
            inner = [inner]
        return {"eventType": "x", "properties": {"a": inner}} if levels > 2 else {}

    assert reasons(parse([nested(32), nested(33), {"eventType": "x", "properties": {"a": "[" * 100}}])) == [
        (1, "too_deep")
    ]
    keys = [{"eventType": "x", "properties": {str(i): {"b": "::::"} for i in range(n)}} for n in (499, 500)]
    assert reasons(parse(keys)) == [(1, "too_many_keys")]


def test_a_body_full_of_empty_objects_is_read_without_filling_the_memory():
    event = b'{"eventType":"x","properties":{"a":[' + b"{}," * 200_000 + b"{}]}}"
    parsed = parse(b"[" + event + b",{}]")
    assert parsed.accepted == 1
    assert reasons(parsed) == [(1, "missing_field")]


def test_a_user_without_a_name_is_no_user_and_an_id_is_made_where_there_is_none():
    columns = parse([{"eventType": "x", "userId": "", "anonymousId": None, "eventId": ""}] * 2).columns
    assert (columns.user_id, columns.anonymous_id) == ([None, None], [None, None])
    assert columns.event_id == ["made-0", "made-1"]
