"""`ask` and `sql`: questions."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from headwater.cli.client import connect
from headwater.cli.context import of
from headwater.cli.show import as_csv, as_json, err, out, sparkline, table


def register(app: typer.Typer) -> None:
    app.command("ask")(ask)
    app.command("sql")(sql)


def ask(
    context: typer.Context,
    metric: Annotated[str, typer.Argument(metavar="METRIC")],
    start: Annotated[str | None, typer.Option("--from", help="Date or time, inclusive (the last 24 hours).")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Date (its whole day) or time (exclusive).")] = None,
    by: Annotated[str | None, typer.Option(help="Properties to group by, comma-separated.")] = None,
    every: Annotated[str | None, typer.Option(help="minute, 5m, hour, day, week, month or total.")] = None,
    zone: Annotated[str | None, typer.Option(help="IANA time zone (UTC).")] = None,
    where: Annotated[str | None, typer.Option(help="Filter, such as country:US,device:mobile.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="CSV instead of a table.")] = False,
) -> None:
    """Ask a metric: a table with a sparkline, or CSV.

    Example: headwater ask events --from 2015-05-17 --to 2015-05-20 --every day
    """
    with connect(of(context)) as api:
        answer = api.get(
            f"/v1/metrics/{metric}",
            startTime=start, endTime=end, groupBy=by, granularity=every, timezone=zone, filter=where,
        )  # fmt: skip
    if of(context).json:
        as_json(answer)
        return
    names = by.split(",") if by else []
    rows = [(r["timestamp"], *(r["dimensions"].get(n) for n in names), r["value"]) for r in answer["data"]]
    columns = ("window from", *names, metric)
    if csv:
        as_csv(columns, rows)
        return
    show_metric(metric, answer, columns, rows)


def show_metric(metric: str, answer: dict[str, Any], columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """The answer as a table, the line of its values, and what it rests on."""
    table(columns, rows)
    if len(columns) == 2 and len(rows) > 1:
        out.print(f"  {sparkline([row[-1] for row in rows])}", markup=False, highlight=False)
    meta = answer["meta"]
    stores = ", ".join(dict.fromkeys(part["store"] for part in meta["parts"]))
    err.print(f"complete up to {meta['completeUpTo']}, from {stores or 'nothing yet'}", markup=False, style="dim")
    if meta.get("notNumbers"):
        err.print(f"{meta['notNumbers']:,} values were not numbers and are left out", markup=False)


def sql(
    context: typer.Context,
    query: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT over events and metric_aggregates.")],
    csv: Annotated[bool, typer.Option("--csv", help="CSV instead of a table.")] = False,
    limit: Annotated[int | None, typer.Option(help="Rows at most (10,000).")] = None,
) -> None:
    """Ask the lake in SQL (DuckDB's), read-only.

    Example: headwater sql "SELECT event_type, count(*) FROM events GROUP BY ALL"
    """
    body: dict[str, Any] = {"sql": query} | ({"limit": limit} if limit else {})
    with connect(of(context)) as api:
        answer = api.post("/v1/query", body)
    if of(context).json:
        as_json(answer)
        return
    names = [column["name"] for column in answer["columns"]]
    if csv:
        as_csv(names, answer["rows"])
    else:
        table(names, answer["rows"])
    if answer["meta"]["truncated"]:
        err.print("There are more rows than are shown; add LIMIT and OFFSET, or --limit.", markup=False)
