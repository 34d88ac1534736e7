"""What every event log adapter does. Subclass `EventLogConformance` in a test module and give it a `logs` fixture.

class TestMyLog(EventLogConformance):
    @pytest.fixture
    def logs(self, tmp_path):
        return Logs(writer=lambda **limits: open_writer(tmp_path, **limits), reader=lambda: open_reader(tmp_path))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import pyarrow as pa
import pytest

from headwater.clock import DAY, HOUR, SECOND
from headwater.errors import Locked, StoreFull, UsageError
from headwater.eventlog.port import Accepted, EventLogReader, EventLogWriter, sliced
from headwater.model.batch import SCHEMA
from headwater.model.rejection import KEPT_BYTES, Rejection

H0 = 472_222 * HOUR


@dataclass(frozen=True)
class Logs:
    """Open the writer and a reader of one and the same log, which does not exist before the first writer. `writer`
    takes `cap_bytes` and `keep_seconds`."""

    writer: Callable[..., EventLogWriter]
    reader: Callable[[], EventLogReader]


def events(*ids: str, project: str = "p", at: int = H0, size: int = 0) -> pa.RecordBatch:
    """One event an id, received at `at`; `size` bytes of a property that does not compress well."""
    rows = [
        {
            "event_id": event_id,
            "event_type": "view",
            "user_id": "u",
            "anonymous_id": None,
            "timestamp": at,
            "received_at": at,
            "project_id": project,
            "schema_version": None,
            "properties": f'{{"x":"{Random(event_id).randbytes(size // 2).hex()}"}}',
            "context": "{}",
        }
        for event_id in ids
    ]
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def rejection(reason: str = "invalid_json", *, project: str = "p", at: int = H0, body: bytes = b"{") -> Rejection:
    return Rejection(project, at, "ingest", reason, "why", body, "id")


def ids(log: EventLogReader, position: int = 0, max_bytes: int = 1 << 30) -> list[str]:
    """Ids from `position` on, in one read."""
    found: list[str] = []
    for record in sliced(log.read(position, max_bytes), position):
        found += record.batch.column("event_id").to_pylist()
    return found


def fill(writer: EventLogWriter) -> int:
    """Appends events, each with a rejection, until there is no room; returns how many."""
    taken = 0
    try:
        while taken < 10_000:
            writer.append(events(f"e{taken}", size=4000), [rejection()])
            taken += 1
    except StoreFull:
        return taken
    raise AssertionError("10,000 events were taken and the log was never full")


class EventLogConformance:
    """Each test is one promise of `eventlog.port`."""

    def test_a_log_that_nobody_has_written_yet_is_empty(self, logs: Logs) -> None:
        reader = logs.reader()
        assert (reader.begin(), reader.end(), reader.last_received_at()) == (0, 0, None)
        assert reader.read(0, 1 << 20) == []
        assert reader.snapshot() == (0, [])
        assert reader.rejections("p") == []
        assert reader.rejection("p", "i1") is None

    def test_a_reader_opened_before_the_first_writer_sees_what_it_appends(self, logs: Logs) -> None:
        reader = logs.reader()
        assert reader.end() == 0
        writer = logs.writer()
        writer.append(events("a"))
        assert ids(reader) == ["a"]

    def test_positions_number_events_without_gaps_in_the_order_of_the_appends(self, logs: Logs) -> None:
        writer, reader = logs.writer(), logs.reader()
        assert writer.append(events("a", "b", "c")) == 0
        assert writer.append(events("d")) == 3
        assert writer.append(None) == 4
        assert writer.append(events("e", "f")) == 4
        assert (reader.begin(), reader.end()) == (0, 6)
        assert [(r.first, r.next) for r in reader.read(0, 1 << 30)] == [(0, 3), (3, 4), (4, 6)]
        assert ids(reader) == ["a", "b", "c", "d", "e", "f"]

    def test_reading_starts_at_the_record_that_holds_the_position_and_ends_at_the_end(self, logs: Logs) -> None:
        writer, reader = logs.writer(), logs.reader()
        writer.append(events("a", "b", "c"))
        writer.append(events("d"))
        assert [r.first for r in reader.read(2, 1 << 30)] == [0, 3]
        assert ids(reader, 2) == ["c", "d"]
        assert reader.read(4, 1 << 30) == []

    def test_a_read_gives_at_least_one_record_and_about_as_many_bytes_as_asked_for(self, logs: Logs) -> None:
        writer, reader = logs.writer(), logs.reader()
        for i in range(10):
            writer.append(events(f"e{i}", size=4000))
        assert ids(reader, 0, 1) == ["e0"]
        some = ids(reader, 0, 3 * writer.bytes_held() // 10)
        assert 1 < len(some) < 10

    def test_what_is_read_is_what_was_appended(self, logs: Logs) -> None:
        batch = events("a", "ü漢\x00", at=H0 + 1)
        logs.writer().append(batch)
        assert logs.reader().read(0, 1)[0].batch.equals(batch)

    def test_accepted_counts_by_project_and_hour_of_receipt_and_survives_trimming(self, logs: Logs) -> None:
        writer, reader = logs.writer(keep_seconds=0), logs.reader()
        mixed = [events("a", "b", at=H0 + HOUR - 1), events("c", at=H0 + HOUR), events("d", project="q", at=H0 + HOUR)]
        writer.append(pa.Table.from_batches(mixed).combine_chunks().to_batches()[0])
        writer.append(events("e", at=H0 + HOUR + 1))
        expected = [Accepted("p", H0, 2), Accepted("p", H0 + HOUR, 2), Accepted("q", H0 + HOUR, 1)]
        assert sorted(reader.accepted(), key=lambda a: (a.project_id, a.hour)) == expected
        writer.trim(5, H0 + DAY)
        end, counted = reader.snapshot()
        assert end == 5
        assert sorted(counted, key=lambda a: (a.project_id, a.hour)) == expected

    def test_the_newest_receipt_is_known_also_after_everything_was_trimmed(self, logs: Logs) -> None:
        writer, reader = logs.writer(keep_seconds=0), logs.reader()
        writer.append(events("a", at=H0 + 7))
        writer.trim(1, H0 + DAY)
        assert reader.last_received_at() == H0 + 7

    def test_rejections_are_kept_with_the_append_and_listed_newest_first(self, logs: Logs) -> None:
        writer, reader = logs.writer(), logs.reader()
        writer.append(events("a"), [rejection("too_deep", at=H0 + 1), rejection(project="q")])
        assert writer.append(None, [rejection("invalid_json", at=H0 + 2)]) == 1
        kept = reader.rejections("p")
        assert [k.rejection.reason for k in kept] == ["invalid_json", "too_deep"]
        assert kept[1].rejection == rejection("too_deep", at=H0 + 1)
        assert [k.rejection.reason for k in reader.rejections("p", reason="too_deep")] == ["too_deep"]
        assert [k.rejection.reason for k in reader.rejections("p", since=H0 + 2)] == ["invalid_json"]
        assert [k.id for k in reader.rejections("p", before=kept[0].id)] == [kept[1].id]
        assert [k.id for k in reader.rejections("p", limit=1)] == [kept[0].id]

    def test_a_rejection_is_shown_to_its_own_project_only(self, logs: Logs) -> None:
        writer, reader = logs.writer(), logs.reader()
        writer.append(None, [rejection()])
        (kept,) = reader.rejections("p")
        assert reader.rejection("p", kept.id) == kept
        assert reader.rejection("q", kept.id) is None
        for unknown in ("", "i", "i999999", "m1", "i²", "i" + "9" * 40, "nonsense"):
            assert reader.rejection("p", unknown) is None
            assert reader.rejections("p", before=unknown) == [] or unknown == "i999999"

    def test_a_body_beyond_the_kept_size_is_cut_and_marked(self, logs: Logs) -> None:
        logs.writer().append(None, [rejection(body=b"x" * (KEPT_BYTES + 1))])
        (kept,) = logs.reader().rejections("p")
        assert (len(kept.rejection.body), kept.rejection.cut) == (KEPT_BYTES, True)

    def test_positions_go_on_after_a_restart_even_over_an_emptied_log(self, logs: Logs) -> None:
        writer = logs.writer(keep_seconds=0)
        writer.append(events("a", "b"))
        assert writer.trim(2, H0 + DAY) > 0
        writer.close()
        again, reader = logs.writer(), logs.reader()
        assert (reader.begin(), reader.end()) == (2, 2)
        assert again.append(events("c")) == 2
        assert ids(reader, 2) == ["c"]

    def test_what_was_not_read_is_never_trimmed(self, logs: Logs) -> None:
        writer, reader = logs.writer(keep_seconds=0, cap_bytes=1 << 30), logs.reader()
        writer.append(events("a", "b"))
        writer.append(events("c"))
        assert writer.trim(0, H0 + DAY) == 0
        assert writer.trim(1, H0 + DAY) == 0  # inside the first record
        assert writer.trim(2, H0 + DAY) > 0
        assert (reader.begin(), ids(reader, 2)) == (2, ["c"])

    def test_what_was_read_stays_for_the_retention(self, logs: Logs) -> None:
        writer, reader = logs.writer(keep_seconds=60), logs.reader()
        writer.append(events("a", at=H0))
        writer.append(events("b", at=H0 + 30 * SECOND))
        writer.trim(2, H0 + 60 * SECOND)
        assert reader.begin() == 0
        writer.trim(2, H0 + 61 * SECOND)
        assert reader.begin() == 1

    def test_what_was_read_goes_when_it_is_too_much(self, logs: Logs) -> None:
        measured = logs.writer()
        for i in range(10):
            measured.append(events(f"e{i}", size=4000))
        held = measured.bytes_held()
        measured.close()
        writer, reader = logs.writer(cap_bytes=held // 2), logs.reader()
        assert writer.trim(10, H0) > 0
        assert 0 < writer.bytes_held() <= held // 2
        assert reader.begin() > 0

    def test_reading_what_was_trimmed_is_refused(self, logs: Logs) -> None:
        writer, reader = logs.writer(keep_seconds=0), logs.reader()
        writer.append(events("a", "b"))
        writer.trim(2, H0 + DAY)
        with pytest.raises(UsageError, match="trimmed"):
            reader.read(1, 1 << 20)

    def test_at_the_cap_of_unread_events_nothing_is_taken_until_they_are_read(self, logs: Logs) -> None:
        writer, reader = logs.writer(cap_bytes=20_000), logs.reader()
        taken = fill(writer)
        assert 0 < taken == reader.end()
        assert len(reader.rejections("p")) == taken
        writer.trim(taken, H0)
        assert writer.append(events("more", size=4000)) == taken
        assert ids(reader, taken) == ["more"]

    def test_a_second_writer_is_refused_until_the_first_has_closed(self, logs: Logs) -> None:
        first = logs.writer()
        with pytest.raises(Locked, match="another"):
            logs.writer()
        first.close()
        first.close()
        logs.writer().append(events("a"))
