"""The sweep: removes files that nothing names any more, once nobody can be reading them.

It refuses where the catalog is not the one that the lake was written with (a restored older catalog would call new
files orphans); `incarnation` lies in both.
"""

from __future__ import annotations

from headwater.catalog.port import Manifest
from headwater.clock import HOUR
from headwater.errors import HeadwaterError
from headwater.lake import layout
from headwater.lake.objectstore.port import ObjectStore

KEPT = 48 * HOUR  # point-in-time recovery, and the longest question


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
    """Removes trash and orphans older than 48 h; returns how many files. Idempotent.

    Order: (1) the files go, (2) the manifest forgets them; a stop in between repeats the first for nothing.
    """
    check_incarnation(manifest, objects)
    before = now_us - KEPT
    trash = manifest.trash(before)
    objects.delete([file.path for file in trash])
    if trash:
        manifest.forget_trash(epoch, [file.id for file in trash])
    orphans = _orphans(manifest, objects, before, now_us)
    objects.delete(orphans)
    return len(trash) + len(orphans)


def _orphans(manifest: Manifest, objects: ObjectStore, before: int, now_us: int) -> list[str]:
    """Files of events and rollups that neither the live ones nor the trash name, made before `before`."""
    found = [key for key in objects.keys("") if (made := layout.made_at(key)) is not None and made < before]
    with manifest.view() as view:
        named = {file.path for file in view.files()}
        named |= {
            chunk.path
            for project in {f.project_id for f in view.files()}
            for chunk in view.chunks(project, 0, now_us + HOUR)
        }
    named |= {file.path for file in manifest.trash(now_us + HOUR)}
    return [key for key in found if key not in named]
