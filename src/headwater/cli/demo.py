"""The demo: 10,000 real web requests through the ingest API, and the first questions about them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from importlib.resources import as_file, files
from pathlib import Path

from headwater.cli import importing
from headwater.cli.ask import show_metric
from headwater.cli.client import Api, connect, running_at
from headwater.cli.context import Context
from headwater.cli.show import err, out, table
from headwater.errors import Unreachable

RANGE = {"startTime": "2015-05-17", "endTime": "2015-05-20"}
EVENTS = 10_000


def run(common: Context) -> int:
    """Loads into the system that runs over the data folder, or into one that is started for the demo and stopped."""
    if running_at(common):
        return _load_and_ask(common)
    command = [sys.executable, "-m", "headwater.cli", "up", "--data", str(common.folder), "--port", "0"]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, start_new_session=True)
        try:
            _wait_until_ready(process, said)
            return _load_and_ask(common)
        finally:
            process.terminate()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], said: object) -> None:
    deadline = time.monotonic() + 60
    with err.status("starting a system for the demo"):
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise Unreachable("the system for the demo ended at once; see the message above")
            said.seek(0)  # type: ignore[attr-defined]
            if "curl " in said.read():  # type: ignore[attr-defined]
                return
            time.sleep(0.1)
    raise Unreachable("the system for the demo was not ready within a minute; run `headwater doctor`")


def _load_and_ask(common: Context) -> int:
    err.print(f"Loading the access log of a small site into {common.folder}", markup=False)
    send = importing._http_sink(common)
    total = {"accepted": 0, "rejected": 0}
    with as_file(files("headwater") / "data" / "apache_access.log.gz") as log:
        importing._load_file(str(Path(log)), "combined", send, total)
    with connect(common) as api:
        _wait_until_counted(api)
        _answers(api)
    more = "headwater ask events --from 2015-05-17 --to 2015-05-20 --by path --every total"
    err.print(f"\nAsk on:  {more} --data {common.folder}", markup=False, highlight=False, soft_wrap=True)
    return 1 if total["rejected"] else 0


def _wait_until_counted(api: Api) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if api.get("/v1/metrics/events", **RANGE, granularity="total")["data"][0]["value"] >= EVENTS:
            return
        time.sleep(0.1)


def _answers(api: Api) -> None:
    for metric, title in (("events", "Requests by day"), ("daily_active_users", "Addresses by day (estimate)")):
        out.print(f"\n{title}", markup=False, style="bold")
        answer = api.get(f"/v1/metrics/{metric}", **RANGE, granularity="day")
        rows = [(row["timestamp"][:10], row["value"]) for row in answer["data"]]
        show_metric(metric, answer, ("day", metric), rows)
    out.print("\nRequests by hour", markup=False, style="bold")
    answer = api.get("/v1/metrics/events", **RANGE, granularity="hour")
    from headwater.cli.show import sparkline

    out.print(f"  {sparkline([row['value'] for row in answer['data']], 72)}", markup=False, highlight=False)
    for group, title in (("status", "Requests by status"), ("path", "Most asked-for paths")):
        out.print(f"\n{title}", markup=False, style="bold")
        answer = api.get("/v1/metrics/events", **RANGE, granularity="total", groupBy=group)
        counted = [(row["dimensions"][group], row["value"]) for row in answer["data"]]
        table((group, "requests"), sorted(counted, key=lambda row: (-row[1], str(row[0])))[:8])
