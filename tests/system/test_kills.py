"""Every process is killed again and again in the middle of a load: nothing is lost, nothing is counted twice."""

import json
import os
import random
import threading
from decimal import Decimal

import pytest

from tests.system.running import Load, System, count_of, eventually, running

SEED = int(os.environ.get("HEADWATER_SEED", "20150517"))
KILLS = int(os.environ.get("HEADWATER_KILLS", "60"))


def report(system: System, command: str) -> dict:
    result = system.command(command, "--json")
    assert result.returncode == 0, f"{command} found a difference: {result.stdout}\n{result.stderr}"
    return json.loads(result.stdout)


@pytest.mark.timeout(600)
def test_nothing_is_lost_or_doubled_when_each_process_is_killed_twenty_times(tmp_path):
    print(f"HEADWATER_SEED={SEED}")
    chance = random.Random(SEED)
    pause = threading.Event()
    with running(tmp_path / "data") as system:
        definition = {"aggregate": "sum", "property": "amount", "dimensions": [["country"]]}
        answer = system.client.put("/v1/metrics/revenue", json=definition, headers=system.headers("admin"))
        assert answer.status_code == 201, answer.text
        with Load(system, SEED) as load:
            for i in range(KILLS):
                pause.wait(chance.uniform(0.1, 1.0))
                system.kill(("ingest", "work", "query")[i % 3])
            eventually(lambda: load.requests > 20, 60, "an acknowledged load")
        assert len(load.acknowledged) > 1000
        asked_again = {k: v for k, v in load.unknown.items() if k not in load.acknowledged}

        def complete() -> bool:
            return len(load.acknowledged) <= count_of(system) <= len(load.acknowledged) + len(asked_again)

        eventually(complete, 60, "every acknowledged event in the answer")
        rows = eventually(lambda: archived(system), 120, "every event in the lake")
        stored = [row[0] for row in rows]
        assert len(stored) == len(set(stored)), "an event lies twice in the lake"
        assert set(load.acknowledged) <= set(stored), "an acknowledged event is not in the lake"
        assert set(stored) <= set(load.acknowledged) | set(load.unknown), "an event that nobody sent"
        assert count_of(system) == len(stored)
        everything = load.acknowledged | asked_again
        expected = sum((Decimal(str(everything[e]["properties"]["amount"])) for e in stored), Decimal(0))
        assert Decimal(str(count_of(system, "revenue"))) == expected
        audit = report(system, "audit")
        assert audit["ok"]
        assert sum(h["stored"] for h in audit["projects"]) == len(stored)
        assert report(system, "reconcile")["ok"]


def archived(system: System) -> list | None:
    """All event ids of the lake once nothing is in flight any more."""
    audit = json.loads(system.command("audit", "--json").stdout)
    if any(hour["inFlight"] for hour in audit["projects"]):
        return None
    rows: list = []
    while True:
        sql = f"SELECT event_id FROM events ORDER BY event_id LIMIT 10000 OFFSET {len(rows)}"
        answer = system.client.post("/v1/query", json={"sql": sql}, headers=system.headers("read"))
        assert answer.status_code == 200, answer.text
        page = answer.json()["rows"]
        rows += page
        if len(page) < 10000:
            return rows
