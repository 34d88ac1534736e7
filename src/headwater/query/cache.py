"""Answers kept in memory. A key names everything that the answer depends on, so an answer is never older than its
stores, and never has to be thrown away for being wrong; the oldest used go when there is no room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from headwater.telemetry.metrics import CACHE

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Entry(Generic[Kept]):
    """`made_at` in microseconds; `weight` in whatever the cache's room is counted."""

    value: Kept
    made_at: int
    weight: int


class AnswerCache(Generic[Kept]):
    """Least recently used answers, up to `room` of weight. Those who ask the same at the same time share one
    computation. Used by many threads."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._held = 0
        self._entries: OrderedDict[Hashable, Entry[Kept]] = OrderedDict()
        self._running: dict[Hashable, Future[Entry[Kept]]] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Entry[Kept]]) -> tuple[Entry[Kept], bool]:
        """The entry of `key`, made now where there is none; and whether it was there (or on its way) already.
        What `make` raises reaches all who wait, and nothing is kept."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            running = self._running.get(key) if entry is None else None
            mine: Future[Entry[Kept]] | None = None
            if entry is None and running is None:
                mine = self._running[key] = Future()
        CACHE.labels("no" if mine else "yes").inc()
        if entry is not None:
            return entry, True
        if running is not None:
            return running.result(), True
        assert mine is not None
        try:
            made = make()
        except BaseException as error:
            with self._lock:
                del self._running[key]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._running[key]
            self._keep(key, made)
        mine.set_result(made)
        return made, False

    def _keep(self, key: Hashable, entry: Entry[Kept]) -> None:
        if entry.weight > self._room:
            return
        self._entries[key] = entry
        self._held += entry.weight
        while self._held > self._room:
            _, gone = self._entries.popitem(last=False)
            self._held -= gone.weight
