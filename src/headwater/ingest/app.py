"""The sending routes as a raw ASGI callable. `_take` lists the steps of a request in order."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from headwater.catalog.port import Key
from headwater.clock import DAY, Clock
from headwater.errors import Refused
from headwater.ingest import problem
from headwater.ingest.admission import is_ndjson, unpack
from headwater.ingest.commit import GroupCommit, Room
from headwater.ingest.keys import KeyCache, secret_of
from headwater.ingest.relay import BrokenOff, Receive, Relay, Send
from headwater.ingest.tally import Tally
from headwater.model.event import Parsed, Shape, parse_body
from headwater.model.event_checks import BODY_LIMITS, EVENT_BYTES
from headwater.model.rejection import KEPT_BYTES, REASONS, Rejection
from headwater.telemetry import metrics

SINGLE = "/v1/events"
BATCH = "/v1/events/batch"
Fields = list[tuple[bytes, bytes]]
Answer = tuple[int, bytes, Fields]
# Pages of any origin may send; no cookies are involved, a key is.
ANY_ORIGIN = (b"access-control-allow-origin", b"*")
JSON = [(b"content-type", b"application/json"), ANY_ORIGIN]
ALLOWED = {BATCH: b"POST, OPTIONS", SINGLE: b"GET, HEAD, POST, OPTIONS"}
PREFLIGHT = [
    ANY_ORIGIN,
    (b"access-control-allow-methods", b"POST, OPTIONS"),
    (b"access-control-allow-headers", b"authorization, x-api-key, content-type, content-encoding"),
    (b"access-control-max-age", b"86400"),
]
_log = structlog.get_logger("ingest")


class Request(msgspec.Struct, frozen=True, gc=False):
    """A sending request after its headers were read. `declared` is its Content-Length, 0 where it has none; `limit`
    how many bytes of it are read."""

    single: bool
    key: Key
    kind: bytes
    encoding: bytes
    declared: int
    limit: int


class Ingest:
    """Takes events; everything else goes to `relay`. `retention_days` None keeps events of any age.

    The look-up of an event whose id is `batch` is asked as `/v1/events/%62atch`.
    """

    def __init__(
        self,
        keys: KeyCache,
        commit: GroupCommit,
        relay: Relay,
        clock: Clock,
        retention_days: int | None = None,
        randomness: Callable[[int], bytes] = os.urandom,
        tally: Tally | None = None,
    ) -> None:
        self._tally = tally or Tally()
        self._keys = keys
        self._commit = commit
        self._relay = relay
        self._clock = clock
        self._retention = None if retention_days is None else retention_days * DAY
        self._randomness = randomness

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        path, method = scope["raw_path"].decode("ascii"), scope["method"]
        try:
            if path == BATCH or (path == SINGLE and method not in ("GET", "HEAD")):
                answer = await self._own(path, scope, receive)
            elif path == "/healthz":
                answer = 200, b'{"status":"ok"}', JSON
            else:
                await self._relay(scope, receive, send)
                return
        except BrokenOff:
            return  # uvicorn cuts the connection of an answer that was not completed
        except Refused as refused:
            answer = refused.status, problem.body(refused), problem.headers(refused)
        await _answer(send, *answer, head=method == "HEAD")

    async def _own(self, path: str, scope: dict[str, Any], receive: Receive) -> Answer:
        began = time.monotonic()
        try:
            if scope["method"] == "OPTIONS":
                return 204, b"", [*PREFLIGHT, (b"allow", ALLOWED[path])]
            answer = await self._take(path, scope, receive)
        except Refused as refused:
            answer = refused.status, problem.body(refused), [*problem.headers(refused), ANY_ORIGIN]
            if refused.status == 405:
                answer[2].append((b"allow", ALLOWED[path]))
        except Exception:
            # a fault of ours is never the sender's: it keeps the events and sends them again
            _log.exception("a sending request failed")
            fault = Refused("unavailable", 503, "the request could not be handled now; send it again", retry_after=5)
            answer = fault.status, problem.body(fault), [*problem.headers(fault), ANY_ORIGIN]
        self._tally.requests[answer[0]] += 1
        metrics.REQUEST_SECONDS.observe(time.monotonic() - began)
        return answer

    async def _take(self, path: str, scope: dict[str, Any], receive: Receive) -> Answer:
        """The steps of a sending request: admit, read, unpack, parse, append, answer.

        What an authenticated sender sent is durable, as events or as rejected input, before any answer goes out.
        """
        request = self._admit(path, scope)
        with Room(self._commit) as room:
            room.take(min(request.declared, request.limit))  # before anything is read or unpacked
            body = b""
            try:
                body, refusal = await _read(receive, request, room)
                if refusal is not None:
                    raise refusal
                shape = _shape(request)
                body = _unpacked(request, body, room)
                parsed = self._parse(request, shape, body)
            except Refused as refused:
                if refused.reason not in ("bad_request", "overloaded"):
                    await self._keep_whole(request, refused, body)
                raise
            rejections = [
                _rejection(request, parsed.received_at, v.reason, v.detail, v.body, v.event_id) for v in parsed.verdicts
            ]
            if parsed.accepted or rejections:
                await self._commit.append(parsed, rejections, len(body))
        self._tally.accepted += parsed.accepted
        for rejection in rejections:
            self._tally.rejected[rejection.reason] += 1
        return _verdict(request, parsed)

    def _admit(self, path: str, scope: dict[str, Any]) -> Request:
        """Who sends, and what; nothing of the body is read before this."""
        if scope["method"] != "POST":
            raise Refused("method_not_allowed", 405, f"{path} takes POST, not {scope['method']}")
        key = self._keys.sender(secret_of(scope["headers"]))
        fields = dict(scope["headers"])
        length = fields.get(b"content-length", b"0")
        encoding = fields.get(b"content-encoding", b"").strip().lower()
        declared = int(length) if length.isdigit() else 0
        limit = EVENT_BYTES if path == SINGLE and encoding in (b"", b"identity") else BODY_LIMITS["batch"]
        return Request(path == SINGLE, key, fields.get(b"content-type", b""), encoding, declared, limit)

    def _parse(self, request: Request, shape: Shape, body: bytes) -> Parsed:
        received_at = self._commit.received_at(self._clock.now_us())
        oldest = None
        if self._retention is not None and request.key.role != "import":
            oldest = received_at - self._retention
        return parse_body(
            body,
            shape,
            received_at=received_at,
            project_id=request.key.project_id,
            new_id=lambda: new_id(received_at, self._randomness),
            oldest=oldest,
        )

    async def _keep_whole(self, request: Request, refused: Refused, body: bytes) -> None:
        """Keeps a body that could not be taken apart; durable before the refusal goes out."""
        self._tally.rejected[refused.reason] += 1
        received_at = self._commit.received_at(self._clock.now_us())
        rejection = _rejection(request, received_at, refused.reason, refused.detail, body, None)
        await self._commit.append(None, [rejection], len(rejection.body))


async def _read(receive: Receive, request: Request, room: Room) -> tuple[bytes, Refused | None]:
    """The body as sent; of one that is too large only the beginning, with the refusal."""
    enough = KEPT_BYTES - 1 if request.declared > request.limit else request.limit
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused("bad_request", 400, "the connection ended before the body did")
        part = message.get("body", b"")
        size += len(part)
        if size > request.declared:
            room.take(len(part))
        parts.append(part)
        if size > enough:
            reason = "event_too_large" if request.single else "body_too_large"
            detail = f"the body has more than {request.limit} bytes; send less at once"
            return b"".join(parts), Refused(reason, 413, detail)
        if not message.get("more_body", False):
            return b"".join(parts) if len(parts) > 1 else part, None


def _shape(request: Request) -> Shape:
    ndjson = is_ndjson(request.kind, single=request.single)
    return "single" if request.single else "ndjson" if ndjson else "batch"


def _unpacked(request: Request, body: bytes, room: Room) -> bytes:
    plain = unpack(body, request.encoding, BODY_LIMITS["batch"])
    if plain is not body:
        room.take(len(plain))
    return plain


def _rejection(
    request: Request, received_at: int, reason: str, detail: str, body: bytes, event_id: str | None
) -> Rejection:
    cut = len(body) > KEPT_BYTES
    kept = body[:KEPT_BYTES] if cut else body
    return Rejection(request.key.project_id, received_at, "ingest", reason, detail, kept, event_id, cut)


def _verdict(request: Request, parsed: Parsed) -> Answer:
    if request.single:
        if parsed.verdicts:
            verdict = parsed.verdicts[0]
            raise Refused(verdict.reason, REASONS[verdict.reason], verdict.detail, eventId=verdict.event_id)
        return 202, msgspec.json.encode({"status": "accepted", "eventId": parsed.event_ids[0]}), JSON
    rejected = [
        {"index": v.index, "eventId": v.event_id, "reason": v.reason, "detail": v.detail} for v in parsed.verdicts
    ]
    if rejected and not parsed.accepted:
        first = parsed.verdicts[0]
        detail = f"none of the {len(rejected)} events could be taken; the first: {first.detail}"
        raise Refused(first.reason, 422, detail, accepted=0, rejected=rejected)
    return 202, msgspec.json.encode({"accepted": parsed.accepted, "rejected": rejected}), JSON


def new_id(received_at: int, randomness: Callable[[int], bytes]) -> str:
    """A UUIDv7 of the receipt: ids made here sort by time, which keeps their files small and quick to search."""
    value = (received_at // 1000) << 80 | 0x7 << 76 | int.from_bytes(randomness(10), "big") & ~(0xF << 76)
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


async def _answer(send: Send, status: int, body: bytes, fields: Fields, *, head: bool) -> None:
    if status != 204:
        fields = [*fields, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": b"" if head else body})
