"""`manifest/current.json` of a project: its live files, for tools from outside that read the lake without a catalog."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from headwater.catalog.port import ManifestReader
from headwater.clock import rfc3339
from headwater.lake import layout
from headwater.lake.objectstore.port import ObjectStore


def write_current(manifest: ManifestReader, objects: ObjectStore, roots: Mapping[str, str]) -> None:
    """Writes the pointer of each project (id -> root), replacing the one before as a whole. Idempotent."""
    for project, root in roots.items():
        with manifest.view() as view:
            position = view.position()
            files = view.files(project)
        document = {
            "format": 1,
            "project": project,
            "position": position.next,
            "files": [
                {
                    "path": file.path,
                    "hour": rfc3339(file.hour),
                    "rows": file.rows,
                    "bytes": file.bytes,
                    "checksum": file.checksum,
                }
                for file in files
            ],
        }
        objects.replace(layout.current_key(root), msgspec.json.encode(document))
