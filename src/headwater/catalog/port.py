"""The catalog in two halves: *control*, written by `query`, and the *manifest*, written by `work`.

Each half has one writer. Readers see a consistent moment. Every change of control raises `revision`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

from headwater.model.metric import Metric, MetricDefinition
from headwater.model.rejection import KeptRejection, Rejection

Role = Literal["write", "read", "admin", "import"]


class Project(msgspec.Struct, frozen=True, rename="camel"):
    """`number` names the project's root in the lake (`p<number>`); it never changes and is never reused."""

    id: str
    number: int
    created_at: int

    @property
    def root(self) -> str:
        return f"p{self.number}"


class Key(msgspec.Struct, frozen=True, rename="camel"):
    """A key without its secret. `operator` keys may also make projects. `prefix` shows which one it is."""

    id: str
    project_id: str
    role: Role
    prefix: str
    created_at: int
    revoked_at: int | None = None
    operator: bool = False


class JobRequest(msgspec.Struct, frozen=True, rename="camel"):
    """Something that `work` is asked to do: kind `batch` (run everything now) or `backfill` (with `metric`)."""

    id: int
    kind: str
    project_id: str | None
    parameters: dict[str, str]
    created_at: int


class ControlReader(Protocol):
    def revision(self) -> int:
        """Raised by every committed change; cheap enough to ask ten times a second."""
        ...

    def projects(self) -> list[Project]: ...

    def project(self, project_id: str) -> Project | None: ...

    def key_by_hash(self, secret_sha256: bytes) -> Key | None:
        """The key with that hash, revoked ones too."""
        ...

    def keys(self, project_id: str) -> list[Key]: ...

    def metrics(self, project_id: str) -> list[Metric]:
        """Current versions, the built-in ones first, then by name. A user's definition hides a built-in one."""
        ...

    def jobs(self, after: int = 0) -> list[JobRequest]: ...

    def close(self) -> None: ...


class Control(ControlReader, Protocol):
    """The writer's side."""

    def create_project(self, project_id: str, now_us: int) -> Project:
        """Raises `Refused(conflict)` when it exists, `Refused(invalid_field)` for an id outside [a-z0-9-]{1,50}."""
        ...

    def create_key(self, project_id: str, role: Role, secret: str, now_us: int, *, operator: bool = False) -> Key:
        """Stores only SHA-256 of the secret."""
        ...

    def revoke_key(self, project_id: str, key_id: str, now_us: int) -> bool:
        """False when there is no such key in the project."""
        ...

    def define_metric(
        self, project_id: str, name: str, definition: MetricDefinition, now_us: int
    ) -> tuple[Metric, Literal["new", "changed", "same"]]:
        """A change of what is counted raises the version; one of description or unit does not."""
        ...

    def request_job(self, kind: str, project_id: str | None, parameters: dict[str, str], now_us: int) -> JobRequest: ...

    def record_audit(self, now_us: int, actor: str, action: str, subject: str, origin: str) -> None: ...


@dataclass(frozen=True)
class LakeFile:
    """One manifest row: an immutable Parquet file of one project. `hour` is the UTC event hour (microseconds).

    Times are [min, max], both inclusive, in microseconds; positions are [first, next). `promoted` maps property
    names to the typed columns the file has. `epoch` is the writer's. `replaces` holds the ids that a compaction
    merged into it.
    """

    path: str
    project_id: str
    hour: int
    rows: int
    bytes: int
    min_timestamp: int
    max_timestamp: int
    min_received_at: int
    max_received_at: int
    first_position: int
    next_position: int
    checksum: str
    epoch: int
    promoted: dict[str, str] = field(default_factory=dict)
    id: int = 0


@dataclass(frozen=True)
class Chunk:
    """Settled rollups of one UTC hour: `path` holds the states of `metrics` (keys) over exactly `files` (ids)."""

    project_id: str
    hour: int
    path: str
    revision: int
    files: tuple[int, ...]
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Skipped:
    """Accepted events of a project and receipt hour that are not rows: `copies` of others, `rejected` (conflicts)."""

    project_id: str
    hour: int
    copies: int
    rejected: int


