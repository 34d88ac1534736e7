"""Who sends: keys are checked against a cache that is at most 50 ms behind the catalog."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from headwater.catalog.port import ControlReader, Key
from headwater.errors import Refused

FRESH_SECONDS = 0.05
UNKNOWN_KEPT = 10_000
_log = structlog.get_logger("ingest")
SENDERS = ("write", "import", "admin")


class KeyCache:
    """Key of a secret, from memory where possible.

    A change in the catalog is in force 50 ms after its commit. While the catalog cannot be read, keys that were seen
    before stay valid for sending (their hashes are mirrored to `mirror`, so that a restart does not forget them);
    a key never seen before is 503, not 401.
    """

    def __init__(self, control: ControlReader, mirror: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._control = control
        self._mirror = mirror
        self._monotonic = monotonic
        self._checked = -1.0
        self._revision: int | None = None
        self._known: dict[bytes, Key | None] = {}
        self._seen: dict[str, Key] = self._read_mirror()

    def sender(self, secret: bytes | None) -> Key:
        """The key of a sender. Raises `Refused`: `unauthorized`, `forbidden`, `unavailable`."""
        if not secret:
            raise Refused(
                "unauthorized", 401, "no key: send 'Authorization: Bearer KEY' or 'X-API-Key: KEY' with a write key"
            )
        key = self._key(secret)
        if key is None or key.revoked_at is not None:
            raise Refused("unauthorized", 401, "the key is not known, or was revoked")
        if key.role not in SENDERS:
            raise Refused("forbidden", 403, f"a {key.role!r} key sends no events; use a write key")
        return key

    def _key(self, secret: bytes) -> Key | None:
        digest = hashlib.sha256(secret).digest()
        try:
            self._refresh()
            if digest in self._known:
                return self._known[digest]
            key = self._control.key_by_hash(digest)
        except Exception as error:
            # whatever keeps the catalog from answering must not keep known senders from sending
            seen = self._seen.get(digest.hex())
            if seen is None:
                raise Refused("unavailable", 503, f"keys cannot be checked now: {error}", retry_after=2) from error
            return seen
        if len(self._known) >= UNKNOWN_KEPT:
            self._known.clear()
        self._known[digest] = key
        self._remember(digest.hex(), key)
        return key

    def _refresh(self) -> None:
        """Asks for the catalog's revision, at most every 50 ms; a new one means that every key is looked up again."""
        now = self._monotonic()
        if now - self._checked <= FRESH_SECONDS:
            return
        revision = self._control.revision()
        if revision != self._revision:
            self._known.clear()
            for digest in list(self._seen):
                self._remember(digest, self._control.key_by_hash(bytes.fromhex(digest)))
            self._revision = revision
        self._checked = now

    def _remember(self, digest: str, key: Key | None) -> None:
        """Keeps the mirror true: valid keys that were seen, and no others."""
        if key is None or key.revoked_at is not None:
            if self._seen.pop(digest, None) is None:
                return
        elif self._seen.get(digest) == key:
            return
        else:
            self._seen[digest] = key
        temporary = self._mirror.with_suffix(".new")
        try:
            temporary.touch(0o600)
            temporary.write_bytes(msgspec.json.encode(self._seen))
            temporary.replace(self._mirror)
        except OSError as error:
            # the mirror only helps a restart while the catalog is away; sending goes on without it
            _log.warning("keys could not be mirrored", error=str(error))

    def _read_mirror(self) -> dict[str, Key]:
        try:
            return msgspec.json.decode(self._mirror.read_bytes(), type=dict[str, Key])
        except (OSError, msgspec.DecodeError):
            return {}


def secret_of(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """The key that a request carries, from `Authorization: Bearer` or `X-API-Key`."""
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return bytes(value[7:].strip())
        if name == b"x-api-key":
            return bytes(value.strip())
    return None
