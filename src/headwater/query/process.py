"""The `query` process: questions and management over HTTP, on a Unix socket that ingest relays to."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
import structlog
import uvicorn
from litestar import Litestar, Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException

from headwater.errors import HeadwaterError, Refused
from headwater.query.asking import asking_routes
from headwater.query.desk import open_desk
from headwater.query.managing import managing_routes
from headwater.query.operating import operating_routes
from headwater.query.services import Services

PROBLEM = "application/problem+json"
_log = structlog.get_logger("query")


def create_app(services: Services) -> Litestar:
    """The application over opened stores. Closing the stores is the caller's."""
    desk = open_desk(services)

    async def start() -> None:
        desk.sql.warm()

    async def stop() -> None:
        desk.sql.close()

    return Litestar(
        route_handlers=[*asking_routes(desk), *managing_routes(desk), *operating_routes(desk)],
        exception_handlers={
            Refused: _refused,
            MethodNotAllowedException: _not_allowed,
            HTTPException: _http,
            HeadwaterError: _unavailable,
            Exception: _unexpected,
        },
        on_startup=[start],
        on_shutdown=[stop],
        openapi_config=None,
        request_max_body_size=1 << 20,
        debug=False,
    )


def problem(status: int, reason: str, detail: str, **more: Any) -> Response[bytes]:
    """An RFC 9457 document."""
    document = {
        "type": f"urn:headwater:{reason}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "reason": reason,
        **more,
    }
    return Response(msgspec.json.encode(document), status_code=status, media_type=PROBLEM)


def _refused(_: Request[Any, Any, Any], refused: Refused) -> Response[bytes]:
    answer = problem(refused.status, refused.reason, refused.detail, **refused.extra)
    if refused.status in (429, 503):
        answer.headers["retry-after"] = str(refused.retry_after or 1)
    if refused.status == 401:
        answer.headers["www-authenticate"] = "Bearer"
    return answer


def _not_allowed(request: Request[Any, Any, Any], error: MethodNotAllowedException) -> Response[bytes]:
    answer = problem(405, "method_not_allowed", f"{request.url.path} does not take {request.method}")
    if error.headers:
        answer.headers.update({k: v for k, v in error.headers.items() if k.lower() == "allow"})
    return answer


def _http(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    reason = {404: "not_found", 413: "body_too_large", 415: "unsupported_type"}.get(error.status_code, "bad_request")
    status = error.status_code if error.status_code in (404, 413, 415) else 400
    detail = (
        f"there is nothing at {request.url.path}; /openapi.json lists what there is" if status == 404 else error.detail
    )
    return problem(status, reason, detail)


def _unavailable(_: Request[Any, Any, Any], error: HeadwaterError) -> Response[bytes]:
    _log.error("a store could not be used", exc_info=error)
    answer = problem(503, "unavailable", str(error))
    answer.headers["retry-after"] = "2"
    return answer


def _unexpected(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    _log.error("an answer failed", exc_info=error)
    return problem(500, "unavailable", "the answer failed by a fault of the system; its log says more")


class _Server(uvicorn.Server):
    """Stops by SIGTERM and SIGINT as far as they are not ignored, and returns then: whoever runs it closes the stores
    and ends with code 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        taken = [s for s in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(s) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self.handle_exit) for number in taken}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(services: Services, path: Path) -> None:
    """Serves on the Unix socket `path`, which only this user may open, until SIGTERM."""
    listening = _listen(path)
    config = uvicorn.Config(
        create_app(services),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_config=None,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=10,
        ws="none",
    )
    try:
        _Server(config).run(sockets=[listening])
    finally:
        listening.close()
        path.unlink(missing_ok=True)


def _listen(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
    finally:
        os.umask(before)
    return listening
