"""The lock of a data folder."""

import subprocess
import sys

import pytest

from headwater.assembly import lock
from headwater.errors import Locked


def test_a_second_taker_is_refused_until_the_first_gives_it_back(tmp_path):
    with lock.take(tmp_path), pytest.raises(Locked, match="already runs"):
        lock.take(tmp_path)
    lock.take(tmp_path).close()


def test_single_processes_share_it_and_keep_a_whole_system_out(tmp_path):
    with lock.take(tmp_path, shared=True), lock.take(tmp_path, shared=True), pytest.raises(Locked):
        lock.take(tmp_path)


def test_a_whole_system_keeps_single_processes_out(tmp_path):
    with lock.take(tmp_path), pytest.raises(Locked):
        lock.take(tmp_path, shared=True)


def test_asking_whether_it_is_held_leaves_it_as_it_was(tmp_path):
    assert not lock.is_held(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()
    with lock.take(tmp_path):
        assert lock.is_held(tmp_path)
    assert not lock.is_held(tmp_path)


def test_it_is_free_when_its_process_has_ended_however_it_ended(tmp_path):
    holding = (
        "import sys, pathlib; from headwater.assembly import lock; "
        "held = lock.take(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holding, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert lock.is_held(tmp_path)
        process.kill()
        process.wait()
    assert not lock.is_held(tmp_path)
