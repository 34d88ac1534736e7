"""What is not ingest's own is streamed to `query` over its Unix socket, both ways, without being held in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import httptools

from headwater.errors import Refused

HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
# Fields that only the relay itself may say.
OURS = frozenset((b"expect", b"x-forwarded-for"))
Header = tuple[bytes, bytes]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class BrokenOff(Exception):
    """`query` ended in the middle of an answer; the client's connection is cut so that it cannot look whole."""


def end_to_end(headers: Iterable[Header]) -> list[Header]:
    """The fields that are meant for the other end: not hop by hop, nor named by `Connection`. Names in lower case."""
    fields = [(name.lower(), value) for name, value in headers]
    named = {part.strip().lower() for name, value in fields if name == b"connection" for part in value.split(b",")}
    return [(name, value) for name, value in fields if name not in HOP_BY_HOP and name not in named]


class _Answer:
    """What `query` says, as httptools reads it."""

    def __init__(self) -> None:
        self.headers: list[Header] = []
        self.started = False
        self.complete = False
        self.parts: list[bytes] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.started = True

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)

    def on_message_complete(self) -> None:
        self.complete = True

    def ends_with_connection(self) -> bool:
        """Whether nothing but the end of the connection says where the body ends."""
        return not any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)


class Relay:
    """One connection a request: the Unix socket is local, and a restarted `query` leaves no stale connections."""

    def __init__(self, socket: Path) -> None:
        self._socket = str(socket)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Raises `Refused(unavailable)` while nothing was answered yet, `BrokenOff` later."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
        except OSError as error:
            raise Refused(
                "unavailable", 503, "questions cannot be answered now; sending events goes on", retry_after=2
            ) from error
        uploading = None
        try:
            chunked = _write_head(scope, writer)
            uploading = asyncio.create_task(_upload(receive, writer, chunked))
            await _download(reader, send, scope["method"])
        finally:
            if uploading is not None:
                uploading.cancel()
                await asyncio.gather(uploading, return_exceptions=True)
            writer.close()


def _write_head(scope: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
    """Sends the request line and fields; returns whether the body goes in chunks."""
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    names = {name for name, _ in scope["headers"]}
    chunked = b"transfer-encoding" in names and b"content-length" not in names
    lines = [scope["method"].encode() + b" " + target + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in end_to_end(scope["headers"]) if name not in OURS]
    client = scope.get("client")
    lines.append(b"x-forwarded-for: " + (client[0] if client else "local").encode())
    lines.append(b"connection: close")
    if chunked:
        lines.append(b"transfer-encoding: chunked")
    writer.write(b"\r\n".join(lines) + b"\r\n\r\n")
    return chunked


async def _upload(receive: Receive, writer: asyncio.StreamWriter, chunked: bool) -> None:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            writer.close()
            return
        body = message.get("body", b"")
        more = message.get("more_body", False)
        if body:
            writer.write(b"%x\r\n%b\r\n" % (len(body), body) if chunked else body)
            await writer.drain()
    if chunked:
        writer.write(b"0\r\n\r\n")
    while (await receive())["type"] != "http.disconnect":
        pass
    writer.close()  # nobody waits for the answer any more


async def _download(reader: asyncio.StreamReader, send: Send, method: str) -> None:
    answer = _Answer()
    parser = httptools.HttpResponseParser(answer)
    sent = False
    while True:
        try:
            data = await reader.read(1 << 16)
            if data:
                parser.feed_data(data)
        except (OSError, httptools.HttpParserError):
            data = b""
        if answer.started and not sent:
            status = parser.get_status_code()
            await send({"type": "http.response.start", "status": status, "headers": end_to_end(answer.headers)})
            sent = True
        whole = answer.complete or (sent and (method == "HEAD" or (not data and answer.ends_with_connection())))
        if not data and not whole:
            if sent:
                raise BrokenOff("the query process ended while it answered")
            raise Refused("unavailable", 503, "the query process ended before it answered; try again", retry_after=1)
        body = b"".join(answer.parts)
        answer.parts.clear()
        if sent and (body or whole):
            await send({"type": "http.response.body", "body": body, "more_body": not whole})
        if whole:
            return
