"""EventBatch v1 and canonical JSON v1 as they were frozen: bytes written then are read the same for ever."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import Corrupt
from headwater.model.batch import SCHEMA, decode, encode, from_canonical_json, to_canonical_json

FROZEN = Path(__file__).parent / "v1"
LAST = 253_402_300_799_999_999


def frozen_documents():
    return (FROZEN / "events.ndjson").read_bytes().splitlines()


def test_the_frozen_batch_decodes_to_the_frozen_documents():
    batch = decode((FROZEN / "events.batch").read_bytes())
    assert to_canonical_json(batch) == frozen_documents()
    assert [json.loads(document) for document in frozen_documents()] == json.loads((FROZEN / "events.json").read_text())


def test_the_frozen_documents_are_the_frozen_batch():
    assert from_canonical_json(frozen_documents()).equals(decode((FROZEN / "events.batch").read_bytes()))


def test_keys_of_canonical_json_keep_their_order():
    text = "eventId eventType timestamp receivedAt projectId properties context userId anonymousId schemaVersion"
    order = text.split()
    for document in frozen_documents():
        keys = list(json.loads(document))
        assert keys == [name for name in order if name in keys]


texts = st.text(st.characters(codec="utf-8"), max_size=12)
objects = st.dictionaries(texts, texts | st.integers(-(2**60), 2**60) | st.none(), max_size=3).map(
    lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
)
times = st.integers(0, LAST)
rows = st.fixed_dictionaries(
    {
        "event_id": texts,
        "event_type": texts,
        "user_id": st.none() | texts,
        "anonymous_id": st.none() | texts,
        "timestamp": times,
        "received_at": times,
        "project_id": texts,
        "schema_version": st.none() | st.integers(0, 2**31 - 1),
        "properties": objects,
        "context": objects,
    }
)


@settings(max_examples=150, deadline=None)
@given(st.lists(rows, max_size=6))
def test_a_batch_is_the_same_after_either_form(events):
    batch = pa.RecordBatch.from_pylist(events, schema=SCHEMA)
    assert decode(encode(batch)).equals(batch)
    assert from_canonical_json(to_canonical_json(batch)).equals(batch)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_single_changed_byte_goes_unseen(data):
    stored = bytearray((FROZEN / "events.batch").read_bytes())
    at = data.draw(st.integers(0, len(stored) - 1))
    stored[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Corrupt):
        decode(bytes(stored))


def test_a_batch_cut_short_is_corrupt():
    stored = (FROZEN / "events.batch").read_bytes()
    for length in (0, 3, 15, len(stored) - 1):
        with pytest.raises(Corrupt):
            decode(stored[:length])
