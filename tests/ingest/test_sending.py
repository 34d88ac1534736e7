"""Every edge of sending, over real HTTP: what is answered, what is kept, what is durable."""

import gzip
import json
import socket
import subprocess
import sys
import zlib

import httpx
import pytest
import zstandard

from headwater.eventlog.adapters.sqlite import open_reader

SINGLE, BATCH = "/v1/events", "/v1/events/batch"


def sent(server, event):
    """The event as the log has it after a single POST that was accepted."""
    server.new_events()
    answer = server.post(SINGLE, json.dumps(event) if not isinstance(event, bytes) else event)
    assert answer.status_code == 202, answer.text
    (stored,) = server.new_events()
    return json.loads(stored)


def refusal(server, event):
    answer = server.post(SINGLE, json.dumps(event) if not isinstance(event, bytes) else event)
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == answer.status_code
    return answer.status_code, document["reason"]


def nested(levels):
    """An event nested to so many levels, itself the first."""
    inner = {}
    for _ in range(levels - 2):
        inner = {"a": inner}
    return {"eventType": "x", "properties": inner}


def test_an_event_is_accepted_with_its_id_and_is_in_the_log(server):
    answer = server.post(SINGLE, '{"eventId":"one","eventType":"view","userId":"u"}')
    assert (answer.status_code, answer.json()) == (202, {"status": "accepted", "eventId": "one"})
    assert any(b'"eventId":"one"' in e for e in server.new_events())


@pytest.mark.parametrize("given", [{}, {"eventId": None}, {"eventId": ""}])
def test_an_id_is_made_where_there_is_none(server, given):
    answer = server.post(SINGLE, json.dumps({"eventType": "x", **given}))
    assert len(answer.json()["eventId"]) == 36


def test_a_batch_keeps_its_good_events_and_gives_each_bad_one_a_verdict(server):
    answer = server.post(BATCH, '{"events":[{"eventType":"a","eventId":"g1"},{"eventId":"b1"},5,{"eventType":"a"}]}')
    assert answer.status_code == 202
    document = answer.json()
    assert document["accepted"] == 2
    assert [(r["index"], r["eventId"], r["reason"]) for r in document["rejected"]] == [
        (1, "b1", "missing_field"),
        (2, None, "invalid_field"),
    ]
    kept = {(r.event_id, r.reason, r.body) for r in server.rejected()}
    assert ("b1", "missing_field", b'{"eventId":"b1"}') in kept
    assert (None, "invalid_field", b"5") in kept


def test_a_batch_with_none_good_is_422_and_an_empty_one_202(server):
    answer = server.post(BATCH, '[{},{"eventType":""}]')
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["accepted"] == 0
    assert [r["reason"] for r in answer.json()["rejected"]] == ["missing_field", "invalid_field"]
    for empty in ("[]", '{"events":[]}'):
        answer = server.post(BATCH, empty)
        assert (answer.status_code, answer.json()) == (202, {"accepted": 0, "rejected": []})


