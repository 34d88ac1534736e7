"""Routes that manage: projects, keys, rejected input."""

from __future__ import annotations

import base64
import re
from typing import Any

from litestar import Request, Response, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from headwater.catalog.keys import make_secret
from headwater.catalog.port import Key, Project
from headwater.clock import rfc3339
from headwater.errors import Refused
from headwater.model.rejection import KeptRejection
from headwater.query.access import Caller, caller
from headwater.query.asking import body_of, json_response, parameters_of
from headwater.query.desk import Desk
from headwater.query.lookups import limit_of
from headwater.query.question import invalid, only, optional_time
from headwater.query.rendering import time_or_none

Req = Request[Any, Any, Any]
ROLES = ("write", "read", "admin")
STAGES = ("ingest", "archive")
_REJECTION_ID = re.compile(r"[im][0-9]{1,18}")


def managing_routes(desk: Desk) -> list[HTTPRouteHandler]:
    """The routes over a desk."""
    services = desk.services
    control = services.control

    def noted(asking: Caller, action: str, subject: str) -> None:
        control.record_audit(services.clock.now_us(), asking.name, action, subject, "http")

    @get("/v1/projects")
    async def list_projects(request: Req) -> Response[bytes]:
        asking = caller(request, control, admin=True)
        projects = control.projects() if asking.operator else [asking.project]
        return json_response({"data": [_project(p) for p in projects]})

    @post("/v1/projects")
    async def create_project(request: Req) -> Response[bytes]:
        asking = caller(request, control, admin=True)
        if not asking.operator:
            raise Refused("forbidden", 403, "projects are made with the operator's admin key")
        body = _object(body_of(await request.body(), '{"id": "shop"}'), ("id",))
        made = control.create_project(str(body["id"]), services.clock.now_us())
        noted(asking, "project created", made.id)
        return json_response(_project(made), 201)

    @get("/v1/keys")
    async def list_keys(request: Req) -> Response[bytes]:
        asking = caller(request, control, admin=True)
        return json_response({"data": [_key(k) for k in control.keys(asking.project.id)]})

    @post("/v1/keys")
    async def create_key(request: Req) -> Response[bytes]:
        asking = caller(request, control, admin=True)
        body = _object(body_of(await request.body(), '{"role": "write"}'), ("role",), ("project",))
        if body["role"] not in ROLES:
            raise Refused("invalid_field", 422, f"role: {body['role']!r} is not one of {', '.join(ROLES)}")
        project = body.get("project", asking.project.id)
        if project != asking.project.id and (not asking.operator or control.project(str(project)) is None):
            raise Refused("not_found", 404, f"there is no project {project!r}")
        secret = make_secret(body["role"], services.random_bytes)
        key = control.create_key(str(project), body["role"], secret, services.clock.now_us())
        noted(asking, "key created", f"{project}/{key.id} {key.role}")
        return json_response({**_key(key), "secret": secret}, 201)

    @delete("/v1/keys/{key_id:str}", status_code=204)
    async def revoke_key(request: Req, key_id: FromPath[str]) -> None:
        import anyio

        asking = caller(request, control, admin=True)
        if not control.revoke_key(asking.project.id, key_id, services.clock.now_us()):
            raise Refused("not_found", 404, f"there is no key {key_id!r} in project {asking.project.id!r}")
        noted(asking, "key revoked", f"{asking.project.id}/{key_id}")
        await anyio.sleep(services.settle_seconds)

    @get("/v1/rejected", sync_to_thread=True)
    def list_rejected(request: Req) -> Response[bytes]:
        asking = caller(request, control)
        page, cursor = _page(desk, asking.project, parameters_of(request))
        return json_response({"data": [_rejected(kept) for kept in page], "next": cursor})

    @get("/v1/rejected/{rejection_id:str}", sync_to_thread=True)
    def show_rejected(request: Req, rejection_id: FromPath[str]) -> Response[bytes]:
        project = caller(request, control).project
        kept = None
        if _REJECTION_ID.fullmatch(rejection_id):
            with services.reading_log() as log:
                kept = log.rejection(project.id, rejection_id)
        if kept is None:
            with desk.readings.open() as reading:
                kept = reading.manifest.rejection(project.id, rejection_id)
        if kept is None:
            raise Refused("not_found", 404, f"there is no rejected input {rejection_id!r}")
        return json_response(_rejected(kept))

    return [list_projects, create_project, list_keys, create_key, revoke_key, list_rejected, show_rejected]


def _page(desk: Desk, project: Project, parameters: dict[str, str]) -> tuple[list[KeptRejection], str | None]:
    """Rejected input of both stages, newest first. The cursor holds the last id seen of each stage."""
    only(parameters, ("reason", "stage", "since", "limit", "cursor"))
    limit = limit_of(parameters, 100, 1_000)
    stage = parameters.get("stage")
    if stage is not None and stage not in STAGES:
        raise invalid(f"stage: {stage!r} is not one of {', '.join(STAGES)}")
    since = optional_time("since", parameters.get("since")) or 0
    seen: list[str | None] = [last or None for last in parameters.get("cursor", ".").split(".")]
    if len(seen) != 2 or not all(last is None or _REJECTION_ID.fullmatch(last) for last in seen):
        raise invalid("cursor: not one that was given out as 'next'")
    reason = parameters.get("reason")
    found: list[tuple[int, KeptRejection]] = []
    if stage in (None, "ingest"):
        with desk.services.reading_log() as log:
            held = log.rejections(project.id, since=since, reason=reason, before=seen[0], limit=limit + 1)
        found += [(0, kept) for kept in held]
    if stage in (None, "archive"):
        with desk.readings.open() as reading:
            later = reading.manifest.rejections(project.id, since=since, reason=reason, before=seen[1], limit=limit + 1)
        found += [(1, kept) for kept in later]
    found.sort(key=lambda one: -one[1].rejection.received_at)
    page = found[:limit]
    for source, kept in page:
        seen[source] = kept.id
    cursor = ".".join(last or "" for last in seen) if len(found) > limit else None
    return [kept for _, kept in page], cursor


def _rejected(kept: KeptRejection) -> dict[str, Any]:
    rejection = kept.rejection
    return {
        "id": kept.id,
        "receivedAt": rfc3339(rejection.received_at),
        "stage": rejection.stage,
        "reason": rejection.reason,
        "detail": rejection.detail,
        "eventId": rejection.event_id,
        "bytes": base64.b64encode(rejection.body).decode(),
        "cut": rejection.cut,
        "status": kept.status,
    }


def _project(project: Project) -> dict[str, Any]:
    return {"id": project.id, "createdAt": rfc3339(project.created_at)}


def _key(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "project": key.project_id,
        "role": key.role,
        "prefix": key.prefix,
        "createdAt": rfc3339(key.created_at),
        "revokedAt": time_or_none(key.revoked_at),
        "operator": key.operator,
    }


def _object(body: Any, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """The body as an object with exactly these members. Raises `Refused`."""
    if not isinstance(body, dict):
        raise Refused("invalid_field", 422, "the body is a JSON object")
    for name in needed:
        if name not in body:
            raise Refused("missing_field", 422, f"{name!r} is missing")
    for name in body:
        if name not in (*needed, *optional):
            raise Refused("invalid_field", 422, f"{name!r} is not known; allowed are {', '.join((*needed, *optional))}")
    return body
