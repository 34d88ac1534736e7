"""`up` and `run`: starting things."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from headwater.cli.context import of
from headwater.errors import UsageError

PROCESSES = ("ingest", "work", "stream", "archive", "batch", "query")


def register(app: typer.Typer) -> None:
    app.command("up")(up)
    app.command("run")(run)


def up(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on (127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (8080); 0 picks a free one.")] = None,
    testing: Annotated[bool, typer.Option(hidden=True)] = False,
) -> int:
    """Run every process on this machine until Ctrl-C.

    Example: headwater up --port 0 --data ./events
    """
    from headwater.assembly.supervisor import Supervisor

    loaded = of(context).load(host=host, port=port)
    supervisor = Supervisor(loaded.settings, lambda line: print(line, flush=True), testing=testing)
    return supervisor.run()


def run(
    context: typer.Context,
    process: Annotated[str, typer.Argument(help=f"One of {', '.join(PROCESSES)}.")],
    once: Annotated[bool, typer.Option(help="With batch: do what is due now, then end.")] = False,
    host: Annotated[str | None, typer.Option(help="With ingest: address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="With ingest: port to listen on.")] = None,
) -> int:
    """Run one process in the foreground.

    Example: headwater run batch --once
    """
    from headwater.assembly import foreground

    if process not in PROCESSES:
        raise UsageError(f"no process {process!r}; there are {', '.join(PROCESSES)}")
    if once and process != "batch":
        raise UsageError("--once goes with `run batch`")
    common = of(context)
    if once:
        from headwater.cli.jobs import run_batch_once

        return run_batch_once(common)
    loaded = common.load(host=host, port=port)
    print(f"headwater {process}: running (pid {os.getpid()}); Ctrl-C stops it", file=sys.stderr)
    return foreground.run(process, loaded.settings)
