"""What every command takes, before or after its own arguments."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from headwater.assembly import settings as settings_of
from headwater.assembly.settings import Loaded
from headwater.errors import UsageError

# option -> environment variable; the first is a flag without a value, the variable of the second is a setting's
EVERYWHERE = {
    "--json": None,
    "--data": None,
    "--url": "HEADWATER_URL",
    "--key": "HEADWATER_KEY",
    "--project": "HEADWATER_PROJECT",
    "--config": "HEADWATER_CONFIG",
}


@dataclass
class Context:
    """The options that hold for every command."""

    data: str | None = None
    url: str | None = None
    key: str | None = None
    project: str = "default"
    config: Path | None = None
    json: bool = False

    def load(self, **flags: Any) -> Loaded:
        """The settings in force for this command. Raises `SettingsError`."""
        return settings_of.load({"data": self.data, **flags}, self.config)

    @cached_property
    def folder(self) -> Path:
        """The data folder: `--data`, else HEADWATER_DATA, else the settings file's, else ./headwater-data."""
        return self.load().settings.folder


def split(arguments: Sequence[str]) -> tuple[Context, list[str]]:
    """Takes the common options out of the arguments, wherever they stand. Raises `UsageError` where a value lacks."""
    values = {
        name: os.environ[variable] for name, variable in EVERYWHERE.items() if variable and variable in os.environ
    }
    rest: list[str] = []
    waiting = list(arguments)
    as_json = False
    while waiting:
        argument = waiting.pop(0)
        name, equals, value = argument.partition("=")
        if argument == "--":
            rest += [argument, *waiting]
            break
        if argument == "--json":
            as_json = True
        elif name in EVERYWHERE and name != "--json":
            if not equals and not waiting:
                raise UsageError(f"{name} needs a value")
            values[name] = value if equals else waiting.pop(0)
        else:
            rest.append(argument)
    config = values.get("--config")
    context = Context(
        data=values.get("--data"),
        url=values.get("--url"),
        key=values.get("--key"),
        project=values.get("--project", "default"),
        config=Path(config) if config else None,
        json=as_json,
    )
    return context, rest


def of(context: Any) -> Context:
    """The common options, as a command gets them from the one that parsed them."""
    found = context.find_object(Context)
    assert isinstance(found, Context)
    return found
