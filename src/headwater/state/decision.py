"""What a decision is made of: the hash of an id, the fingerprint of an event, and whether two events are the same."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

COUNTS, COPY, CONFLICT = 0, 1, 2
_ABSENT = "\x01"  # control characters are refused in ids, so no id is this text


@dataclass(frozen=True)
class DecidedBatch:
    """Log positions [first, next) with what was decided about each event.

    `events`: EventBatch v1, every row. `verdict`: uint8 a row: 0 it counts, 1 it is a copy, 2 it is a conflict (kept
    as rejected, not counted). `originals`: row -> position of the first event with its id, for verdicts 1 and 2.
    """

    first: int
    events: pa.RecordBatch
    verdict: npt.NDArray[np.uint8]
    originals: dict[int, int] = field(default_factory=dict)

    @property
    def next(self) -> int:
        return int(self.first + self.events.num_rows)

    def kept(self) -> pa.RecordBatch:
        """The events that count, in log order."""
        return self.events.filter(pa.array(self.verdict == COUNTS)) if self.verdict.any() else self.events

    def kept_positions(self) -> npt.NDArray[np.int64]:
        """Log positions of the rows of `kept()`."""
        return self.first + np.flatnonzero(self.verdict == COUNTS)

    def skipped(self) -> list[int]:
        """Log positions of copies and conflicts, ascending."""
        return [self.first + int(row) for row in np.flatnonzero(self.verdict)]

    def since(self, position: int) -> DecidedBatch:
        """The part from `position` on (empty where it ends before)."""
        cut = min(max(0, position - self.first), self.events.num_rows)
        if cut == 0:
            return self
        originals = {row - cut: at for row, at in self.originals.items() if row >= cut}
        return DecidedBatch(self.first + cut, self.events.slice(cut), self.verdict[cut:], originals)


def id_hashes(projects: pa.Array, ids: pa.Array) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
    """96 bits of BLAKE2b of `project NUL eventId`, as upper 64 and lower 32 bits."""
    joined = pc.binary_join_element_wise(projects, ids, "\0").cast(pa.binary()).to_pylist()
    blake2b = hashlib.blake2b
    raw = b"".join([blake2b(text, digest_size=12).digest() for text in joined])
    return split_hashes(raw)


def split_hashes(raw: bytes) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
    """Concatenated 12-byte digests as the two columns of a run."""
    digests = np.frombuffer(raw, np.dtype([("hi", "<u8"), ("lo", "<u4")]))
    return digests["hi"].astype(np.uint64), digests["lo"].astype(np.uint32)


def same_ids(hashes: tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]) -> list[list[int]]:
    """Rows that share their id with another row of the batch, each group ascending."""
    hi, lo = hashes
    order = np.lexsort((lo, hi))
    equal = (hi[order][1:] == hi[order][:-1]) & (lo[order][1:] == lo[order][:-1])
    groups: list[list[int]] = []
    for at in np.flatnonzero(equal).tolist():
        if groups and groups[-1][-1] == int(order[at]):
            groups[-1].append(int(order[at + 1]))
        else:
            groups.append([int(order[at]), int(order[at + 1])])
    return groups


def fingerprints(events: pa.RecordBatch) -> npt.NDArray[np.uint64]:
    """48 bits a row: CRC-32 of the properties text, 16 bits of type, user and anonymous id; never 0 (= not known)."""
    crc32 = zlib.crc32
    bodies = events.column("properties").cast(pa.binary()).to_pylist()
    heads = pc.binary_join_element_wise(
        events.column("event_type"),
        pc.fill_null(events.column("user_id"), _ABSENT),
        pc.fill_null(events.column("anonymous_id"), _ABSENT),
        "\0",
    )
    lower = np.array([crc32(body) for body in bodies], np.uint64)
    upper = np.array([crc32(head) & 0xFFFF for head in heads.cast(pa.binary()).to_pylist()], np.uint64)
    found: npt.NDArray[np.uint64] = lower | (upper << np.uint64(32))
    found[found == 0] = 1
    return found


def fingerprint(event_type: str, user_id: str | None, anonymous_id: str | None, properties: str) -> int:
    """The fingerprint of one event; `properties` is its text in the log."""
    head = "\0".join((event_type, *(_ABSENT if v is None else v for v in (user_id, anonymous_id))))
    return (zlib.crc32(properties.encode()) | (zlib.crc32(head.encode()) & 0xFFFF) << 32) or 1


def event_at(events: pa.RecordBatch, row: int) -> dict[str, Any]:
    """What is compared of one event: `event_type`, `user_id`, `anonymous_id`, `properties` (JSON text)."""
    return {name: events.column(name)[row].as_py() for name in ("event_type", "user_id", "anonymous_id", "properties")}


def same_event(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two events of one id are copies: type, user, anonymous id and properties are equal as JSON values.

    `properties` may be JSON text or the decoded value. Any other member of the two is not looked at.
    """
    if any(a.get(name) != b.get(name) for name in ("event_type", "user_id", "anonymous_id")):
        return False
    mine, theirs = a.get("properties"), b.get("properties")
    return mine == theirs if isinstance(mine, str) and mine == theirs else same_json(_decoded(mine), _decoded(theirs))


def same_json(a: Any, b: Any) -> bool:
    """Equality of JSON values: 1 and 1.0 are equal, 1 and true are not, the order of keys does not matter."""
    if isinstance(a, dict) and isinstance(b, dict):
        # a null property is an absent one (docs/specs/values.md)
        mine, theirs = ({k: v for k, v in side.items() if v is not None} for side in (a, b))
        return mine.keys() == theirs.keys() and all(same_json(v, theirs[k]) for k, v in mine.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same_json(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    return bool(a == b)


def _decoded(properties: Any) -> Any:
    return msgspec.json.decode(properties) if isinstance(properties, str | bytes) else properties or {}
