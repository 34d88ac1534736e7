"""What happened since the last second, counted in plain numbers: a Prometheus counter in a shared file costs more than
the work it counts."""

from __future__ import annotations

from collections import Counter

from headwater.telemetry import metrics


class Tally:
    """Counts in memory; `publish` moves the counts to Prometheus. Used in one thread."""

    def __init__(self) -> None:
        self.accepted = 0
        self.committed = 0
        self.rejected: Counter[str] = Counter()
        self.requests: Counter[int] = Counter()

    def publish(self) -> None:
        metrics.ACCEPTED.inc(self.accepted)
        metrics.COMMITTED.inc(self.committed)
        self.accepted = self.committed = 0
        for reason, count in self.rejected.items():
            metrics.REJECTED.labels(reason).inc(count)
        for status, count in self.requests.items():
            metrics.REQUESTS.labels(status).inc(count)
        self.rejected.clear()
        self.requests.clear()
