"""What a newcomer sees: the pasted line, the live answer, the lake, the status, the stop."""

import json
import subprocess
from datetime import UTC, datetime

import pytest

from tests.system.running import count_of, eventually, running

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    with running(tmp_path_factory.mktemp("first") / "data") as system:
        yield system


def test_the_printed_curl_line_is_accepted_and_counted_at_once(system):
    before = count_of(system)
    pasted = subprocess.run(
        ["bash", "-c", system.curl + ' -s -o /dev/null -w "%{http_code}"'], capture_output=True, text=True
    )
    assert pasted.stdout.strip().endswith("202"), pasted
    eventually(lambda: count_of(system) == before + 1, 5, "the event in the live answer")


def test_an_event_is_in_the_lake_within_a_minute_and_can_be_looked_up(system):
    event = {
        "eventId": "look-me-up",
        "eventType": "view",
        "properties": {"a": 1.0, "b": None, "c": "1"},
        "context": {"ip": "10.0.0.1", "screen": {"w": 3}},
    }
    sent = system.client.post("/v1/events", json=event, headers=system.headers("write"))
    assert (sent.status_code, sent.json()) == (202, {"status": "accepted", "eventId": "look-me-up"})
    found = eventually(
        lambda: (r := system.get("/v1/events/look-me-up")).status_code == 200 and r.json(), 5, "the event"
    )
    assert found["properties"] == event["properties"]
    assert found["context"] == event["context"]
    sql = {"sql": "SELECT count(*) FROM events WHERE event_id = 'look-me-up'"}
    eventually(
        lambda: system.client.post("/v1/query", json=sql, headers=system.headers("read")).json()["rows"] == [[1]]
        or system.client.post("/v1/query", json=sql, headers=system.headers("read")).json()["rows"] == [["1"]],
        75, "the event in the lake",
    )  # fmt: skip
    again = system.get("/v1/events/look-me-up").json()
    assert again["properties"] == event["properties"]
    assert again["context"] == event["context"]
    trace = system.get("/v1/events/look-me-up/trace")
    assert trace.status_code == 200, trace.text


def test_status_shows_the_stages_and_that_nothing_waits(system):
    def status():
        return json.loads(system.command("status", "--json").stdout)

    seen = eventually(
        lambda: (s := status()) and all(x["backlogEvents"] == 0 for x in s["stages"]) and s, 75, "no backlog"
    )
    assert {p["name"] for p in seen["processes"]} >= {"ingest", "work", "query"}
    assert seen["completeUpTo"]


def test_a_new_key_works_when_it_is_printed_and_not_after_it_is_revoked(system):
    made = system.command("keys", "create", "--role", "write")
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    event = {"eventType": "view", "timestamp": datetime.now(UTC).isoformat()}
    headers = {"X-API-Key": secret}
    assert system.client.post("/v1/events", json=event, headers=headers).status_code == 202
    listed = system.get("/v1/keys").json()
    keys = listed["data"] if isinstance(listed, dict) else listed
    newest = max(keys, key=lambda k: k["createdAt"])
    assert secret not in json.dumps(keys)
    assert system.command("keys", "revoke", newest["id"]).returncode == 0
    assert system.client.post("/v1/events", json=event, headers=headers).status_code == 401


def test_a_write_key_asks_nothing_and_a_read_key_sends_nothing(system):
    assert system.get("/v1/metrics/events", "write").status_code == 403
    refused = system.client.post("/v1/events", json={"eventType": "x"}, headers=system.headers("read"))
    assert (refused.status_code, refused.json()["reason"]) == (403, "forbidden")
    assert system.client.get("/v1/metrics").status_code == 401


def test_no_connection_is_refused_while_ingest_restarts(system):
    import threading

    results: list[object] = []
    stop = threading.Event()

    def knock() -> None:
        import socket

        host, port = system.url.removeprefix("http://").split(":")
        while not stop.is_set():
            try:
                socket.create_connection((host, int(port)), timeout=10).close()
                results.append(True)
            except ConnectionRefusedError as error:
                results.append(error)
            stop.wait(0.005)

    thread = threading.Thread(target=knock)
    thread.start()
    system.kill("ingest")
    eventually(lambda: system.client.get("/healthz").status_code == 200, 30, "ingest again")
    stop.set()
    thread.join()
    assert results
    assert all(r is True for r in results)


def test_sigterm_stops_everything_with_exit_code_zero_and_the_data_is_there_after_a_start(tmp_path):
    data = tmp_path / "data"
    with running(data) as first:
        events = [{"eventId": f"s{i}", "eventType": "view"} for i in range(500)]
        assert (
            first.client.post("/v1/events/batch", json=events, headers=first.headers("write")).json()["accepted"] == 500
        )
        assert first.stop() == 0
    with running(data) as second:
        eventually(lambda: count_of(second) == 500, 30, "the events of before")
        assert second.client.post("/v1/events/batch", json=events, headers=second.headers("write")).status_code == 202
        audit = eventually(
            lambda: (a := json.loads(second.command("audit", "--json").stdout))["ok"]
            and sum(p["copies"] for p in a["projects"]) == 500
            and a,
            90, "the copies in the audit",
        )  # fmt: skip
        assert sum(p["stored"] for p in audit["projects"]) == 500
        assert count_of(second) == 500


def test_a_second_system_over_the_same_folder_is_refused(system):
    second = system.command("up", "--port", "0")
    assert second.returncode == 3
    assert "another" in second.stderr.lower() or "already" in second.stderr.lower()
