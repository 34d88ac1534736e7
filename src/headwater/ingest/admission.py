"""Before a body is parsed: its type, its encoding, and its size while it is unpacked."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Protocol

import zstandard

from headwater.errors import Refused

CHUNK = 256 << 10
JSON_TYPES = (b"application/json", b"text/plain")
NDJSON_TYPES = (b"application/x-ndjson", b"application/ndjson", b"application/jsonlines")


class _Inflate(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]: ...

    def finished(self) -> bool: ...


def is_ndjson(content_type: bytes, *, single: bool) -> bool:
    """Whether the body is NDJSON. Raises `Refused(unsupported_type)` for what is neither that nor JSON."""
    kind = content_type.split(b";", 1)[0].strip().lower()
    if b"charset" in content_type.lower():
        charset = content_type.lower().split(b"charset", 1)[1].strip(b" =\"'").split(b";")[0].strip(b" \"'")
        if charset not in (b"utf-8", b"utf8", b"us-ascii"):
            raise Refused("unsupported_type", 415, f"charset {charset.decode('latin-1')!r} is not taken; send UTF-8")
    if not kind or kind in JSON_TYPES or kind.endswith(b"+json"):
        return False
    if kind in NDJSON_TYPES and not single:
        return True
    raise Refused(
        "unsupported_type",
        415,
        f"content type {kind.decode('latin-1')!r} is not taken; send application/json"
        + ("" if single else " or application/x-ndjson"),
    )


def unpack(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The body without its `Content-Encoding`; never holds more than `limit` and a chunk of it.

    Raises `Refused`: `unsupported_encoding`, `invalid_encoding` (damaged or cut short), `body_too_large`.
    """
    name = encoding.strip().lower()
    if name in (b"", b"identity"):
        return body
    if name in (b"gzip", b"x-gzip"):
        reader: _Inflate = _Zlib(31)
    elif name == b"deflate":
        reader = _Zlib(15 if _has_zlib_header(body) else -15)
    elif name == b"zstd":
        reader = _Zstd()
    else:
        raise Refused(
            "unsupported_encoding",
            415,
            f"content encoding {name.decode('latin-1')!r} is not taken; send gzip, deflate, zstd or none",
        )
    parts: list[bytes] = []
    size = 0
    try:
        for part in reader.feed(body):
            size += len(part)
            if size > limit:
                raise Refused("body_too_large", 413, f"the body unpacks to more than {limit} bytes")
            parts.append(part)
    except (zlib.error, zstandard.ZstdError) as error:
        raise Refused("invalid_encoding", 400, f"the body is not {name.decode()}: {error}") from error
    if not reader.finished():
        raise Refused("invalid_encoding", 400, f"the {name.decode()} body is cut short or has bytes after its end")
    return b"".join(parts)


def _has_zlib_header(body: bytes) -> bool:
    return len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0


class _Zlib:
    """gzip (several members too), zlib or raw deflate, a chunk at a time."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._inflate = zlib.decompressobj(window)

    def feed(self, data: bytes) -> Iterator[bytes]:
        while True:
            yield self._inflate.decompress(data, CHUNK)
            data = self._inflate.unconsumed_tail
            if self._inflate.eof:
                data = self._inflate.unused_data
                if not data or self._window != 31:
                    return
                self._inflate = zlib.decompressobj(self._window)
            elif not data:
                # what is left in the window of the decompressor
                while rest := self._inflate.decompress(b"", CHUNK):
                    yield rest
                return

    def finished(self) -> bool:
        return self._inflate.eof and not self._inflate.unused_data


class _Zstd:
    """One zstd frame or several."""

    def __init__(self) -> None:
        self._unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 25)
        self._inflate = self._unpacker.decompressobj()

    def feed(self, data: bytes) -> Iterator[bytes]:
        # input in small pieces bounds what one piece can unpack to
        for start in range(0, len(data), 1024):
            piece = data[start : start + 1024]
            while piece:
                if self._inflate.eof:
                    self._inflate = self._unpacker.decompressobj()
                yield self._inflate.decompress(piece)
                piece = self._inflate.unused_data if self._inflate.eof else b""

    def finished(self) -> bool:
        return bool(self._inflate.eof)
