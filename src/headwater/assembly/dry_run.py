"""Judging without doing: events by the rules of ingest, definitions by the rules of metrics."""

from __future__ import annotations

from typing import Any

import msgspec

from headwater.clock import SystemClock
from headwater.errors import Refused
from headwater.model.event import parse_body
from headwater.model.metric import MetricDefinition, check_definition, counts_same, definition_from


def judge_metric(name: str, written: Any, current: dict[str, Any] | None) -> dict[str, str]:
    """What defining a metric would do: `be new`, `change`, `stay the same` or `be refused`, and why."""
    try:
        wanted = definition_from(written)
        check_definition(name, wanted)
    except (Refused, msgspec.ValidationError) as error:
        return {"would": "be refused", "detail": str(error)}
    if current is None:
        return {"would": "be new"}
    fields = MetricDefinition.__struct_encode_fields__
    held = definition_from({field: current[field] for field in fields if field in current})
    if held == wanted:
        return {"would": "stay the same"}
    if counts_same(held, wanted):
        return {"would": "change", "detail": "description or unit only; what is counted stays"}
    return {"would": "change", "detail": "what is counted changes: a new version, answered at once from the lake"}


def judge(batch: list[bytes]) -> list[tuple[int, str]]:
    """(index, reason and detail) of every event that ingest would refuse."""
    parsed = parse_body(
        b"\n".join(batch),
        "ndjson",
        received_at=SystemClock().now_us(),
        project_id="default",
        new_id=lambda: "made-at-receipt",
    )
    return [(verdict.index, f"{verdict.reason}: {verdict.detail}") for verdict in parsed.verdicts]
