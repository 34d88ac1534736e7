"""The real application over real stores, called without a socket."""

import asyncio

import httpx
import pytest

from headwater.query.process import create_app
from tests.query.world import World


class Client:
    """Calls the application with one of the first keys."""

    def __init__(self, world):
        self.world = world
        self.keys = {role: (world.folder / "keys" / role).read_text().strip() for role in ("write", "read", "admin")}
        self._transport = httpx.ASGITransport(app=create_app(world.services), raise_app_exceptions=False)
        self._runner = asyncio.Runner()

    def call(self, method, path, role="admin", key=None, headers=(), **given):
        secret = key or self.keys.get(role)
        sent = dict(headers) | ({"Authorization": f"Bearer {secret}"} if secret else {})

        async def answer():
            async with httpx.AsyncClient(transport=self._transport, base_url="http://headwater") as client:
                return await client.request(method, path, headers=sent, **given)

        return self._runner.run(answer())

    def get(self, path, role="admin", **parameters):
        return self.call("GET", path, role, params=parameters)

    def sql(self, text, role="read", **more):
        return self.call("POST", "/v1/query", role, json={"sql": text, **more})

    def close(self):
        self._runner.close()


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def client(world):
    client = Client(world)
    yield client
    client.close()
