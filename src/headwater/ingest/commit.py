"""Group commit: requests that arrive within 5 ms (or 2 MB, or 5,000 events) become durable in one append.

The order for a request, which cannot be changed: (1) its events wait in the gathering group; (2) the group is encoded
and appended, with its rejections, in one durable transaction; (3) only then its waiters are released, and 202 goes
out. A group whose append fails releases its waiters with the failure; nothing of it was kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from headwater.errors import HeadwaterError, Refused, StoreFull
from headwater.eventlog.port import EventLogWriter
from headwater.ingest.batch import to_batch
from headwater.ingest.tally import Tally
from headwater.model.event import Parsed
from headwater.model.rejection import Rejection

WAIT_SECONDS = 0.005
GROUP_BYTES = 2 << 20
GROUP_EVENTS = 5_000
HELD_BYTES = 64 << 20
# After a full log, room is made at most this often.
FULL_SECONDS = 1.0
T = TypeVar("T")


@dataclass
class _Group:
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    parsed: list[Parsed] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    events: int = 0
    bytes: int = 0


class Room:
    """Bytes of one request that are held in memory, from its first to its answer; given back at the end of a block,
    however it ends."""

    def __init__(self, commit: GroupCommit) -> None:
        self._commit = commit
        self._bytes = 0

    def take(self, size: int) -> None:
        """Holds `size` bytes more. Raises `Refused(overloaded)` when all requests together hold too many."""
        if self._commit.held + size > HELD_BYTES:
            raise Refused("overloaded", 503, "more is arriving than can be made durable; try again", retry_after=1)
        self._commit.held += size
        self._bytes += size

    def __enter__(self) -> Room:
        return self

    def __exit__(self, *_: object) -> None:
        self._commit.held -= self._bytes
        self._bytes = 0


class GroupCommit:
    """Gathers what requests want appended and appends it group by group, in one thread, in order.

    `position` is the log's next one; `held` counts the bytes of all requests that were not answered yet.
    """

    def __init__(self, log: EventLogWriter, last_received_at: int, tally: Tally) -> None:
        self._log = log
        self._tally = tally
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "append")
        self._group: _Group | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._appending: asyncio.Future[int] | None = None
        self._full = asyncio.Event()
        self._last_received_at = last_received_at
        self.held = 0
        self.position = log.append(None)

    def received_at(self, now_us: int) -> int:
        """The receipt of a request that is parsed now; never before one given out already."""
        self._last_received_at = max(self._last_received_at, now_us)
        return self._last_received_at

    async def append(self, parsed: Parsed | None, rejections: list[Rejection], size: int) -> None:
        """Returns when everything given is durable. Raises `Refused(unavailable)` when it could not be kept."""
        group = self._group
        if group is None:
            group = self._group = _Group()
            if self._appending is None:
                self._timer = self._loop.call_later(WAIT_SECONDS, self._close)
        if parsed is not None and parsed.accepted:
            group.parsed.append(parsed)
            group.events += parsed.accepted
        group.rejections += rejections
        group.bytes += size
        done = self._loop.create_future()
        group.waiting.append(done)
        if self._appending is None and (group.bytes >= GROUP_BYTES or group.events >= GROUP_EVENTS):
            self._close()
        try:
            await done
        except StoreFull as error:
            raise Refused("unavailable", 503, str(error), retry_after=5) from error
        except HeadwaterError as error:
            raise Refused("unavailable", 503, f"the event could not be made durable: {error}", retry_after=5) from error

    async def in_turn(self, call: Callable[[], T]) -> T:
        """Runs `call` in the appending thread, so that it never overlaps an append."""
        return await self._loop.run_in_executor(self._thread, call)

    async def full_or_after(self, seconds: float) -> None:
        """Returns after `seconds`, or soon after an append that found the log full."""
        await asyncio.sleep(FULL_SECONDS)
        try:
            async with asyncio.timeout(seconds - FULL_SECONDS):
                await self._full.wait()
        except TimeoutError:
            return
        self._full.clear()

    def _close(self) -> None:
        """Hands the gathering group to the appending thread; the next one gathers meanwhile."""
        group, self._group = self._group, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if group is None:
            return
        self._appending = self._loop.run_in_executor(self._thread, self._append, group)
        self._appending.add_done_callback(lambda ended: self._ended(group, ended))

    def _append(self, group: _Group) -> int:
        batch = to_batch(group.parsed) if group.parsed else None
        return self._log.append(batch, group.rejections)

    def _ended(self, group: _Group, ended: asyncio.Future[int]) -> None:
        self._appending = None
        error = ended.exception()
        if error is None:
            self.position = ended.result() + group.events
            self._tally.committed += group.events
        elif isinstance(error, StoreFull):
            self._full.set()
        elif not isinstance(error, HeadwaterError):
            error = HeadwaterError(f"{type(error).__name__}: {error}")
        for done in group.waiting:
            if done.cancelled():
                continue  # its client has gone
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
        if self._group is not None:
            # it gathered during the append: whoever waits in it has waited long enough
            self._close()

    async def drain(self) -> None:
        """Waits until everything gathered is appended."""
        while self._group is not None or self._appending is not None:
            if self._appending is None:
                self._close()
            if self._appending is not None:
                await asyncio.wait([self._appending])
                await asyncio.sleep(0)
        self._thread.shutdown()
