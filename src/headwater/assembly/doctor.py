"""`headwater doctor`: what can be wrong with a data folder and its machine, and what to do about it."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw

from headwater.assembly import lock, registry
from headwater.assembly.build import Build
from headwater.assembly.settings import Settings
from headwater.errors import HeadwaterError

FREE_BYTES = 1 << 30
FILES = 1024


@dataclass(frozen=True)
class Finding:
    """One check: whether it is well, what was found, and what to do where it is not."""

    check: str
    ok: bool
    found: str
    do: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Every check, in the order in which one depends on another. Changes nothing."""
    findings: list[Finding] = []
    for check in (_addresses, _folder, _keys, _stores, _system, _disk, _limits, _clock):
        findings += check(settings)
    return findings


def _addresses(settings: Settings) -> Iterator[Finding]:
    try:
        Build(settings)
        for store, address in (
            ("eventlog reader", settings.eventlog),
            ("panes reader", settings.panes),
            ("lake", settings.lake),
            ("control reader", settings.catalog),
        ):
            registry.opener(store, address)
    except HeadwaterError as error:
        yield Finding(
            "settings", False, str(error), "correct the address; `headwater config show` tells where it is from"
        )
    else:
        yield Finding("settings", True, "every address has an adapter")


def _folder(settings: Settings) -> Iterator[Finding]:
    folder = settings.folder
    if not folder.exists():
        yield Finding("data folder", False, f"{folder} does not exist", "run `headwater up`, or give --data")
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield Finding("data folder", False, f"{folder} cannot be written", f"chown or chmod it for user {os.getuid()}")
    else:
        yield Finding("data folder", True, str(folder))


def _keys(settings: Settings) -> Iterator[Finding]:
    for role in ("write", "read", "admin"):
        file = settings.folder / "keys" / role
        if not file.exists():
            continue
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & 0o077:
            yield Finding(
                f"key {role}", False, f"others can read it (mode {mode:o})", f"chmod 600 {file}; then make a new key"
            )
        else:
            yield Finding(f"key {role}", True, "readable by its owner alone")


def _stores(settings: Settings) -> Iterator[Finding]:
    folder = settings.folder
    for file in (folder / "control.db", folder / "manifest.db", folder / "panes.db", folder / "log" / "log.db"):
        if file.exists():
            yield _sound(file)


def _sound(file: Path) -> Finding:
    try:
        connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            said = str(connection.execute("PRAGMA quick_check(1)").get)
        finally:
            connection.close()
    except apsw.Error as error:
        said = str(error)
    if said == "ok":
        return Finding(file.name, True, "its structure is whole")
    return Finding(
        file.name, False, said, "stop Headwater, keep a copy of the folder, and restore the file from a backup"
    )


def _system(settings: Settings) -> Iterator[Finding]:
    folder = settings.folder
    if not lock.is_held(folder) if folder.exists() else True:
        yield Finding("system", True, "none runs over this folder")
        return
    try:
        state = json.loads((folder / "run" / "supervisor.json").read_text())
    except (OSError, ValueError):
        yield Finding("system", False, "one is starting or stopping", "look again in a moment")
        return
    restarts = {p["name"]: p["restarts"] for p in state["processes"] if p["restarts"]}
    if restarts:
        told = ", ".join(f"{name} {count} times" for name, count in restarts.items())
        yield Finding("system", False, f"restarted: {told}", "see what `headwater up` printed, and `headwater status`")
    else:
        yield Finding("system", True, f"runs at {state['url']}")


def _disk(settings: Settings) -> Iterator[Finding]:
    place = settings.folder if settings.folder.exists() else Path(".")
    free = shutil.disk_usage(place).free
    yield Finding(
        "disk",
        free >= FREE_BYTES,
        f"{free / (1 << 30):.1f} GiB free",
        "" if free >= FREE_BYTES else "make room: below some hundred MB sending is answered with 503",
    )


def _limits(settings: Settings) -> Iterator[Finding]:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    ok = soft >= FILES
    yield Finding("open files", ok, f"limit {soft}", "" if ok else f"ulimit -n {FILES} or more before `headwater up`")


def _clock(settings: Settings) -> Iterator[Finding]:
    ok = time.time() > 1_700_000_000
    found = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    yield Finding("clock", ok, found, "" if ok else "set the clock; receipts are stamped with it")
