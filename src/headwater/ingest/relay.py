"""What is not ingest's own is streamed to `query` over its Unix socket, both ways, without being held in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httptools

from headwater.errors import Refused

HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class _Answer:
    """What `query` says, as httptools reads it."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.started = False
        self.complete = False
        self.parts: list[bytes] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() not in HOP_BY_HOP:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.started = True

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)

    def on_message_complete(self) -> None:
        self.complete = True


class Relay:
    """One connection a request: the Unix socket is local, and a restarted `query` leaves no stale connections."""

    def __init__(self, socket: Path) -> None:
        self._socket = str(socket)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
        except OSError as error:
            raise Refused(
                "unavailable", 503, "questions cannot be answered now; sending events goes on", retry_after=2
            ) from error
        uploading = None
        try:
            chunked = self._write_head(scope, writer)
            uploading = asyncio.create_task(_upload(receive, writer, chunked))
            await _download(reader, send, scope["method"])
        finally:
            if uploading is not None:
                uploading.cancel()
                await asyncio.gather(uploading, return_exceptions=True)
            writer.close()

    def _write_head(self, scope: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        lines = [scope["method"].encode() + b" " + target + b" HTTP/1.1"]
        length = False
        chunked = False
        for name, value in scope["headers"]:
            if name == b"transfer-encoding":
                chunked = True
            if name in HOP_BY_HOP or name == b"expect":
                continue
            length = length or name == b"content-length"
            lines.append(name + b": " + value)
        chunked = chunked and not length
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
        data = await reader.read(1 << 16)
        if data:
            parser.feed_data(data)
        if answer.started and not sent:
            await send({"type": "http.response.start", "status": parser.get_status_code(), "headers": answer.headers})
            sent = True
        body = b"".join(answer.parts)
        answer.parts.clear()
        ended = answer.complete or not data or (sent and method == "HEAD")
        if not sent:
            if ended:
                raise Refused("unavailable", 503, "the query process ended while it answered; try again", retry_after=1)
            continue
        await send({"type": "http.response.body", "body": body, "more_body": not ended})
        if ended:
            return
