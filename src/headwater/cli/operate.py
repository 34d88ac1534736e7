"""Looking after a system: status, audit, reconcile, lake files, trace, rejected input, settings, doctor, demo."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from headwater.assembly import settings as settings_of
from headwater.cli.client import connect
from headwater.cli.context import of
from headwater.cli.manage import listed
from headwater.cli.show import as_json, err, out, table

FROM = Annotated[str | None, typer.Option("--from", help="Date or time, inclusive.")]
TO = Annotated[str | None, typer.Option("--to", help="Date (its whole day) or time (exclusive).")]


def register(app: typer.Typer) -> None:
    for command in (status, audit, reconcile, trace, doctor, demo):
        app.command(command.__name__)(command)
    lake = typer.Typer(help="The Parquet lake.", no_args_is_help=True)
    lake.command("files")(lake_files)
    lake.callback()(lambda: None)
    app.add_typer(lake, name="lake")
    rejected = typer.Typer(help="Input that could not become an event.", no_args_is_help=True)
    rejected.command("list")(list_rejected)
    rejected.command("show")(show_rejected)
    app.add_typer(rejected, name="rejected")
    config = typer.Typer(help="Settings.", no_args_is_help=True)
    config.command("show")(show_config)
    config.callback()(lambda: None)
    app.add_typer(config, name="config")


def status(context: typer.Context) -> None:
    """Show where each stage is, what waits, and up to when answers are complete.

    Example: headwater status
    """
    with connect(of(context)) as api:
        state = api.get("/v1/status")
    if of(context).json:
        as_json(state)
        return
    out.print(f"complete up to {state['completeUpTo'] or 'the first event'}", markup=False, highlight=False)
    stages = [
        (s["name"], s["position"], s["backlogEvents"], s["backlogSeconds"], s["lastError"]) for s in state["stages"]
    ]
    table(("stage", "position", "events behind", "seconds behind", "last error"), stages)
    table(
        ("process", "pid", "state", "restarts"),
        [(p["name"], str(p["pid"] or ""), p["state"], p["restarts"]) for p in state["processes"]],
    )
    dedupe, disk = state["dedupe"], state["disk"]
    out.print(
        f"copies are known back to {dedupe['from'] or 'the first event'} ({dedupe['bytes']:,} bytes)",
        markup=False,
        highlight=False,
    )
    out.print("disk: " + ", ".join(f"{name} {size:,}" for name, size in disk.items()), markup=False, highlight=False)


def audit(context: typer.Context) -> int:
    """Account for every accepted event; exit 1 when one is missing or one too many.

    Example: headwater audit --json
    """
    with connect(of(context)) as api:
        report = api.get("/v1/audit")
    if of(context).json:
        as_json(report)
    else:
        names = (
            "project",
            "hour",
            "accepted",
            "stored",
            "copies",
            "rejectedLater",
            "erased",
            "expired",
            "inFlight",
            "missing",
            "extra",
        )
        shown = [r for r in report["projects"] if r["missing"] or r["extra"]] or report["projects"][-24:]
        headings = [name.replace("rejectedLater", "rejected later").replace("inFlight", "in flight") for name in names]
        table(headings, [[row[name] for name in names] for row in shown])
        accepted = sum(r["accepted"] for r in report["projects"])
        out.print(
            f"{accepted:,} events accepted: "
            + ("every one is accounted for" if report["ok"] else "NOT all are accounted for"),
            markup=False,
        )
    return 0 if report["ok"] else 1


def reconcile(context: typer.Context, start: FROM = None, end: TO = None) -> int:
    """Compare live, settled and raw for every metric and hour; exit 1 when two differ.

    Example: headwater reconcile --from 2015-05-17 --to 2015-05-20
    """
    with connect(of(context)) as api:
        report = api.get("/v1/reconcile", startTime=start, endTime=end)
    if of(context).json:
        as_json(report)
    else:
        names = ("project", "metric", "dimensions", "hour", "live", "settled", "raw")
        if report["differences"]:
            table(names, [[row.get(name) for name in names] for row in report["differences"]])
        out.print(
            f"{report['checked']:,} compared, {report['open']:,} still open, {len(report['differences'])} differ",
            markup=False,
        )
    return 0 if report["ok"] else 1


def lake_files(context: typer.Context, start: FROM = None, end: TO = None) -> None:
    """Print the live Parquet files, one path a line, for DuckDB, Spark or pandas.

    Example: headwater lake files --from 2015-05-17
    """
    with connect(of(context)) as api:
        rows = listed(api.get("/v1/lake/files", startTime=start, endTime=end))
    if of(context).json:
        as_json(rows)
    else:
        for row in rows:
            print(row["path"] if isinstance(row, dict) else row)


def trace(context: typer.Context, event_id: Annotated[str, typer.Argument(metavar="EVENT_ID")]) -> None:
    """Show every hop of one event, or why it did not count.

    Example: headwater trace evt_123
    """
    from urllib.parse import quote

    with connect(of(context)) as api:
        found = api.get(f"/v1/events/{quote(event_id, safe='')}/trace")
    if of(context).json:
        as_json(found)
    else:
        out.print_json(data=found)


def list_rejected(
    context: typer.Context,
    reason: Annotated[str | None, typer.Option(help="Only this reason.")] = None,
    since: Annotated[str | None, typer.Option(help="Received at or after this time.")] = None,
    limit: Annotated[int, typer.Option(help="Rows at most.")] = 50,
) -> None:
    """List what could not become an event, newest first.

    Example: headwater rejected list --reason invalid_timestamp
    """
    with connect(of(context)) as api:
        page = api.get("/v1/rejected", reason=reason, since=since, limit=limit)
    if of(context).json:
        as_json(page)
        return
    rows = [(r["id"], r["receivedAt"], r["reason"], r["eventId"], r["detail"]) for r in page["data"]]
    table(("id", "received", "reason", "event id", "detail"), rows)


def show_rejected(context: typer.Context, rejection_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Show one rejected input with its bytes.

    Example: headwater rejected show i1
    """
    import base64

    with connect(of(context)) as api:
        found: dict[str, Any] = api.get(f"/v1/rejected/{rejection_id}")
    if of(context).json:
        as_json(found)
        return
    for name in ("id", "receivedAt", "stage", "reason", "detail", "eventId", "status"):
        out.print(f"{name}: {found.get(name)}", markup=False, highlight=False)
    out.print(base64.b64decode(found["bytes"]).decode("utf-8", "replace"), markup=False, highlight=False)


