"""Which adapter an address means: `scheme:rest`, one entry a scheme, imported only when it is used."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from headwater.errors import SettingsError

# store -> scheme -> (module, function that opens it)
ADAPTERS: dict[str, dict[str, tuple[str, str]]] = {
    "eventlog writer": {"sqlite": ("headwater.eventlog.adapters.sqlite", "open_writer")},
    "eventlog reader": {"sqlite": ("headwater.eventlog.adapters.sqlite", "open_reader")},
    "panes writer": {"sqlite": ("headwater.panes.adapters.sqlite", "open_writer")},
    "panes reader": {"sqlite": ("headwater.panes.adapters.sqlite", "open_reader")},
    "lake": {"file": ("headwater.lake.objectstore.adapters.local", "LocalObjectStore")},
    "control writer": {"sqlite": ("headwater.catalog.adapters.control_sqlite", "open_control")},
    "control reader": {"sqlite": ("headwater.catalog.adapters.control_sqlite", "open_control_reader")},
    "manifest writer": {"sqlite": ("headwater.catalog.adapters.manifest_sqlite", "open_manifest")},
    "manifest reader": {"sqlite": ("headwater.catalog.adapters.manifest_sqlite", "open_manifest_reader")},
}
ENGINES = {"stream_engine": ("embedded",), "batch_engine": ("embedded",), "query_engine": ("embedded",)}


def opener(store: str, address: str) -> Callable[..., Any]:
    """The function that opens `store` at `address`.

    Raises `SettingsError`: the scheme is unknown (the known ones are listed), or its driver is not installed (the
    command to install it is named).
    """
    scheme = scheme_of(address)
    known = ADAPTERS[store]
    if scheme not in known:
        raise SettingsError(f"{store}: no adapter for {address!r}; known schemes are {', '.join(sorted(known))}")
    module, name = known[scheme]
    try:
        found: Callable[..., Any] = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise SettingsError(f"{store} {address!r} needs {error.name}: pip install 'headwater[{scheme}]'") from error
    return found


def check_engine(setting: str, address: str) -> None:
    """Raises `SettingsError` for an engine that there is no adapter for."""
    if scheme_of(address) not in ENGINES[setting]:
        raise SettingsError(f"{setting}: no engine for {address!r}; known schemes are {', '.join(ENGINES[setting])}")


def scheme_of(address: str) -> str:
    return address.partition(":")[0]


def path_of(address: str, folder: Path) -> Path:
    """The local path of an address; relative ones lie in the data folder."""
    return folder / address.partition(":")[2]
