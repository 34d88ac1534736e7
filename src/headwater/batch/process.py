"""The batch process: keeps rollups up with the lake, one bounded piece of work at a time.

In this order: hours with new files, once nothing has changed in them for 10 s; new metrics over old hours; hours that
have become many small files; the daily run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import duckdb
import structlog

from headwater.batch.backfill import record_progress
from headwater.batch.daily import LAST_RUN, MANY_FILES, Compact, HourFiles, Sweep, hours_to_compact, is_due
from headwater.batch.job import BatchJob, compile_job
from headwater.batch.plan import HourWork, hours_due, uncovered
from headwater.batch.rollup import Roller, Step, no_step
from headwater.catalog.port import ControlReader, JobRequest, Manifest
from headwater.clock import MINUTE, SECOND
from headwater.errors import Fenced
from headwater.lake.objectstore.port import ObjectStore

SETTLES_AFTER = 10 * SECOND  # without a change of an hour's files
RETIRED_KEPT = 10 * MINUTE  # a replaced chunk stays for readers that have the manifest before open
RETRY_AFTER = 5 * MINUTE  # an hour that failed
LOOKS_EVERY = MINUTE  # for compaction and the daily run
ERROR = "batch.error"

_log = structlog.get_logger("batch")


class Batch:
    """See above. Used by one thread; every call is given the time.

    `compact(project, hour, now)` and `sweep(now)` come from the lake. Where the process stops, the next start finds
    the same work again: what is done is known from the manifest alone.
    """

    def __init__(
        self,
        manifest: Manifest,
        control: ControlReader,
        objects: ObjectStore,
        epoch: int,
        *,
        compact: Compact,
        sweep: Sweep,
        random_bytes: Callable[[int], bytes],
        settles_after: int = SETTLES_AFTER,
        memory: str = "512MB",
        step: Step = no_step,
    ) -> None:
        self._manifest, self._control, self._objects, self._epoch = manifest, control, objects, epoch
        self._compact, self._sweep, self._settles_after = compact, sweep, settles_after
        config: dict[str, str | bool | int | float | list[str]] = {"threads": 1, "memory_limit": memory}
        self._con = duckdb.connect(":memory:", config=config)
        self._roller = Roller(manifest, objects, epoch, random_bytes, self._con, step)
        self._job = BatchJob()
        self._planned_for: object = None
        self._queue: deque[HourWork] = deque()
        self._seen: dict[tuple[str, int], tuple[frozenset[int], int]] = {}
        self._failed: dict[tuple[str, int], int] = {}
        self._retired: deque[tuple[int, str]] = deque()
        self._compactions: deque[HourFiles] = deque()
        self._daily = False
        self._looked_at: int | None = None
        self._error = ""

    def tick(self, now_us: int) -> bool:
        """Does at most one piece of work; returns whether there was any (then more may be due at once)."""
        self._delete_retired(now_us)
        jobs = self._open_jobs()
        if self._roll_one(now_us, settled=not jobs) or self._keep_house(now_us):
            return True
        return self._finish_jobs(jobs, now_us)

    def run_once(self, now_us: int) -> bool:
        """Everything that is there to do, the daily run included, without waiting for hours to settle; returns
        whether all of it worked. What failed is in the manifest's progress `batch.error`."""
        self._failed.clear()
        while self._roll_one(now_us, settled=False):
            pass
        self._plan_daily(now_us)
        while self._compact_one(now_us):
            pass
        while self._roll_one(now_us, settled=False):
            pass
        return not self._error

    def close(self) -> None:
        self._con.close()

    # -- rollups -----------------------------------------------------------------------------------------------------

    def _roll_one(self, now_us: int, *, settled: bool) -> bool:
        self._plan(now_us)
        for _ in range(len(self._queue)):
            work = self._queue.popleft()
            if (settled and not self._is_settled(work, now_us)) or self._failed.get(work.place, 0) > now_us:
                self._queue.append(work)
                continue
            try:
                replaced = self._roller.roll(work, now_us)
            except Fenced:
                self._planned_for = None
                raise
            except Exception as error:  # one damaged file must not hold up every other hour
                self._failed[work.place] = now_us + RETRY_AFTER
                self._queue.append(work)
                self._report(f"rollup of project {work.project.id!r}, hour {work.hour}: {error}")
                continue
            self._failed.pop(work.place, None)
            self._seen.pop(work.place, None)
            if replaced is not None:
                self._retired.append((now_us + RETIRED_KEPT, replaced))
            if work.missing and work.old is not None:
                record_progress(self._manifest, work, self._queue)
            if not self._failed:
                self._report("")
            return True
        return False

    def _plan(self, now_us: int) -> None:
        """Takes stock again, when files were archived or definitions changed since the last time."""
        if self._control.revision() != self._job.revision:
            self._job = compile_job(self._control)
        with self._manifest.view() as view:
            position = view.position()
            state = (position.next, position.received_at, self._job.revision)
            if state == self._planned_for:
                return
            self._queue = deque(hours_due(view, self._job))
        self._planned_for = state
        seen = {}
        for work in self._queue:
            files = frozenset(file.id for file in work.new_files)
            before = self._seen.get(work.place)
            seen[work.place] = before if before is not None and before[0] == files else (files, now_us)
        self._seen = seen

    def _is_settled(self, work: HourWork, now_us: int) -> bool:
        if work.is_backfill:
            return True
        return self._seen[work.place][1] + self._settles_after <= now_us

    def _delete_retired(self, now_us: int) -> None:
        while self._retired and self._retired[0][0] <= now_us:
            self._objects.delete([self._retired.popleft()[1]])

    # -- compaction and the daily run --------------------------------------------------------------------------------

    def _keep_house(self, now_us: int) -> bool:
        if self._compactions or self._daily:
            return self._compact_one(now_us)
        if self._looked_at is not None and now_us - self._looked_at < LOOKS_EVERY:
            return False
        self._looked_at = now_us
        with self._manifest.view() as view:
            due = is_due(view, now_us)
            if not due:
                self._compactions.extend(hours_to_compact(view, self._job, now_us, at_least=MANY_FILES))
        if due:
            self._plan_daily(now_us)
        return self._compact_one(now_us)

    def _plan_daily(self, now_us: int) -> None:
        with self._manifest.view() as view:
            self._compactions = deque(hours_to_compact(view, self._job, now_us))
        self._daily = True

    def _compact_one(self, now_us: int) -> bool:
        if self._compactions:
            hour = self._compactions.popleft()
            try:
                self._compact(hour.project_id, hour.hour, now_us)
            except Fenced:
                raise
            except Exception as error:
                self._report(f"compaction of project {hour.project_id!r}, hour {hour.hour}: {error}")
            self._planned_for = None  # the files that were planned with are other files now
            return True
        if not self._daily:
            return False
        self._daily = False
        try:
            self._sweep(now_us)
        except Fenced:
            raise
        except Exception as error:
            self._report(f"sweep: {error}")
        self._manifest.set_progress(LAST_RUN, str(now_us))
        return True

    # -- what was asked for ------------------------------------------------------------------------------------------

    def _open_jobs(self) -> list[JobRequest]:
        with self._manifest.view() as view:
            states = view.jobs_done()
        jobs = [job for job in self._control.jobs() if states.get(job.id, "running") == "running"]
        for job in jobs:
            if job.id not in states:
                self._failed.clear()
                self._manifest.set_job(self._epoch, job.id, "running")
                if job.kind == "batch":
                    self._plan_daily(job.created_at)
        return jobs

    def _finish_jobs(self, jobs: list[JobRequest], now_us: int) -> bool:
        """Nothing is left to do: what was asked for is done, or has failed."""
        for job in jobs:
            self._manifest.set_job(self._epoch, job.id, self._outcome(job))
        return bool(jobs)

    def _outcome(self, job: JobRequest) -> str:
        if job.kind == "batch":
            return f"failed: {self._error}" if self._error else "done"
        if job.kind != "backfill":
            return f"failed: {job.kind!r} is nothing that batch does"
        wanted = [m for m in self._job.metrics.get(job.project_id or "", ()) if m.name == job.parameters.get("metric")]
        if not wanted:
            return f"failed: there is no metric {job.parameters.get('metric')!r}"
        with self._manifest.view() as view:
            left = uncovered(view, wanted[0])
        return f"failed: {left} hours could not be counted: {self._error}" if left else "done"

    def _report(self, error: str) -> None:
        if error != self._error:
            self._error = error
            self._manifest.set_progress(ERROR, error)
            if error:
                _log.error("batch", error=error)
