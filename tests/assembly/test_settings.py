"""Where settings come from, and what is said of those that cannot be."""

import pytest

from headwater.assembly.settings import Settings, load
from headwater.errors import SettingsError


@pytest.fixture(autouse=True)
def _no_file_beside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_without_sources_the_defaults_are_in_force():
    loaded = load({}, environment={})
    assert loaded.settings == Settings()
    assert set(loaded.sources.values()) == {"default"}


def test_a_later_source_wins_and_is_named(tmp_path):
    file = tmp_path / "my.toml"
    file.write_text('port = 1\nhost = "of-file"\ndata = "of-file"\n')
    loaded = load({"port": 3}, file, {"HEADWATER_PORT": "2", "HEADWATER_HOST": "of-variable"})
    assert (loaded.settings.port, loaded.settings.host, loaded.settings.data) == (3, "of-variable", "of-file")
    assert loaded.sources["port"] == "--port"
    assert loaded.sources["host"] == "HEADWATER_HOST"
    assert loaded.sources["data"] == str(file)
    assert loaded.sources["lake"] == "default"


def test_a_flag_that_was_not_given_changes_nothing():
    assert load({"port": None}, environment={"HEADWATER_PORT": "2"}).settings.port == 2


def test_headwater_toml_of_the_working_folder_is_read(tmp_path):
    (tmp_path / "headwater.toml").write_text('lake_compression = "zstd"')
    assert load({}, environment={}).settings.lake_compression == "zstd"


def test_an_explicit_file_is_read_in_place_of_the_one_beside(tmp_path):
    (tmp_path / "headwater.toml").write_text("port = 1")
    (tmp_path / "other.toml").write_text('host = "other"')
    loaded = load({}, tmp_path / "other.toml", {})
    assert (loaded.settings.port, loaded.settings.host) == (8080, "other")


@pytest.mark.parametrize(
    ("flags", "environment"),
    [({"prot": 1}, {}), ({}, {"HEADWATER_PROT": "1"})],
    ids=["flag", "variable"],
)
def test_an_unknown_name_suggests_the_near_one_and_lists_all(flags, environment):
    with pytest.raises(SettingsError, match="did you mean 'port'") as raised:
        load(flags, environment=environment)
    assert "copies_window_hours" in str(raised.value)


def test_an_unknown_name_of_a_file_names_the_file(tmp_path):
    file = tmp_path / "my.toml"
    file.write_text('laek = "file:x"')
    with pytest.raises(SettingsError, match=r"unknown setting 'laek' from .*my\.toml; did you mean 'lake'"):
        load({}, file, {})


def test_variables_that_are_no_settings_are_left_alone():
    given = {"HEADWATER_URL": "u", "HEADWATER_KEY": "k", "HEADWATER_PROJECT": "p", "HEADWATER_CONFIG": "c", "PATH": "x"}
    assert load({}, environment=given).settings == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "70000"),
        ("port", "-1"),
        ("copies_window_hours", "0"),
        ("copies_window_hours", "169"),
        ("log_keep_days", "0"),
        ("log_cap_bytes", "1000"),
        ("query_seconds", "0"),
        ("query_memory_mb", "1"),
    ],
)
def test_a_value_out_of_range_names_the_setting_and_the_range(name, value):
    with pytest.raises(SettingsError, match=f"{name}.* it must lie in"):
        load({}, environment={f"HEADWATER_{name.upper()}": value})


@pytest.mark.parametrize(("name", "value"), [("port", "many"), ("lake_compression", "gzip")])
def test_a_value_of_the_wrong_kind_names_the_setting(name, value):
    with pytest.raises(SettingsError, match=name):
        load({}, environment={f"HEADWATER_{name.upper()}": value})


def test_a_file_that_is_missing_or_not_toml_says_so(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read"):
        load({}, tmp_path / "none.toml", {})
    (tmp_path / "bad.toml").write_text("port =")
    with pytest.raises(SettingsError, match="is not TOML"):
        load({}, tmp_path / "bad.toml", {})


def test_the_data_folder_is_absolute_and_knows_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    assert Settings(data="d").folder == tmp_path / "d"
    assert Settings(data="~/d").folder == tmp_path / "somebody" / "d"
