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
LARGE_HEADERS = "the headers are larger than 64 KiB"


class Protocol(HttpToolsProtocol):
    """One connection. A request's headers have 5 s and 64 KiB; its body 30 s, or longer while it keeps 16 KiB/s."""

    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _raw_bytes = 0
    _body_bytes = 0
    _in_body = False
    _arrived = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._arm(HEADER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._in_body:
            self._arrived = True
        super().data_received(data)
        if self._arrived and not self._in_body:
            # one header without an end would otherwise be gathered without a limit
            self._raw_bytes += len(data)
            if self._raw_bytes > HEADER_BYTES:
                self._refuse(LARGE_HEADERS)

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        self._body_bytes = 0
        self._arm(HEADER_SECONDS)
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._head_bytes > HEADER_BYTES:
            self._refuse(LARGE_HEADERS)
            return
        self._in_body = True
        self._raw_bytes = 0
        self._arm(BODY_SECONDS)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = self._arrived = False
        self._disarm()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse("the request is not HTTP/1.1 that can be parsed")

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade is not taken and the request answered as any other: nothing to log."""

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, self._late, seconds)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self, seconds: float) -> None:
        self._deadline = None
        enough = self._body_bytes >= seconds * BODY_BYTES_PER_SECOND
        if self._in_body and (enough or self.flow.read_paused):  # paused: it is us who do not read
            self._body_bytes = 0
            self._arm(seconds)
        elif self._in_body or self._arrived:
            self._refuse("the request did not arrive in time")
        else:
            self.transport.close()

    def _refuse(self, detail: str) -> None:
        """Answers 400 and closes; for requests that no application will see or finish."""
        self._disarm()
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
