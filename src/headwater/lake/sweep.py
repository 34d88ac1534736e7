"""The sweep: removes files that nothing names any more, once nobody can be reading them.

It refuses where the catalog is not the one that the lake was written with (a restored older catalog would call new
files orphans); `incarnation` lies in both.
"""

from __future__ import annotations

import msgspec

from headwater.catalog.port import Manifest
from headwater.clock import HOUR
from headwater.errors import HeadwaterError
from headwater.lake import layout
from headwater.lake.objectstore.port import ObjectStore

KEPT = 48 * HOUR  # point-in-time recovery, and the longest question
UNNAMED = "sweep.unnamed"  # the marker that holds when a chunk was first met that nothing names


def check_incarnation(manifest: Manifest, objects: ObjectStore) -> None:
    """Marks a new lake as this catalog's. Raises `HeadwaterError` where it is another's."""
    own = manifest.incarnation()
    try:
        held = objects.get(layout.INCARNATION).decode()
    except FileNotFoundError:
        objects.replace(layout.INCARNATION, own.encode())
        return
    if held != own:
        raise HeadwaterError(
            "sweep: the catalog is not the one this lake was written with (was an older one restored?); nothing is "
            "removed until the two belong together again"
        )


def sweep(manifest: Manifest, objects: ObjectStore, epoch: int, now_us: int) -> int:
    """Removes what was replaced, or is named by nothing, for 48 h; returns how many files. Idempotent.

    Order: (1) the files go, (2) the manifest forgets them; a stop in between repeats the first for nothing.
    """
    check_incarnation(manifest, objects)
    before = now_us - KEPT
    trash = manifest.trash(before)
    objects.delete([file.path for file in trash])
    if trash:
        manifest.forget_trash(epoch, [file.id for file in trash])
    unnamed = _unnamed(manifest, objects, before, now_us)
    orphans = [key for key, since in unnamed.items() if since < before]
    objects.delete(orphans)
    left = {key: since for key, since in unnamed.items() if since >= before}
    manifest.set_progress(UNNAMED, msgspec.json.encode(left).decode())
    return len(trash) + len(orphans)


def _unnamed(manifest: Manifest, objects: ObjectStore, before: int, now_us: int) -> dict[str, int]:
    """Files that nothing names -> since when, as far as known.

    A file of events that neither the live ones nor the trash name was never visible: it counts from when it was made.
    A chunk may have been visible until it was replaced a moment ago: it counts from the sweep that first met it.
    """
    made = {key: at for key in objects.keys("") if (at := layout.made_at(key)) is not None and at < before}
    with manifest.view() as view:
        files = view.files()
        named = {file.path for file in files}
        for project in {file.project_id for file in files}:
            named |= {chunk.path for chunk in view.chunks(project, 0, now_us + HOUR)}
        met = msgspec.json.decode(view.progress(UNNAMED) or "{}", type=dict[str, int])
    named |= {file.path for file in manifest.trash(now_us + HOUR)}
    return {key: met.get(key, now_us) if layout.is_chunk(key) else at for key, at in made.items() if key not in named}