def test_ndjson_takes_an_event_a_line(server):
    body = b'{"eventType":"a"}\n\n{"eventType":"b"}\r\nnope\n'
    answer = server.post(BATCH, body, headers={"Content-Type": "application/x-ndjson"})
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 2
    assert [r["reason"] for r in answer.json()["rejected"]] == ["invalid_json"]


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("zstd", zstandard.compress),
        ("deflate", lambda b: zlib.compress(b, wbits=-15)),
    ],
)
def test_compressed_bodies_are_unpacked(server, name, pack):
    body = json.dumps([{"eventType": "x"}] * 100).encode()
    answer = server.post(BATCH, pack(body), headers={"Content-Encoding": name})
    assert answer.json() == {"accepted": 100, "rejected": []}


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [
        ("gzip", gzip.compress(b" " * (11 << 20), mtime=0), (413, "body_too_large")),
        ("zstd", zstandard.compress(b" " * (500 << 20)), (413, "body_too_large")),
        ("deflate", zlib.compress(b" " * (11 << 20)), (413, "body_too_large")),
        ("gzip", b"not gzip at all", (400, "invalid_encoding")),
        ("gzip", gzip.compress(b'[{"eventType":"a"}]', mtime=0)[:-6], (400, "invalid_encoding")),
        ("zstd", zstandard.compress(b'[{"eventType":"a"}]')[:-3], (400, "invalid_encoding")),
        ("br", b"x", (415, "unsupported_encoding")),
    ],
)
def test_bombs_damage_and_unknown_encodings_are_refused(server, name, body, expected):
    answer = server.post(BATCH, body, headers={"Content-Encoding": name})
    assert (answer.status_code, answer.json()["reason"]) == expected


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({}, (422, "missing_field")),
        ({"eventType": None}, (422, "missing_field")),
        ({"eventType": ""}, (422, "invalid_field")),
        ({"eventType": "x" * 101}, (422, "invalid_field")),
        ({"eventType": 5}, (422, "invalid_field")),
        ({"eventType": "x", "eventId": 5}, (422, "invalid_field")),
        ({"eventType": "x", "eventId": {}}, (422, "invalid_field")),
        ({"eventType": "x", "eventId": "i" * 201}, (422, "invalid_field")),
        ({"eventType": "x", "userId": "u" * 256}, (422, "invalid_field")),
        ({"eventType": "x\n"}, (422, "invalid_field")),
        ({"eventType": "x", "eventId": "a\u0000"}, (422, "invalid_field")),
        ({"eventType": "x", "anonymousId": "a\u0085"}, (422, "invalid_field")),
        ({"eventType": "x", "properties": []}, (422, "invalid_field")),
        ({"eventType": "x", "context": "c"}, (422, "invalid_field")),
        (nested(33), (422, "too_deep")),
        ({"eventType": "x", "properties": {str(i): 1 for i in range(999)}}, (422, "too_many_keys")),
        (b"[1]", (422, "invalid_field")),
        (b"{", (400, "invalid_json")),
        (b"", (400, "invalid_json")),
        (b'{"eventType":"x","properties":{"a":NaN}}', (400, "invalid_json")),
        (b'{"eventType":"x","properties":{"a":1e999}}', (400, "invalid_json")),
        (b'{"eventType":"x","properties":{"a":"\xff"}}', (400, "invalid_json")),
        (b'{"a":' * 100_000, None),
    ],
)
def test_what_cannot_be_an_event_is_refused_with_its_reason(server, event, expected):
    got = refusal(server, event)
    if expected is None:
        assert got in ((400, "invalid_json"), (422, "too_deep"))
    else:
        assert got == expected


def test_the_limits_themselves_are_taken(server):
    for event in (
        {"eventType": "é" * 100, "eventId": "漢" * 200, "userId": "u" * 255, "anonymousId": "a" * 255},
        nested(32),
        {"eventType": "x", "properties": {str(i): 1 for i in range(998)}},
    ):
        assert server.post(SINGLE, json.dumps(event)).status_code == 202


def test_an_event_of_one_mebibyte_is_taken_and_one_byte_more_is_not(server):
    empty = len(b'{"eventType":"x","properties":{"a":""}}')
    fits = b'{"eventType":"x","properties":{"a":"' + b"a" * ((1 << 20) - empty) + b'"}}'
    assert server.post(SINGLE, fits).status_code == 202
    answer = server.post(SINGLE, fits.replace(b"aa", b"aaa", 1))
    assert answer.status_code == 413
    answer = server.post(BATCH, b"[" + fits.replace(b"aa", b"aaa", 1) + b',{"eventType":"y"}]')
    assert answer.status_code == 202
    assert [r["reason"] for r in answer.json()["rejected"]] == ["event_too_large"]


def test_ten_thousand_events_are_taken_at_once_and_one_more_is_not(server):
    event = b'{"eventType":"x"}'
    assert server.post(BATCH, b"[" + b",".join([event] * 10_000) + b"]").json()["accepted"] == 10_000
    answer = server.post(BATCH, b"[" + b",".join([event] * 10_001) + b"]")
    assert (answer.status_code, answer.json()["reason"]) == (413, "too_many_events")


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("2024-01-15T10:30:00Z", "2024-01-15T10:30:00Z"),
        ("2024-01-15t10:30:00.5z", "2024-01-15T10:30:00.500Z"),
        ("2024-01-15 10:30:00", "2024-01-15T10:30:00Z"),
        ("2024-01-15T10:30:00.123456789+05:45", "2024-01-15T04:45:00.123456Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"),
        (1705314600123, "2024-01-15T10:30:00.123Z"),
        (0, "1970-01-01T00:00:00Z"),
    ],
)
def test_timestamps_of_the_grammar_are_kept_in_microseconds(server, given, stored):
    assert sent(server, {"eventType": "x", "timestamp": given})["timestamp"] == stored


@pytest.mark.parametrize(
    "given",
    [
        "2024-01-15",
        "2024-13-01T00:00:00Z",
        "2024-02-30T00:00:00Z",
        "2024-01-15T24:00:00Z",
        "2024-01-15T10:30Z",
        "now",
        "",
        "1969-12-31T23:59:59Z",
        "1970-01-01T00:00:00+01:00",
        "20240115T103000Z",
        1.5,
        True,
        [],
        "2024-01-15T10:30:00+0100",
        10**18,
        -1,
        "2024-01-15T10:30:00.Z",
        "２０２４-01-15T10:30:00Z",
    ],
)
def test_every_other_timestamp_is_invalid(server, given):
    assert refusal(server, {"eventType": "x", "timestamp": given}) == (422, "invalid_timestamp")