def show_config(context: typer.Context) -> None:
    """Show the settings in force and where each is from.

    Example: headwater config show
    """
    loaded = of(context).load()
    values = msgspec.structs.asdict(loaded.settings)
    if of(context).json:
        as_json({name: {"value": value, "from": loaded.sources[name]} for name, value in values.items()})
        return
    rows = [(n, str(v), loaded.sources[n], settings_of.MEANINGS[n]) for n, v in values.items()]
    table(("setting", "value", "from", "meaning"), rows)


def doctor(context: typer.Context) -> int:
    """Check settings, stores, permissions, clock and disk, and say what to do.

    Example: headwater doctor
    """
    from headwater.assembly.doctor import examine

    loaded = of(context).load()
    findings = examine(loaded.settings)
    if of(context).json:
        as_json([{"check": f.check, "ok": f.ok, "found": f.found, "do": f.do} for f in findings])
    else:
        table(("check", "ok", "found", "what to do"), [(f.check, f.ok, f.found, f.do) for f in findings])
    bad = [f for f in findings if not f.ok]
    if bad:
        err.print(f"{len(bad)} of {len(findings)} checks need attention", markup=False)
    return 1 if bad else 0


def demo(context: typer.Context) -> int:
    """Load a real access log through the API and print first answers.

    Example: headwater demo
    """
    from headwater.cli.demo import run

    return run(of(context))
