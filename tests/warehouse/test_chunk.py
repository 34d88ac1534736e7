"""Chunks give back the states that were written, from one file and from many."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from headwater.clock import HOUR, MINUTE
from headwater.model import sketch
from headwater.model.aggregate import State
from headwater.warehouse.chunk import SCHEMA, Cell, merge_cells, read_chunk, read_states, with_hours, write_chunk
from tests.warehouse.brute import metric

T0 = 1_705_312_800_000_000
QUARTER = 15 * MINUTE
SAMPLE = Path(__file__).parent.parent / "formats" / "v1" / "chunk.parquet"
REVENUE = metric("revenue", aggregate="sum", property="amount", dimensions=[["country", "device"]])
PEOPLE = metric("people", aggregate="unique")
PLACE = ("country", "device")


def cells() -> dict[Cell, State]:
    amount = Decimal("12345678901234567890.123456789")
    return with_hours(
        {
            Cell(REVENUE.key, "15m", (), T0, ()): State(count=3, numbers=2, not_numbers=1, sum=amount),
            Cell(REVENUE.key, "15m", (), T0 + QUARTER, ()): State(count=1, numbers=1, sum=Decimal("-0.000000001")),
            Cell(REVENUE.key, "15m", PLACE, T0, ("DE", None)): State(count=2, numbers=1, sum=Decimal("1.005")),
            Cell(REVENUE.key, "15m", PLACE, T0, ("q\"'é\u2028", "")): State(count=1),
            Cell(PEOPLE.key, "15m", (), T0, ()): State(count=5, sketch=sketch.sketch_of(["a", "b"])),
            Cell(PEOPLE.key, "15m", (), T0 + QUARTER, ()): State(count=5, sketch=sketch.sketch_of(["b", "c"])),
        }
    )


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def written(folder: Path, name: str = "a.parquet") -> str:
    (folder / name).write_bytes(write_chunk(cells(), [REVENUE, PEOPLE], revision=7, now_us=T0 + HOUR))
    return str(folder / name)


def test_states_come_back_exactly(tmp_path: Path, con: duckdb.DuckDBPyConnection) -> None:
    path = written(tmp_path)
    for granularity, end in (("15m", T0 + QUARTER), ("15m", T0 + HOUR), ("hour", T0 + HOUR)):
        for of, dimensions in ((REVENUE, ()), (REVENUE, PLACE), (PEOPLE, ())):
            expected = {
                (c.bucket, c.values): state
                for c, state in cells().items()
                if (c.metric_key, c.granularity, c.dimensions) == (of.key, granularity, dimensions) and c.bucket < end
            }
            found = read_states(con, path, of.key, granularity, dimensions, T0, end)
            assert {(s.bucket, s.values): s.state for s in found} == expected


def test_hours_are_the_merge_of_their_quarters() -> None:
    hour = cells()[Cell(PEOPLE.key, "hour", (), T0, ())]
    assert hour.count == 10
    assert sketch.estimate(hour.sketch or b"") == 3


def test_many_chunks_are_read_at_once(tmp_path: Path, con: duckdb.DuckDBPyConnection) -> None:
    paths = [written(tmp_path, "a.parquet"), written(tmp_path, "b.parquet")]
    assert len(read_states(con, paths, REVENUE.key, "hour", (), T0, T0 + HOUR)) == 2


def test_merging_a_chunk_with_nothing_changes_nothing(tmp_path: Path, con: duckdb.DuckDBPyConnection) -> None:
    old = read_chunk(con, written(tmp_path), [REVENUE.key, PEOPLE.key])
    assert with_hours(merge_cells([old, {}])) == cells()


def test_a_chunk_shows_the_columns_of_the_table_to_any_reader(tmp_path: Path) -> None:
    table = pq.read_table(written(tmp_path))
    assert table.schema.names == SCHEMA.names
    totals = [row for row in table.to_pylist() if row["metric_name"] == "revenue" and row["dimension_set"] == "[]"]
    assert {row["value"] for row in totals if row["time_granularity"] == "15m"} == {None, Decimal("0.00")}
    groups = {row["dimensions"]: row["value"] for row in table.to_pylist() if row["dimension_set"] != "[]"}
    assert groups['{"country":"DE","device":null}'] == Decimal("1.01")


def test_the_frozen_sample_of_format_1_is_still_read(con: duckdb.DuckDBPyConnection) -> None:
    assert with_hours(read_chunk(con, str(SAMPLE), [REVENUE.key, PEOPLE.key])) == cells()
