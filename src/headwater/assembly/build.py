"""Settings -> opened stores. What each process may open for writing is decided here: one writer a store."""

from __future__ import annotations

from typing import Any, cast

from headwater.assembly import registry
from headwater.assembly.settings import Settings
from headwater.catalog.port import Control, ControlReader, Manifest, ManifestReader
from headwater.eventlog.port import EventLogReader
from headwater.lake.objectstore.port import ObjectStore
from headwater.panes.port import PanesReader, PanesWriter


class Build:
    """Opens the stores of one data folder. The embedded stores make their files when a writer opens them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = settings.folder
        for engine in ("stream_engine", "batch_engine", "query_engine"):
            registry.check_engine(engine, getattr(settings, engine))

    def _open(self, store: str, address: str, *inside: str, **options: Any) -> Any:
        path = registry.path_of(address, self.folder).joinpath(*inside)
        return registry.opener(store, address)(path, **options)

    def log_writer(self) -> Any:
        """Writer of the event log (ingest). It also tells the last receipt, which the next may not fall behind."""
        return self._open(
            "eventlog writer",
            self.settings.eventlog,
            cap_bytes=self.settings.log_cap_bytes,
            keep_seconds=self.settings.log_keep_days * 86_400,
        )

    def log_reader(self) -> EventLogReader:
        return cast(EventLogReader, self._open("eventlog reader", self.settings.eventlog))

    def panes_writer(self) -> PanesWriter:
        return cast(PanesWriter, self._open("panes writer", self.settings.panes))

    def panes_reader(self) -> PanesReader:
        return cast(PanesReader, self._open("panes reader", self.settings.panes))

    def objects(self) -> ObjectStore:
        return cast(ObjectStore, self._open("lake", self.settings.lake))

    def control(self) -> Control:
        return cast(Control, self._open("control writer", self.settings.catalog, "control.db"))

    def control_reader(self) -> ControlReader:
        return cast(ControlReader, self._open("control reader", self.settings.catalog, "control.db"))

    def manifest(self) -> Manifest:
        return cast(Manifest, self._open("manifest writer", self.settings.catalog, "manifest.db"))

    def manifest_reader(self) -> ManifestReader:
        return cast(ManifestReader, self._open("manifest reader", self.settings.catalog, "manifest.db"))
