"""Routes that ask: metrics, SQL, events."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import unquote

import msgspec
from litestar import Request, Response, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from headwater.catalog.port import Project
from headwater.errors import Refused
from headwater.model.metric import Metric, check_definition, definition_from
from headwater.query.access import caller
from headwater.query.desk import Desk
from headwater.query.lookups import wanted
from headwater.query.question import invalid, metric_question
from headwater.query.rendering import answer_bytes, time_or_none
from headwater.query.sql import SqlAnswer, Statement
from headwater.telemetry import metrics as measured

Req = Request[Any, Any, Any]
MEDIA = {"json": "application/json", "csv": "text/csv; charset=utf-8", "arrow": "application/vnd.apache.arrow.stream"}
STATEMENT_BYTES = 256 << 10


def json_response(value: Any, status: int = 200) -> Response[bytes]:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


def definition_document(metric: Metric) -> dict[str, Any]:
    """A definition as users see it: what they wrote, with its name, version and when it changed."""
    written: dict[str, Any] = msgspec.to_builtins(metric.definition)
    changed = time_or_none(metric.changed_at) if metric.changed_at else None
    return {"name": metric.name, "version": metric.version, "changedAt": changed, **written}


def body_of(raw: bytes, what: str) -> Any:
    """The decoded JSON body. Raises `Refused(invalid_json)`."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("invalid_json", 400, f"the body is not JSON ({error}); send {what}") from error


def parameters_of(request: Req) -> dict[str, str]:
    """The query parameters. Raises `Refused(invalid_query)` where one is given twice."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in found:
            raise invalid(f"{name!r} is given twice")
        found[name] = value
    return found


def asking_routes(desk: Desk) -> list[HTTPRouteHandler]:
    """The routes over a desk."""
    services = desk.services
    control = services.control

    def metric_named(project: Project, name: FromPath[str]) -> Metric:
        for metric in control.metrics(project.id):
            if metric.name == name:
                return metric
        raise Refused("not_found", 404, f"there is no metric {name!r}; GET /v1/metrics lists them, PUT defines one")

    @get("/v1/metrics", sync_to_thread=True)
    def list_metrics(request: Req) -> Response[bytes]:
        asking = caller(request, control)
        return json_response({"data": [definition_document(m) for m in control.metrics(asking.project.id)]})

    @put("/v1/metrics/{name:str}")
    async def define_metric(request: Req, name: FromPath[str]) -> Response[bytes]:
        asking = caller(request, control, admin=True)
        definition = definition_from(body_of(await request.body(), "a metric definition"))
        check_definition(name, definition)
        now = services.clock.now_us()
        metric, outcome = control.define_metric(asking.project.id, name, definition, now)
        if outcome != "same":
            control.record_audit(now, asking.name, f"metric {outcome}", f"{asking.project.id}/{metric.key}", "http")
        return json_response(definition_document(metric), 201 if outcome == "new" else 200)

    @get("/v1/metrics/{name:str}/definition", sync_to_thread=True)
    def show_definition(request: Req, name: FromPath[str]) -> Response[bytes]:
        return json_response(definition_document(metric_named(caller(request, control).project, name)))

    @get("/v1/metrics/{name:str}", sync_to_thread=True)
    def ask_metric(request: Req, name: FromPath[str]) -> Response[bytes]:
        began = time.perf_counter()
        metric = metric_named(caller(request, control).project, name)
        question = metric_question(name, parameters_of(request), services.clock.now_us())
        answer = desk.answers.metric(metric, question)
        elapsed = time.perf_counter() - began
        measured.QUERY_SECONDS.labels("metric").observe(elapsed)
        return Response(answer_bytes(answer, int(elapsed * 1e6)), media_type=MEDIA[question.format])

    @post("/v1/query", status_code=200)
    async def ask_sql(request: Req) -> Response[bytes]:
        from litestar.concurrency import sync_to_thread

        began = time.perf_counter()
        project = caller(request, control).project
        raw = await request.body()
        if len(raw) > STATEMENT_BYTES:
            raise Refused("body_too_large", 413, f"a statement has at most {STATEMENT_BYTES} bytes")
        try:
            statement = msgspec.convert(body_of(raw, '{"sql": "SELECT ..."}'), Statement)
        except msgspec.ValidationError as error:
            raise invalid(f"query: {error}") from error
        answer = await sync_to_thread(desk.sql.run, project, statement)
        elapsed = time.perf_counter() - began
        measured.QUERY_SECONDS.labels("sql").observe(elapsed)
        return _sql_response(answer, elapsed)

    @get("/v1/events", sync_to_thread=True)
    def list_events(request: Req) -> Response[bytes]:
        asking = caller(request, control)
        events, cursor = desk.look_ups.page(asking.project, wanted(parameters_of(request)))
        return json_response({"data": events, "next": cursor})

    @get("/v1/events/{rest:path}", sync_to_thread=True)
    def show_event(request: Req, rest: FromPath[str]) -> Response[bytes]:
        """An id may hold any character, so it is taken from the path as it was sent."""
        project = caller(request, control).project
        sent = request.scope["raw_path"].decode("latin-1").removeprefix("/v1/events/")
        traced = sent.endswith("/trace")
        event_id = unquote(sent.removesuffix("/trace") if traced else sent)
        if traced:
            document = desk.traces.trace(project, event_id)
        else:
            found = desk.look_ups.by_id(project, event_id)
            document = found.event if found is not None else None
        if document is None:
            raise Refused("not_found", 404, f"there is no event {event_id!r}; if it was sent just now, ask again")
        return json_response(document)

    return [list_metrics, define_metric, show_definition, ask_metric, ask_sql, list_events, show_event]


def _sql_response(answer: SqlAnswer, elapsed: float) -> Response[bytes]:
    if answer.format != "json":
        return Response(answer.body, media_type=MEDIA[answer.format])
    document = {
        "columns": answer.columns,
        "rows": msgspec.Raw(answer.body),
        "meta": {
            "completeUpTo": time_or_none(answer.complete_up_to),
            "truncated": answer.truncated,
            "elapsedMs": round(elapsed * 1e3, 3),
        },
    }
    return json_response(document)
