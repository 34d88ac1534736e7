"""The API as a caller meets it: who may do what, and what every kind of mistake is answered with."""

import json
import re

import pytest

from headwater.clock import DAY, HOUR, MINUTE, rfc3339
from headwater.model.rejection import REASONS
from headwater.query.openapi import OPERATIONS
from headwater.query.process import create_app
from tests.query.world import T0
from tests.warehouse.brute import event

RANGE = {"startTime": rfc3339(T0 - DAY), "endTime": rfc3339(T0 + MINUTE)}
PUBLIC = ("/healthz", "/readyz", "/metrics", "/openapi.json", "/docs")


def problem(answer):
    """The reason of a problem document, which is whole."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    document = answer.json()
    assert set(document) >= {"type", "title", "status", "detail", "reason"}
    assert document["status"] == answer.status_code
    assert document["reason"] in REASONS
    return answer.status_code, document["reason"]


def example(path):
    return re.sub(r"\{\w+\}", "nothing", path)


OWN = [(m, p, who) for m, p, who, *_ in OPERATIONS if who != "write" and p not in PUBLIC]


@pytest.mark.parametrize(("method", "path", "who"), OWN)
def test_every_route_wants_a_key_of_the_right_role(client, method, path, who):
    call = (method.upper(), example(path))
    assert problem(client.call(*call, None)) == (401, "unauthorized")
    assert problem(client.call(*call, key="hw_read_unknown")) == (401, "unauthorized")
    assert problem(client.call(*call, "write")) == (403, "forbidden")
    if who in ("admin", "operator"):
        assert problem(client.call(*call, "read")) == (403, "forbidden")
    else:
        assert client.call(*call, "read").status_code not in (401, 403)


def test_the_document_lists_the_routes_that_exist(world):
    existing = set()
    for route in create_app(world.services).routes:
        path = re.sub(r"\{(\w+):\w+\}", r"{}", route.path)
        existing |= {(method.lower(), path) for method in route.methods if method != "OPTIONS"}
    documented = {(m, re.sub(r"\{\w+\}", "{}", p)) for m, p, who, *_ in OPERATIONS if who != "write"}
    # an event's id may hold slashes, so that one route takes both the event and its trace
    documented -= {("get", "/v1/events/{}/trace")}
    assert existing == documented


@pytest.mark.parametrize("path", PUBLIC)
def test_what_tells_nothing_of_events_needs_no_key(client, path):
    assert client.call("GET", path, None).status_code in (200, 503)


def test_the_page_of_the_document_loads_nothing_from_outside(client):
    page = client.get("/docs").text
    assert not re.search(r"(src|href)\s*=\s*['\"](https?:)?//", page)
    assert "/v1/metrics/{name}" in page


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/nothing",
        "/v1/funnels",
        "/v1/events/none",
        "/v1/metrics/none",
        "/v1/jobs/7",
        "/v1/jobs/99999999999999999999",
        "/v1/rejected/i9",
        "/v1/rejected/i" + "9" * 30,
    ],
)
def test_what_does_not_exist_is_not_found(client, path):
    assert problem(client.get(path)) == (404, "not_found")


def test_a_method_that_a_route_does_not_take_is_named_so(client):
    assert problem(client.call("DELETE", "/v1/metrics")) == (405, "method_not_allowed")
    assert problem(client.call("PATCH", "/v1/keys/x")) == (405, "method_not_allowed")


BAD_QUESTIONS = [
    {"startTime": "yesterday"},
    {"startTime": "2024-01-02", "endTime": "2024-01-01"},
    {"granularity": "second"},
    {"timezone": "Mars/Olympus"},
    {"timezone": "../etc/passwd"},
    {"groupBy": "a,a"},
    {"groupBy": "$nothing"},
    {"groupBy": "a,b,c,d,e,f"},
    {"filter": "country"},
    {"filter": "{"},
    {"filter": '{"all":[{"property":"a"}]}'},
    {"filter": '{"property":"a","op":"in","value":"b"}'},
    {"format": "xml"},
    {"colour": "red"},
    {"endTime": "9999-12-31"},
    {"startTime": "1969-12-31"},
    {"startTime": "0001-01-01"},
    {"startTime": "2024-13-01"},
    {"startTime": "2024-01-01T25:00"},
    {"filter": '{"all":[' * 50 + "]}" * 50},
    {"groupBy": ","},
    {"startTime": "1" * 6000},
]


@pytest.mark.parametrize("given", BAD_QUESTIONS, ids=lambda given: json.dumps(given)[:40])
def test_a_question_that_cannot_be_understood_is_an_invalid_query(client, given):
    assert problem(client.get("/v1/metrics/events", **given)) == (422, "invalid_query")


def test_a_parameter_given_twice_is_refused(client):
    answer = client.call("GET", "/v1/metrics/events?granularity=day&granularity=hour")
    assert problem(answer) == (422, "invalid_query")


def test_more_than_ten_thousand_windows_are_too_many(client):
    many = {"startTime": "2024-01-01", "endTime": "2024-01-31", "granularity": "minute"}
    assert problem(client.get("/v1/metrics/events", **many)) == (422, "too_many_windows")


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("PUT", "/v1/metrics/m", b"{", (400, "invalid_json")),
        ("PUT", "/v1/metrics/m", b'{"aggregate":"median"}', (422, "invalid_field")),
        ("PUT", "/v1/metrics/9", b'{"aggregate":"count"}', (422, "invalid_field")),
        ("PUT", "/v1/metrics/m", b'{"aggregate":"sum"}', (422, "invalid_field")),
        ("PUT", "/v1/metrics/m", b"[" * 100_000, (400, "invalid_json")),
        ("PUT", "/v1/metrics/m", b"\xff", (400, "invalid_json")),
        ("POST", "/v1/query", b"[]", (422, "invalid_query")),
        ("POST", "/v1/query", b'{"sql":"SELECT 1","limit":0}', (422, "invalid_query")),
        ("POST", "/v1/query", b'{"sql":"SELECT 1","format":"xml"}', (422, "invalid_query")),
        ("POST", "/v1/query", b'{"sql":"SELECT 1","more":1}', (422, "invalid_query")),
        ("POST", "/v1/query", b'{"sql":"' + b"x" * (2 << 20) + b'"}', (413, "body_too_large")),
        ("POST", "/v1/keys", b"{}", (422, "missing_field")),
        ("POST", "/v1/keys", b'{"role":"owner"}', (422, "invalid_field")),
        ("POST", "/v1/keys", b'{"role":["write"]}', (422, "invalid_field")),
        ("POST", "/v1/keys", b'{"role":"write","project":"none"}', (404, "not_found")),
        ("POST", "/v1/keys", b'{"role":"write","project":5}', (404, "not_found")),
        ("POST", "/v1/projects", b'{"id":"Not Plain"}', (422, "invalid_field")),
        ("POST", "/v1/projects", b'{"id":"default"}', (409, "conflict")),
        ("POST", "/v1/projects", b'{"id":"a","more":1}', (422, "invalid_field")),
        ("POST", "/v1/jobs", b'{"kind":"dance"}', (422, "invalid_field")),
        ("POST", "/v1/jobs", b'{"kind":"batch","parameters":[1]}', (422, "invalid_field")),
        ("DELETE", "/v1/keys/none", b"", (404, "not_found")),
    ],
)
def test_a_body_that_cannot_be_is_answered_with_its_reason(client, method, path, body, expected):
    assert problem(client.call(method, path, content=body)) == expected


@pytest.mark.parametrize(
    "path",
    [
        "/v1/events?limit=0",
        "/v1/events?limit=x",
        "/v1/events?limit=" + "9" * 5000,
        "/v1/events?cursor=%00",
        "/v1/events?more=1",
        "/v1/rejected?cursor=i1",
        "/v1/rejected?cursor=i%C2%B2.m1",
        "/v1/rejected?stage=stream",
        "/v1/rejected?since=now",
        "/v1/lake/files?startTime=x",
        "/v1/reconcile?endTime=x",
    ],
)
def test_a_listing_with_a_bad_parameter_is_an_invalid_query(client, path):
    assert problem(client.call("GET", path)) == (422, "invalid_query")


def test_odd_names_and_values_are_looked_for_and_not_found(client, world):
    world.send([event(T0, event_id="a", **{"it's": "a\\b"})])
    world.stream()
    for name in ("it's", 'a"b', "a%00b", "%F0%9F%98%80", "%FF", "$context.x'y", "a;b", "x" * 255):
        answer = client.call("GET", f"/v1/metrics/events?groupBy={name}&granularity=total")
        assert answer.status_code == 200, answer.text
    told = client.get("/v1/metrics/events", filter="it's:a\\\\b", granularity="total", **RANGE)
    assert told.json()["data"][0]["value"] == 1


def test_a_metric_is_answered_as_json_csv_and_arrow(client, world):
    import pyarrow as pa

    client.call("PUT", "/v1/metrics/revenue", json={"aggregate": "sum", "property": "amount"})
    world.send([event(T0, event_id="a", amount=1e-7, country="a,b"), event(T0, event_id="b", amount=10**15)])
    world.stream()
    asked = {"granularity": "total", "groupBy": "country", **RANGE}
    answer = client.get("/v1/metrics/revenue", **asked)
    assert answer.text.count('"value":0.0000001') == 1
    document = answer.json()
    assert [row["dimensions"] for row in document["data"]] == [{"country": "a,b"}, {"country": None}]
    assert set(document) == {"metric", "granularity", "timezone", "data", "meta"}
    assert set(document["meta"]) == {
        "from",
        "to",
        "completeUpTo",
        "lagMs",
        "stale",
        "parts",
        "notNumbers",
        "cache",
        "elapsedMs",
    }
    lines = client.get("/v1/metrics/revenue", format="csv", **asked).text.splitlines()
    assert lines == [
        "timestamp,country,value",
        f'{RANGE["startTime"]},"a,b",0.0000001',
        f"{RANGE['startTime']},,1000000000000000",
    ]
    table = pa.ipc.open_stream(client.get("/v1/metrics/revenue", format="arrow", **asked).content).read_all()
    assert table.column_names == ["timestamp", "country", "value"]
    assert table.num_rows == 2


def test_a_definition_is_new_then_the_same_then_changed(client):
    body = {"aggregate": "count", "eventType": "view", "filter": {"all": [{"property": "a", "op": "exists"}]}}
    assert [client.call("PUT", "/v1/metrics/m", json=body).status_code for _ in range(2)] == [201, 200]
    changed = client.call("PUT", "/v1/metrics/m", json={**body, "eventType": "buy"}).json()
    shown = client.get("/v1/metrics/m/definition").json()
    assert (shown, shown["version"]) == (changed, 2)
    assert shown["filter"] == body["filter"]
    assert [m["name"] for m in client.get("/v1/metrics").json()["data"]] == ["events", "daily_active_users", "m"]


def test_a_project_sees_itself_and_nothing_else(client, world):
    assert client.call("POST", "/v1/projects", json={"id": "other"}).status_code == 201
    made = {r: client.call("POST", "/v1/keys", json={"role": r, "project": "other"}).json() for r in ("read", "admin")}
    other = made["admin"]["secret"]
    client.call("PUT", "/v1/metrics/mine", json={"aggregate": "count"})
    world.send([event(T0, event_id="mine")])
    world.stream()
    world.archive()
    for path in ("/v1/events/mine", "/v1/events/mine/trace", "/v1/metrics/mine", "/v1/metrics/mine/definition"):
        assert client.get(path).status_code == 200
        assert problem(client.call("GET", path, key=other)) == (404, "not_found")
    asked = client.call("GET", "/v1/metrics/events?granularity=total", key=other)
    assert asked.json()["data"][0]["value"] == 0
    assert client.call("GET", "/v1/events", key=other).json()["data"] == []
    assert client.call("GET", "/v1/lake/files", key=other).json()["data"] == []
    assert client.call("POST", "/v1/query", key=other, json={"sql": "SELECT * FROM events"}).json()["rows"] == []
    assert {k["project"] for k in client.call("GET", "/v1/keys", key=other).json()["data"]} == {"other"}
    assert [p["id"] for p in client.call("GET", "/v1/projects", key=other).json()["data"]] == ["other"]
    mine = client.get("/v1/keys").json()["data"][0]["id"]
    assert problem(client.call("DELETE", f"/v1/keys/{mine}", key=other)) == (404, "not_found")
    assert problem(client.call("POST", "/v1/projects", key=other, json={"id": "third"})) == (403, "forbidden")
    assert problem(client.call("POST", "/v1/jobs", key=other, json={"kind": "batch"})) == (403, "forbidden")
    job = client.call("POST", "/v1/jobs", json={"kind": "backfill", "parameters": {"metric": "mine"}}).json()["id"]
    assert problem(client.call("GET", f"/v1/jobs/{job}", key=other)) == (404, "not_found")
    headers = {"X-Headwater-Project": "default"}
    assert problem(client.call("GET", "/v1/metrics", key=other, headers=headers)) == (404, "not_found")


def test_the_operator_may_speak_for_another_project(client):
    client.call("POST", "/v1/projects", json={"id": "other"})
    headers = {"X-Headwater-Project": "other"}
    assert client.call("PUT", "/v1/metrics/m", json={"aggregate": "count"}, headers=headers).status_code == 201
    assert client.get("/v1/metrics/m/definition").status_code == 404
    assert client.call("GET", "/v1/metrics/m/definition", headers=headers).status_code == 200


def test_a_key_shows_its_secret_once_and_ends_when_it_is_revoked(client):
    made = client.call("POST", "/v1/keys", json={"role": "read"})
    assert made.status_code == 201
    secret, key_id = made.json()["secret"], made.json()["id"]
    assert secret not in client.get("/v1/keys").text
    assert client.call("GET", "/v1/metrics", key=secret).status_code == 200
    assert client.call("GET", "/v1/metrics", None, headers={"X-API-Key": secret}).status_code == 200
    assert client.call("DELETE", f"/v1/keys/{key_id}").status_code == 204
    assert problem(client.call("GET", "/v1/metrics", key=secret)) == (401, "unauthorized")


def test_events_are_listed_newest_first_page_by_page_over_lake_and_tail(client, world):
    sent = [event(T0 - i * HOUR, "view", event_id=f"e{i}", user_id="ann" if i % 2 else "bob") for i in range(7)]
    world.send(sent[::2])
    world.stream()
    world.archive()
    world.send(sent[1::2])
    world.stream()
    seen, cursor = [], None
    while True:
        page = client.get("/v1/events", limit=2, **({"cursor": cursor} if cursor else {})).json()
        seen += [e["eventId"] for e in page["data"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == [f"e{i}" for i in range(7)]
    assert [e["eventId"] for e in client.get("/v1/events", userId="ann").json()["data"]] == ["e1", "e3", "e5"]
    part = client.get("/v1/events", startTime=rfc3339(T0 - 3 * HOUR), endTime=rfc3339(T0)).json()["data"]
    assert [e["eventId"] for e in part] == ["e1", "e2", "e3"]
    assert client.get("/v1/events", eventType="buy").json() == {"data": [], "next": None}


def test_an_event_is_shown_the_same_from_the_log_and_from_the_lake(client, world):
    properties = {"n": 1.0, "s": "1", "t": "true", "null": None, "deep": {"a": [1, {"b": "c"}]}, "empty": ""}
    odd = "a/b c?d#e%2F"
    world.send([event(T0, "view", event_id=odd, properties=properties, context={"ip": "10.0.0.1", "x": {"y": 2}})])
    world.stream()
    path = "/v1/events/a%2Fb%20c%3Fd%23e%252F"
    first = client.call("GET", path)
    assert first.status_code == 200, first.text
    assert first.json()["properties"] == properties
    traced = client.call("GET", path + "/trace").json()
    assert (traced["status"], traced["log"]["position"], traced["file"]) == ("in the log", 0, None)
    world.archive()
    assert client.call("GET", path).json() == first.json()
    traced = client.call("GET", path + "/trace").json()
    assert (traced["status"], traced["file"]["rowGroup"], traced["rollup"]) == ("stored", 0, None)
    world.clock.now += 2 * HOUR
    world.send([event(world.clock.now, event_id="later")])
    world.stream()
    world.archive()
    world.settle()
    assert client.call("GET", path + "/trace").json()["rollup"]["metrics"]


def test_rejected_input_of_both_stages_is_listed_newest_first(client, world):
    from headwater.model.rejection import Rejection

    for i in range(3):
        world.log.append(None, [Rejection("default", T0 + i, "ingest", "invalid_json", "no", b"{", None)])
    world.log.append(None, [Rejection("else", T0 + 9, "ingest", "invalid_json", "no", b"{", None)])
    world.send([event(T0, event_id="same", a=1)])
    world.send([event(T0, event_id="same", a=2)])
    world.stream()
    world.archive()
    everything = client.get("/v1/rejected").json()
    assert [r["reason"] for r in everything["data"]].count("conflict") == 1
    assert len(everything["data"]) == 4
    pages, cursor = [], ""
    while cursor is not None:
        page = client.get("/v1/rejected", limit=1, **({"cursor": cursor} if cursor else {})).json()
        pages += [r["id"] for r in page["data"]]
        cursor = page["next"]
    assert pages == [r["id"] for r in everything["data"]]
    one = client.get(f"/v1/rejected/{pages[0]}").json()
    assert one in everything["data"]
    assert [r["stage"] for r in client.get("/v1/rejected", stage="archive").json()["data"]] == ["archive"]
    assert client.get("/v1/rejected", reason="too_old").json()["data"] == []
    trace = client.get("/v1/events/same/trace").json()
    assert [r["reason"] for r in trace["rejected"]] == ["conflict"]


def test_status_shows_what_waits_before_each_stage(client, world):
    def stages():
        return {s["name"]: (s["position"], s["backlogEvents"]) for s in client.get("/v1/status").json()["stages"]}

    world.send([event(T0 - 5 * HOUR, event_id="a"), event(T0, event_id="b")])
    assert stages() == {"ingest": (2, 0), "stream": (0, 2), "archive": (0, 2), "batch": (0, 0)}
    world.stream()
    assert stages()["stream"] == (2, 0)
    world.archive()
    assert stages() == {"ingest": (2, 0), "stream": (2, 0), "archive": (2, 0), "batch": (2, 1)}
    world.settle()
    assert stages()["batch"] == (2, 0)
    document = client.get("/v1/status").json()
    assert set(document) == {"completeUpTo", "stages", "dedupe", "disk", "processes"}
    assert all(
        set(s) == {"name", "position", "backlogEvents", "backlogSeconds", "lastError"} for s in document["stages"]
    )


def test_audit_and_reconcile_find_nothing_wrong(client, world):
    client.call("PUT", "/v1/metrics/m", json={"aggregate": "sum", "property": "a", "dimensions": [["c"]]})
    world.stream()
    world.send([event(T0 - i * HOUR, event_id=f"e{i}", a=i, c="x") for i in range(4)])
    world.stream()
    world.archive()
    world.settle()
    world.send([event(T0 - 2 * HOUR, event_id="late", a=1)])
    world.stream()
    report = client.get("/v1/audit").json()
    assert report["ok"], report
    found = client.get("/v1/reconcile").json()
    assert found["ok"], found
    assert found["checked"]


def test_prometheus_metrics_are_shown(client):
    client.get("/v1/metrics/events")
    assert "headwater_query_seconds" in client.get("/metrics").text
