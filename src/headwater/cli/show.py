"""Results for people: tables, sparklines, CSV. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

BARS = "▁▂▃▄▅▆▇█"
PIPED_COLUMNS = 200  # a table that goes into a file or a pipe has no screen to fit


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() or "COLUMNS" in os.environ else PIPED_COLUMNS)


out = _console(stderr=False)
err = _console(stderr=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """Rows under headings; numbers to the right."""
    shown = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    held = [list(row) for row in rows]
    for i, column in enumerate(columns):
        numeric = bool(held) and all(isinstance(row[i], (int, float)) or row[i] is None for row in held)
        shown.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in held:
        shown.add_row(*("" if cell is None else _text(cell) for cell in row))
    out.print(shown)


def _text(cell: Any) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:,.2f}".rstrip("0").rstrip(".")
    return cell if isinstance(cell, str) else json.dumps(cell)


def as_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, ensure_ascii=False))


def as_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """RFC 4180 on stdout."""
    writer = csv.writer(sys.stdout)
    writer.writerow(columns)
    writer.writerows(rows)


def sparkline(values: Sequence[float | int | None], width: int = 60) -> str:
    """The values as a line of bars from zero to the greatest; more than `width` are summed into neighbours."""
    numbers = [float(v or 0) for v in values]
    if len(numbers) > width:
        step = len(numbers) / width
        numbers = [sum(numbers[int(i * step) : int((i + 1) * step)]) for i in range(width)]
    top = max(numbers, default=0)
    if top <= 0:
        return BARS[0] * len(numbers)
    return "".join(BARS[min(len(BARS) - 1, int(max(0.0, n) / top * (len(BARS) - 1) + 0.5))] for n in numbers)
