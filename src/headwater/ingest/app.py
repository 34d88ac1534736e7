"""The sending routes as a raw ASGI callable: authenticate, admit, read, unpack, parse, append, answer."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from headwater.catalog.port import Key
from headwater.clock import DAY, Clock
from headwater.errors import Refused
from headwater.ingest import problem
from headwater.ingest.admission import is_ndjson, unpack
from headwater.ingest.commit import GroupCommit
from headwater.ingest.keys import KeyCache, secret_of
from headwater.ingest.relay import Receive, Relay, Send
from headwater.model.event import Parsed, Shape, parse_body
from headwater.model.event_checks import BODY_LIMITS, EVENT_BYTES
from headwater.model.rejection import KEPT_BYTES, REASONS, Rejection
from headwater.telemetry import metrics

SINGLE = "/v1/events"
BATCH = "/v1/events/batch"
JSON = [(b"content-type", b"application/json")]


@dataclass(frozen=True)
class Request:
    """A sending request after its headers were read."""

    single: bool
    key: Key
    ndjson: bool
    encoding: bytes
    received_at: int
    source: bytes


class Ingest:
    """Takes events; everything else goes to `relay`. `retention_days` None keeps events of any age."""

    def __init__(
        self, keys: KeyCache, commit: GroupCommit, relay: Relay, clock: Clock, retention_days: int | None = None
    ) -> None:
        self._keys = keys
        self._commit = commit
        self._relay = relay
        self._clock = clock
        self._retention = None if retention_days is None else retention_days * DAY

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        own = path == BATCH or (path == SINGLE and method not in ("GET", "HEAD"))
        began = time.monotonic()
        try:
            if path == "/healthz":
                await _answer(send, 200, b'{"status":"ok"}', JSON)
            elif not own:
                await self._relay(scope, receive, send)
            else:
                status, body, fields = await self._take(scope, receive)
                metrics.REQUESTS.labels(status).inc()
                metrics.REQUEST_SECONDS.observe(time.monotonic() - began)
                await _answer(send, status, body, fields)
        except Refused as refused:
            if own:
                metrics.REQUESTS.labels(refused.status).inc()
            fields = problem.headers(refused)
            if refused.reason == "method_not_allowed":
                fields.append((b"allow", b"POST" if path == BATCH else b"GET, HEAD, POST"))
            await _answer(send, refused.status, problem.body(refused), fields)

    async def _take(self, scope: dict[str, Any], receive: Receive) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
        """The steps of a sending request."""
        request = self._admit(scope)
        body = await self._read(scope, receive, request)
        try:
            parsed = self._parse(request, body)
        except Refused as refused:
            await self._keep_whole(request, refused, body)
            raise
        rejections = [self._rejection(request, v.reason, v.detail, v.body, v.event_id) for v in parsed.verdicts]
        if parsed.accepted or rejections:
            await self._commit.append(parsed, rejections, len(body))
        metrics.ACCEPTED.inc(parsed.accepted)
        for rejection in rejections:
            metrics.REJECTED.labels(rejection.reason).inc()
        return _verdict(request, parsed)

    def _admit(self, scope: dict[str, Any]) -> Request:
        """Who sends, what, and whether there is room; nothing of the body is read before this."""
        single = scope["path"] == SINGLE
        if scope["method"] != "POST":
            raise Refused("method_not_allowed", 405, f"{scope['path']} takes POST, not {scope['method']}")
        key = self._keys.sender(secret_of(scope["headers"]))
        fields = dict(scope["headers"])
        declared = fields.get(b"content-length")
        encoding = fields.get(b"content-encoding", b"")
        limit = EVENT_BYTES if single and not encoding else BODY_LIMITS["batch"]
        if declared is not None and declared.isdigit() and int(declared) > limit:
            raise Refused(
                "event_too_large" if single else "body_too_large",
                413,
                f"the body has {int(declared)} bytes; at most {limit} are taken",
            )
        self._commit.check_room(int(declared) if declared and declared.isdigit() else 0)
        ndjson = is_ndjson(fields.get(b"content-type", b""), single=single)
        received_at = self._commit.received_at(self._clock.now_us())
        return Request(single, key, ndjson, encoding, received_at, fields.get(b"x-request-id", b""))

    async def _read(self, scope: dict[str, Any], receive: Receive, request: Request) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused("bad_request", 400, "the connection ended before the body did")
            part = message.get("body", b"")
            size += len(part)
            if size > BODY_LIMITS["batch"]:
                raise Refused("body_too_large", 413, f"the body has more than {BODY_LIMITS['batch']} bytes")
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts) if len(parts) > 1 else part

    def _parse(self, request: Request, body: bytes) -> Parsed:
        received_at = self._commit.received_at(request.received_at)
        oldest = None
        if self._retention is not None and request.key.role != "import":
            oldest = received_at - self._retention
        shape: Shape = "single" if request.single else "ndjson" if request.ndjson else "batch"
        return parse_body(
            unpack(body, request.encoding, BODY_LIMITS["batch"]),
            shape,
            received_at=received_at,
            project_id=request.key.project_id,
            new_id=lambda: new_id(received_at),
            oldest=oldest,
        )

    async def _keep_whole(self, request: Request, refused: Refused, body: bytes) -> None:
        """Keeps a body that could not be taken apart; durable before the refusal goes out."""
        metrics.REJECTED.labels(refused.reason).inc()
        rejection = self._rejection(request, refused.reason, refused.detail, body, refused.extra.get("eventId"))
        await self._commit.append(None, [rejection], min(len(body), KEPT_BYTES))

    def _rejection(self, request: Request, reason: str, detail: str, body: bytes, event_id: str | None) -> Rejection:
        return Rejection(
            request.key.project_id,
            request.received_at,
            "ingest",
            reason,
            detail,
            body[:KEPT_BYTES],
            event_id,
            len(body) > KEPT_BYTES,
        )


def _verdict(request: Request, parsed: Parsed) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    if request.single:
        if parsed.verdicts:
            verdict = parsed.verdicts[0]
            raise Refused(verdict.reason, REASONS[verdict.reason], verdict.detail, eventId=verdict.event_id)
        return 202, msgspec.json.encode({"status": "accepted", "eventId": parsed.event_ids[0]}), JSON
    rejected = [
        {"index": v.index, "eventId": v.event_id, "reason": v.reason, "detail": v.detail} for v in parsed.verdicts
    ]
    if rejected and not parsed.accepted:
        refused = Refused(
            parsed.verdicts[0].reason,
            422,
            f"none of the {len(rejected)} events could be taken; the first: {parsed.verdicts[0].detail}",
            accepted=0,
            rejected=rejected,
        )
        return 422, problem.body(refused), problem.headers(refused)
    return 202, msgspec.json.encode({"accepted": parsed.accepted, "rejected": rejected}), JSON


def new_id(received_at: int) -> str:
    """A UUIDv7 of the receipt: ids made here sort by time, which keeps their files small and quick to search."""
    value = (received_at // 1000) << 80 | 0x7 << 76 | int.from_bytes(os.urandom(10), "big") & ~(0xF << 76)
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


async def _answer(send: Send, status: int, body: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*fields, length]})
    await send({"type": "http.response.body", "body": body})
