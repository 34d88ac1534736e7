"""The SQLite event log keeps every promise of the port, also on a full disk, after a kill and over damage."""

import signal
import subprocess
import sys
from contextlib import closing

import apsw
import pytest

from headwater.errors import Corrupt, StoreFull
from headwater.eventlog.adapters.sqlite import FILE, open_reader, open_writer
from headwater.testing.conformance_eventlog import EventLogConformance, Logs, events, fill, ids, rejection


class TestSqliteLog(EventLogConformance):
    @pytest.fixture
    def logs(self, tmp_path):
        opened = []

        def keep(made):
            opened.append(made)
            return made

        yield Logs(
            lambda **limits: keep(open_writer(tmp_path / "log", **limits)), lambda: keep(open_reader(tmp_path / "log"))
        )
        for each in reversed(opened):
            each.close()


@pytest.fixture
def writer(tmp_path):
    made = open_writer(tmp_path)
    yield made
    made.close()


def test_a_full_disk_keeps_nothing_of_an_append_and_the_log_goes_on_when_there_is_room(writer, tmp_path):
    reader = open_reader(tmp_path)
    writer.append(events("a"))
    connection = writer._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages + 5}")
    with pytest.raises(StoreFull, match="full"):
        writer.append(events(*(f"n{i}" for i in range(100)), size=2000), [rejection()])
    assert (reader.end(), reader.rejections("p"), sum(a.events for a in reader.accepted())) == (1, [], 1)
    connection.execute("PRAGMA max_page_count=1000000")
    assert writer.append(events("b"), [rejection()]) == 1
    assert ids(reader) == ["a", "b"]
    assert writer.bytes_held() == sum(
        n for (n,) in apsw.Connection(str(tmp_path / FILE)).execute("SELECT bytes FROM records")
    )
    reader.close()


def test_a_full_file_system_loses_nothing_and_the_log_goes_on_when_there_is_room(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        with closing(open_writer(tmp_path / "log")) as writer, closing(open_reader(tmp_path / "log")) as reader:
            taken = fill(writer)
            assert 0 < taken == reader.end() == len(ids(reader)) == len(reader.rejections("p", limit=10_000))
            subprocess.run(["mount", "-o", "remount,size=16m", str(tmp_path)], check=True)
            assert writer.append(events("more", size=4000)) == taken
            assert ids(reader, taken) == ["more"]
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_damaged_record_is_reported_and_never_given_out(writer, tmp_path):
    writer.append(events("a"))
    writer.append(events("b"))
    writer._connection.execute("UPDATE records SET body = zeroblob(length(body)) WHERE first = 1")
    with closing(open_reader(tmp_path)) as reader:
        assert ids(reader, 0, 1) == ["a"]
        with pytest.raises(Corrupt, match="position 1"):
            reader.read(1, 1)


def test_a_file_that_is_no_log_is_reported(tmp_path):
    (tmp_path / FILE).write_bytes(b"something else entirely" * 500)
    with pytest.raises(Corrupt, match="damaged"):
        open_writer(tmp_path)


def test_a_log_of_a_newer_format_is_left_alone(tmp_path):
    open_writer(tmp_path).close()
    apsw.Connection(str(tmp_path / FILE)).execute("PRAGMA user_version=2")
    with pytest.raises(Corrupt, match="format 2"):
        open_writer(tmp_path)


APPENDER = """
import sys
from pathlib import Path
from headwater.eventlog.adapters.sqlite import open_writer
from headwater.testing.conformance_eventlog import events
writer = open_writer(Path(sys.argv[1]))
position = writer.append(None)
while True:
    position = writer.append(events(str(position), size=300)) + 1
    print(position, flush=True)
"""


def test_after_each_kill_everything_acknowledged_is_there_and_the_next_writer_goes_on(tmp_path):
    acknowledged = 0
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            start = acknowledged
            while acknowledged < start + 30:
                acknowledged = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read().split("\n")
            acknowledged = max([acknowledged, *(int(line) for line in rest[:-1])])
        with closing(open_reader(tmp_path)) as reader:
            end = reader.end()
            assert end >= acknowledged
            assert ids(reader) == [str(i) for i in range(end)]
            assert sum(a.events for a in reader.accepted()) == end
        acknowledged = end
