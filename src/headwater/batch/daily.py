"""The daily run: at 02:00 UTC, or as soon as possible after it was missed, small files become one and what nothing
names any more is removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headwater.batch.job import BatchJob
from headwater.batch.plan import boundary, by_hour, quiet_since
from headwater.catalog.port import LakeFile, ManifestView
from headwater.clock import DAY, HOUR

RUNS_AT = 2 * HOUR
TARGET_BYTES = 128 << 20  # a file of this size is never compacted again
QUIET = HOUR  # an hour that got events more recently is left alone
MANY_FILES = 16  # so many small files are not left until the daily run
LAST_RUN = "batch.last_run"

# (project, hour in microseconds, now) and (now)
Compact = Callable[[str, int, int], None]
Sweep = Callable[[int], None]


@dataclass(frozen=True)
class HourFiles:
    """An hour whose small files are worth merging."""

    project_id: str
    hour: int
    files: tuple[LakeFile, ...]


def due_at(now_us: int) -> int:
    """The newest 02:00 UTC that is not after `now_us`."""
    return (now_us - RUNS_AT) // DAY * DAY + RUNS_AT


def is_due(view: ManifestView, now_us: int) -> bool:
    """Whether the run of the newest 02:00 has not been done; so a missed one is caught up, once."""
    last = view.progress(LAST_RUN)
    return last is None or int(last) < due_at(now_us)


def hours_to_compact(view: ManifestView, job: BatchJob, now_us: int, *, at_least: int = 2) -> list[HourFiles]:
    """Settled, quiet hours with at least `at_least` small files, those with most files first."""
    settled = boundary(view)
    if settled is None:
        return []
    found = []
    for project in job.projects:
        for hour, files in by_hour(view.files(project, None, settled)).items():
            small = tuple(file for file in files if file.bytes < TARGET_BYTES)
            if len(small) >= at_least and quiet_since(files) <= now_us - QUIET:
                found.append(HourFiles(project, hour, small))
    return sorted(found, key=lambda found: (-len(found.files), found.hour))
