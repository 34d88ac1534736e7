"""A process is killed at each named step of each commit protocol: after its restart everything counts once."""

import json

import pytest

from tests.system.running import count_of, eventually, running

pytestmark = pytest.mark.timeout(180)
STREAM = ("stream.3.transaction", "stream.4.settle")
ARCHIVE = ("archive.1.group", "archive.2.write", "archive.3.commit", "archive.4.current")
ROLLUP = ("rollup.1.count", "rollup.2.store", "rollup.3.transaction", "rollup.4.retire")
EVENTS = [
    {
        "eventId": f"e{i}",
        "eventType": "view",
        "userId": f"u{i % 40}",
        "timestamp": f"2020-02-0{1 + i % 3}T10:00:00Z",
        "properties": {"country": ("US", "DE")[i % 2]},
    }
    for i in range(300)
]
TOTAL = {"startTime": "2020-02-01", "endTime": "2020-02-03", "granularity": "total"}


def total(system) -> int:
    answer = system.get("/v1/metrics/events", **TOTAL)
    return answer.json()["data"][0]["value"] if answer.status_code == 200 else -1


def found(system, *command: str) -> dict:
    result = system.command(*command, "--json")
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return json.loads(result.stdout)


def send(system) -> None:
    answer = system.client.post("/v1/events/batch", json=EVENTS, headers=system.headers("write"))
    assert answer.json() == {"accepted": len(EVENTS), "rejected": []}


def check(system) -> None:
    """All that was sent is in the answer and in the books, once; a copy of it changes nothing. Stops the system."""
    eventually(lambda: total(system) == len(EVENTS), 60, "every event in the answer")
    send(system)
    assert system.stop() == 0  # which archives the copies
    rows = found(system, "audit")["projects"]
    counts = [sum(row[kind] for row in rows) for kind in ("accepted", "stored", "copies", "inFlight")]
    assert counts == [2 * len(EVENTS), len(EVENTS), len(EVENTS), 0]
    assert found(system, "reconcile")["ok"]
    asked = ("ask", "events", "--from", TOTAL["startTime"], "--to", TOTAL["endTime"], "--every", "total")
    assert found(system, *asked)["data"][0]["value"] == len(EVENTS)


@pytest.mark.parametrize("step", STREAM)
def test_a_stop_at_a_step_of_the_stream_changes_no_answer(step, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_STOP_AT", step)
    with running(tmp_path / "data", testing=True) as system:
        send(system)
        eventually((tmp_path / "data" / "stopped-at").exists, 30, f"the stop at {step}")
        check(system)


@pytest.mark.parametrize("step", ARCHIVE)
def test_a_stop_at_a_step_of_the_archive_changes_no_answer(step, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_STOP_AT", step)
    with running(tmp_path / "data", testing=True) as system:
        send(system)
        eventually(lambda: total(system) == len(EVENTS), 30, "the events in the live answer")
        assert system.stop() == 0  # the tail is archived on the way out, as far as the step
    assert (tmp_path / "data" / "stopped-at").read_text() == step
    with running(tmp_path / "data", testing=True) as system:
        check(system)


@pytest.mark.parametrize("step", ROLLUP)
def test_a_stop_at_a_step_of_a_rollup_changes_no_answer(step, tmp_path, monkeypatch):
    with running(tmp_path / "data") as system:
        send(system)
        eventually(lambda: total(system) == len(EVENTS), 30, "the events in the live answer")
    monkeypatch.setenv("HEADWATER_STOP_AT", step)
    with running(tmp_path / "data", testing=True) as system:
        assert system.command("run", "batch", "--once").returncode == 0
        assert (tmp_path / "data" / "stopped-at").read_text() == step
        check(system)


def test_without_testing_no_step_stops_a_process(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_STOP_AT", STREAM[0])
    with running(tmp_path / "data") as system:
        before = count_of(system)
        send(system)
        eventually(lambda: total(system) == len(EVENTS), 30, "the events in the live answer")
        assert count_of(system) == before
        assert all(process["restarts"] == 0 for process in system.state()["processes"])
    assert not (tmp_path / "data" / "stopped-at").exists()
