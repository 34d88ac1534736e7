"""The engine's plans all give the same deltas."""

import pytest

from headwater.catalog.port import Project
from headwater.clock import MINUTE
from headwater.model.metric import Metric, MetricDefinition
from headwater.stream import engine as engine_module
from headwater.stream.engine import EmbeddedEngine
from headwater.stream.job import compile_job

from .test_stream import T0, decided, event

SETS = (("country",), ("country", "device"))
METRICS = [
    Metric("p", name, 1, 0, MetricDefinition(aggregate=aggregate, property=taken, dimensions=SETS))
    for name, aggregate, taken in (
        ("n", "count", None), ("s", "sum", "amount"), ("a", "avg", "amount"), ("lo", "min", "amount"),
        ("hi", "max", "amount"), ("people", "unique", None),
    )
]  # fmt: skip


class Control:
    def revision(self):
        return 7

    def projects(self):
        return [Project("p", 1, 0)]

    def metrics(self, project_id):
        return METRICS


EVENTS = [
    event(T0 + i * 7_000_000, user=f"u{i % 40}", country="DE" if i % 3 else None, device=str(i % 5), amount=i / 8)
    for i in range(400)
]


def deltas_of(engine, events=EVENTS, capped=()):
    found = engine.apply(compile_job(Control()), decided(0, events).events, capped)
    return {(d.series, d.bucket, d.values): d.state for d in found}


def test_merging_from_the_widest_set_gives_what_grouping_by_each_set_gives():
    merged, grouped = EmbeddedEngine(), EmbeddedEngine()
    grouped._many_groups.add(("p", ("country", "device")))
    assert deltas_of(merged) == deltas_of(grouped)
    assert len({series for series, _, _ in deltas_of(merged)}) == 18


def test_with_nearly_as_many_groups_as_events_each_set_is_grouped_by_itself(monkeypatch):
    monkeypatch.setattr(engine_module, "ENOUGH_ROWS", 10)
    engine = EmbeddedEngine()
    many = [event(T0, country=str(i), device="d") for i in range(50)]
    first = deltas_of(engine, many)
    assert engine._many_groups == {("p", ("country", "device"))}
    assert deltas_of(engine, many) == first


@pytest.mark.parametrize("dimensions", SETS)
def test_a_capped_set_has_no_deltas_and_the_others_are_not_changed_by_it(dimensions):
    capped = {("p", metric.key, dimensions) for metric in METRICS[:2]}
    whole = deltas_of(EmbeddedEngine())
    assert deltas_of(EmbeddedEngine(), capped=capped) == {k: s for k, s in whole.items() if k[0] not in capped}


def test_groups_are_at_5_minutes_and_totals_at_the_minute():
    for (_, _, dimensions), bucket, _ in deltas_of(EmbeddedEngine()):
        assert bucket % (5 * MINUTE if dimensions else MINUTE) == 0
