"""Files of events, and the shipped access log against facts that were counted with awk."""

import gzip
import hashlib
import json
from collections import Counter
from importlib.resources import files

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headwater.cli import formats
from headwater.errors import UsageError

LINE = (
    '83.149.9.216 - - [17/May/2015:10:05:03 +0000] "GET /a%20b.png?q=1 HTTP/1.1" 200 203023 '
    '"http://semicomplete.com/" "Mozilla/5.0 (X11)"'
)


def read(path, kind):
    """(number, event or BadLine) of every line."""
    source = formats.Source(str(path))
    try:
        found = list(formats.events(source, kind))
    finally:
        source.close()
    return [(n, e if isinstance(e, formats.BadLine) else json.loads(e)) for n, e in found]


@pytest.fixture(scope="module")
def shipped():
    return read(files("headwater") / "data" / "apache_access.log.gz", "combined")


# -- the shipped access log ------------------------------------------------------------------------------------------


def test_every_line_of_the_shipped_log_is_an_event(shipped):
    assert len(shipped) == 10_000
    assert not [event for _, event in shipped if isinstance(event, formats.BadLine)]
    assert [number for number, _ in shipped] == list(range(1, 10_001))


def test_the_days_of_the_shipped_log_have_the_known_numbers(shipped):
    days = Counter(event["timestamp"][:10] for _, event in shipped)
    assert days == {"2015-05-17": 1632, "2015-05-18": 2893, "2015-05-19": 2896, "2015-05-20": 2579}
    assert all(event["timestamp"].endswith("+00:00") for _, event in shipped)


def test_the_shipped_log_has_the_known_addresses(shipped):
    assert len({event["userId"] for _, event in shipped}) == 1_753
    by_day: dict[str, set[str]] = {}
    for _, event in shipped:
        by_day.setdefault(event["timestamp"][:10], set()).add(event["userId"])
    assert [len(by_day[day]) for day in sorted(by_day)] == [341, 627, 561, 505]


def test_the_shipped_log_has_the_known_statuses_methods_and_icons(shipped):
    properties = [event["properties"] for _, event in shipped]
    status = Counter(p["status"] for p in properties)
    assert {s: status[s] for s in (200, 304, 404, 301, 206)} == {200: 9126, 304: 445, 404: 213, 301: 164, 206: 45}
    assert Counter(p["method"] for p in properties) == {"GET": 9952, "HEAD": 42, "POST": 5, "OPTIONS": 1}
    assert sum(p["path"] == "/favicon.ico" for p in properties) == 807


def test_the_line_without_a_closing_quote_is_an_event_with_what_it_has_of_a_user_agent():
    with gzip.open(files("headwater") / "data" / "apache_access.log.gz", "rt") as log:
        odd = [line.rstrip("\n") for line in log if line.count('"') % 2]
    assert len(odd) == 1
    event = formats.access(odd[0])
    assert event["properties"]["status"] in (200, 304, 404)
    assert event["context"]["userAgent"] == odd[0].rsplit('"', 1)[1]


def test_repeated_lines_are_events_of_their_own(shipped):
    assert len({event["eventId"] for _, event in shipped}) == 10_000
    bare = Counter(json.dumps({**event, "eventId": ""}, sort_keys=True) for _, event in shipped)
    assert sum(count - 1 for count in bare.values()) >= 19


def test_reading_a_file_again_gives_the_same_ids(shipped):
    again = read(files("headwater") / "data" / "apache_access.log.gz", "combined")
    assert again == shipped


# -- access log lines ------------------------------------------------------------------------------------------------


def test_an_access_log_line_becomes_a_request():
    assert formats.access(LINE) == {
        "eventType": "request",
        "userId": "83.149.9.216",
        "timestamp": "2015-05-17T10:05:03+00:00",
        "properties": {
            "method": "GET", "path": "/a%20b.png?q=1", "protocol": "HTTP/1.1", "status": 200, "bytes": 203023,
            "referrer": "http://semicomplete.com/",
        },
        "context": {"ip": "83.149.9.216", "userAgent": "Mozilla/5.0 (X11)"},
    }  # fmt: skip


def test_a_dash_is_an_absent_value():
    event = formats.access('1.2.3.4 - - [01/Jan/2024:23:59:59 -0530] "HEAD / HTTP/1.0" 304 - "-" "-"')
    assert event["properties"] == {"method": "HEAD", "path": "/", "protocol": "HTTP/1.0", "status": 304}
    assert event["context"] == {"ip": "1.2.3.4"}
    assert event["timestamp"] == "2024-01-01T23:59:59-05:30"


