"""The SQLite panes keep every promise of the port."""

import apsw
import pytest

from headwater.errors import Corrupt
from headwater.panes.adapters.sqlite import open_reader, open_writer
from headwater.panes.codec import decode_state, encode_state
from headwater.panes.port import StreamCommit
from headwater.testing.conformance_panes import FULL, H0, PanesConformance, Stores, pane


class TestSqlitePanes(PanesConformance):
    @pytest.fixture
    def stores(self, tmp_path):
        path = tmp_path / "panes.db"
        writers, readers = [], []

        def writer():
            writers.append(open_writer(path))
            return writers[-1]

        def reader():
            readers.append(open_reader(path))
            return readers[-1]

        yield Stores(writer, reader)
        for opened in (*readers, *writers):
            opened.close()


def test_a_file_that_is_no_panes_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "panes.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(Corrupt, match="move it away"):
        open_writer(tmp_path / "panes.db")
    (tmp_path / "panes.db").unlink()
    open_writer(tmp_path / "panes.db").close()


def test_panes_of_a_later_format_are_refused(tmp_path):
    db = apsw.Connection(str(tmp_path / "panes.db"))
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(Corrupt, match="format 99"):
        open_writer(tmp_path / "panes.db")


def test_a_reader_follows_when_the_file_is_made_anew(tmp_path):
    path = tmp_path / "panes.db"
    reader = open_reader(path)
    first = open_writer(path)
    first.commit(StreamCommit(0, 5, H0, 0))
    with reader.view() as view:
        assert view.position().next == 5
    first.close()
    for name in tmp_path.glob("panes.db*"):
        name.unlink()
    second = open_writer(path)
    with reader.view() as view:
        assert view.position().next == 0
    second.close()


def test_a_failed_commit_leaves_nothing_behind(tmp_path):
    writer = open_writer(tmp_path / "panes.db")
    with pytest.raises(TypeError):
        writer.commit(StreamCommit(0, 5, H0, 0, live=[pane(1)], skipped=[object()]))
    assert writer.position().next == 0
    writer.commit(StreamCommit(0, 5, H0, 0, live=[pane(1)]))
    assert writer.load([pane(0).key]) == [pane(1)]
    writer.close()


def test_a_count_takes_few_bytes_and_a_full_state_comes_back():
    assert len(encode_state(pane(1000).state)) == 4
    assert decode_state(encode_state(FULL)) == FULL
