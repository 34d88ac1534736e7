"""Which hours need a new chunk, and what has to be read for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from headwater.batch.job import BatchJob
from headwater.catalog.port import Chunk, LakeFile, ManifestView, Project
from headwater.clock import hour_of
from headwater.model.metric import Metric


@dataclass(frozen=True)
class HourWork:
    """A chunk to be made. `files`: all live files of the hour; `new_files`: those that `old` does not name.
    `kept`: metrics whose states over the other files `old` has; `missing`: the rest, to be counted over all files."""

    project: Project
    hour: int
    revision: int
    files: tuple[LakeFile, ...]
    new_files: tuple[LakeFile, ...]
    old: Chunk | None
    kept: tuple[Metric, ...]
    missing: tuple[Metric, ...]

    @property
    def place(self) -> tuple[str, int]:
        return self.project.id, self.hour

    @property
    def is_backfill(self) -> bool:
        """Whether only definitions are new, not files."""
        return self.old is not None and not self.new_files


def boundary(view: ManifestView) -> int | None:
    """Hours before it are settled: every event received before it is archived. None: nothing is archived yet."""
    received_at = view.position().received_at
    return None if received_at is None else hour_of(received_at)


def hours_due(view: ManifestView, job: BatchJob) -> list[HourWork]:
    """Every hour before the boundary whose chunk lacks a file or a metric: new files first, then what is only to be
    backfilled; of each the newest hours first."""
    settled = boundary(view)
    if settled is None:
        return []
    found = []
    for project in job.projects.values():
        metrics = job.metrics[project.id]
        chunks = {chunk.hour: chunk for chunk in view.chunks(project.id, 0, settled)}
        revisions = view.revisions(project.id, 0, settled)
        for hour, files in by_hour(view.files(project.id, None, settled)).items():
            work = _work(project, hour, revisions.get(hour, 0), files, chunks.get(hour), metrics)
            if work is not None:
                found.append(work)
    return sorted(found, key=lambda work: (work.is_backfill, -work.hour, work.project.number))


def by_hour(files: Iterable[LakeFile]) -> dict[int, list[LakeFile]]:
    """Files of one project by event hour."""
    found: dict[int, list[LakeFile]] = {}
    for file in files:
        found.setdefault(file.hour, []).append(file)
    return found


def uncovered(view: ManifestView, metric: Metric) -> int:
    """In how many settled hours of its project a metric version is not rolled yet."""
    settled = boundary(view)
    if settled is None:
        return 0
    having = {c.hour for c in view.chunks(metric.project_id, 0, settled) if metric.key in c.metrics}
    return len({file.hour for file in view.files(metric.project_id, None, settled)} - having)


def quiet_since(files: Iterable[LakeFile]) -> int:
    """When the newest event in `files` was received."""
    return max(file.max_received_at for file in files)


def _work(
    project: Project,
    hour: int,
    revision: int,
    files: list[LakeFile],
    chunk: Chunk | None,
    metrics: tuple[Metric, ...],
) -> HourWork | None:
    live = {file.id for file in files}
    # a chunk over files that are not all live says nothing certain
    old = chunk if chunk is not None and live.issuperset(chunk.files) else None
    named = set(old.files) if old is not None else set()
    held = set(old.metrics) if old is not None else set()
    new_files = tuple(file for file in files if file.id not in named)
    missing = tuple(metric for metric in metrics if metric.key not in held)
    if not new_files and not missing:
        return None
    kept = tuple(metric for metric in metrics if metric.key in held)
    return HourWork(project, hour, revision, tuple(files), new_files, old, kept, missing)
