"""Secrets of keys: how they are made, recognised and stored (only ever as SHA-256)."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Callable

ENTROPY_BYTES = 20  # 160 bits: 32 characters of base32
_SECRET = re.compile(r"hw_(write|read|admin|import)_([A-Z2-7]{32,64})([0-9a-f]{4})")


def make_secret(role: str, random_bytes: Callable[[int], bytes]) -> str:
    """`hw_<role>_<32 characters of base32><4 hex digits of checksum>`; the checksum tells a mistyped key from a
    revoked one without asking the store."""
    body = base64.b32encode(random_bytes(ENTROPY_BYTES)).decode()
    return f"hw_{role}_{body}{_checksum(role, body)}"


def looks_like_a_key(secret: str) -> bool:
    """Whether `secret` has the form and the checksum of `make_secret`."""
    match = _SECRET.fullmatch(secret)
    return match is not None and _checksum(match[1], match[2]) == match[3]


def hash_of(secret: str) -> bytes:
    """What is stored and looked up instead of the secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def prefix_of(secret: str) -> str:
    """The part that may be shown to tell keys apart: at most the first 4 random characters."""
    head, _, body = secret.rpartition("_")
    return f"{head}_{body[:4]}" if head else secret[:4]


def _checksum(role: str, body: str) -> str:
    return f"{zlib.crc32(f'{role}{body}'.encode()) & 0xFFFF:04x}"