@dataclass(frozen=True)
class ArchiveCommit:
    """One flush: log positions [first, next) become files; applied in one transaction (docs/specs/manifest.md)."""

    first: int
    next: int
    received_at: int
    epoch: int
    files: Sequence[LakeFile] = ()
    skipped: Sequence[Skipped] = ()
    rejections: Sequence[Rejection] = ()


@dataclass(frozen=True)
class ArchivePosition:
    """`next`: every event below it is in the manifest's files (or decided away). `received_at` of the last of them."""

    next: int
    received_at: int | None


class ManifestView(Protocol):
    """One consistent moment of the manifest (context manager)."""

    def position(self) -> ArchivePosition: ...

    def files(self, project_id: str | None = None, start: int | None = None, end: int | None = None) -> list[LakeFile]:
        """Live files whose event hour lies in [start, end), by hour and id."""
        ...

    def revisions(self, project_id: str, start: int, end: int) -> dict[int, int]:
        """hour -> revision, for hours that have or had files."""
        ...

    def chunks(self, project_id: str, start: int, end: int) -> list[Chunk]: ...

    def skipped(self) -> list[Skipped]: ...

    def rejections(
        self,
        project_id: str,
        *,
        since: int = 0,
        reason: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[KeptRejection]:
        """What was rejected after acceptance, newest first (ids start with `m`)."""
        ...

    def rejection(self, project_id: str, rejection_id: str) -> KeptRejection | None: ...

    def promoted(self, project_id: str) -> dict[tuple[str, str], str]:
        """(property, `number` or `text`) -> column name `p_<n>`; which of them a file has, its row says."""
        ...

    def jobs_done(self) -> dict[int, str]:
        """job id -> `running`, `done` or `failed: why`."""
        ...

    def progress(self, name: str) -> str | None:
        """A named marker of `work`: `batch.last_run`, `batch.error`, `archive.error`, `dedupe`..."""
        ...

    def __enter__(self) -> ManifestView: ...

    def __exit__(self, *args: object) -> None: ...


class ManifestReader(Protocol):
    def view(self) -> ManifestView: ...

    def close(self) -> None: ...


class Manifest(ManifestReader, Protocol):
    """The writer's side. Every call is one transaction."""

    def take_lease(self) -> int:
        """Becomes the owner; returns the new fencing epoch. Commits of older epochs raise `Fenced` from then on."""
        ...

    def commit(self, commit: ArchiveCommit) -> list[LakeFile]:
        """Adds the files (ids filled in), raises the revision of each hour touched, adds the skipped counts and the
        rejections, and moves the position from `first` to `next`, all or nothing. Raises `Fenced` when the stored
        position is not `first` or the epoch is not the owner's."""
        ...

    def replace_files(
        self, epoch: int, removed: Sequence[int], added: Sequence[LakeFile], now_us: int
    ) -> list[LakeFile]:
        """Compaction: `removed` become trash and `added` live, in one transaction; revisions are raised, and chunks
        that held all of `removed` hold the added ones instead. Raises `Fenced` when one is not live any more."""
        ...

    def put_chunk(self, epoch: int, chunk: Chunk) -> str | None:
        """Replaces the chunk of its hour; returns the path of the one before. Raises `Fenced` when one of the chunk's
        files is not live any more."""
        ...

    def trash(self, before_us: int) -> list[LakeFile]:
        """Files that were replaced before that time."""
        ...

    def forget_trash(self, epoch: int, ids: Sequence[int]) -> None: ...

    def promoted(self, project_id: str) -> dict[tuple[str, str], str]:
        """(property, `number` or `text`) -> column name `p_<n>`."""
        ...

    def promote(self, project_id: str, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Gives columns to `wanted`, at most 64 a project; returns the whole dictionary."""
        ...

    def set_job(self, epoch: int, job_id: int, state: str) -> None: ...

    def set_progress(self, name: str, value: str) -> None: ...

    def incarnation(self) -> str:
        """Random text made with the catalog; the lake keeps it too, and a sweep refuses when they differ."""
        ...
