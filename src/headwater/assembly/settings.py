"""Settings: one frozen, typed list. Defaults, then `headwater.toml` (or `--config`), then `HEADWATER_*`, then flags.

Each is named and explained once, here; `headwater config show` and config/reference.toml list them all.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from headwater.errors import SettingsError


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set. Each store and engine has an address: the scheme picks the adapter."""

    data: str = "headwater-data"
    host: str = "127.0.0.1"
    port: int = 8080
    eventlog: str = "sqlite:log"
    panes: str = "sqlite:panes.db"
    lake: str = "file:lake"
    catalog: str = "sqlite:."
    stream_engine: str = "embedded:"
    batch_engine: str = "embedded:"
    query_engine: str = "embedded:"
    copies_window_hours: int = 24
    log_keep_days: int = 7
    log_cap_bytes: int = 10 << 30
    lake_compression: Literal["snappy", "zstd"] = "snappy"
    query_seconds: int = 30
    query_memory_mb: int = 512

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            given = getattr(self, name)
            if not low <= given <= high:
                raise SettingsError(f"setting {name!r} is {given}; it must lie in {low} to {high}")

    @property
    def folder(self) -> Path:
        """The data folder, absolute."""
        return Path(self.data).expanduser().absolute()


_RANGES = (
    ("port", 0, 65535),
    ("copies_window_hours", 1, 168),
    ("log_keep_days", 1, 3650),
    ("log_cap_bytes", 1 << 20, 1 << 50),
    ("query_seconds", 1, 3600),
    ("query_memory_mb", 64, 65536),
)

MEANINGS: dict[str, str] = {
    "data": "folder of everything that is kept; made when missing",
    "host": "address to listen on",
    "port": "port to listen on; 0 picks a free one",
    "eventlog": "event log: sqlite:FOLDER",
    "panes": "live windows: sqlite:FILE",
    "lake": "Parquet files: file:FOLDER",
    "catalog": "projects, keys, metrics, manifest: sqlite:FOLDER",
    "stream_engine": "what computes live windows: embedded:",
    "batch_engine": "what computes rollups: embedded:",
    "query_engine": "what answers SQL: embedded:",
    "copies_window_hours": "for how long after receipt the same event id is a copy (1 to 168)",
    "log_keep_days": "how long events stay in the log after they were archived",
    "log_cap_bytes": "size of the log: above it archived events go earlier; unarchived ones refuse new (503)",
    "lake_compression": "snappy or zstd, for new lake files",
    "query_seconds": "deadline of one SQL question",
    "query_memory_mb": "memory of one SQL question",
}


class Loaded(msgspec.Struct, frozen=True):
    """Settings in force, and where each value is from: `default`, a file, a variable or a flag."""

    settings: Settings
    sources: dict[str, str]


def load(flags: Mapping[str, Any], config: Path | None = None, environment: Mapping[str, str] | None = None) -> Loaded:
    """Puts the sources together. Raises `SettingsError` for an unknown name (with a suggestion) or a bad value."""
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    sources = dict.fromkeys(Settings.__struct_fields__, "default")

    def put(name: str, value: Any, source: str) -> None:
        _check_name(name, source)
        values[name] = value
        sources[name] = source

    file = config or Path("headwater.toml")
    if config is not None or file.exists():
        for name, value in _read(file).items():
            put(name, value, str(file))
    for variable, text in environment.items():
        if variable.startswith("HEADWATER_") and variable not in _NOT_SETTINGS:
            put(variable.removeprefix("HEADWATER_").lower(), text, variable)
    for name, value in flags.items():
        if value is not None:
            put(name, value, f"--{name.replace('_', '-')}")
    try:
        return Loaded(msgspec.convert(values, Settings, strict=False), sources)
    except msgspec.ValidationError as error:
        raise SettingsError(f"settings: {error}") from error


# Variables of the command line and of tests that are no settings of the system.
_NOT_SETTINGS = frozenset(
    (
        "HEADWATER_URL",
        "HEADWATER_KEY",
        "HEADWATER_PROJECT",
        "HEADWATER_CONFIG",
        "HEADWATER_STOP_AT",
        "HEADWATER_SEED",
        "HEADWATER_KILLS",
    )
)


def _check_name(name: str, source: str) -> None:
    if name in Settings.__struct_fields__:
        return
    near = difflib.get_close_matches(name, Settings.__struct_fields__, 1)
    meant = f"; did you mean {near[0]!r}?" if near else "."
    raise SettingsError(
        f"unknown setting {name!r} from {source}{meant} Known are {', '.join(Settings.__struct_fields__)}"
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise SettingsError(f"settings file {file} cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"settings file {file} is not TOML: {error}") from error
