"""The written pages and the settings files say what the code does."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from headwater.assembly import settings
from headwater.assembly.settings import MEANINGS, Settings
from headwater.cli import reference

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["cli.md", "settings.md", "http.md"])
def test_a_generated_page_is_fresh(name):
    assert (ROOT / "docs" / "reference" / name).read_text() == reference.pages()[name], "run `make docs`"


def test_the_pages_are_written_into_the_named_folder(tmp_path):
    assert reference.main([str(tmp_path / "pages")]) == 0
    assert {p.name for p in (tmp_path / "pages").iterdir()} == {"cli.md", "settings.md", "http.md"}


def test_without_a_folder_the_pages_are_not_written(capsys):
    assert reference.main([]) == 2
    assert "FOLDER" in capsys.readouterr().err


def test_every_setting_has_a_meaning_and_a_row():
    assert list(MEANINGS) == list(Settings.__struct_fields__)
    page = reference.settings_page()
    for name, default in msgspec.structs.asdict(Settings()).items():
        assert f"| `{name}` | `{msgspec.json.encode(default).decode()}` |" in page


def test_the_reference_file_holds_every_setting_with_its_default_and_meaning():
    file = ROOT / "config" / "reference.toml"
    assert settings.load({}, file, environment={}).settings == Settings()
    assert list(tomllib.loads(file.read_text())) == list(Settings.__struct_fields__)
    lines = file.read_text().splitlines()
    for name, meaning in MEANINGS.items():
        place = next(i for i, line in enumerate(lines) if line.startswith(f"{name} = "))
        assert lines[place - 1] == f"# {meaning}"


def test_the_minimal_file_says_what_it_says_and_leaves_the_rest_at_its_default():
    loaded = settings.load({}, ROOT / "config" / "minimal.toml", environment={})
    assert loaded.settings == Settings()
    assert {name for name, source in loaded.sources.items() if source != "default"} == {"data", "port"}


def test_every_command_has_an_example_and_a_section():
    page = reference.cli_page()
    sections = page.split("\n## headwater ")[1:]
    assert sections
    for section in sections:
        assert f"Example: `headwater {section.splitlines()[0]}" in section, section


def test_every_route_has_a_section_and_a_role():
    page = reference.http_page()
    for route in ("POST /v1/events", "GET /v1/metrics/{name}", "POST /v1/query", "GET /readyz"):
        assert f"\n## {route}\n" in page
    assert "| write |" in page
    assert "| admin |" in page


def test_every_reason_of_a_problem_is_listed():
    from headwater.model.rejection import REASONS

    page = reference.http_page()
    for reason, status in REASONS.items():
        assert f"| `{reason}` | {status} |" in page


def test_every_prometheus_metric_is_in_the_operations_page():
    from headwater.telemetry import metrics

    page = (ROOT / "docs" / "operations.md").read_text()
    named = re.findall(r'"(headwater_\w+)"', Path(metrics.__file__).read_text())
    assert len(named) >= 10
    for name in named:
        assert f"| `{name}` |" in page, name


def test_the_readme_names_the_two_commands_and_the_makefile_has_them():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for recipe in ("up", "test", "demo", "bench"):
        assert f"make {recipe}" in readme
        assert re.search(rf"^{recipe}:", makefile, re.MULTILINE)


def test_the_paths_of_the_map_are_there():
    listed = (ROOT / "CONTRIBUTING.md").read_text().split("## To change X open Y")[1].split("## Tests")[0]
    for row in re.findall(r"^\| (?!to change|---)(.+) \|$", listed, re.MULTILINE):
        for path in re.findall(r"`([\w./]+(?:/|\.py|\.toml|tests/\w+))`", row):
            assert (ROOT / "src" / "headwater" / path).exists() or (ROOT / path).exists(), path
