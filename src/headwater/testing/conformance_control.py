"""What every adapter of the catalog's control half does.

class TestMyControl(ControlConformance):
    @pytest.fixture
    def stores(self, tmp_path):
        return Stores(writer=lambda: open_control(tmp_path / "c"), reader=lambda: open_control_reader(tmp_path / "c"))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from headwater.catalog.keys import hash_of, make_secret
from headwater.catalog.port import Control, ControlReader
from headwater.errors import Locked, Refused, Unreachable
from headwater.model.metric import Condition, Filter, MetricDefinition

NOW = 1_700_000_000_000_000
SECRET = make_secret("write", lambda n: bytes(range(n)))
PURCHASES = MetricDefinition("sum", event_type="purchase", property="amount", dimensions=(("country",),))


@dataclass(frozen=True)
class Stores:
    """Open the writer and a reader of one and the same store, which does not exist before the first writer."""

    writer: Callable[[], Control]
    reader: Callable[[], ControlReader]


class ControlConformance:
    """Each test is one promise of `catalog.port`."""

    @pytest.fixture
    def control(self, stores: Stores) -> Control:
        control = stores.writer()
        control.create_project("shop", NOW)
        return control

    def test_a_control_that_nobody_has_written_yet_is_unreachable(self, stores: Stores) -> None:
        with pytest.raises(Unreachable, match="yet"):
            stores.reader()
        stores.writer().close()
        assert stores.reader().projects() == []

    def test_a_second_writer_is_locked_out_until_the_first_one_closes(self, stores: Stores) -> None:
        first = stores.writer()
        with pytest.raises(Locked):
            stores.writer()
        first.close()
        stores.writer().close()

    def test_a_reader_sees_each_change_and_a_raised_revision(self, stores: Stores) -> None:
        control = stores.writer()
        reader = stores.reader()
        seen = [reader.revision()]
        assert reader.revision() == seen[0]

        def raised() -> bool:
            seen.append(reader.revision())
            return seen[-1] > seen[-2] and seen[-1] == control.revision()

        control.create_project("shop", NOW)
        assert raised()
        assert [p.id for p in reader.projects()] == ["shop"]
        key = control.create_key("shop", "write", SECRET, NOW)
        assert raised()
        assert reader.key_by_hash(hash_of(SECRET)) == key
        control.revoke_key("shop", key.id, NOW + 1)
        assert raised()
        control.define_metric("shop", "revenue", PURCHASES, NOW)
        assert raised()
        control.request_job("batch", None, {}, NOW)
        assert raised()

    def test_projects_get_numbers_of_their_own(self, control: Control) -> None:
        made = [control.create_project(name, NOW) for name in ("a", "b-2", "0" * 50)]
        assert len({p.number for p in [*made, *control.projects()]}) == 4
        assert control.project("b-2") == made[1]
        assert control.project("unknown") is None

    def test_a_project_is_made_once_and_its_id_has_to_be_plain(self, control: Control) -> None:
        with pytest.raises(Refused) as again:
            control.create_project("shop", NOW)
        assert again.value.reason == "conflict"
        for id_ in ("", "Shop", "a_b", "a/b", "ä", "x" * 51, "a\n"):
            with pytest.raises(Refused) as refused:
                control.create_project(id_, NOW)
            assert refused.value.reason == "invalid_field"

    def test_a_key_is_found_by_its_hash_only_and_shows_no_secret(self, control: Control) -> None:
        key = control.create_key("shop", "read", SECRET, NOW, operator=True)
        assert control.key_by_hash(hash_of(SECRET)) == key
        assert control.key_by_hash(SECRET.encode()) is None
        assert (key.project_id, key.role, key.operator, key.revoked_at) == ("shop", "read", True, None)
        assert SECRET not in repr(key)
        assert SECRET.startswith(key.prefix)
        assert control.keys("shop") == [key]
        assert control.keys("other") == []

    def test_the_same_secret_is_one_key(self, control: Control) -> None:
        assert control.create_key("shop", "write", SECRET, NOW) == control.create_key("shop", "write", SECRET, NOW + 5)
        assert len(control.keys("shop")) == 1

    def test_a_key_of_an_unknown_project_is_refused(self, control: Control) -> None:
        with pytest.raises(Refused) as refused:
            control.create_key("nowhere", "write", SECRET, NOW)
        assert refused.value.reason == "not_found"

    def test_a_revoked_key_stays_listed_and_keeps_its_first_time(self, control: Control) -> None:
        key = control.create_key("shop", "write", SECRET, NOW)
        assert not control.revoke_key("other", key.id, NOW + 1)
        assert control.key_by_hash(hash_of(SECRET)) == key
        assert control.revoke_key("shop", key.id, NOW + 2)
        assert control.revoke_key("shop", key.id, NOW + 3)
        assert [k.revoked_at for k in control.keys("shop")] == [NOW + 2]

    def test_the_built_in_metrics_come_first_and_then_the_defined_by_name(self, control: Control) -> None:
        control.define_metric("shop", "views", MetricDefinition("count", event_type="view"), NOW)
        control.define_metric("shop", "revenue", PURCHASES, NOW)
        names = [m.name for m in control.metrics("shop")]
        assert names == ["events", "daily_active_users", "revenue", "views"]
        assert [m.name for m in control.metrics("other")] == ["events", "daily_active_users"]

    def test_only_a_change_of_what_is_counted_makes_a_version(self, control: Control) -> None:
        first, how = control.define_metric("shop", "revenue", PURCHASES, NOW)
        assert (first.version, how) == (1, "new")
        assert control.define_metric("shop", "revenue", PURCHASES, NOW + 1) == (first, "same")
        named = MetricDefinition("sum", "purchase", "amount", dimensions=(("country",),), description="All sales")
        renamed, how = control.define_metric("shop", "revenue", named, NOW + 2)
        assert (renamed.version, how) == (1, "changed")
        only_us = Filter(all=(Condition("country", "eq", "US"), Filter(any=(Condition("vip", "exists"),))))
        counted, how = control.define_metric("shop", "revenue", MetricDefinition("sum", None, "amount", only_us), NOW)
        assert (counted.version, how) == (2, "changed")
        assert next(m for m in control.metrics("shop") if m.name == "revenue") == counted

    def test_a_definition_under_a_built_in_name_hides_it_under_another_key(self, control: Control) -> None:
        mine, how = control.define_metric("shop", "events", MetricDefinition("count", event_type="view"), NOW)
        assert (mine.key, how) == ("events@2", "new")
        assert [m.name for m in control.metrics("shop")] == ["daily_active_users", "events"]

    def test_a_definition_that_cannot_be_changes_nothing(self, control: Control) -> None:
        before = control.revision()
        for name, definition in (("9", PURCHASES), ("revenue", MetricDefinition("sum"))):
            with pytest.raises(Refused) as refused:
                control.define_metric("shop", name, definition, NOW)
            assert refused.value.reason == "invalid_field"
        assert control.revision() == before

    def test_jobs_are_read_in_order_after_the_last_one_seen(self, control: Control) -> None:
        made = [control.request_job("backfill", "shop", {"metric": str(i)}, NOW + i) for i in range(3)]
        assert control.jobs() == made
        assert control.jobs(made[1].id) == made[2:]

    def test_everything_is_there_after_a_restart(self, stores: Stores, control: Control) -> None:
        control.define_metric("shop", "revenue", PURCHASES, NOW)
        control.create_key("shop", "write", SECRET, NOW)
        control.record_audit(NOW, "k_1", "define_metric", "revenue", "http")
        before = (control.projects(), control.keys("shop"), control.metrics("shop"), control.revision())
        control.close()
        again = stores.writer()
        assert (again.projects(), again.keys("shop"), again.metrics("shop"), again.revision()) == before
