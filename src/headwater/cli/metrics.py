"""`metrics`: definitions, also from files."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from headwater.cli.client import Failed, connect
from headwater.cli.context import of
from headwater.cli.jobs import follow
from headwater.cli.manage import listed
from headwater.cli.show import as_json, err, table
from headwater.errors import UsageError


def register(app: typer.Typer) -> None:
    metrics = typer.Typer(help="Metric definitions: what is counted, of which events.", no_args_is_help=True)
    metrics.command("list")(list_metrics)
    metrics.command("show")(show)
    metrics.command("define")(define)
    metrics.command("check")(check)
    metrics.command("backfill")(backfill)
    app.add_typer(metrics, name="metrics")


def list_metrics(context: typer.Context) -> None:
    """List the metrics of the project.

    Example: headwater metrics list
    """
    with connect(of(context)) as api:
        rows = listed(api.get("/v1/metrics"))
    if of(context).json:
        as_json(rows)
        return
    shown = []
    for row in rows:
        definition = row.get("definition", row)
        what = definition["aggregate"] + (f" of {definition['property']}" if definition.get("property") else "")
        sets = "; ".join(", ".join(s) for s in definition.get("dimensions", ()))
        shown.append((row["name"], what, definition.get("eventType", "all events"), sets, row["version"]))
    table(("metric", "takes", "of", "by", "version"), shown)


def show(context: typer.Context, name: Annotated[str, typer.Argument(metavar="METRIC")]) -> None:
    """Print one definition as JSON.

    Example: headwater metrics show events
    """
    with connect(of(context)) as api:
        as_json(api.get(f"/v1/metrics/{name}/definition"))


def read_definitions(name: str | None, file: Path) -> dict[str, Any]:
    """Definitions by metric name, from a JSON or TOML file: one definition (needs `name`) or an object of them."""
    try:
        text = file.read_text()
        held = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{file}: {error}") from error
    if not isinstance(held, dict):
        raise UsageError(f"{file}: a definition is an object")
    if "aggregate" in held:
        return {name or file.stem: held}
    if name is not None and name not in held:
        raise UsageError(f"{file} defines {', '.join(held)}; not {name}")
    return held if name is None else {name: held[name]}


def define(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[METRIC]", help="Needed without --file.")] = None,
    file: Annotated[Path | None, typer.Option(help="JSON or TOML: one definition, or an object of them.")] = None,
    aggregate: Annotated[str | None, typer.Option(help="count, sum, avg, min, max or unique.")] = None,
    event_type: Annotated[str | None, typer.Option(help="Only events of this type.")] = None,
    property_: Annotated[
        str | None, typer.Option("--property", help="What to sum, or to count the distinct of.")
    ] = None,
    by: Annotated[list[str] | None, typer.Option(help="A dimension set, comma-separated; may be repeated.")] = None,
) -> None:
    """Define metrics or change them; they answer at once, over all history.

    Example: headwater metrics define revenue --aggregate sum --event-type purchase --property amount --by country
    """
    if file is not None:
        definitions = read_definitions(name, file)
    elif name and aggregate:
        definition: dict[str, Any] = {"aggregate": aggregate, "dimensions": [s.split(",") for s in by or ()]}
        definition |= {"eventType": event_type} if event_type else {}
        definition |= {"property": property_} if property_ else {}
        definitions = {name: definition}
    else:
        raise UsageError("give METRIC and --aggregate, or --file FILE")
    with connect(of(context)) as api:
        answers = {n: api.call("PUT", f"/v1/metrics/{n}", json=d) for n, d in definitions.items()}
    if of(context).json:
        as_json({n: a.json() for n, a in answers.items()})
    for n, answer in answers.items():
        err.print(f"{n}: {'new' if answer.status_code == 201 else 'in force'}", markup=False)


def check(
    context: typer.Context, file: Annotated[Path, typer.Argument(help="JSON or TOML file of definitions.")]
) -> int:
    """Say what a file of definitions would do, without doing it.

    Example: headwater metrics check metrics.toml
    """
    from headwater.assembly.dry_run import judge_metric

    with connect(of(context)) as api:
        current = {row["name"]: row for row in listed(api.get("/v1/metrics"))}
    found = []
    for name, definition in read_definitions(None, file).items():
        found.append({"metric": name, **judge_metric(name, definition, current.get(name))})
    if of(context).json:
        as_json(found)
    else:
        table(("metric", "would", "because"), [(f["metric"], f["would"], f.get("detail", "")) for f in found])
    return 1 if any(f["would"] == "be refused" for f in found) else 0


def backfill(context: typer.Context, name: Annotated[str, typer.Argument(metavar="METRIC")]) -> int:
    """Settle a metric over all history now, so that questions about it are quick. Resumable.

    Example: headwater metrics backfill revenue
    """
    with connect(of(context)) as api:
        try:
            api.get(f"/v1/metrics/{name}/definition")
        except Failed as error:
            raise UsageError(str(error)) from error
        state = follow(api, "backfill", {"metric": name})
    if of(context).json:
        as_json(state)
    err.print(f"backfill of {name}: {state['state']}", markup=False)
    return 0 if state["state"] == "done" else 1
