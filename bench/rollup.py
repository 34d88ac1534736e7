"""Rollup: CPU per event of counting an hour's lake file into a chunk: 10 metrics, 2 dimension sets.

python -m bench.rollup [--events 200000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from bench.archive import batch_of
from bench.stream_measure import metrics
from headwater.lake.columns import to_lake
from headwater.lake.file import write
from headwater.warehouse.chunk import FINEST, GRANULARITIES, Cell, merge_cells, with_hours, write_chunk
from headwater.warehouse.measure import files_source, measure, names_for

PROMOTED = {("amount", "number"): "p_1", ("country", "text"): "p_2", ("device", "text"): "p_3"}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--events", type=int, default=200_000)
    events = arguments.parse_args().events
    table = to_lake(batch_of(events), np.arange(events), PROMOTED)
    data, _ = write(pa.table(table), key="k", project_id="default", hour=0, epoch=1, promoted={})
    wanted = metrics()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "hour.parquet"
        file.write_bytes(data)
        connection = duckdb.connect(config={"threads": 1})
        begin = time.process_time()
        source = files_source([str(file)], names_for(wanted), PROMOTED)
        found = measure(connection, source, wanted, bucket_us=GRANULARITIES[FINEST])
        cells = merge_cells([{Cell(m.metric_key, FINEST, m.dimensions, m.bucket, m.values): m.state for m in found}])
        write_chunk(with_hours(cells), wanted, revision=1, now_us=0)
        spent = time.process_time() - begin
    print(f"rollup of {events} events, {len(found)} states: {spent / events * 1e6:.2f} us CPU per event")


if __name__ == "__main__":
    main()
