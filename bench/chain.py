"""The whole chain over real HTTP: CPU of each process per event, lag from 202 to the live answer, bytes, memory.

    python -m bench.chain [--rate 20000] [--seconds 30]

Open loop: each batch has a time at which it is meant to be sent; the lag of a probe counts from its 202 to the first
answer of `GET /v1/metrics/probes` that holds it. Bodies are made before the clock starts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from bench.events import bodies

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, its ended children included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(fields[i]) for i in (11, 12, 13, 14)) / TICKS


def pss_mb(pid: int) -> float:
    """Proportional set size: shared pages are divided among those who share them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def family(pid: int) -> list[int]:
    """The process and all that it started."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def start(data: Path) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    command = [sys.executable, "-m", "headwater.cli", "up", "--data", str(data), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("curl "):
        if process.poll() is not None:
            raise SystemExit("headwater up ended before it was ready")
    return process, json.loads((data / "run" / "supervisor.json").read_text())


async def send(url: str, key: str, prepared: list[bytes], rate: int, size: int) -> tuple[list[float], int]:
    """Sends every body at its intended time; returns the latencies from that time on, and how many were not 202."""
    latencies: list[float] = []
    refused = 0
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    limits = httpx.Limits(max_connections=32, max_keepalive_connections=32)
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=30) as client:
        begin = time.monotonic()

        async def one(i: int) -> None:
            nonlocal refused
            intended = begin + i * size / rate
            await asyncio.sleep(max(0.0, intended - time.monotonic()))
            answer = await client.post("/v1/events/batch", content=prepared[i])
            refused += answer.status_code != 202
            latencies.append(time.monotonic() - intended)

        await asyncio.gather(*(one(i) for i in range(len(prepared))))
    return latencies, refused


async def probe(url: str, data: Path, seconds: float) -> list[float]:
    """Lags of single events from their 202 to the live count that holds them."""
    lags: list[float] = []
    write = (data / "keys" / "write").read_text().strip()
    read = (data / "keys" / "read").read_text().strip()
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        end, sent = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            body = {"eventType": "probe"}
            await client.post("/v1/events", json=body, headers={"X-API-Key": write})
            acknowledged, sent = time.monotonic(), sent + 1
            while True:
                answer = await client.get(
                    "/v1/metrics/probes", params={"granularity": "total"}, headers={"X-API-Key": read}
                )
                if answer.json()["data"][0]["value"] >= sent:
                    break
                await asyncio.sleep(0.01)
            lags.append(time.monotonic() - acknowledged)
            await asyncio.sleep(0.2)
    return lags


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def folder_bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rate", type=int, default=20_000, help="events per second")
    arguments.add_argument("--seconds", type=int, default=20)
    arguments.add_argument("--batch", type=int, default=100)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        process, state = start(data)
        try:
            measure(data, process, state, given)
        finally:
            process.terminate()
            process.wait(60)


def measure(data: Path, process: subprocess.Popen[str], state: dict[str, Any], given: argparse.Namespace) -> None:
    pids = {p["name"]: p["pid"] for p in state["processes"]}
    admin = {"X-API-Key": (data / "keys" / "admin").read_text().strip()}
    url = state["url"].rstrip("/")
    for i in range(8):
        wanted = {"aggregate": "sum", "property": "amount", "eventType": "purchase", "dimensions": [["country"]]}
        if i % 2:
            wanted = {"aggregate": "count", "dimensions": [["country", "device"]]}
        httpx.put(f"{url}/v1/metrics/bench_{i}", json=wanted, headers=admin).raise_for_status()
    probes = {"aggregate": "count", "eventType": "probe"}
    httpx.put(f"{url}/v1/metrics/probes", json=probes, headers=admin).raise_for_status()
    time.sleep(3)
    before = sum(cpu_seconds(p) for p in family(process.pid))
    time.sleep(10)
    everybody = family(process.pid)
    print(f"at rest: {sum(pss_mb(p) for p in everybody):.0f} MB (PSS, {len(everybody)} processes)")
    print(f"at rest: {(sum(cpu_seconds(p) for p in everybody) - before) * 10:.1f} % of a core")
    events = given.rate * given.seconds
    prepared = list(bodies(events // given.batch, given.batch))
    print(
        f"{events} events, {sum(map(len, prepared)) / events:.0f} bytes each, {given.rate}/s, batches of {given.batch}"
    )
    spent = {name: cpu_seconds(pid) for name, pid in pids.items()}

    async def both() -> tuple[tuple[list[float], int], list[float]]:
        key = (data / "keys" / "write").read_text().strip()
        return await asyncio.gather(send(url, key, prepared, given.rate, given.batch), probe(url, data, given.seconds))

    (latencies, refused), lags = asyncio.run(both())
    print(f"send -> 202: p50 {percentile(latencies, 0.5) * 1e3:.1f} ms, p99 {percentile(latencies, 0.99) * 1e3:.1f} ms")
    live = [f"{name} {percentile(lags, share) * 1e3:.0f} ms" for name, share in (("p50", 0.5), ("p99", 0.99))]
    print(f"202 -> live: {', '.join(live)} ({len(lags)} probes)")
    print(f"not acknowledged: {refused} of {len(prepared)} requests")
    time.sleep(75)  # the tail is archived and the log checkpointed
    for name, pid in pids.items():
        print(f"{name}: {(cpu_seconds(pid) - spent[name]) / events * 1e6:.2f} us CPU per event")
    print(f"log: {folder_bytes(data / 'log') / events:.0f} bytes per event")
    print(f"lake: {folder_bytes(data / 'lake') / events:.0f} bytes per event")
    print(f"busy: {sum(pss_mb(p) for p in family(process.pid)):.0f} MB (PSS)")


if __name__ == "__main__":
    main()
