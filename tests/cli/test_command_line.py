"""Arguments, exit codes and what is printed, with no system running."""

import json
from pathlib import Path

import pytest

from headwater.cli import formats
from headwater.cli.app import run
from headwater.cli.context import split
from headwater.cli.show import BARS, sparkline
from headwater.errors import UsageError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """No settings file and no variables of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in ("DATA", "URL", "KEY", "PROJECT", "CONFIG", "PORT"):
        monkeypatch.delenv(f"HEADWATER_{name}", raising=False)


# -- options of every command ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--data", "d", "--json", "ask", "m"], ["ask", "m", "--json", "--data=d"]])
def test_common_options_stand_before_or_after(arguments):
    context, rest = split(arguments)
    assert (context.data, context.json, rest) == ("d", True, ["ask", "m"])


def test_after_a_double_dash_nothing_is_a_common_option():
    context, rest = split(["import", "--", "--json"])
    assert not context.json
    assert rest == ["import", "--", "--json"]


def test_a_flag_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("HEADWATER_PROJECT", "of-variable")
    assert split(["status"])[0].project == "of-variable"
    assert split(["status", "--project", "of-flag"])[0].project == "of-flag"


def test_an_option_without_its_value_is_a_usage_error():
    with pytest.raises(UsageError, match="--key needs a value"):
        split(["status", "--key"])


def test_the_data_folder_comes_from_flag_variable_or_settings_file(monkeypatch, tmp_path):
    assert split([])[0].folder == tmp_path / "headwater-data"
    (tmp_path / "headwater.toml").write_text('data = "of-file"')
    assert split([])[0].folder == tmp_path / "of-file"
    monkeypatch.setenv("HEADWATER_DATA", "of-variable")
    assert split([])[0].folder == tmp_path / "of-variable"
    assert split(["--data", "of-flag"])[0].folder == tmp_path / "of-flag"


# -- exit codes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["keys"],
        ["nonsense"],
        ["ask"],
        ["ask", "events", "--nonsense"],
        ["up", "--port", "many"],
        ["up", "--port", "70000"],
        ["run", "nonsense"],
        ["run", "stream"],
        ["run", "ingest", "--once"],
        ["import", "file"],
        ["import", "file", "--format", "xml"],
        ["import", "not-there", "--format", "csv", "--dry-run"],
        ["keys", "create", "--role", "king"],
        ["metrics", "define", "m"],
        ["metrics", "define", "--file", "not-there.toml"],
        ["status", "--url", "http://localhost:1"],
        ["import", "-", "--format", "ndjson", "--url", "http://localhost:1"],
        ["status", "--config", "not-there.toml"],
        ["--data"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2_and_says_why_on_stderr(arguments, capfd):
    assert run(arguments) == 2
    said = capfd.readouterr()
    assert said.err
    assert "Traceback" not in said.err
    assert not said.out


@pytest.mark.parametrize("arguments", [["status"], ["ask", "events"], ["audit"], ["import", "f", "--format", "csv"]])
def test_without_data_or_a_system_it_ends_with_3(arguments, capfd):
    assert run(arguments) == 3
    assert "headwater up" in capfd.readouterr().err


def test_a_system_that_does_not_answer_is_3(capfd):
    assert run(["status", "--url", "http://127.0.0.1:1", "--key", "k"]) == 3
    assert "does not answer" in capfd.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["ask", "--help"], ["keys", "create", "--help"], ["version"]])
def test_help_and_version_end_with_0_and_print_on_stdout(arguments, capfd):
    assert run(arguments) == 0
    assert capfd.readouterr().out


def test_a_command_shows_its_example(capfd):
    run(["import", "--help"])
    assert "Example: headwater import" in capfd.readouterr().out


# -- commands that need no system ------------------------------------------------------------------------------------


def test_config_show_tells_where_each_value_is_from(monkeypatch, capfd):
    monkeypatch.setenv("HEADWATER_PORT", "9999")
    assert run(["config", "show", "--json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert shown["port"] == {"value": 9999, "from": "HEADWATER_PORT"}
    assert shown["host"] == {"value": "127.0.0.1", "from": "default"}


def test_doctor_names_what_is_missing_and_what_to_do(capfd):
    assert run(["doctor", "--json"]) == 1
    findings = {f["check"]: f for f in json.loads(capfd.readouterr().out)}
    assert findings["settings"]["ok"]
    assert not findings["data folder"]["ok"]
    assert "headwater up" in findings["data folder"]["do"]


def test_a_dry_run_accepts_the_shipped_log_and_names_bad_lines(capfd, tmp_path):
    log = Path(formats.__file__).parents[1] / "data" / "apache_access.log.gz"
    assert run(["import", str(log), "--format", "combined", "--dry-run", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"accepted": 10_000, "rejected": 0, "dryRun": True}
    (tmp_path / "bad").write_text('{"eventType":"ok"}\n{"eventType":""}\n{nonsense\n')
    assert run(["import", "bad", "--format", "ndjson", "--dry-run", "--json"]) == 1
    said = capfd.readouterr()
    assert json.loads(said.out) == {"accepted": 1, "rejected": 2, "dryRun": True}
    assert "bad:2: invalid_field" in said.err
    assert "bad:3: invalid_json" in said.err


# -- sparkline -------------------------------------------------------------------------------------------------------


def test_a_sparkline_rises_from_zero_to_the_greatest():
    assert sparkline([0, 50, 100]) == BARS[0] + BARS[4] + BARS[-1]


def test_a_sparkline_of_nothing_is_flat_and_absent_values_are_zero():
    assert sparkline([]) == ""
    assert sparkline([None, 0]) == BARS[0] * 2
    assert sparkline([None, 5]) == BARS[0] + BARS[-1]


def test_a_long_sparkline_is_summed_into_its_width():
    line = sparkline([1] * 600 + [3] * 600, width=60)
    assert len(line) == 60
    assert (line[0], line[-1]) == (BARS[2], BARS[-1])
