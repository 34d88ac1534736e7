"""Lake files: what is in them, how they are laid out, and that other readers find single events fast."""

import random
from dataclasses import replace

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import Corrupt
from headwater.lake import layout
from headwater.lake.columns import from_lake, schema_with, to_lake
from headwater.lake.file import ROW_GROUP, facts_of, read, sort_order, write, write_stream
from headwater.lake.find import find_events
from headwater.lake.merge import merged
from tests.lake.making import T0, events

PROMOTED = {("amount", "number"): "p_1"}


def table_of(count, *, first=0, seed=1, types=("click", "view"), promoted=PROMOTED):
    chance = random.Random(seed)
    batch = events(
        [
            {
                "event_type": chance.choice(types),
                "timestamp": T0 + chance.randrange(3_600) * 1_000_000,
                "properties": {"amount": chance.randrange(100), "country": chance.choice(["US", "DE"])},
            }
            for _ in range(count)
        ],
        first_id=first,
    )
    times = batch.column("timestamp").cast(pa.int64()).to_numpy()
    order = sort_order(batch.column("event_type"), times)
    return to_lake(batch.take(pa.array(order)), first + order, promoted)


def written(table, **changes):
    arguments = {"key": "k", "project_id": "shop", "hour": T0, "epoch": 3, "promoted": {"number:amount": "p_1"}}
    return write(table, **(arguments | changes))


def places(table):
    times = table.column("timestamp").cast(pa.int64()).to_pylist()
    return list(zip(table.column("event_type").to_pylist(), times, strict=True))


def test_the_manifest_row_says_what_the_file_holds():
    table = table_of(500, first=40)
    data, facts = written(table)
    times = [at for _, at in places(table)]
    assert (facts.rows, facts.bytes) == (500, len(data))
    assert (facts.min_timestamp, facts.max_timestamp) == (min(times), max(times))
    assert (facts.first_position, facts.next_position) == (40, 540)
    assert read(bytes(data), facts).equals(table)
    assert places(table) == sorted(places(table))


def test_a_manifest_row_can_be_made_again_from_the_file():
    data, facts = written(table_of(50))
    assert facts_of("k", bytes(data)) == facts


def test_a_damaged_file_is_never_read():
    data, facts = written(table_of(50))
    damaged = bytearray(data)
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(Corrupt, match="CRC32C"):
        read(bytes(damaged), facts)
    with pytest.raises(Corrupt):
        facts_of("k", b"no parquet at all")


def test_a_file_has_rows():
    with pytest.raises(ValueError, match="rows"):
        written(table_of(0))


@pytest.mark.parametrize("compression", ["snappy", "zstd"])
def test_times_are_delta_encoded_and_ids_in_no_dictionary(compression):
    data, _ = written(table_of(300), compression=compression)
    group = pq.ParquetFile(pa.BufferReader(data)).metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    for name in ("timestamp", "received_at", "log_position"):
        assert "DELTA_BINARY_PACKED" in columns[name].encodings
    assert "RLE_DICTIONARY" not in columns["event_id"].encodings
    assert "RLE_DICTIONARY" in columns["event_type"].encodings
    assert {column.compression for column in columns.values()} == {compression.upper()}


def test_duckdb_skips_row_groups_by_the_bloom_filter(tmp_path):
    path = tmp_path / "f.parquet"
    path.write_bytes(written(table_of(300))[0])
    probe = duckdb.execute(
        "SELECT bloom_filter_excludes FROM parquet_bloom_probe(?, 'event_id', ?)", [str(path), "not there"]
    ).fetchall()
    assert probe == [(True,)]
    present = duckdb.execute(
        "SELECT bloom_filter_excludes FROM parquet_bloom_probe(?, 'event_id', ?)", [str(path), "e7"]
    ).fetchall()
    assert present == [(False,)]


def test_events_are_found_by_id_over_files_with_different_columns(tmp_path):
    paths = []
    for at, promoted in enumerate(({}, PROMOTED)):
        path = tmp_path / f"{at}.parquet"
        columns = {f"{kind}:{name}": column for (name, kind), column in promoted.items()}
        path.write_bytes(written(table_of(100, first=100 * at, promoted=promoted), promoted=columns)[0])
        paths.append(path)
    found = from_lake(find_events(paths, ["e150", "e7", "nobody", "e'); DROP TABLE x; --"]))
    assert [event["eventId"] for event in found] == ["e7", "e150"]
    assert find_events(paths, []).num_rows == 0
    assert find_events([], ["e7"]).num_rows == 0


def test_row_groups_are_full_however_the_rows_come():
    table = table_of(2_000)
    many = pa.concat_tables([table] * 125)
    pieces = [many.slice(at, 7_000) for at in range(0, many.num_rows, 7_000)]
    data, _ = write_stream(
        pieces, table.schema, many.num_rows, key="k", project_id="shop", hour=T0, epoch=1, promoted={}
    )
    metadata = pq.ParquetFile(pa.BufferReader(data)).metadata
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert sizes == [ROW_GROUP, ROW_GROUP, 10_000]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 60), st.sampled_from([("a",), ("a", "é"), ("b", "😀", "")])), min_size=1, max_size=5
    ),
    st.integers(1, 16),
)
def test_merging_gives_every_row_once_in_order(inputs, block_rows):
    files, first, everything = [], 0, []
    for seed, (count, types) in enumerate(inputs):
        table = table_of(count, first=first, seed=seed, types=types)
        files.append(pq.ParquetFile(pa.BufferReader(written(table)[0])))
        everything += table.column("log_position").to_pylist()
        first += count
    whole = pa.concat_tables(merged(files, schema_with(PROMOTED), block_rows))
    assert places(whole) == sorted(places(whole))
    assert sorted(whole.column("log_position").to_pylist()) == sorted(everything)
    rows = {row["log_position"]: row for row in whole.to_pylist()}
    assert rows[0]["event_id"] == "e0"


def test_keys_are_of_internal_parts_and_tell_their_age():
    token = layout.token(T0, b"\x01\x02\x03\x04\x05")
    key = layout.events_key("p7", T0, 42, token)
    assert key == f"p7/events/year=2023/month=11/day=14/hour=22/part-42-{token}.parquet"
    assert layout.made_at(key) == T0 // 1000 * 1000
    assert layout.made_at("p7/manifest/current.json") is None
    assert layout.is_chunk(layout.chunk_key("p7", T0, 3, token))
    assert not layout.is_chunk(key)


def test_sorting_is_by_leading_columns_then_type_then_time_and_keeps_equal_rows_in_order():
    types = pa.array(["b", "a", "b", "a", "a"])
    times = np.array([1, 2, 1, 1, 2])
    assert sort_order(types, times).tolist() == [3, 1, 4, 0, 2]
    assert sort_order(types, times, np.array([1, 1, 0, 0, 0])).tolist() == [3, 4, 2, 1, 0]
    assert sort_order(pa.array([], pa.string()), np.empty(0, np.int64)).tolist() == []


def test_a_file_named_by_another_row_is_not_taken_for_it():
    data, facts = written(table_of(10))
    with pytest.raises(Corrupt):
        read(bytes(data), replace(facts, checksum="00000000"))
