"""The batch process keeps chunks equal to the files of their hours, whatever comes late, new, or is stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headwater.batch.daily import due_at
from headwater.batch.job import promotions_wanted
from headwater.clock import DAY, HOUR, MINUTE, SECOND
from headwater.warehouse.chunk import GRANULARITIES
from tests.batch.world import LATER, T0, World
from tests.warehouse.brute import comparable, event, metric

REVENUE = {"aggregate": "sum", "property": "amount", "eventType": "purchase", "dimensions": [["country"]]}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.define("revenue", **REVENUE)
    yield made
    made.manifest.close()
    made.control.close()


def some(count: int, start: int = T0, **given: Any) -> list[Any]:
    return [
        event(
            start + i * 7 * MINUTE,
            "purchase" if i % 3 else "view",
            user_id=f"u{i % 4}",
            amount=[1.25, "3", "n/a", None][i % 4],
            country=["US", "DE", None][i % 3],
            received_at=LATER,
            **given,
        )
        for i in range(count)
    ]


def run(batch: Any, now: int) -> int:
    done = 0
    while batch.tick(now):
        done += 1
        assert done < 500, "the batch process never comes to rest"
    return done


def agree(world: World, *names: str) -> bool:
    return all(
        {k: comparable(v) for k, v in world.settled(m, d, g).items()}
        == {k: comparable(v) for k, v in world.expected(m, d, width).items()}
        for m in map(world.metric, names or ("revenue", "events", "daily_active_users"))
        for d in m.dimension_sets
        for g, width in GRANULARITIES.items()
    )


def test_every_settled_hour_gets_a_chunk_that_equals_its_events(world: World) -> None:
    world.archive(some(40))
    run(world.batch(settles_after=0), LATER)
    assert len(world.chunks()) == len({f.hour for f in world.files()})
    assert agree(world)


def test_an_hour_is_left_alone_until_it_has_settled(world: World) -> None:
    world.archive(some(3))
    batch = world.batch()
    run(batch, LATER)
    assert not world.chunks()
    run(batch, LATER + 9 * SECOND)
    world.archive(some(2, T0 + MINUTE))
    run(batch, LATER + 11 * SECOND)
    assert not world.chunks(), "new files begin the wait again"
    run(batch, LATER + 21 * SECOND)
    assert agree(world)


def test_hours_at_or_after_the_boundary_are_not_rolled(world: World) -> None:
    world.archive([event(LATER - HOUR, received_at=LATER), event(LATER, received_at=LATER)])
    run(world.batch(settles_after=0), LATER + DAY)
    assert [c.hour for c in world.chunks()] == [LATER - HOUR]


def test_a_late_file_is_merged_without_reading_the_old_ones(world: World) -> None:
    batch = world.batch(settles_after=0)
    old = world.archive(some(8))
    run(batch, LATER)
    for file in old:
        world.objects.local_path(file.path).unlink()
    world.archive(some(8, T0 + MINUTE))
    run(batch, LATER + MINUTE)
    assert agree(world)
    assert {len(c.files) for c in world.chunks()} == {2}


def test_a_new_metric_is_counted_over_old_hours_and_a_changed_one_anew(world: World) -> None:
    batch = world.batch(settles_after=0)
    world.archive(some(30))
    run(batch, LATER)
    world.define("orders", aggregate="count", eventType="purchase", dimensions=[["$userId"]])
    world.define("revenue", **(REVENUE | {"aggregate": "avg"}))
    run(batch, LATER + MINUTE)
    assert agree(world, "orders", "revenue", "events")
    assert all(set(c.metrics) == {m.key for m in world.control.metrics("default")} for c in world.chunks())
    assert world.progress(f"backfill:default:{world.metric('orders').key}") == "0 hours left"


def test_a_backfill_that_was_stopped_goes_on_where_it_was(world: World) -> None:
    world.archive(some(30))
    run(world.batch(settles_after=0), LATER)
    world.define("orders", aggregate="count", eventType="purchase")
    first = world.batch(settles_after=0)
    assert first.tick(LATER + MINUTE)
    done = [c.hour for c in world.chunks() if "orders@1" in c.metrics]
    assert done == [max(c.hour for c in world.chunks())], "the newest hour is first"
    again = world.batch(settles_after=0)
    assert run(again, LATER + MINUTE) == len(world.chunks()) - 1
    assert agree(world, "orders")


@pytest.mark.parametrize("step", ["rollup.1.count", "rollup.2.store", "rollup.3.transaction", "rollup.4.retire"])
def test_a_stop_at_any_step_loses_and_doubles_nothing(world: World, step: str) -> None:
    world.archive(some(10))
    run(world.batch(settles_after=0), LATER)
    world.archive(some(10, T0 + MINUTE))
    world.stop_at = step
    with pytest.raises(KeyboardInterrupt):
        run(world.batch(settles_after=0), LATER + MINUTE)
    run(world.batch(settles_after=0), LATER + MINUTE)
    assert agree(world)


def test_a_replaced_chunk_stays_for_open_readers_and_is_deleted_later(world: World) -> None:
    batch = world.batch(settles_after=0)
    world.archive(some(2))
    run(batch, LATER)
    (before,) = world.chunks()
    world.archive(some(2, T0 + MINUTE))
    run(batch, LATER + MINUTE)
    assert world.objects.get(before.path)
    run(batch, LATER + 12 * MINUTE)
    with pytest.raises(FileNotFoundError):
        world.objects.get(before.path)
    assert agree(world)


def test_promoted_columns_give_the_same_states_as_the_map(world: World) -> None:
    world.archive(some(10))
    world.manifest.promote("default", promotions_wanted(world.control.metrics("default")))
    world.archive(some(10, T0 + MINUTE), promoted=True)
    assert world.files()[-1].promoted
    run(world.batch(settles_after=0), LATER)
    assert agree(world)


def test_compaction_leaves_a_chunk_that_still_counts_everything_once(world: World) -> None:
    def compact(project: str, hour: int, now: int) -> None:
        inputs = [f for f in world.files() if f.hour == hour]
        merged = pa.concat_tables([pq.read_table(world.objects.local_path(f.path)) for f in inputs])
        world.manifest.replace_files(world.epoch, [f.id for f in inputs], [world.store(merged, hour)], now)

    world.archive(some(10))
    world.archive(some(10, T0 + MINUTE))
    batch = world.batch(settles_after=0, compact=compact)
    run(batch, LATER + 2 * HOUR)
    assert len(world.files()) == len({f.hour for f in world.files()})
    world.archive(some(3, T0 + 2 * MINUTE))
    run(batch, LATER + 2 * HOUR + MINUTE)
    assert agree(world)


def test_a_damaged_file_holds_up_its_own_hour_only(world: World) -> None:
    files = world.archive(some(20))
    path = world.objects.local_path(files[0].path)
    good = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(b"x" * len(good))
    batch = world.batch(settles_after=0)
    run(batch, LATER)
    assert len(world.chunks()) == len(files) - 1
    assert "rollup" in (world.progress("batch.error") or "")
    path.write_bytes(good)
    run(batch, LATER + 6 * MINUTE)
    assert agree(world)
    assert world.progress("batch.error") == ""


@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_a_lost_or_damaged_chunk_is_made_again_from_the_events(world: World, damage: str) -> None:
    world.archive(some(4))
    batch = world.batch(settles_after=0)
    run(batch, LATER)
    path = world.objects.local_path(world.chunks()[0].path)
    path.chmod(0o600)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9] if damage == "cut" else b"x" * 100)
    world.archive(some(4, T0 + MINUTE))
    run(batch, LATER + MINUTE)
    assert agree(world)


def test_the_daily_run_is_at_two_and_a_missed_one_is_caught_up_once(world: World) -> None:
    two = due_at(LATER) + DAY
    batch = world.batch(settles_after=0)
    run(batch, two - MINUTE)
    assert len(world.swept) == 1, "the first start catches up"
    run(batch, two + MINUTE)
    run(batch, two + 2 * MINUTE + SECOND)
    assert len(world.swept) == 2
    run(world.batch(settles_after=0), two + 3 * DAY + 5 * HOUR)
    assert len(world.swept) == 3


def test_a_batch_job_does_everything_without_waiting(world: World) -> None:
    world.archive(some(4))
    job = world.control.request_job("batch", None, {}, LATER)
    run(world.batch(), LATER)
    with world.manifest.view() as view:
        assert view.jobs_done()[job.id] == "done"
    assert agree(world)
    assert world.swept


def test_a_backfill_job_ends_done_or_says_why_not(world: World) -> None:
    world.archive(some(4))
    good = world.control.request_job("backfill", "default", {"metric": "revenue"}, LATER)
    bad = world.control.request_job("backfill", "default", {"metric": "nothing"}, LATER)
    run(world.batch(), LATER)
    with world.manifest.view() as view:
        assert view.jobs_done()[good.id] == "done"
        assert view.jobs_done()[bad.id].startswith("failed: there is no metric")


def test_running_once_rolls_compacts_and_sweeps(world: World) -> None:
    world.archive(some(4))
    world.archive(some(4, T0 + MINUTE))
    assert world.batch().run_once(LATER + 2 * HOUR)
    assert agree(world)
    assert world.compacted
    assert world.swept


def test_numbers_are_promoted_before_what_is_only_grouped_by() -> None:
    metrics = [
        metric("a", aggregate="count", dimensions=[["country", "$userId"]]),
        metric("b", aggregate="sum", property="amount", filter={"property": "device", "op": "eq", "value": "x"}),
        metric("c", aggregate="unique"),
    ]
    assert promotions_wanted(metrics) == [
        ("amount", "number"),
        ("amount", "text"),
        ("country", "text"),
        ("device", "text"),
    ]
