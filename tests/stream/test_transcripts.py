"""The shipped window transcripts come out of the embedded stream, and a wrong one is found out."""

import msgspec
import pytest

from headwater.catalog.port import Project
from headwater.clock import from_datetime, hour_of
from headwater.panes.adapters.sqlite import open_reader, open_writer
from headwater.state.copies import CopyIndex
from headwater.stream.engine import EmbeddedEngine
from headwater.stream.process import Stream
from headwater.testing.transcripts import PROJECT, differences, events_of, load, metrics_of, shipped

TRANSCRIPTS = {path.name.removesuffix(".toml"): path.read_text() for path in shipped()}


class ControlOf:
    def __init__(self, transcript):
        self.transcript = transcript

    def revision(self):
        return 1

    def projects(self):
        return [Project(PROJECT, 1, 0)]

    def metrics(self, project_id):
        return metrics_of(self.transcript)


def replayed(transcript, folder, size):
    """What differs after the stream has taken the transcript's log in batches of `size`."""
    log = events_of(transcript)
    rows = log.to_pylist()

    def loaded(position):
        return {name: rows[position][name] for name in ("event_type", "user_id", "anonymous_id", "properties")}

    index = CopyIndex(folder / "copies", find_stored=lambda project, keys, before: {}, load_event=loaded)
    panes = open_writer(folder / "panes.db")
    # the archive keeps up only in the transcript that is about settled windows; the days need all hours live
    settled = hour_of(from_datetime(transcript.events[0].received)) if not transcript.days else None
    stream = Stream(panes, ControlOf(transcript), EmbeddedEngine(), archived=0, archived_received_at=settled)
    for first in range(0, log.num_rows, size):
        stream.take(index.decide(first, log.slice(first, size)))
        stream.commit(0)
    with open_reader(folder / "panes.db").view() as view:
        found = differences(transcript, view)
    panes.close()
    return found


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_transcript_comes_out_of_the_stream_in_any_micro_batches(name, size, tmp_path):
    assert replayed(load(TRANSCRIPTS[name]), tmp_path, size) == []


def test_there_are_transcripts_of_late_events_copies_and_days_of_23_and_25_hours():
    held = [load(text) for text in TRANSCRIPTS.values()]
    assert any(t.skipped for t in held)
    assert {h for t in held for d in t.days for h in d.hours} == {23, 24, 25}
    assert any(pane.store == "tail" for t in held for pane in t.panes)


def test_a_wrong_transcript_is_found_out_wherever_it_is_wrong(tmp_path):
    late = load(TRANSCRIPTS["late_and_copies"])
    for i, pane in enumerate(late.panes):
        wrong = [*late.panes]
        wrong[i] = msgspec.structs.replace(pane, value="12345")
        folder = tmp_path / str(i)
        assert len(replayed(msgspec.structs.replace(late, panes=wrong), folder, 1000)) == 1
    assert len(replayed(msgspec.structs.replace(late, skipped=[2]), tmp_path / "skipped", 1000)) == 1
    days = load(TRANSCRIPTS["berlin_day_of_23_hours"])
    for field, value in (("values", ["1", "2", "3"]), ("hours", [24, 24, 24])):
        wrong_days = [msgspec.structs.replace(days.days[0], **{field: value})]
        assert len(replayed(msgspec.structs.replace(days, days=wrong_days), tmp_path / field, 1000)) == 1


def test_a_transcript_with_an_unknown_field_or_a_receipt_that_goes_back_is_refused():
    text = TRANSCRIPTS["late_and_copies"]
    with pytest.raises(msgspec.ValidationError):
        load(text.replace('width = "minute"', 'wide = "minute"', 1))
    with pytest.raises(ValueError, match="goes back"):
        load(text.replace("received = 2024-01-15T10:31:00Z", "received = 2024-01-15T10:00:00Z", 1))