def test_a_timestamp_far_ahead_becomes_the_receipt_and_is_remembered(server):
    stored = sent(server, {"eventType": "x", "timestamp": "2999-01-01T00:00:00Z"})
    assert stored["timestamp"] == stored["receivedAt"]
    assert stored["context"] == {"extra": {"originalTimestamp": "2999-01-01T00:00:00Z"}}


def test_numbers_get_one_text_and_duplicate_keys_keep_the_last(server):
    body = b'{"eventType":"x","properties":{"a":1e3,"b":1.0,"c":-0,"d":12345678901234567890123,"e":1,"e":2}}'
    assert sent(server, body)["properties"] == {"a": 1000.0, "b": 1.0, "c": 0, "d": 12345678901234567890123, "e": 2}


def test_nul_and_lone_surrogates_become_replacement_characters_and_the_event_is_marked(server):
    body = rb'{"eventType":"x","properties":{"a":"\u0000","b":"\ud800","c":"\ud83d\ude00","d":"\\u0000"}}'
    stored = sent(server, body)
    assert stored["properties"] == {"a": "\ufffd", "b": "\ufffd", "c": "😀", "d": "\\u0000"}
    assert stored["context"]["extra"]["sanitized"] is True


def test_unknown_fields_are_kept_under_extra(server):
    stored = sent(server, {"eventType": "x", "foo": {"a": 1}, "context": {"ip": "1.2.3.4", "screen": 7, "foo2": 1}})
    assert stored["context"] == {"ip": "1.2.3.4", "screen": 7, "foo2": 1, "extra": {"foo": {"a": 1}}}


def test_a_byte_order_mark_is_skipped_and_utf_16_is_not_taken(server):
    assert server.post(SINGLE, b'\xef\xbb\xbf{"eventType":"x"}').status_code == 202
    assert server.post(SINGLE, '{"eventType":"x"}'.encode("utf-16")).status_code == 415


@pytest.mark.parametrize("kind", ["application/xml", "text/html", "application/json; charset=utf-16"])
def test_other_content_types_are_415(server, kind):
    answer = server.post(SINGLE, '{"eventType":"x"}', headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["reason"]) == (415, "unsupported_type")


def test_keys_decide_who_sends(server):
    for headers, expected in (
        ({"X-API-Key": "nobody"}, 401),
        ({"X-API-Key": "read"}, 403),
        ({"X-API-Key": "admin"}, 202),
    ):
        assert server.post(SINGLE, '{"eventType":"x"}', headers=headers).status_code == expected
    bearer = httpx.post(
        f"http://127.0.0.1:{server.port}{SINGLE}",
        content='{"eventType":"x"}',
        headers={"Authorization": "Bearer write"},
    )
    assert bearer.status_code == 202
    nobody = httpx.post(f"http://127.0.0.1:{server.port}{SINGLE}", content='{"eventType":"x"}')
    assert (nobody.status_code, nobody.json()["reason"]) == (401, "unauthorized")


def test_other_methods_are_405_with_what_is_allowed(server):
    answer = server.client.put(BATCH)
    assert (answer.status_code, answer.json()["reason"]) == (405, "method_not_allowed")
    assert "POST" in answer.headers["allow"]


def test_questions_are_503_while_query_is_down(server):
    answer = server.client.get("/v1/metrics")
    assert (answer.status_code, answer.json()["reason"]) == (503, "unavailable")
    assert answer.headers["retry-after"]


@pytest.mark.parametrize(
    "raw",
    [
        b"garbage\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    ],
)
def test_requests_that_cannot_be_parsed_get_a_problem_document(server, raw):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(raw)
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer
    assert b'"reason":"bad_request"' in answer


def test_what_was_answered_202_is_there_after_a_kill(tmp_path):
    command = [sys.executable, "-m", "tests.ingest.server", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        port = int(process.stdout.readline())
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": "write"}) as client:
            for i in range(50):
                assert client.post(SINGLE, json={"eventType": "x", "eventId": f"k{i}"}).status_code == 202
        process.kill()
    reader = open_reader(tmp_path / "log")
    assert reader.end() == 50
    ids = [e for record in reader.read(0, 1 << 30) for e in record.batch.column("event_id").to_pylist()]
    assert ids == [f"k{i}" for i in range(50)]
    assert sum(a.events for a in reader.accepted()) == 50
