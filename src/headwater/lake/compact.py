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
from headwater.lake.file import Compression, read, sort_order, write
from headwater.lake.objectstore.port import ObjectStore

TARGET_BYTES = 128 << 20
MOST_BYTES = 1 << 30


def to_merge(files: Sequence[LakeFile]) -> list[LakeFile]:
    """Which files of one hour to merge: all below the target size, up to 1 GB together; none where that is one."""
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
    """Merges what there is to merge in the hour; None where there is nothing.

    Raises `Fenced` where an input has gone meanwhile.
    """
    with manifest.view() as view:
        inputs = to_merge(view.files(project, hour, hour + HOUR))
    if not inputs:
        return None
    promoted = {what: column for what, column in manifest.promoted(project).items() if _in_all(column, inputs)}
    schema = schema_with(promoted)
    tables = [read(objects.get(file.path), file).select(schema.names).cast(schema) for file in inputs]
    table = pa.concat_tables(tables).combine_chunks()
    times = table.column("timestamp").cast(pa.int64()).to_numpy()
    order = sort_order(table.column("event_type").combine_chunks(), times)
    first = min(file.first_position for file in inputs)
    key = layout.events_key(roots(project), hour, first, layout.token(now_us, random_bytes(5)))
    data, facts = write(
        table.take(pa.array(order)),
        key=key,
        project_id=project,
        hour=hour,
        epoch=epoch,
        promoted={f"{kind}:{name}": column for (name, kind), column in promoted.items()},
        compression=compression,
    )
    objects.put(key, data)
    added = manifest.replace_files(epoch, [file.id for file in inputs], [facts], now_us)
    write_current(manifest, objects, {project: roots(project)})
    return added[0]


def _in_all(column: str, files: Sequence[LakeFile]) -> bool:
    return all(column in file.promoted.values() for file in files)
