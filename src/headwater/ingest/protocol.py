"""HTTP/1.1 as uvicorn speaks it, with what it lacks: deadlines for a request's arrival, and problem+json for one that
cannot be parsed."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from headwater.errors import Refused
from headwater.ingest import problem

HEADER_SECONDS = 5.0
BODY_SECONDS = 30.0
BODY_BYTES_PER_SECOND = 16 << 10
HEADER_BYTES = 64 << 10
JOINED_BYTES = 64 << 10
LARGE_HEADERS = "the headers are larger than 64 KiB"


class JoinedWrites:
    """A transport that sends what is written within one turn of the loop at once: uvicorn writes head and body one
    after the other, and a second system call costs more than all else in a small answer."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size > JOINED_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return bool(self._transport.is_closing())

    def _flush(self) -> None:
        if self._parts:
            self._transport.write(b"".join(self._parts))
            self._parts.clear()
            self._size = 0


class Protocol(HttpToolsProtocol):
    """One connection. A request's headers have 5 s and 64 KiB; its body 30 s, or longer while it keeps 16 KiB/s.

    `check` is called about once a second for every connection: cheaper than a timer for every request.
    """

    _started: float | None = None
    _head_bytes = 0
    _body_bytes = 0
    _in_body = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.transport = JoinedWrites(transport, self.loop)  # type: ignore[assignment]
        self._started = self.loop.time()

    def data_received(self, data: bytes) -> None:
        if self._in_body:
            super().data_received(data)
            return
        if self._started is None:
            self._started = self.loop.time()
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > HEADER_BYTES and not self._in_body:
            self._refuse(LARGE_HEADERS)  # one header without an end would otherwise be gathered without a limit

    def on_headers_complete(self) -> None:
        # what came together with a body may be more than the headers alone
        if self._head_bytes > HEADER_BYTES and sum(len(n) + len(v) for n, v in self.headers) > HEADER_BYTES:
            self._refuse(LARGE_HEADERS)
            return
        self._in_body = True
        self._started = self.loop.time()
        self._head_bytes = self._body_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        self._started = None
        self._head_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse("the request is not HTTP/1.1 that can be parsed")

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade is not taken and the request answered as any other: nothing to log."""

    def check(self, now: float) -> None:
        """Ends a request that is late; `now` in the loop's seconds."""
        if self._started is None:
            return
        waited = now - self._started
        if not self._in_body:
            if waited <= HEADER_SECONDS:
                return
            if self._head_bytes:
                self._refuse("the headers did not arrive within 5 s")
            else:
                self.transport.close()
        elif waited > BODY_SECONDS:
            # where reading is paused it is us who are slow
            if self._body_bytes >= waited * BODY_BYTES_PER_SECOND or self.flow.read_paused:
                self._started, self._body_bytes = now, 0
            else:
                self._refuse("the body did not arrive within 30 s, nor at 16 KiB a second")

    def _refuse(self, detail: str) -> None:
        """Answers 400 and closes; for requests that no application will see or finish."""
        self._started = None
        if self.transport.is_closing():
            return
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()  # an answer is on its way; another one would end up in the middle of it
            return
        refused = Refused("bad_request", 400, detail)
        body = problem.body(refused)
        head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (problem.MEDIA_TYPE, len(body)) + body)
        self.transport.close()
