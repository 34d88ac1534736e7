"""Every measurement, one after the other: `make bench`. Each can be run alone: `python -m bench.ingest --help`."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

RUNS = (
    ("ingest, batches of 100", ("bench.ingest", "--batch", "100")),
    ("ingest, single events", ("bench.ingest", "--batch", "1", "--requests", "20000", "--clients", "64")),
    ("stream: 10 metrics, 2 dimension sets, micro-batches of 20,000", ("bench.stream_measure",)),
    ("archive: log to Parquet", ("bench.archive",)),
    ("rollup", ("bench.rollup",)),
    ("the whole chain", ("bench.chain",)),
)


def main() -> None:
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print("Other load on the machine makes figures worse; compare within one run.")
    for title, command in RUNS:
        print(f"\n{title}\n    python -m {' '.join(command)}", flush=True)
        subprocess.run([sys.executable, "-m", *command], check=True)


if __name__ == "__main__":
    main()
