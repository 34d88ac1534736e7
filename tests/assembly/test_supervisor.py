"""The supervisor and its processes: what is said of a death, who may write, and what outlives whom."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from headwater.assembly import lock
from tests.system.running import HEADWATER, System, eventually, running

pytestmark = pytest.mark.timeout(120)


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    with running(tmp_path_factory.mktemp("supervisor") / "data") as system:
        yield system


@pytest.mark.parametrize("name", ["ingest", "work", "query"])
def test_a_killed_process_is_started_again_and_the_supervisor_says_so(system, name):
    pid = system.kill(name)
    said = (system.data.parent / "data.stderr").read_text()
    assert f"headwater: {name} (pid {pid}) was killed by signal 9; starting it again" in said
    assert next(p["restarts"] for p in system.state()["processes"] if p["name"] == name) == 1
    eventually(lambda: system.client.get("/readyz").status_code == 200, 30, "a system that is ready again")


def test_the_line_to_paste_stands_alone_uncoloured_and_with_the_path_of_the_key(system):
    assert system.curl in system.printed
    assert "\x1b" not in system.curl
    assert str(system.data / "keys" / "write") in system.curl


def test_keys_are_for_their_owner_alone(system):
    for role in ("write", "read", "admin"):
        assert (system.data / "keys" / role).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("process", ["ingest", "work", "query"])
def test_a_single_process_over_the_folder_of_a_running_system_is_refused(system, process):
    refused = system.command("run", process, "--port", "0")
    assert refused.returncode == 3
    assert "already" in refused.stderr


def test_a_second_writer_of_the_same_stores_is_refused(tmp_path):
    command = [*HEADWATER, "run", "work", "--data", str(tmp_path / "data")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as first:
        try:
            eventually(lambda: (tmp_path / "data" / "run" / "work.json").exists(), 30, "the first writer at work")
            second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert second.returncode == 3, second.stderr
            assert first.poll() is None
        finally:
            first.send_signal(signal.SIGTERM)
            assert first.wait(30) == 0


def test_a_taken_port_is_3_with_what_to_do(system, tmp_path):
    port = system.url.rsplit(":", 1)[1]
    command = [*HEADWATER, "up", "--data", str(tmp_path / "other"), "--port", port]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 3
    assert "--port 0" in refused.stderr


def test_processes_end_within_a_second_of_their_supervisors_death_and_nothing_is_lost(tmp_path):
    data = tmp_path / "data"
    system = System(data)
    events = [{"eventId": f"e{i}", "eventType": "view"} for i in range(50)]
    sent = system.client.post("/v1/events/batch", json=events, headers=system.headers("write"))
    assert sent.json()["accepted"] == 50
    pids = [p["pid"] for p in system.state()["processes"]]
    assert all(map(alive, pids))
    system.process.send_signal(signal.SIGKILL)
    system.process.wait()
    eventually(
        lambda: not any(map(alive, pids)), 5, "the end of every process"
    )  # a second, and what a busy machine adds
    assert not lock.is_held(data)
    with running(data) as again:
        answer = again.get("/v1/metrics/events", granularity="total")
        assert answer.json()["data"][0]["value"] == 50


def test_sigterm_during_the_start_stops_as_cleanly_as_later(tmp_path):
    command = [*HEADWATER, "up", "--data", str(tmp_path / "data"), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    eventually(lambda: (tmp_path / "data" / "run" / "supervisor.json").exists(), 30, "processes that are starting")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert not lock.is_held(tmp_path / "data")


def test_commands_without_a_system_open_the_stores_themselves(tmp_path):
    data = tmp_path / "data"
    with running(data) as system:
        events = [{"eventId": f"e{i}", "eventType": "view", "properties": {"n": i}} for i in range(10)]
        assert system.client.post("/v1/events/batch", json=events, headers=system.headers("write")).status_code == 202
        assert system.stop() == 0

    def ran(*arguments: str) -> str:
        result = system.command(*arguments)
        assert result.returncode == 0, f"{arguments}: {result.stderr}"
        return result.stdout

    total = json.loads(ran("ask", "events", "--every", "total", "--json"))
    assert total["data"][0]["value"] == 10
    assert ran("sql", "SELECT count(*) AS n FROM events", "--csv").split() == ["n", "10"]
    assert json.loads(ran("audit", "--json"))["ok"]
    assert json.loads(ran("reconcile", "--json"))["ok"]
    assert all(Path(line).exists() for line in ran("lake", "files").splitlines())
    ran("projects", "create", "shop")
    assert len(ran("keys", "create", "--role", "write", "--project", "shop").strip()) > 20
    ran("metrics", "define", "numbers", "--aggregate", "sum", "--property", "n")
    assert json.loads(ran("metrics", "backfill", "numbers", "--json"))["state"] == "done"
    assert json.loads(ran("ask", "numbers", "--every", "total", "--json"))["data"][0]["value"] == 45
    ran("run", "batch", "--once")


def test_a_command_without_a_system_gives_way_to_another(tmp_path):
    data = tmp_path / "data"
    with running(data) as system:
        assert system.stop() == 0
    with lock.take(data):
        refused = system.command("status")
    assert refused.returncode == 3
