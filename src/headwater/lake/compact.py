"""Compaction: the small files of a quiet hour become one; the answer does not change by it.

Order: (1) the merged file is written, durably; (2) one transaction makes it live and its inputs trash, where the
inputs are all live still. The inputs stay on disk for readers that hold an older moment, until a sweep.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import pyarrow as pa

from headwater.catalog.port import LakeFile, Manifest
from headwater.clock import HOUR
from headwater.lake import layout
from headwater.lake.columns import schema_with
from headwater.lake.current import write_current
from headwater.lake.file import Compression, checked, write_stream
from headwater.lake.merge import merged
from headwater.lake.objectstore.port import ObjectStore

TARGET_BYTES = 128 << 20  # a file of this size is never compacted again
MOST_BYTES = 2 * TARGET_BYTES  # of inputs: the merged file is made in memory


def to_merge(files: Sequence[LakeFile]) -> list[LakeFile]:
    """Which files of one hour to merge into one: the oldest below the target size, up to twice that together; none
    where that is one. Repeated, it leaves one file, or files of the target size and at most one smaller."""
    chosen: list[LakeFile] = []
    size = 0
    for file in sorted(files, key=lambda f: f.id):
        if file.bytes < TARGET_BYTES and size + file.bytes <= MOST_BYTES:
            chosen.append(file)
            size += file.bytes
    return chosen if len(chosen) > 1 else []


def compact_hour(
    manifest: Manifest,
    objects: ObjectStore,
    epoch: int,
    roots: Callable[[str], str],
    project: str,
    hour: int,
    now_us: int,
    *,
    random_bytes: Callable[[int], bytes] = os.urandom,
    compression: Compression = "snappy",
) -> LakeFile | None:
    """Merges until there is nothing left to merge in the hour; returns the last file made, None where there is none.

    Raises `Fenced` where an input has gone meanwhile, `Corrupt` where one is damaged; then it stays as it is.
    """
    made: LakeFile | None = None
    while True:
        with manifest.view() as view:
            inputs = to_merge(view.files(project, hour, hour + HOUR))
            promoted = {what: c for what, c in view.promoted(project).items() if _in_all(c, inputs)}
        if not inputs:
            break
        first = min(file.first_position for file in inputs)
        key = layout.events_key(roots(project), hour, first, layout.token(now_us, random_bytes(5)))
        schema = schema_with(promoted)
        data, facts = write_stream(
            merged([checked(_mapped(objects, file), file) for file in inputs], schema),
            schema,
            sum(file.rows for file in inputs),
            key=key,
            project_id=project,
            hour=hour,
            epoch=epoch,
            promoted={f"{kind}:{name}": column for (name, kind), column in promoted.items()},
            compression=compression,
        )
        objects.put(key, data)
        (made,) = manifest.replace_files(epoch, [file.id for file in inputs], [facts], now_us)
    if made is not None:
        write_current(manifest, objects, {project: roots(project)})
    return made


def _mapped(objects: ObjectStore, file: LakeFile) -> memoryview:
    return memoryview(pa.memory_map(str(objects.local_path(file.path))).read_buffer())


def _in_all(column: str, files: Sequence[LakeFile]) -> bool:
    return all(column in file.promoted.values() for file in files)
