"""The sweep: removes files that nothing names any more, once nobody can be reading them.

It refuses where the catalog is not the one that the lake was written with (`incarnation` lies in both), or is older
than the lake: such a catalog would call new files orphans.
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
            "lake: the catalog is not the one this lake was written with (was it lost, or another one restored?); "
            "nothing is written or removed until the two belong together again"
        )


def check_position(manifest: Manifest, objects: ObjectStore) -> None:
    """Raises `HeadwaterError` where the lake is ahead of the catalog: an older copy of the catalog was restored, and
    what it does not know may be the only file with its events, until the log has been archived again up to there."""
    with manifest.view() as view:
        position = view.position().next
    for key in objects.keys(""):
        if key.endswith("/manifest/current.json"):
            ahead = msgspec.json.decode(objects.get(key))["position"]
            if ahead > position:
                raise HeadwaterError(
                    f"sweep: {key} is of position {ahead} and the catalog of {position} (was an older one restored?); "
                    "nothing is removed until the archive has come that far again"
                )


def sweep(manifest: Manifest, objects: ObjectStore, epoch: int, now_us: int) -> int:
    """Removes what was replaced, or is named by nothing, for 48 h; returns how many files. Idempotent.

    Order: (1) the files go, (2) the manifest forgets them; a stop in between repeats the first for nothing.
    """
    check_incarnation(manifest, objects)
    check_position(manifest, objects)
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
