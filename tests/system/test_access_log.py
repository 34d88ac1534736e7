"""The facts of the real access log, counted with awk, come out of every question; loading twice changes none."""

import subprocess
from importlib.resources import files

import pytest

from tests.system.running import HEADWATER, eventually, running

pytestmark = pytest.mark.timeout(300)
RANGE = {"startTime": "2015-05-17", "endTime": "2015-05-20", "granularity": "day"}


def load(system) -> subprocess.CompletedProcess:
    log = str(files("headwater") / "data" / "apache_access.log.gz")
    return subprocess.run(
        [*HEADWATER, "import", log, "--format", "combined", "--data", str(system.data)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    with running(tmp_path_factory.mktemp("log") / "data") as system:
        result = load(system)
        assert result.returncode == 0, result.stderr
        yield system


def values(system, metric="events", **more):
    answer = system.get(f"/v1/metrics/{metric}", "read", **(RANGE | more))
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def sql(system, text):
    answer = system.client.post("/v1/query", json={"sql": text}, headers=system.headers("read"))
    assert answer.status_code == 200, answer.text
    return [[int(v) if str(v).isdigit() else v for v in row] for row in answer.json()["rows"]]


def facts_by_metrics(system):
    assert [row["value"] for row in values(system)] == [1632, 2893, 2896, 2579]
    assert values(system, granularity="total")[0]["value"] == 10_000
    by_status = {r["dimensions"]["status"]: r["value"] for r in values(system, groupBy="status", granularity="total")}
    assert {k: by_status[k] for k in ("200", "304", "404", "301", "206")} == {
        "200": 9126, "304": 445, "404": 213, "301": 164, "206": 45,
    }  # fmt: skip
    by_method = {r["dimensions"]["method"]: r["value"] for r in values(system, groupBy="method", granularity="total")}
    assert by_method == {"GET": 9952, "HEAD": 42, "POST": 5, "OPTIONS": 1}
    assert values(system, filter="path:/favicon.ico", granularity="total")[0]["value"] == 807
    people = [row["value"] for row in values(system, "daily_active_users")]
    for estimate, exact in zip(people, [341, 627, 561, 505], strict=True):
        assert abs(estimate - exact) <= 0.04 * exact  # two and a half standard errors of lg_k 12


def test_the_facts_come_out_of_the_tail_and_loading_again_changes_no_number(system):
    eventually(lambda: values(system, granularity="total")[0]["value"] == 10_000, 20, "all lines")
    facts_by_metrics(system)
    assert load(system).returncode == 0
    facts_by_metrics(system)


def test_the_facts_come_out_of_the_lake_and_of_sql(system):
    eventually(lambda: sql(system, "SELECT count(*) FROM events") == [[10_000]], 90, "all lines in the lake")
    facts_by_metrics(system)
    favicons = "count(*) FILTER (WHERE properties['path'] = '/favicon.ico')"
    totals = f"SELECT count(*), count(DISTINCT user_id), {favicons} FROM events"
    assert sql(system, totals) == [[10_000, 1753, 807]]
    day = "epoch_us(timestamp) // 86400000000"
    days = f"SELECT count(*), count(DISTINCT user_id) FROM events GROUP BY {day} ORDER BY {day}"
    assert sql(system, days) == [[1632, 341], [2893, 627], [2896, 561], [2579, 505]]


def test_the_facts_come_out_of_the_rollups_once_they_are_settled(system):
    def settled():
        answer = system.get("/v1/metrics/events", "read", **RANGE).json()
        return {part["store"] for part in answer["meta"]["parts"]} == {"settled"}

    eventually(settled, 120, "settled hours")
    facts_by_metrics(system)
    report = system.command("reconcile", "--from", "2015-05-17", "--to", "2015-05-20", "--json")
    assert report.returncode == 0, report.stdout
    assert system.command("audit").returncode == 0


def test_the_days_of_another_zone_add_up_to_the_same_log(system):
    for zone in ("Asia/Kathmandu", "America/New_York", "Australia/Lord_Howe"):
        rows = values(system, timezone=zone, startTime="2015-05-16", endTime="2015-05-22")
        assert sum(row["value"] for row in rows) == 10_000


def test_the_lake_is_open_to_plain_tools(system):
    import duckdb

    listed = system.command("lake", "files")
    assert listed.returncode == 0
    paths = listed.stdout.split()
    assert duckdb.sql(f"SELECT count(*), count(DISTINCT user_id) FROM read_parquet({paths!r})").fetchall() == [
        (10_000, 1753)
    ]
