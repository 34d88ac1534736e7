"""`import`: files of events through the ingest API, with a progress bar; stopped and repeated at will."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from headwater.cli import formats
from headwater.cli.client import Failed, running_at, secret
from headwater.cli.context import Context, of
from headwater.cli.show import as_json, err
from headwater.errors import Unreachable, UsageError

BATCH_EVENTS = 1_000
BATCH_BYTES = 4 << 20
TRIES = 8
SHOWN = 20


def register(app: typer.Typer) -> None:
    app.command("import")(load)


def load(
    context: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files, gzip too; - is stdin.")],
    kind: Annotated[str, typer.Option("--format", help="ndjson, csv, parquet or combined (access log).")],
    dry_run: Annotated[bool, typer.Option(help="Send nothing; say what would be rejected and why.")] = False,
) -> int:
    """Load files of events. Can be stopped and repeated: nothing is counted twice.

    Example: headwater import access.log.gz --format combined
    """
    if kind not in formats.FORMATS:
        raise UsageError(f"no format {kind!r}; there are {', '.join(formats.FORMATS)}")
    common = of(context)
    sink = _dry_sink(common) if dry_run else _http_sink(common)
    total = {"accepted": 0, "rejected": 0}
    for name in files:
        _load_file(name, kind, sink, total)
    if common.json:
        as_json(total | {"dryRun": dry_run})
    else:
        verb = "would be accepted" if dry_run else "accepted"
        err.print(f"{total['accepted']:,} {verb}, {total['rejected']:,} rejected", markup=False)
    return 1 if total["rejected"] else 0


def _load_file(name: str, kind: str, sink: Any, total: dict[str, int]) -> None:
    source = formats.Source(name)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=err, transient=False) as progress:
            shown = Path(name).name
            task = progress.add_task(shown, total=source.size or None)
            for numbers, batch, bad in _batches(source, kind):
                refused = bad + ([(numbers[i], why) for i, why in sink(batch)] if batch else [])
                total["accepted"] += len(batch) - (len(refused) - len(bad))
                for number, why in sorted(refused):
                    total["rejected"] += 1
                    if total["rejected"] <= SHOWN:
                        progress.console.print(f"{name}:{number}: {why}", markup=False, highlight=False)
                    elif total["rejected"] == SHOWN + 1:
                        progress.console.print("... further rejected lines are only counted", markup=False)
                progress.update(task, completed=source.read(), description=f"{shown}  {total['accepted']:,} events")
            progress.update(task, completed=source.size or None)
    finally:
        source.close()


def _batches(source: formats.Source, kind: str) -> Iterator[tuple[list[int], list[bytes], list[tuple[int, str]]]]:
    """(line numbers, events, lines that are none) in pieces that fit a request."""
    numbers: list[int] = []
    batch: list[bytes] = []
    bad: list[tuple[int, str]] = []
    size = 0
    for number, event in formats.events(source, kind):
        if isinstance(event, formats.BadLine):
            bad.append((number, str(event)))
            continue
        if batch and size + len(event) > BATCH_BYTES:
            yield numbers, batch, bad
            numbers, batch, bad, size = [], [], [], 0
        numbers.append(number)
        batch.append(event)
        size += len(event) + 1
        if len(batch) >= BATCH_EVENTS:
            yield numbers, batch, bad
            numbers, batch, bad, size = [], [], [], 0
    if batch or bad:
        yield numbers, batch, bad


def _http_sink(common: Context) -> Any:
    """Sends a batch and returns what was refused of it. Retries while the system is busy or restarting."""
    if common.url and not common.key:
        raise UsageError("--url needs --key KEY (or HEADWATER_KEY)")
    address = common.url or running_at(common)
    if address is None:
        raise Unreachable(f"no system runs over {common.folder}; start it with `headwater up`, or give --url")
    client = httpx.Client(base_url=address.rstrip("/"), timeout=60)
    headers = {
        "Authorization": f"Bearer {secret(common, 'write')}",
        "Content-Type": "application/x-ndjson",
    }

    def send(batch: list[bytes]) -> list[tuple[int, str]]:
        body = b"\n".join(batch)
        for attempt in range(TRIES):
            try:
                answer = client.post("/v1/events/batch", content=body, headers=headers)
            except httpx.HTTPError as error:
                if attempt == TRIES - 1:
                    raise Unreachable(f"{address} does not answer: {error}") from error
            else:
                if answer.status_code in (202, 422):
                    given = answer.json()
                    return [(r["index"], f"{r['reason']}: {r['detail']}") for r in given["rejected"]]
                if answer.status_code not in (429, 503) or attempt == TRIES - 1:
                    raise Failed(answer)
            time.sleep(min(5.0, 0.2 * 2**attempt))
        raise AssertionError("unreachable")

    return send


def _dry_sink(common: Context) -> Any:
    """Judges a batch with the rules of ingest, here."""
    from headwater.assembly.dry_run import judge

    return judge
