"""Rules of the repository that no tool holds: sizes, names, leftovers, import directions, tables."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TREES = ("src", "tests", "bench")
SOURCES = sorted(path for tree in TREES for path in (ROOT / tree).rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.md")])
SETTINGS = sorted((ROOT / "config").glob("*.toml"))

FILE_LINES = 600
FUNCTION_LINES = 70
VAGUE = re.compile("Manager|Helper|Util|Common|Base")
UNFINISHED = re.compile(r"\b(?:T[O]DO|FIX[M]E|XX[X])\b")
NOQA = "# [n]oqa"
IGNORED = "# type: [i]gnore"
MACHINE = re.compile(r"(?<![\w./{}-])/(?:work|tmp|root|home/\w+)/[\w.-]")


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=shown)


@each(SOURCES)
def test_a_python_file_can_be_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= FILE_LINES


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without those of the functions within it, which count for themselves (routes over a desk)."""
    own = (function.end_lineno or function.lineno) - function.lineno + 1
    return own - sum(
        lines_of(node) for node in function.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


@each([p for p in SOURCES if p.is_relative_to(ROOT / "src")])
def test_a_function_fits_on_a_page(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert lines_of(node) <= FUNCTION_LINES, f"{node.name} has {lines_of(node)} lines"


@each([p for p in SOURCES if p.is_relative_to(ROOT / "src")])
def test_a_name_says_what_a_thing_is(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            assert not VAGUE.search(node.name), node.name
    assert not re.search("manager|helper|util|common|base$", path.stem), path.stem


@each([p for p in SOURCES if p.is_relative_to(ROOT / "src")])
def test_every_module_says_what_it_is_for(path):
    if path.name != "__main__.py":
        assert ast.get_docstring(ast.parse(path.read_text()))


@each([*SOURCES, *PAGES, *SETTINGS, ROOT / "Makefile"])
def test_nothing_is_left_unfinished_and_no_machine_is_named(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        assert not UNFINISHED.search(line), f"line {number}: {line.strip()}"
        assert not MACHINE.search(line), f"line {number}: {line.strip()}"


@each(SOURCES)
def test_a_suppressed_finding_names_its_rule(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        for sign, whole in ((NOQA, NOQA + r": [A-Z]+\d+"), (IGNORED, IGNORED + r"\[[a-z-, ]+\]")):
            if re.search(sign, line):
                assert re.search(whole, line), f"line {number}: {line.strip()}"


def imported(path: Path) -> set[str]:
    """Modules that a file imports, by import statements and by names in `import_module`-like tables of text."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@each([p for p in SOURCES if p.is_relative_to(ROOT / "src" / "headwater")])
def test_only_assembly_picks_adapters(path):
    place = path.relative_to(ROOT / "src" / "headwater").parts
    if place[0] == "assembly" or "adapters" in place:
        return
    adapters = {name for name in imported(path) if name.startswith("headwater.") and ".adapters" in name}
    assert not adapters


@each([p for p in SOURCES if p.is_relative_to(ROOT / "src" / "headwater" / "testing")])
def test_what_is_shipped_for_tests_knows_ports_and_not_processes(path):
    processes = tuple(
        f"headwater.{name}" for name in ("ingest", "stream", "archive", "batch", "query", "assembly", "cli")
    )
    assert not {name for name in imported(path) if name.startswith(processes)}


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


@each(PAGES)
def test_the_rows_of_a_table_have_as_many_cells_as_its_heading(path):
    width = None
    for number, line in enumerate(without_code(path.read_text()).splitlines(), 1):
        if not line.startswith("|"):
            width = None
            continue
        cells = len(re.findall(r"(?<!\\)\|", line)) - 1
        width = width or cells
        assert cells == width, f"line {number}: {cells} cells under {width} headings"
        assert line.rstrip().endswith("|"), f"line {number} does not close its last cell"


@each(PAGES)
def test_a_page_has_one_title(path):
    assert len(re.findall(r"^# ", without_code(path.read_text()), re.MULTILINE)) == 1


@each(PAGES)
def test_documentation_does_not_call_things_easy(path):
    found = re.search(r"\b(simply|easily|easy|just|obviously|of course)\b", path.read_text(), re.IGNORECASE)
    assert found is None, found and found[0]


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_the_locks_hold_hashes_and_no_addresses(name):
    text = (ROOT / name).read_text()
    packages = re.findall(r"^[a-z0-9][\w.-]*(?:\[[^]]*\])?==", text, re.MULTILINE)
    assert packages
    assert len(packages) <= text.count("--hash=sha256:")
    assert "://" not in text


def test_every_dependency_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted, lock in (
        (project["dependencies"], "requirements.lock"),
        (project["optional-dependencies"]["dev"], "requirements-dev.lock"),
    ):
        locked = set(re.findall(r"^([a-z0-9][\w.-]*?)==", (ROOT / lock).read_text(), re.MULTILINE))
        names = {re.split(r"[<>=\[;~ ]", name, maxsplit=1)[0] for name in wanted}
        assert names <= locked


def test_the_shipped_data_has_its_licence_note():
    folder = ROOT / "src" / "headwater" / "data"
    note = (folder / "README.md").read_text()
    for file in folder.iterdir():
        assert file.name == "README.md" or file.suffix == ".py" or file.name == "__pycache__" or file.name in note
