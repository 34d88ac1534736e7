"""The query API over the stores themselves, for commands while no system runs over the data folder."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from headwater.assembly import lock
from headwater.assembly.processes import query_services
from headwater.assembly.settings import Settings


class InProcess(httpx.BaseTransport):
    """Calls an ASGI application in this process."""

    def __init__(self, app: object) -> None:
        self._runner = asyncio.Runner()
        self._asgi = httpx.ASGITransport(app=app, raise_app_exceptions=True)  # type: ignore[arg-type]

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def answer() -> httpx.Response:
            whole = httpx.Request(request.method, request.url, headers=request.headers, content=request.read())
            given = await self._asgi.handle_async_request(whole)
            body = await given.aread()
            return httpx.Response(given.status_code, headers=given.headers, content=body)

        return self._runner.run(answer())

    def close(self) -> None:
        self._runner.close()


@contextmanager
def offline(settings: Settings) -> Iterator[InProcess]:
    """The API over the stores in the data folder, under its lock. Raises `Locked` where a system holds it."""
    from headwater.query.process import create_app

    with lock.take(settings.folder):
        services = query_services(settings)
        transport = InProcess(create_app(services))
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it would tell of every call
        try:
            yield transport
        finally:
            transport.close()
            services.close()
