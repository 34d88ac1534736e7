"""Sorted files merged into one sorted stream, in memory for a block of each at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from headwater.lake.file import sort_order

HELD_ROWS = 30_000  # of all inputs together, read and not yet given out: about 20 MB, and as much again twice
# Where rows stand: (event type, timestamp in microseconds).
Place = tuple[str, int]


@dataclass
class _Source:
    """One input: the rows that were read and not yet given out, and what follows."""

    held: pa.Table
    following: Iterator[pa.RecordBatch]
    ended: bool = False

    def fill(self) -> None:
        """Reads on where nothing is held."""
        while not self.held.num_rows and not self.ended:
            batch = next(self.following, None)
            if batch is None:
                self.ended = True
            else:
                names = self.held.schema.names
                self.held = pa.Table.from_batches([batch]).select(names).cast(self.held.schema)

    def last(self) -> Place:
        """Where the last row that is held stands."""
        at = self.held.num_rows - 1
        return self.held.column("event_type")[at].as_py(), self.held.column("timestamp")[at].cast(pa.int64()).as_py()

    def take_up_to(self, place: Place) -> pa.Table:
        """Gives out the rows that stand at `place` or before."""
        types = self.held.column("event_type")
        times = self.held.column("timestamp").cast(pa.int64())
        within = pc.or_(pc.less(types, place[0]), pc.and_(pc.equal(types, place[0]), pc.less_equal(times, place[1])))
        count = int(pc.sum(within).as_py() or 0)
        taken, self.held = self.held.slice(0, count), self.held.slice(count)
        return taken


def merged(files: Sequence[pq.ParquetFile], schema: pa.Schema, block_rows: int | None = None) -> Iterator[pa.Table]:
    """The rows of all `files`, each sorted by (event type, timestamp), as tables that follow one another in that order
    with the columns of `schema`."""
    size = block_rows or max(1_024, HELD_ROWS // len(files))
    sources = [
        _Source(schema.empty_table(), file.iter_batches(batch_size=size, columns=schema.names)) for file in files
    ]
    while True:
        for source in sources:
            source.fill()
        sources = [source for source in sources if source.held.num_rows]
        if not sources:
            return
        # every row up to the least last place is in memory by now, except more of that same place: the next round
        # gives those out, still before everything later
        edge = min(source.last() for source in sources)
        together = pa.concat_tables([source.take_up_to(edge) for source in sources]).combine_chunks()
        times = together.column("timestamp").cast(pa.int64()).to_numpy()
        order = sort_order(together.column("event_type").combine_chunks(), times)
        yield together.take(pa.array(order)) if np.any(np.diff(order) != 1) else together
