"""The embedded control store, its first keys, and the form of keys."""

import stat

import pytest

from headwater.catalog.adapters.control_sqlite import bootstrap, open_control, open_control_reader
from headwater.catalog.keys import hash_of, looks_like_a_key, make_secret
from headwater.testing.conformance_control import ControlConformance, Stores

NOW = 1_700_000_000_000_000


class TestSqliteControl(ControlConformance):
    @pytest.fixture
    def stores(self, tmp_path):
        path = tmp_path / "control.db"
        return Stores(writer=lambda: open_control(path), reader=lambda: open_control_reader(path))


def counting(n):
    counting.calls += 1
    return bytes([counting.calls]) * n


counting.calls = 0


@pytest.fixture
def control(tmp_path):
    return open_control(tmp_path / "control.db")


def secrets(folder):
    return {role: (folder / role).read_text().strip() for role in ("write", "read", "admin")}


def test_the_first_start_makes_a_project_and_three_private_keys(control, tmp_path):
    bootstrap(control, tmp_path / "keys", NOW, counting)
    assert [p.id for p in control.projects()] == ["default"]
    for role, secret in secrets(tmp_path / "keys").items():
        key = control.key_by_hash(hash_of(secret))
        assert (key.role, key.operator) == (role, role == "admin")
        assert stat.S_IMODE((tmp_path / "keys" / role).stat().st_mode) == 0o600
        assert looks_like_a_key(secret)


def test_a_second_start_changes_nothing(control, tmp_path):
    bootstrap(control, tmp_path / "keys", NOW, counting)
    before = (secrets(tmp_path / "keys"), control.revision())
    bootstrap(control, tmp_path / "keys", NOW + 1, counting)
    assert (secrets(tmp_path / "keys"), control.revision()) == before


def test_a_start_that_broke_off_between_file_and_key_goes_on(control, tmp_path):
    bootstrap(control, tmp_path / "keys", NOW, counting)
    fresh = open_control(tmp_path / "restored.db")
    bootstrap(fresh, tmp_path / "keys", NOW, counting)
    assert all(fresh.key_by_hash(hash_of(secret)) for secret in secrets(tmp_path / "keys").values())


def test_a_lost_key_file_is_replaced_by_a_new_key(control, tmp_path):
    bootstrap(control, tmp_path / "keys", NOW, counting)
    old = secrets(tmp_path / "keys")["read"]
    (tmp_path / "keys" / "read").unlink()
    bootstrap(control, tmp_path / "keys", NOW, counting)
    new = secrets(tmp_path / "keys")["read"]
    assert new != old
    assert control.key_by_hash(hash_of(new)).role == "read"


def test_a_mistyped_key_is_told_by_its_checksum():
    secret = make_secret("read", lambda n: bytes(n))
    assert looks_like_a_key(secret)
    assert not looks_like_a_key(secret.replace("hw_read", "hw_admin"))
    assert not looks_like_a_key(secret[:-5] + "B" + secret[-4:])
    assert not looks_like_a_key("")
