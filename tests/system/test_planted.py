"""The checkers find what was planted: a lost event, a doubled one, and one that moved to another minute."""

import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.system.running import eventually, running

pytestmark = pytest.mark.timeout(240)
MINUTE = 60_000_000


@pytest.fixture
def archived(tmp_path):
    """A stopped system whose lake holds 300 events of one old hour, rolled up."""
    data = tmp_path / "data"
    events = [
        {"eventId": f"p{i}", "eventType": "view", "userId": f"u{i % 7}", "timestamp": f"2024-03-01T10:{i % 60:02d}:30Z"}
        for i in range(300)
    ]
    with running(data) as system:
        answer = system.client.post("/v1/events/batch", json=events, headers=system.headers("write"))
        assert answer.json()["accepted"] == 300

        def settled():
            status = system.get("/v1/status").json()
            return all(stage["backlogEvents"] == 0 for stage in status["stages"])

        eventually(settled, 90, "settled rollups")
    return system


def the_file(system):
    listed = system.command("lake", "files")
    assert listed.returncode == 0, listed.stderr
    (path,) = listed.stdout.split()
    return path


def change(path, changed):
    """Rewrites a lake file with its rows changed."""
    table = changed(pq.read_table(path))
    pq.write_table(table, path)


def report(system, command):
    found = system.command(command, "--json")
    return found.returncode, json.loads(found.stdout)


def test_an_untouched_lake_has_nothing_to_find(archived):
    assert report(archived, "audit")[0] == 0
    code, found = report(archived, "reconcile")
    assert code == 0
    assert found["checked"] > 0


def test_a_lost_event_is_missing_in_the_audit(archived):
    change(the_file(archived), lambda table: table.slice(1))
    code, found = report(archived, "audit")
    assert code == 1
    assert not found["ok"]
    assert sum(row["missing"] for row in found["projects"]) == 1
    assert report(archived, "reconcile")[0] == 1


def test_a_doubled_event_is_extra_in_the_audit(archived):
    change(the_file(archived), lambda table: pa.concat_tables([table, table.slice(5, 1)]))
    code, found = report(archived, "audit")
    assert code == 1
    assert sum(row["extra"] for row in found["projects"]) == 1
    assert report(archived, "reconcile")[0] == 1


def test_a_loss_and_a_double_do_not_cancel(archived):
    change(the_file(archived), lambda table: pa.concat_tables([table.slice(1), table.slice(5, 1)]))
    code, found = report(archived, "audit")
    assert code == 1
    assert sum(row["missing"] for row in found["projects"]) == 1
    assert sum(row["extra"] for row in found["projects"]) == 1


def test_an_event_that_moved_to_another_quarter_differs_in_reconcile(archived):
    def shifted(table):
        times = table.column("timestamp").cast(pa.int64())
        moved = pc.if_else(pc.equal(pc.index_in(table.column("event_id"), pa.array(["p3"])), 0), 20 * MINUTE, 0)
        moved = pc.fill_null(moved, 0)
        column = pc.add(times, moved).cast(table.schema.field("timestamp").type)
        return table.set_column(table.schema.get_field_index("timestamp"), "timestamp", column)

    change(the_file(archived), shifted)
    assert report(archived, "audit")[0] == 0
    code, found = report(archived, "reconcile")
    assert code == 1
    assert found["differences"]
