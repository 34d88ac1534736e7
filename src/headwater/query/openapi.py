"""The OpenAPI document of everything under the one port, ingest included, and the page that shows it.

Written by hand from one table, so that it says what a caller needs; a test holds it against the routes that exist.
"""

from __future__ import annotations

import html
import re
from functools import cache
from typing import Any

from headwater import __version__
from headwater.model.event_checks import BODY_LIMITS, EVENT_BYTES, MAX_EVENTS
from headwater.model.interval import GRANULARITIES
from headwater.model.rejection import REASONS

TEXT = {"type": "string"}
TIME = {"type": "string", "format": "date-time"}
COUNT = {"type": "integer", "minimum": 0}
OBJECT = {"type": "object"}
RANGE = {
    "startTime": "Inclusive; a date or a time. The last 24 hours when absent.",
    "endTime": "Exclusive; a bare date means the whole of that day.",
}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "object", "properties": properties}
    return made | ({"required": list(required)} if required else {})


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


SCHEMAS: dict[str, Any] = {
    "Event": _object(
        ("eventType",),
        eventId={**TEXT, "maxLength": 200, "description": "Made when absent, null or empty."},
        eventType={**TEXT, "minLength": 1, "maxLength": 100},
        userId={"type": ["string", "null"], "maxLength": 255},
        anonymousId={"type": ["string", "null"], "maxLength": 255},
        timestamp={"type": ["string", "integer", "null"], "description": "RFC 3339, or epoch milliseconds."},
        properties={"type": ["object", "null"]},
        context={"type": ["object", "null"]},
    ),
    "StoredEvent": _object(
        eventId=TEXT,
        eventType=TEXT,
        userId={"type": ["string", "null"]},
        anonymousId={"type": ["string", "null"]},
        timestamp=TIME,
        receivedAt=TIME,
        properties={"type": "object"},
        context={"type": "object"},
        schemaVersion={"type": ["integer", "null"]},
    ),
    "Filter": {
        "type": "object",
        "description": "A condition {property, op, value}, or {all: [...]} / {any: [...]} of such. "
        "Ops: eq, ne, in, not_in, exists.",
    },
    "MetricDefinition": _object(
        ("aggregate",),
        aggregate={**TEXT, "enum": ["count", "sum", "avg", "min", "max", "unique"]},
        eventType={"type": ["string", "null"]},
        property={"type": ["string", "null"]},
        filter=_ref("Filter"),
        dimensions=_list(_list(TEXT)),
        description=TEXT,
        unit=TEXT,
    ),
    "MetricAnswer": _object(
        metric=TEXT,
        granularity=TEXT,
        timezone=TEXT,
        data=_list(_object(timestamp=TIME, value={"type": ["number", "null"]}, dimensions=OBJECT)),
        meta={"type": "object"},
    ),
    "Problem": _object(
        ("type", "title", "status", "detail", "reason"),
        type=TEXT,
        title=TEXT,
        status={"type": "integer"},
        detail=TEXT,
        reason={**TEXT, "enum": list(REASONS)},
    ),
    "Rejected": _object(id=TEXT, receivedAt=TIME, stage=TEXT, reason=TEXT, detail=TEXT, bytes=TEXT, status=TEXT),
}

