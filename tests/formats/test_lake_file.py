"""A lake file and its manifest row as they were frozen: what was written then is read the same for ever."""

import json
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headwater.catalog.adapters.manifest_sqlite import open_manifest
from headwater.catalog.port import ArchiveCommit, LakeFile
from headwater.lake.columns import from_lake, schema_with
from headwater.lake.file import facts_of, read

FROZEN = Path(__file__).parent / "v1"
FILE = FROZEN / "lake-file.parquet"


@pytest.fixture
def row():
    return LakeFile(**json.loads((FROZEN / "manifest-row.json").read_text()))


def test_the_frozen_file_gives_the_frozen_events(row):
    assert from_lake(read(FILE.read_bytes(), row)) == json.loads((FROZEN / "lake-events.json").read_text())


def test_the_frozen_row_can_be_made_again_from_the_file(row):
    again = facts_of(row.path, FILE.read_bytes())
    assert {**again.__dict__, "id": 1} == row.__dict__


def test_the_columns_are_the_ones_of_today(row):
    kinds = {tuple(reversed(what.split(":", 1))): column for what, column in row.promoted.items()}
    assert pq.read_schema(FILE).remove_metadata().equals(schema_with(kinds))


def test_plain_pyarrow_reads_texts_in_maps():
    table = pq.read_table(FILE)
    properties = {
        i: dict(p) for i, p in zip(*table.select(["event_id", "properties"]).to_pydict().values(), strict=True)
    }
    assert properties["11111111-2222-4333-8444-555555555555"] == {"amount": "12.5", "country": "US", "quantity": "2"}
    assert properties["e2"]["list"] == '[1,"a",{"b":null}]'
    assert "nothing" not in properties["e2"]
    assert table.column("p_1").to_pylist() == [None, None, Decimal("100.000000000"), Decimal("12.500000000")]
    assert table.schema.field("timestamp").type == pa.timestamp("us", tz="UTC")


def test_plain_duckdb_reads_the_same():
    rows = duckdb.execute(
        "SELECT event_id, epoch_us(timestamp), properties['country'], context.ip, context.extra['screen'], p_1, p_2"
        " FROM read_parquet(?, hive_partitioning=false) WHERE event_type = 'purchase' ORDER BY log_position",
        [str(FILE)],
    ).fetchall()
    assert rows == [
        ("11111111-2222-4333-8444-555555555555", 1705314601234567, "US", "10.1.2.3", "1x2", Decimal("12.5"), "US"),
        ("e4", 1705314600000000, "DE", None, None, Decimal("100"), "DE"),
    ]


def test_the_frozen_row_goes_through_a_manifest_unchanged(row, tmp_path):
    manifest = open_manifest(tmp_path / "manifest.db")
    manifest.commit(ArchiveCommit(0, 4, row.max_received_at, manifest.take_lease(), [row]))
    with manifest.view() as view:
        assert view.files() == [row]
    manifest.close()


def test_the_frozen_pointer_names_the_file(row):
    pointer = json.loads((FROZEN / "current.json").read_text())
    assert (pointer["format"], pointer["project"], pointer["position"]) == (1, "default", 4)
    (file,) = pointer["files"]
    assert (file["path"], file["rows"], file["bytes"], file["checksum"]) == (row.path, 4, row.bytes, row.checksum)
