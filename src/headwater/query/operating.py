"""Routes for those who run the system: status, audit, reconcile, lake files, jobs, health, Prometheus, documents."""

from __future__ import annotations

import os
from typing import Any

import msgspec
from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest, multiprocess

from headwater.catalog.port import JobRequest
from headwater.clock import rfc3339
from headwater.errors import Refused
from headwater.query.access import caller
from headwater.query.asking import body_of, json_response, parameters_of
from headwater.query.audit import audit
from headwater.query.desk import Desk
from headwater.query.openapi import document, page
from headwater.query.question import only, optional_time
from headwater.query.reading import Reading
from headwater.query.reconcile import Moment, Reconciliation, reconcile
from headwater.query.status import ready, status

Req = Request[Any, Any, Any]
KINDS = ("batch", "backfill")


def operating_routes(desk: Desk) -> list[HTTPRouteHandler]:
    """The routes over a desk."""
    services = desk.services
    control = services.control

    def progress_of(reading: Reading, job: JobRequest) -> str | None:
        """How far a backfill is, in the words of `work`; None for anything else."""
        wanted = job.parameters.get("metric")
        for metric in control.metrics(job.project_id) if job.project_id and wanted else ():
            if metric.name == wanted:
                return reading.manifest.progress(f"backfill:{job.project_id}:{metric.key}")
        return None

    @get("/v1/status", sync_to_thread=True)
    def show_status(request: Req) -> Response[bytes]:
        caller(request, control)
        return json_response(status(services, desk.readings))

    @get("/v1/audit", sync_to_thread=True)
    def show_audit(request: Req) -> Response[bytes]:
        asking = caller(request, control)
        with services.analyst.connection() as connection, services.reading_log() as log:
            report = audit(log, services.manifest, services.objects, connection)
        if not asking.operator:
            rows = [row for row in report.projects if row.project == asking.project.id]
            report = msgspec.structs.replace(
                report, projects=rows, ok=not any(row.missing or row.extra for row in rows)
            )
        return json_response(report)

    @get("/v1/reconcile", sync_to_thread=True)
    def show_reconcile(request: Req) -> Response[bytes]:
        asking = caller(request, control)
        given = parameters_of(request)
        only(given, ("startTime", "endTime"))
        start = optional_time("startTime", given.get("startTime"))
        end = optional_time("endTime", given.get("endTime"), whole_day=True)
        projects = control.projects() if asking.operator else [asking.project]
        return json_response(reconcile_all(desk, [p.id for p in projects], start, end))

    @get("/v1/lake/files", sync_to_thread=True)
    def list_files(request: Req) -> Response[bytes]:
        project = caller(request, control).project
        given = parameters_of(request)
        only(given, ("startTime", "endTime"))
        start = optional_time("startTime", given.get("startTime"))
        end = optional_time("endTime", given.get("endTime"), whole_day=True)
        with desk.readings.open() as reading:
            files = reading.manifest.files(project.id, start, end)
        rows = [
            {
                "path": str(services.objects.local_path(file.path)),
                "hour": rfc3339(file.hour),
                "rows": file.rows,
                "bytes": file.bytes,
                "checksum": file.checksum,
            }
            for file in files
        ]
        return json_response({"data": rows})

    @post("/v1/jobs")
    async def request_job(request: Req) -> Response[bytes]:
        asking = caller(request, control, admin=True)
        body = body_of(await request.body(), '{"kind": "batch"}')
        kind = body.get("kind") if isinstance(body, dict) else None
        if kind not in KINDS:
            raise Refused("invalid_field", 422, f"kind: {kind!r} is not one of {', '.join(KINDS)}")
        given = body.get("parameters") or {}
        if not isinstance(given, dict):
            raise Refused("invalid_field", 422, "parameters: an object of texts")
        if kind == "batch" and not asking.operator:
            raise Refused("forbidden", 403, "a batch run is over every project; it takes the operator's admin key")
        parameters = {str(k): str(v) for k, v in given.items()}
        project = None if kind == "batch" else asking.project.id
        job = control.request_job(kind, project, parameters, services.clock.now_us())
        return json_response({"id": job.id, "kind": job.kind}, 202)

    @get("/v1/jobs/{job_id:str}", sync_to_thread=True)
    def show_job(request: Req, job_id: FromPath[str]) -> Response[bytes]:
        asking = caller(request, control, admin=True)
        known = next((job for job in control.jobs() if str(job.id) == job_id), None)
        if known is None or (known.project_id != asking.project.id and not asking.operator):
            raise Refused("not_found", 404, f"there is no job {job_id}")
        with desk.readings.open() as reading:
            state = reading.manifest.jobs_done().get(known.id, "waiting")
            progress = progress_of(reading, known)
        return json_response({"id": known.id, "state": state, "progress": progress})

    return [show_status, show_audit, show_reconcile, list_files, request_job, show_job, *_open_routes(desk)]


def _open_routes(desk: Desk) -> list[HTTPRouteHandler]:
    """Routes that take no key; they tell nothing of what was sent."""

    @get("/healthz")
    async def healthz() -> Response[bytes]:
        return json_response({"status": "ok"})

    @get("/readyz", sync_to_thread=True)
    def readyz() -> Response[bytes]:
        missing = ready(desk.services)
        if missing:
            raise Refused("unavailable", 503, "; ".join(missing), retry_after=1)
        return json_response({"status": "ready"})

    @get("/metrics", sync_to_thread=True)
    def prometheus() -> Response[bytes]:
        registry = REGISTRY
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @get("/openapi.json")
    async def openapi() -> Response[bytes]:
        return json_response(document())

    @get("/docs")
    async def docs() -> Response[bytes]:
        return Response(page(document()).encode(), media_type="text/html; charset=utf-8")

    return [healthz, readyz, prometheus, openapi, docs]


def reconcile_all(desk: Desk, projects: list[str], start: int | None, end: int | None) -> Reconciliation:
    """Every metric of the projects, at one moment of all stores."""
    services = desk.services
    metrics = [metric for project in projects for metric in services.control.metrics(project)]
    with desk.readings.open() as reading, services.analyst.connection() as connection:
        moment = Moment(reading.manifest, reading.panes, services.objects, connection)
        tails = {project: reading.tail(project) for project in projects}
        return reconcile(moment, tails, metrics, start, end)