# (method, path, who, summary, description, query parameters, body schema, (status, answer schema))
Operation = tuple[str, str, str, str, str, dict[str, str], "dict[str, Any] | None", tuple[int, "dict[str, Any]"]]
PAGE = {"limit": "Rows at most.", "cursor": "The `next` of the page before."}
OPERATIONS: tuple[Operation, ...] = (
    (
        "post", "/v1/events", "write", "Send one event",
        f"At most {EVENT_BYTES} bytes. 202 means durable. The same id again is accepted again and counted once.",
        {}, _ref("Event"), (202, _object(status=TEXT, eventId=TEXT)),
    ),
    (
        "post", "/v1/events/batch", "write", "Send a batch",
        f"An object with `events`, a JSON array, or NDJSON; at most {MAX_EVENTS} events and {BODY_LIMITS['batch']} "
        "bytes unpacked; gzip, deflate, zstd. Good events are kept whatever the bad ones are.",
        {}, _object(("events",), events=_list(_ref("Event"))),
        (202, _object(accepted=COUNT, rejected=_list(_object(index=COUNT, eventId=TEXT, reason=TEXT, detail=TEXT)))),
    ),
    ("get", "/v1/metrics", "read", "List metric definitions", "", {}, None, (200, _object(data=_list(OBJECT)))),
    (
        "put", "/v1/metrics/{name}", "admin", "Define or change a metric",
        "201 new, 200 changed or the same. Answers at once, over all history.",
        {}, _ref("MetricDefinition"), (200, {"type": "object"}),
    ),
    ("get", "/v1/metrics/{name}/definition", "read", "Show a definition", "", {}, None, (200, OBJECT)),
    (
        "get", "/v1/metrics/{name}", "read", "Ask a metric",
        "Every event acknowledged before `meta.completeUpTo` counts.",
        {
            **RANGE, "granularity": f"One of {', '.join(GRANULARITIES)}.", "timezone": "IANA zone; UTC when absent.",
            "groupBy": "Properties, comma-separated.", "filter": "JSON, or country:US,device:mobile.",
            "format": "json, csv or arrow.",
        },
        None, (200, _ref("MetricAnswer")),
    ),
    (
        "post", "/v1/query", "read", "Ask in SQL", "One SELECT over `events` and `metric_aggregates`; read-only.",
        {}, _object(("sql",), sql=TEXT, parameters={}, limit=COUNT, format=TEXT),
        (200, _object(columns=_list(OBJECT), rows=_list(_list({})), meta=OBJECT)),
    ),
    (
        "get", "/v1/events", "read", "List events, newest first", "",
        {
            "eventType": "Only this type.", "userId": "Only of this user.",
            "startTime": "Event time, inclusive; a date or a time.",
            "endTime": "Event time, exclusive; a bare date means the whole of that day.",
            **PAGE,
        },
        None, (200, _object(data=_list(_ref("StoredEvent")), next={"type": ["string", "null"]})),
    ),
    ("get", "/v1/events/{eventId}", "read", "Show an event", "", {}, None, (200, _ref("StoredEvent"))),
    (
        "get", "/v1/events/{eventId}/trace", "read", "Follow an event",
        "Receipt, log position, metrics and windows, file and row group, rollup; or why it did not count.",
        {}, None, (200, {"type": "object"}),
    ),
    ("get", "/v1/rejected", "read", "List rejected input, newest first", "",
     {"reason": "Only this reason.", "stage": "ingest or archive.", "since": "Received at or after.", **PAGE},
     None, (200, _object(data=_list(_ref("Rejected")), next={"type": ["string", "null"]}))),
    ("get", "/v1/rejected/{id}", "read", "Show rejected input", "", {}, None, (200, _ref("Rejected"))),
    ("get", "/v1/keys", "admin", "List keys, without secrets", "", {}, None, (200, _object(data=_list(OBJECT)))),
    ("post", "/v1/keys", "admin", "Make a key", "The secret is shown this once.", {},
     _object(("role",), role={**TEXT, "enum": ["write", "read", "admin"]}, project=TEXT), (201, OBJECT)),
    ("delete", "/v1/keys/{id}", "admin", "Revoke a key", "In force everywhere when this returns.", {}, None, (204, {})),
    ("get", "/v1/projects", "admin", "List projects", "The operator sees all, others their own.", {}, None,
     (200, _object(data=_list(OBJECT)))),
    ("post", "/v1/projects", "operator", "Make a project", "", {}, _object(("id",), id=TEXT), (201, OBJECT)),
    ("get", "/v1/status", "read", "Where each stage is", "", {}, None, (200, OBJECT)),
    ("get", "/v1/audit", "read", "Account for every accepted event", "", {}, None, (200, OBJECT)),
    ("get", "/v1/reconcile", "read", "Compare live, settled and raw", "", RANGE, None, (200, OBJECT)),
    ("get", "/v1/lake/files", "read", "List the live Parquet files", "", RANGE, None, (200, OBJECT)),
    ("post", "/v1/jobs", "admin", "Ask for work", "Kinds: batch, backfill (parameters.metric).", {},
     _object(("kind",), kind=TEXT, parameters={"type": "object"}), (202, OBJECT)),
    ("get", "/v1/jobs/{id}", "admin", "Follow a job", "", {}, None, (200, OBJECT)),
    ("get", "/healthz", "", "Is the process up", "", {}, None, (200, OBJECT)),
    ("get", "/readyz", "", "Can every process serve", "", {}, None, (200, OBJECT)),
    ("get", "/metrics", "", "Prometheus metrics", "", {}, None, (200, {})),
    ("get", "/openapi.json", "", "This document", "", {}, None, (200, OBJECT)),
    ("get", "/docs", "", "This document as a page", "", {}, None, (200, {})),
)  # fmt: skip


