"""Headwater: exact event analytics that one machine can run and a team can outgrow.

The folders are the way of the data: `ingest` -> `eventlog` -> `stream` and `archive` -> `panes` and `lake`
-> `batch` -> `warehouse` -> `query`. What the data means is in `model`; `assembly` is the only place that
picks implementations. Start reading at `model/batch.py`, then follow the folders.
"""

__version__ = "0.1.0"
