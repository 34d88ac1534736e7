"""Every Prometheus metric of Headwater: name, kind and meaning. `/metrics` shows the sum over all processes."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

ACCEPTED = Counter("headwater_ingest_accepted_events_total", "Events answered with 202, repeats included")
REJECTED = Counter("headwater_ingest_rejected_events_total", "Input that could not become an event", ["reason"])
REQUESTS = Counter("headwater_ingest_requests_total", "Answered sending requests", ["status"])
COMMITTED = Counter("headwater_ingest_committed_events_total", "Events made durable in the event log")
REQUEST_SECONDS = Histogram(
    "headwater_ingest_request_seconds",
    "Receipt of the headers to the answer of a sending request",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
STREAM_POSITION = Gauge(
    "headwater_stream_position", "Next log position that the live panes do not hold", multiprocess_mode="mostrecent"
)
ARCHIVE_POSITION = Gauge(
    "headwater_archive_position", "Next log position that the lake does not hold", multiprocess_mode="mostrecent"
)
COPIES = Counter("headwater_copies_total", "Accepted events that were copies of others")
QUERY_SECONDS = Histogram(
    "headwater_query_seconds",
    "Seconds to answer, by kind of question",
    ["kind"],
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
CACHE = Counter("headwater_query_cache_total", "Metric questions by whether the cache had the answer", ["hit"])