@cache
def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for method, path, who, summary, description, parameters, body, (status, answer) in OPERATIONS:
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        given = [{"name": n, "in": "path", "required": True, "schema": TEXT} for n in names]
        given += [{"name": n, "in": "query", "schema": TEXT, "description": d} for n, d in parameters.items()]
        operation: dict[str, Any] = {
            "summary": summary,
            "operationId": f"{method}{path.replace('/', '_').replace('{', '').replace('}', '').replace('.', '_')}",
            "description": f"{description} Key: {who}.".strip() if who else description,
            "parameters": given,
            "responses": {
                str(status): _answer(answer, summary),
                "default": {
                    "description": "A problem (RFC 9457)",
                    "content": {"application/problem+json": {"schema": _ref("Problem")}},
                },
            },
            "security": [{"bearer": []}, {"apiKey": []}] if who else [],
        }
        if body is not None:
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headwater", "version": __version__, "description": "Event analytics: send, ask, manage."},
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _answer(schema: dict[str, Any], summary: str) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": summary}
    return answer | ({"content": {"application/json": {"schema": schema}}} if schema else {})


STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b2733}
h2{margin:2rem 0 .25rem;font-size:1.05rem}code{background:#eef2f6;padding:.1rem .3rem;border-radius:4px}
.m{display:inline-block;min-width:4rem;font-weight:600;text-transform:uppercase;color:#0b6e4f}
.k{float:right;color:#5a6b7b;font-size:.85rem}td,th{text-align:left;padding:.15rem 1rem .15rem 0;vertical-align:top}
p{margin:.2rem 0}
"""


def page(described: dict[str, Any]) -> str:
    """The document for people; loads nothing from anywhere."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>",
        f"<title>Headwater API</title><style>{STYLE}</style><h1>Headwater API</h1>",
        "<p>Keys go into <code>Authorization: Bearer KEY</code> or <code>X-API-Key: KEY</code>. "
        "The machine-readable form is <a href='/openapi.json'>/openapi.json</a>.</p>",
    ]
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h2><span class='m'>{method}</span> <code>{html.escape(path)}</code></h2>")
            parts.append(f"<p><b>{html.escape(operation['summary'])}.</b> {_prose(operation['description'])}</p>")
            rows = [
                f"<tr><td><code>{p['name']}</code></td><td>{_prose(p.get('description', 'in the path'))}</td></tr>"
                for p in operation["parameters"]
            ]
            parts.append(f"<table>{''.join(rows)}</table>" if rows else "")
    return "".join(parts)


def _prose(text: str) -> str:
    """Text with `code` in it, as HTML."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
