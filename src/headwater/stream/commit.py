"""The stream's commit protocol.

    1  the events are in the log, durably, and were decided (given: only such come here)
    2  their states are added to the windows in memory
    3  one transaction: changed live panes, changed tail panes, skipped positions, first whole windows, caps, and the
       next position
    4  what was changed is settled in memory

A stop before 3 ends: the events come again from the log, to panes that do not hold them. A stop after it: they are
below the stored position and are not taken again. A failed 3 leaves everything as changed; the next commit writes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from headwater.panes.port import Cap, PanesWriter, StreamCommit
from headwater.stream.windows import Windows

# Called with the name of each step as it begins; tests stop a process there.
Step = Callable[[str], None]


def no_step(name: str) -> None:
    """Steps pass unnoticed."""


@dataclass
class Pending:
    """What was added in memory and is not stored yet: positions [first, next) of the log."""

    first: int
    next: int
    received_at: int
    segment: int
    skipped: list[int] = field(default_factory=list)
    live_from: dict[tuple[str, str], int] = field(default_factory=dict)
    caps: list[Cap] = field(default_factory=list)


def commit_stream(panes: PanesWriter, pending: Pending, live: Windows, tail: Windows, step: Step = no_step) -> None:
    """Steps 3 and 4. Raises what the store raises, with nothing settled then."""
    step("stream.3.transaction")
    panes.commit(
        StreamCommit(
            first=pending.first,
            next=pending.next,
            received_at=pending.received_at,
            segment=pending.segment,
            live=list(live.changed()),
            tail=list(tail.changed()),
            skipped=pending.skipped,
            live_from=pending.live_from,
            caps=pending.caps,
        )
    )
    step("stream.4.settle")
    live.settled()
    tail.settled()
    pending.first = pending.next
    pending.skipped, pending.live_from, pending.caps = [], {}, []
