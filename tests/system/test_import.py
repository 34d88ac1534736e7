"""Files through the whole system: broken off, repeated, while processes die, with lines that are no events."""

import gzip
import json
import subprocess

import pytest

from tests.system.running import HEADWATER, eventually, running

pytestmark = pytest.mark.timeout(180)
DAY = {"startTime": "2021-03-04", "endTime": "2021-03-04", "granularity": "total"}


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    with running(tmp_path_factory.mktemp("import") / "data") as system:
        yield system


def total(system, **more) -> int:
    answer = system.get("/v1/metrics/events", **DAY, **more)
    return answer.json()["data"][0]["value"] if answer.status_code == 200 else -1


def line(kind: str, i: int) -> str:
    event = {"eventType": kind, "timestamp": "2021-03-04T05:06:07Z", "properties": {"i": i}}
    return json.dumps(event)


def test_an_import_goes_on_while_ingest_is_killed_and_nothing_counts_twice(system, tmp_path):
    file = tmp_path / "events.ndjson.gz"
    file.write_bytes(gzip.compress("\n".join(line("killed", i) for i in range(60_000)).encode()))
    command = [*HEADWATER, "import", str(file), "--format", "ndjson", "--data", str(system.data), "--json"]
    importing = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    eventually(lambda: total(system, filter="$eventType:killed") > 0, 60, "the first events of the file")
    system.kill("ingest")
    said, errors = importing.communicate(timeout=120)
    assert importing.returncode == 0, errors
    assert json.loads(said) == {"accepted": 60_000, "rejected": 0, "dryRun": False}
    eventually(lambda: total(system, filter="$eventType:killed") == 60_000, 60, "every event of the file, once")


def test_an_import_that_was_broken_off_is_repeated_with_nothing_counted_twice(system, tmp_path):
    lines = [line("broken", i) for i in range(3_000)]
    file = tmp_path / "events.ndjson"
    file.write_text("\n".join(lines[:1_700]))
    assert system.command("import", str(file), "--format", "ndjson").returncode == 0
    file.write_text("\n".join(lines))
    for _ in range(2):
        assert system.command("import", str(file), "--format", "ndjson").returncode == 0
    eventually(lambda: total(system, filter="$eventType:broken") == 3_000, 60, "every line, once")


def test_standard_input_and_lines_that_are_no_events(system):
    text = "\n".join([line("piped", 1), '{"eventType": 5}', line("piped", 3)])
    result = subprocess.run(
        [*HEADWATER, "import", "-", "--format", "ndjson", "--data", str(system.data)],
        input=text, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "-:2: invalid_field" in result.stderr
    assert "2 accepted, 1 rejected" in result.stderr
    eventually(lambda: total(system, filter="$eventType:piped") == 2, 30, "the good lines")


def test_another_project_needs_a_key_of_its_own_and_sees_its_events_alone(system, tmp_path):
    file = tmp_path / "events.ndjson"
    file.write_text(line("mine", 1))
    assert system.command("projects", "create", "shop").returncode == 0
    refused = system.command("import", str(file), "--format", "ndjson", "--project", "shop")
    assert refused.returncode == 2
    assert "keys create" in refused.stderr
    secret = system.command("keys", "create", "--role", "write", "--project", "shop").stdout.strip()
    loaded = system.command("import", str(file), "--format", "ndjson", "--project", "shop", "--key", secret)
    assert loaded.returncode == 0, loaded.stderr

    def asked() -> int:
        day = ("--from", "2021-03-04", "--to", "2021-03-04", "--every", "total")
        answer = system.command("ask", "events", *day, "--project", "shop", "--json")
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)["data"][0]["value"]

    eventually(lambda: asked() == 1, 30, "the event in its project")
    assert total(system, filter="$eventType:mine") == 0
