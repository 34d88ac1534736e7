"""SQL sees the project's own lake, changes nothing, and cannot take the process with it."""

import threading

import pytest

from headwater.clock import DAY, HOUR
from headwater.query.sql import Worker
from tests.query.test_http import problem
from tests.query.world import T0
from tests.warehouse.brute import event


@pytest.fixture
def filled(world):
    world.define("revenue", aggregate="sum", property="amount", dimensions=[["country"]])
    world.send(
        [event(T0 - i * HOUR, "buy", event_id=f"e{i}", user_id="ann", amount=i + 0.5, country="US") for i in range(5)]
    )
    world.stream()
    world.archive()
    world.clock.now += DAY
    world.settle()
    return world


def rows(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["rows"]


def test_a_project_without_events_has_empty_tables(client):
    assert rows(client.sql("SELECT count(*) FROM events")) == [[0]]
    assert rows(client.sql("SELECT * FROM metric_aggregates")) == []


def test_events_and_rollups_can_be_asked(client, filled):
    sums = "SELECT event_type, count(*), sum(properties['amount']::DECIMAL(9,2)) FROM events GROUP BY ALL"
    assert rows(client.sql(sums)) == [["buy", 5, "12.50"]]
    days = "SELECT date_trunc('day', timestamp), count(*) FROM events GROUP BY 1"
    assert rows(client.sql(days)) == [["2024-01-15T00:00:00Z", 5]]
    rolled = (
        "SELECT sum(value) FROM metric_aggregates"
        " WHERE metric_name = 'revenue' AND dimensions = '{}' AND time_granularity = 'hour'"
    )
    assert float(rows(client.sql(rolled))[0][0]) == pytest.approx(12, abs=0.5)
    names = [c["name"] for c in client.sql("SELECT * FROM events LIMIT 0").json()["columns"]]
    assert "log_position" not in names
    assert {"event_id", "properties", "context", "timestamp"} <= set(names)


def test_values_are_shown_without_loss(client):
    answer = client.sql(
        "SELECT 9007199254740992::BIGINT, 9007199254740993::BIGINT, 1.50::DECIMAL(9,2), 7::HUGEINT,"
        " 1.5::DOUBLE, 'nan'::DOUBLE,"
        " TIMESTAMPTZ '2024-01-15 10:00:00.5+00', DATE '2024-01-15', map{'a': 1}, {'b': [1, NULL]}, 'x'::BLOB,"
        " NULL, true,"
        " INTERVAL '1 month 2 days'"
    )
    assert rows(answer) == [
        [
            9007199254740992,
            "9007199254740993",
            "1.50",
            7,
            1.5,
            "nan",
            "2024-01-15T10:00:00.500Z",
            "2024-01-15",
            {"a": 1},
            {"b": [1, None]},
            "eA==",
            None,
            True,
            "P1M2DT0S",
        ]
    ]


def test_parameters_are_bound_by_place_and_by_name(client):
    assert rows(client.sql("SELECT ? || 'b'", parameters=["'a"])) == [["'ab"]]
    assert rows(client.sql("SELECT $x + 1", parameters={"x": 1})) == [[2]]
    assert problem(client.sql("SELECT ?")) == (422, "invalid_query")


def test_rows_are_capped_and_said_to_be(client):
    answer = client.sql("FROM range(100000000000)").json()
    assert (len(answer["rows"]), answer["meta"]["truncated"]) == (10_000, True)
    answer = client.sql("FROM range(3)", limit=3).json()
    assert (len(answer["rows"]), answer["meta"]["truncated"]) == (3, False)
    assert client.sql("SELECT 1 AS a, 'x,y' AS b", format="csv").text == 'a,b\r\n1,"x,y"\r\n'


@pytest.mark.parametrize(
    "text",
    [
        "SELEC",
        "",
        ";",
        "SELECT 1; SELECT 2",
        "COPY (SELECT 1) TO '/x.csv'",
        "ATTACH 'x.db'",
        "SET threads = 1",
        "PRAGMA version",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CREATE TABLE t (a INT)",
        "DROP VIEW events",
        "INSERT INTO events VALUES (1)",
        "CALL pragma_version()",
        "EXPLAIN SELECT 1",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/proc/self/environ')",
        "SELECT * FROM glob('/**')",
        "SELECT * FROM read_parquet('https://example.com/x.parquet')",
        "SELECT getenv('HOME')",
        "SELECT * FROM job",
        "SELECT error('x')",
        "SELECT 1/0::INT + 'a'::INT",
    ],
)
def test_what_is_not_one_select_over_the_two_tables_is_an_invalid_query(client, text):
    assert problem(client.sql(text)) == (422, "invalid_query")


def test_the_files_of_another_project_are_out_of_reach(client, filled):
    path = client.get("/v1/lake/files").json()["data"][0]["path"]
    assert rows(client.sql(f"SELECT count(*) > 0 FROM read_parquet('{path}')")) == [[True]]
    client.call("POST", "/v1/projects", json={"id": "other"})
    other = client.call("POST", "/v1/keys", json={"role": "read", "project": "other"}).json()["secret"]
    answer = client.call("POST", "/v1/query", key=other, json={"sql": f"SELECT * FROM read_parquet('{path}')"})
    assert problem(answer) == (422, "invalid_query")


def test_a_statement_that_does_not_end_is_ended(client, world):
    world.services.sql_seconds = 0.5
    assert problem(client.sql("SELECT count(*) FROM range(1000000) a, range(1000000) b")) == (503, "query_timeout")
    assert problem(client.sql("SELECT length(repeat('x', 300000000) || i) FROM range(90) t(i)"))[1] in (
        "query_timeout",
        "invalid_query",
    )
    assert rows(client.sql("SELECT 1")) == [[1]]


@pytest.mark.parametrize("text", ["SELECT repeat('x', 3000000000)", "SELECT list(i) FROM range(900000000) t(i)"])
def test_a_statement_that_wants_too_much_memory_is_refused(client, text):
    assert problem(client.sql(text)) == (422, "invalid_query")
    assert rows(client.sql("SELECT 1")) == [[1]]


def test_a_worker_sees_nothing_of_our_environment(monkeypatch):
    monkeypatch.setenv("HEADWATER_SECRET", "x")
    worker = Worker()
    try:
        environment = open(f"/proc/{worker._process.pid}/environ").read()  # noqa: SIM115
    finally:
        worker.kill()
    assert "SECRET" not in environment


def test_at_most_two_statements_of_a_project_run_at_a_time(client, world):
    from headwater.errors import Refused
    from headwater.query.reading import Readings
    from headwater.query.sql import SqlDesk, Statement

    world.services.sql_seconds = 1.0
    desk = SqlDesk(world.services, Readings(world.services))
    project = world.control.project("default")
    outcomes = []

    def run():
        try:
            desk.run(project, Statement("SELECT count(*) FROM range(1000000) a, range(1000000) b"))
        except Refused as refused:
            outcomes.append(refused.reason)

    threads = [threading.Thread(target=run) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    desk.close()
    assert sorted(outcomes) == ["overloaded"] * 3 + ["query_timeout"] * 2