@pytest.mark.parametrize(
    "line", ["", "hello", LINE.replace("[17/May/2015", "[17/Mai/2015"), LINE.replace(" 200 ", " x ")]
)
def test_what_is_no_access_log_line_says_so(line):
    with pytest.raises(formats.BadLine):
        formats.access(line)


def test_a_bad_line_of_a_file_keeps_its_number(tmp_path):
    (tmp_path / "log").write_text(f"{LINE}\n\nnonsense\n{LINE}\n")
    found = read(tmp_path / "log", "combined")
    assert [(n, isinstance(e, formats.BadLine)) for n, e in found] == [(1, False), (3, True), (4, False)]


# -- ids -------------------------------------------------------------------------------------------------------------


def test_an_id_is_the_hash_of_the_first_4_kib_unpacked_and_the_line_number(tmp_path):
    text = "".join(f'{{"eventType":"t","n":{i}}}\n' for i in range(1_000)).encode()
    (tmp_path / "plain").write_bytes(text)
    (tmp_path / "packed.gz").write_bytes(gzip.compress(text))
    digest = hashlib.sha256(text[:4096]).hexdigest()
    plain, packed = read(tmp_path / "plain", "ndjson"), read(tmp_path / "packed.gz", "ndjson")
    assert plain == packed
    assert plain[0][1]["eventId"] == f"{digest}-1"
    assert plain[999][1]["eventId"] == f"{digest}-1000"


def test_a_short_file_has_ids_too(tmp_path):
    (tmp_path / "short").write_bytes(b'{"eventType":"t"}')
    [(_, event)] = read(tmp_path / "short", "ndjson")
    assert event["eventId"] == hashlib.sha256(b'{"eventType":"t"}').hexdigest() + "-1"


# -- NDJSON, CSV, Parquet --------------------------------------------------------------------------------------------


def test_ndjson_keeps_an_own_id_and_passes_on_what_it_cannot_read(tmp_path):
    (tmp_path / "f").write_text('{"eventId":"mine","eventType":"t"}\n\n{broken\n')
    source = formats.Source(str(tmp_path / "f"))
    found = list(formats.events(source, "ndjson"))
    source.close()
    assert found == [(1, b'{"eventId":"mine","eventType":"t"}'), (3, b"{broken")]


def test_csv_columns_are_fields_or_properties_and_empty_cells_are_absent(tmp_path):
    (tmp_path / "f.csv").write_text(
        'eventType,userId,timestamp,color,size\nview,u1,2024-01-02T03:04:05Z,"a, ""b""",\nview,,,red,3\n'
    )
    (_, first), (_, second) = read(tmp_path / "f.csv", "csv")
    assert first["properties"] == {"color": 'a, "b"'}
    assert (first["userId"], first["timestamp"]) == ("u1", "2024-01-02T03:04:05Z")
    assert second["properties"] == {"color": "red", "size": "3"}
    assert "userId" not in second


def test_a_csv_line_with_too_many_cells_is_bad_and_the_others_are_not(tmp_path):
    (tmp_path / "f.csv").write_text("eventType,a\nx,1\nx,1,2\nx,3\n")
    assert [isinstance(event, formats.BadLine) for _, event in read(tmp_path / "f.csv", "csv")] == [False, True, False]


def test_csv_and_parquet_need_a_column_event_type(tmp_path):
    (tmp_path / "f.csv").write_text("a,b\n1,2\n")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "f.parquet")
    for name, kind in (("f.csv", "csv"), ("f.parquet", "parquet")):
        with pytest.raises(UsageError, match="eventType"):
            read(tmp_path / name, kind)


def test_parquet_keeps_types_and_nested_properties(tmp_path):
    table = pa.table(
        {
            "eventType": ["buy", "buy"],
            "timestamp": pa.array([1_700_000_000_000_000, None], pa.timestamp("us", "UTC")),
            "properties": [{"amount": 1.5}, None],
            "count": [7, None],
        }
    )
    pq.write_table(table, tmp_path / "f.parquet")
    (_, first), (_, second) = read(tmp_path / "f.parquet", "parquet")
    assert first["timestamp"] == "2023-11-14T22:13:20+00:00"
    assert first["properties"] == {"amount": 1.5, "count": 7}
    assert second["properties"] == {}
    assert second["eventId"].endswith("-2")


def test_a_file_that_is_not_there_or_not_parquet_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        formats.Source(str(tmp_path / "none"))
    (tmp_path / "f").write_text("no parquet")
    with pytest.raises(UsageError, match="no Parquet file"):
        read(tmp_path / "f", "parquet")
