"""The reference pages that are written from the code: `python -m headwater.cli.reference FOLDER`.

`cli.md` comes from the commands, `settings.md` from the settings, `http.md` from the OpenAPI document. The same code
always gives the same bytes, so a test can tell a stale page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import typer.main

from headwater.assembly.settings import MEANINGS, Settings
from headwater.cli.app import app
from headwater.model.rejection import REASONS
from headwater.query.openapi import document

WRITTEN = "<!-- Written by `make docs` from the code; edit the code, not this page. -->"
EVERYWHERE = (
    ("--data DIR", "HEADWATER_DATA", "the data folder (`./headwater-data`)"),
    ("--url URL", "HEADWATER_URL", "a system elsewhere; needs a key"),
    ("--key KEY", "HEADWATER_KEY", "the key to use (that of the data folder)"),
    ("--project ID", "HEADWATER_PROJECT", "the project (`default`)"),
    ("--config FILE", "HEADWATER_CONFIG", "the settings file (`headwater.toml`, where there is one)"),
    ("--json", "", "one JSON document on stdout instead of a table"),
)
EXITS = (
    (0, "done"),
    (1, "done, and the finding is bad: a loss, a difference, a rejected line, a failed job"),
    (2, "wrong usage or settings"),
    (3, "what it needs cannot be reached"),
)


def main(arguments: Sequence[str]) -> int:
    """Writes the three pages into the folder; 2 where none is named."""
    if len(arguments) != 1:
        print("usage: python -m headwater.cli.reference FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text)
    return 0


def pages() -> dict[str, str]:
    """File name -> the page as it should be."""
    return {"cli.md": cli_page(), "settings.md": settings_page(), "http.md": http_page()}


# -- settings --------------------------------------------------------------------------------------------------------


def settings_page() -> str:
    """Every setting with its default and meaning."""
    defaults = msgspec.structs.asdict(Settings())
    rows = [
        (f"`{name}`", f"`{json.dumps(value)}`", f"`HEADWATER_{name.upper()}`", MEANINGS[name])
        for name, value in defaults.items()
    ]
    return _page(
        "Settings",
        "A later source wins: defaults, `headwater.toml` in the working folder (or `--config FILE`), environment "
        "variables, flags. An unknown name is an error that names the nearest known one. "
        "`headwater config show` prints what is in force and where each value is from.",
        _table(("setting", "default", "variable", "meaning"), rows),
        "An address is `SCHEME:REST`. The scheme picks the adapter; a relative path lies in the data folder. "
        "An unknown scheme is an error that lists the known ones.",
        "[config/minimal.toml](../../config/minimal.toml) is enough to start from; "
        "[config/reference.toml](../../config/reference.toml) holds every setting.",
    )


# -- commands --------------------------------------------------------------------------------------------------------


def cli_page() -> str:
    """Every command with its arguments, options and an example."""
    commands = list(_commands(typer.main.get_command(app), ()))
    parts = [
        "Results go to stdout, progress and messages to stderr. If a system runs over the data folder a command talks "
        "to it over HTTP; else it opens the stores itself, under the folder's lock.",
        "## For every command",
        "Before or after a command's own arguments:",
        _table(("option", "variable", "means"), [(f"`{o}`", f"`{v}`" if v else "", m) for o, v, m in EVERYWHERE]),
        _table(("exit code", "means"), EXITS),
        "## Commands",
        _table(
            ("command", "does"),
            [(f"[`{' '.join(path)}`](#headwater-{'-'.join(path)})", _summary(command)) for path, command in commands],
        ),
    ]
    for path, command in commands:
        parts += _command(path, command)
    return _page("Commands", *parts)


def _commands(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*path, name))
        elif not command.hidden:
            yield (*path, name), command


def _command(path: tuple[str, ...], command: Any) -> Iterator[str]:
    """The section of one command."""
    text, _, example = str(command.help).partition("\n\nExample: ")
    shown = [p for p in command.params if not p.hidden and p.name != "help"]
    arguments = [p for p in shown if p.param_type_name == "argument"]
    options = [p for p in shown if p.param_type_name == "option"]
    usage = ["headwater", *path, *(_argument(p) for p in arguments), *(["[OPTIONS]"] if options else [])]
    yield f"## headwater {' '.join(path)}"
    yield text
    yield f"    {' '.join(usage)}"
    rows = [(f"`{_argument(p)}`", p.help or "") for p in arguments if p.help]
    rows += [(f"`{_option(p)}`", (p.help or "") + (" Required." if p.required else "")) for p in options]
    if rows:
        yield _table(("given", "means"), rows)
    yield f"Example: `{example.strip()}`"


def _summary(command: Any) -> str:
    return str(command.help).partition("\n\n")[0]


def _argument(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name.upper())
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def _option(parameter: Any) -> str:
    name = "/".join(parameter.opts)
    return name if parameter.is_flag else f"{name} {parameter.opts[0].lstrip('-').upper()}"


# -- HTTP ------------------------------------------------------------------------------------------------------------


def http_page() -> str:
    """Every route, from the OpenAPI document that `/openapi.json` answers with."""
    described = document()
    operations = [(m, p, o) for p, methods in described["paths"].items() for m, o in methods.items()]
    parts = [
        "One port serves everything. Keys go into `Authorization: Bearer KEY` or `X-API-Key: KEY`. JSON in camelCase, "
        "times in RFC 3339, UTC. A running system shows this page at `/docs` and its machine-readable form at "
        "`/openapi.json`. A `read` route takes an `admin` key too. The operator's key (the first `admin` key of the "
        "project `default`) may name another project in the header `X-Headwater-Project`.",
        "## Routes",
        _table(
            ("route", "key", "does"),
            [(f"[`{m.upper()} {p}`](#{_anchor(m, p)})", _key(o), o["summary"]) for m, p, o in operations],
        ),
    ]
    for method, path, operation in operations:
        parts += _operation(method, path, operation)
    parts.append("## Objects")
    for name, schema in described["components"]["schemas"].items():
        parts += _object(name, schema)
    parts += list(_reasons(described["components"]["schemas"]["Problem"]))
    return _page("HTTP", *parts)


def _key(operation: dict[str, Any]) -> str:
    """The role that the description ends with; none where no key is taken."""
    _, found, role = str(operation["description"]).rpartition("Key: ")
    return role.rstrip(".") if found else "none"


def _anchor(method: str, path: str) -> str:
    return f"{method}-{path}".lower().translate({ord(c): None for c in "/{}."})


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"## {method.upper()} {path}"
    yield f"**{operation['summary']}.** {operation['description']}".strip()
    rows = [
        (f"`{p['name']}`", p["in"], "yes" if p.get("required") else "", p.get("description", ""))
        for p in operation["parameters"]
    ]
    if rows:
        yield _table(("parameter", "in", "required", "means"), rows)
    body = operation.get("requestBody")
    if body:
        yield f"Body: {_shape(body['content']['application/json']['schema'])}"
    for status, answer in operation["responses"].items():
        if status != "default":
            content = answer.get("content", {}).get("application/json", {}).get("schema")
            yield f"Answer {status}" + (f": {_shape(content)}" if content else ".")


def _object(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"### {name}"
    if "description" in schema:
        yield str(schema["description"])
    required = schema.get("required", ())
    if name == "Problem":
        schema = {**schema, "properties": {**schema["properties"], "reason": {"type": "string"}}}
    rows = [
        (f"`{member}`", _shape(held), "yes" if member in required else "", _limits(held))
        for member, held in schema.get("properties", {}).items()
    ]
    if rows:
        yield _table(("member", "type", "required", "means"), rows)


def _reasons(problem: dict[str, Any]) -> Iterator[str]:
    """The closed list of reasons with the status of each."""
    yield "### Reasons of a problem"
    yield "An error is `application/problem+json` (RFC 9457) with one of these; 429 and 503 carry `Retry-After`."
    yield _table(("reason", "status"), [(f"`{r}`", REASONS[r]) for r in problem["properties"]["reason"]["enum"]])


def _shape(schema: dict[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if schema.get("type") == "array":
        return f"list of {_shape(schema['items'])}"
    if schema.get("properties"):
        return ", ".join(f"`{name}` ({_shape(held)})" for name, held in schema["properties"].items())
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "any value")
    shown = " or ".join(kind) if isinstance(kind, list) else str(kind)
    return "time" if schema.get("format") == "date-time" else shown


def _limits(schema: dict[str, Any]) -> str:
    said = [schema["description"]] if "description" in schema else []
    if "maxLength" in schema:
        said.append(f"At most {schema['maxLength']} characters.")
    return " ".join(said)


# -- Markdown --------------------------------------------------------------------------------------------------------


def _page(title: str, *parts: str) -> str:
    return "\n\n".join((f"# {title}", WRITTEN, *(part for part in parts if part))) + "\n"


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [_row(columns), _row(["---"] * len(columns)), *(_row(row) for row in rows)]
    return "\n".join(lines)


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
