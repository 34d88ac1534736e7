"""A process is killed at each named step of each commit protocol: after its restart everything counts once."""

import json

import pytest

from tests.system.running import eventually, running

pytestmark = pytest.mark.timeout(240)
STREAM = ("stream.3.transaction", "stream.4.settle")
ARCHIVE = ("archive.1.group", "archive.2.write", "archive.3.commit", "archive.4.current")
ROLLUP = ("rollup.1.count", "rollup.2.store", "rollup.3.transaction", "rollup.4.retire")
EVENTS = 300
RANGE = {"startTime": "2020-02-01", "endTime": "2020-02-03", "granularity": "total"}


def events(name: str) -> list[dict]:
    return [
        {
            "eventId": f"{name}-{i}",
            "eventType": "view",
            "userId": f"u{i % 40}",
            "timestamp": f"2020-02-0{1 + i % 3}T10:00:00Z",
            "properties": {"country": ("US", "DE")[i % 2]},
        }
        for i in range(EVENTS)
    ]


def total(system) -> int:
    answer = system.get("/v1/metrics/events", **RANGE)
    return answer.json()["data"][0]["value"] if answer.status_code == 200 else -1


def send(system, name: str) -> None:
    answer = system.client.post("/v1/events/batch", json=events(name), headers=system.headers("write"))
    assert answer.json() == {"accepted": EVENTS, "rejected": []}


def counted(system, batches: int) -> None:
    eventually(lambda: total(system) == batches * EVENTS, 60, f"{batches * EVENTS} events in the answer")


def check(data, steps: tuple[str, ...]) -> None:
    """All that was sent is in the answer and in the books, once; copies of it change nothing."""
    with running(data) as system:
        counted(system, len(steps))
        for step in steps:
            send(system, step)
        assert system.stop() == 0  # which archives the copies

        def found(*command: str) -> dict:
            result = system.command(*command, "--json")
            assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
            return json.loads(result.stdout)

        rows, sent = found("audit")["projects"], len(steps) * EVENTS
        counts = [sum(row[kind] for row in rows) for kind in ("accepted", "stored", "copies", "inFlight")]
        assert counts == [2 * sent, sent, sent, 0]
        assert found("reconcile")["ok"]
        asked = ("ask", "events", "--from", RANGE["startTime"], "--to", RANGE["endTime"], "--every", "total")
        assert found(*asked)["data"][0]["value"] == sent


def stopped_at(data, step: str) -> None:
    """The process was really killed there; the mark is taken away for the next step."""
    mark = data / "stopped-at"
    eventually(mark.exists, 30, f"the stop at {step}")
    assert mark.read_text() == step
    mark.unlink()


def test_stops_at_the_steps_of_the_stream_change_no_answer(tmp_path, monkeypatch):
    for sent, step in enumerate(STREAM, 1):
        monkeypatch.setenv("HEADWATER_STOP_AT", step)
        with running(tmp_path / "data", testing=True) as system:
            send(system, step)
            counted(system, sent)
            assert system.stop() == 0
        stopped_at(tmp_path / "data", step)
    check(tmp_path / "data", STREAM)


def test_stops_at_the_steps_of_the_archive_change_no_answer(tmp_path, monkeypatch):
    for sent, step in enumerate(ARCHIVE, 1):
        monkeypatch.setenv("HEADWATER_STOP_AT", step)
        with running(tmp_path / "data", testing=True) as system:
            send(system, step)
            counted(system, sent)
            assert system.stop() == 0  # the tail is archived on the way out, as far as the step
        stopped_at(tmp_path / "data", step)
    check(tmp_path / "data", ARCHIVE)


def test_stops_at_the_steps_of_a_rollup_change_no_answer(tmp_path, monkeypatch):
    for sent, step in enumerate(ROLLUP, 1):
        monkeypatch.delenv("HEADWATER_STOP_AT", raising=False)
        with running(tmp_path / "data") as system:
            send(system, step)
            counted(system, sent)
        monkeypatch.setenv("HEADWATER_STOP_AT", step)
        with running(tmp_path / "data", testing=True) as system:
            assert system.command("run", "batch", "--once").returncode == 0
            counted(system, sent)
        stopped_at(tmp_path / "data", step)
    check(tmp_path / "data", ROLLUP)


def test_without_testing_no_step_stops_a_process(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_STOP_AT", STREAM[0])
    with running(tmp_path / "data") as system:
        send(system, "unharmed")
        counted(system, 1)
        assert all(process["restarts"] == 0 for process in system.state()["processes"])
    assert not (tmp_path / "data" / "stopped-at").exists()
