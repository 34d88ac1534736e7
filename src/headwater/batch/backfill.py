"""Backfill: a new metric over hours that were rolled before it was defined.

It needs no memory of its own: the chunk of each hour names the metrics it holds, so a stopped backfill goes on with
the hours that lack the metric, the newest first. Until an hour is done it is answered from lake files.
"""

from __future__ import annotations

from collections.abc import Iterable

from headwater.batch.plan import HourWork
from headwater.catalog.port import Manifest

_EVERY_HOURS = 50


def progress_name(project_id: str, metric_key: str) -> str:
    """The manifest's marker that says how many hours a metric still lacks."""
    return f"backfill:{project_id}:{metric_key}"


def record_progress(manifest: Manifest, done: HourWork, left: Iterable[HourWork]) -> None:
    """Says how many hours are left for each metric that `done` was made for; now and then, and at the end."""
    waiting = list(left)
    for metric in done.missing:
        hours = sum(1 for w in waiting if w.project.id == done.project.id and metric in w.missing)
        if hours % _EVERY_HOURS == 0:
            manifest.set_progress(progress_name(done.project.id, metric.key), f"{hours} hours left")
