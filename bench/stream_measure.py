"""Stream: CPU per event of the copy decision and of live windows: 10 metrics, 2 dimension sets, 20,000 events at once.

python -m bench.stream_measure [--rounds 10]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from bench.archive import batch_of
from headwater.model.metric import Metric, MetricDefinition
from headwater.state.copies import CopyIndex
from headwater.stream.engine import EmbeddedEngine
from headwater.stream.job import StreamJob

EVENTS = 20_000
SETS = (("country",), ("country", "device"))


def metrics() -> list[Metric]:
    """Ten metrics over two dimension sets: counts, sums, averages, extremes and people."""
    kinds = ("count", "sum", "avg", "min", "max")
    made = []
    for i in range(9):
        aggregate = kinds[i % 5]
        definition = MetricDefinition(
            aggregate=aggregate,  # type: ignore[arg-type]
            property=None if aggregate == "count" else "amount",
            event_type="purchase" if i % 2 else None,
            dimensions=SETS,
        )
        made.append(Metric("default", f"m{i}", 1, 0, definition))
    return [*made, Metric("default", "people", 1, 0, MetricDefinition(aggregate="unique"))]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=10)
    rounds = arguments.parse_args().rounds
    batches = [batch_of(EVENTS, seed) for seed in range(rounds)]
    job = StreamJob(metrics={"default": tuple(metrics())}, revision=1)
    engine = EmbeddedEngine()
    engine.apply(job, pa.Table.from_batches(batches[:1]), set())
    with tempfile.TemporaryDirectory() as folder:
        index = CopyIndex(Path(folder), find_stored=lambda *_: {}, load_event=lambda _: None)
        begin = time.process_time()
        for i, batch in enumerate(batches):
            index.decide(i * EVENTS, batch)
        decided = time.process_time()
    for batch in batches:
        engine.apply(job, pa.Table.from_batches([batch]), set())
    applied = time.process_time()
    events = rounds * EVENTS
    print(f"decide about copies: {(decided - begin) / events * 1e6:.2f} us CPU per event")
    print(f"live windows of 10 metrics, 2 dimension sets: {(applied - decided) / events * 1e6:.2f} us CPU per event")


if __name__ == "__main__":
    main()
