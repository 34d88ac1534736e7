"""Which adapter an address means, and what is said where there is none."""

from pathlib import Path

import pytest

from headwater.assembly import registry
from headwater.assembly.build import Build
from headwater.assembly.settings import Settings
from headwater.errors import SettingsError


@pytest.mark.parametrize("store", sorted(registry.ADAPTERS))
def test_every_registered_adapter_can_be_had(store):
    for scheme in registry.ADAPTERS[store]:
        assert callable(registry.opener(store, f"{scheme}:anything"))


@pytest.mark.parametrize("address", ["kafka://broker:9092", "sqlit:log", "log", ""])
def test_an_unknown_scheme_lists_the_known_ones(address):
    with pytest.raises(SettingsError, match="known schemes are sqlite"):
        registry.opener("eventlog writer", address)


def test_a_missing_driver_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(registry.ADAPTERS["lake"], "cloud", ("headwater_no_such_driver", "open"))
    with pytest.raises(SettingsError, match=r"pip install 'headwater\[cloud\]'"):
        registry.opener("lake", "cloud://bucket")


@pytest.mark.parametrize("engine", ["stream_engine", "batch_engine", "query_engine"])
def test_an_unknown_engine_is_refused_before_anything_is_opened(engine, tmp_path):
    with pytest.raises(SettingsError, match=f"{engine}.*known schemes are embedded"):
        Build(Settings(data=str(tmp_path), **{engine: "flink://gateway"}))
    assert list(tmp_path.iterdir()) == []


def test_a_relative_address_lies_in_the_data_folder_and_an_absolute_one_where_it_says():
    assert registry.path_of("sqlite:log", Path("/data")) == Path("/data/log")
    assert registry.path_of("file:/elsewhere/lake", Path("/data")) == Path("/elsewhere/lake")
