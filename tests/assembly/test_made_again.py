"""What can be made again from log and lake is made again when it is lost: panes, the index of copies, run files."""

import json
import shutil

import pytest

from tests.system.running import eventually, running

pytestmark = pytest.mark.timeout(120)
EVENTS = [{"eventId": f"e{i}", "eventType": "view", "userId": f"u{i % 7}"} for i in range(200)]


def total(system) -> int:
    answer = system.get("/v1/metrics/events", granularity="total")
    return answer.json()["data"][0]["value"] if answer.status_code == 200 else -1


def send(system, events=EVENTS) -> None:
    answer = system.client.post("/v1/events/batch", json=events, headers=system.headers("write"))
    assert answer.json() == {"accepted": len(events), "rejected": []}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder whose 200 events are archived, with nothing running over it."""
    data = tmp_path_factory.mktemp("whole") / "data"
    with running(data) as system:
        send(system)
        eventually(lambda: total(system) == len(EVENTS), 30, "the events in the live answer")
        assert system.stop() == 0
    return data


@pytest.mark.parametrize("lost", ["panes", "copies", "run", "all of them"])
def test_a_lost_part_is_made_again_and_every_event_counts_once(stopped, tmp_path, lost):
    data = shutil.copytree(stopped, tmp_path / "data")
    if lost in ("panes", "all of them"):
        for file in data.glob("panes.db*"):
            file.unlink()
    if lost in ("copies", "all of them"):
        shutil.rmtree(data / "state" / "copies")
    if lost in ("run", "all of them"):
        shutil.rmtree(data / "run")
    with running(data) as system:
        assert total(system) == len(EVENTS)
        send(system)  # copies of what lies in the lake
        send(system, [{"eventId": "new", "eventType": "view"}])
        eventually(lambda: total(system) == len(EVENTS) + 1, 30, "the new event, and no copy")
        assert system.stop() == 0
        audit = system.command("audit", "--json")
        assert audit.returncode == 0, audit.stdout
        rows = json.loads(audit.stdout)["projects"]
        counts = {kind: sum(row[kind] for row in rows) for kind in ("accepted", "stored", "copies", "inFlight")}
        assert counts == {"accepted": 401, "stored": 201, "copies": 200, "inFlight": 0}
        reconciled = system.command("reconcile", "--json")
        assert reconciled.returncode == 0, reconciled.stdout
