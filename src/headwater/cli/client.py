"""How a command reaches the system: over HTTP where one runs, else over the stores themselves, under their lock."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from headwater.assembly.settings import Settings
from headwater.cli.context import Context
from headwater.errors import HeadwaterError, Unreachable, UsageError


class Failed(HeadwaterError):
    """The system answered with a problem; exit code 2 where the question is wrong, 3 where it cannot serve."""

    def __init__(self, answer: httpx.Response) -> None:
        try:
            problem = answer.json()
        except ValueError:
            problem = {}
        super().__init__(f"{problem.get('detail') or answer.text or answer.reason_phrase} [{answer.status_code}]")
        self.status = answer.status_code
        self.problem = problem


class Api:
    """The HTTP API with a key. Every call raises `Failed` for a problem and `Unreachable` where nobody answers.

    `work_off` does what was asked of `work`; None where a `work` runs, which does it by itself.
    """

    def __init__(self, client: httpx.Client, project: str, work_off: Callable[[], None] | None = None) -> None:
        self._client = client
        self.project = project
        self.work_off = work_off
        self.base_url = str(client.base_url)

    def call(self, method: str, path: str, **given: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, path, **given)
        except httpx.HTTPError as error:
            raise Unreachable(f"{self._client.base_url} does not answer: {error}") from error
        if answer.status_code >= 400:
            raise Failed(answer)
        return answer

    def get(self, path: str, **parameters: Any) -> Any:
        given = {name: value for name, value in parameters.items() if value is not None}
        return self.call("GET", path, params=given).json()

    def post(self, path: str, body: Any) -> Any:
        return self.call("POST", path, json=body).json()


@contextmanager
def connect(context: Context) -> Iterator[Api]:
    """The API of `--url`, or of the system that runs over the data folder, or of the stores in it.

    Raises `Unreachable` where none can be had.
    """
    if context.url:
        if not context.key:
            raise UsageError("--url needs --key KEY (or HEADWATER_KEY)")
        with _http(context.url, context) as api:
            yield api
        return
    address = running_at(context)
    if address:
        with _http(address, context) as api:
            yield api
        return
    if not (context.folder / "keys" / "admin").exists():
        raise Unreachable(
            f"there is no Headwater data in {context.folder}; run `headwater up`, or give --data or --url"
        )
    from headwater.assembly.offline import offline

    settings = context.load().settings
    with offline(settings) as transport:
        client = httpx.Client(transport=transport, base_url="http://headwater", headers=_headers(context), timeout=None)
        yield Api(client, context.project, lambda: _work_off(settings))


def _work_off(settings: Settings) -> None:
    from headwater.assembly.work import run_jobs

    run_jobs(settings)


@contextmanager
def _http(url: str, context: Context) -> Iterator[Api]:
    with httpx.Client(base_url=url.rstrip("/"), headers=_headers(context), timeout=120) as client:
        yield Api(client, context.project)


def _headers(context: Context) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {secret(context)}"}
    if context.project != "default":
        headers["X-Headwater-Project"] = context.project
    return headers


def running_at(context: Context) -> str | None:
    """Address of the system that runs over the data folder; None where none runs."""
    from headwater.assembly import lock

    if not lock.is_held(context.folder):
        return None
    try:
        state = json.loads((context.folder / "run" / "supervisor.json").read_text())
    except (OSError, ValueError) as error:
        raise Unreachable(
            f"something uses {context.folder}: a system that is starting or stopping (try again), another command, "
            "or single processes of `headwater run` (give --url)"
        ) from error
    return str(state["url"])


def secret(context: Context, role: str = "admin") -> str:
    """The key to use: `--key`, else the folder's own (of the project `default`, the operator's admin key for all)."""
    if context.key:
        return context.key
    if role == "write" and context.project != "default":
        raise UsageError(
            f"sending to project {context.project!r} needs a write key of it: "
            f"headwater keys create --role write --project {context.project}, then --key KEY"
        )
    file = context.folder / "keys" / role
    try:
        return file.read_text().strip()
    except OSError as error:
        raise Unreachable(f"no key: give --key, or run where {file} can be read") from error
