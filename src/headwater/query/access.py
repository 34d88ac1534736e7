"""Who asks, and for which project. What is not theirs answers like what does not exist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from litestar import Request

from headwater.catalog.keys import hash_of
from headwater.catalog.port import ControlReader, Key, Project
from headwater.errors import HeadwaterError, Refused

PROJECT_HEADER = "x-headwater-project"


@dataclass(frozen=True)
class Caller:
    """The key of a request and the project it is about."""

    key: Key
    project: Project

    @property
    def operator(self) -> bool:
        return self.key.operator

    @property
    def name(self) -> str:
        """As the audit log names it."""
        return f"key {self.key.id} of {self.key.project_id}"


def caller(request: Request[Any, Any, Any], control: ControlReader, *, admin: bool = False) -> Caller:
    """The caller, if they may ask (`admin`: manage). An operator may name another project in `X-Headwater-Project`.

    Raises `Refused`: `unauthorized`, `forbidden`, `not_found` (the project), `unavailable`.
    """
    secret = _secret(request)
    if secret is None:
        raise Refused("unauthorized", 401, "no key: send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
    try:
        key = control.key_by_hash(hash_of(secret))
    except HeadwaterError as error:
        raise Refused("unavailable", 503, f"keys cannot be checked now: {error}", retry_after=2) from error
    if key is None or key.revoked_at is not None:
        raise Refused("unauthorized", 401, "the key is not known, or was revoked")
    allowed = ("admin",) if admin else ("read", "admin")
    if key.role not in allowed:
        raise Refused("forbidden", 403, f"a {key.role!r} key may not do this; it takes {' or '.join(allowed)}")
    wanted = request.headers.get(PROJECT_HEADER, key.project_id)
    if wanted != key.project_id and not key.operator:
        raise Refused("not_found", 404, f"there is no project {wanted!r}")
    project = control.project(wanted)
    if project is None:
        raise Refused("not_found", 404, f"there is no project {wanted!r}")
    return Caller(key, project)


def _secret(request: Request[Any, Any, Any]) -> str | None:
    bearer = request.headers.get("authorization", "")
    if bearer[:7].lower() == "bearer ":
        return bearer[7:].strip()
    return request.headers.get("x-api-key", "").strip() or None
