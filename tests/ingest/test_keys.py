"""Keys: in force 50 ms after a change, valid for senders while the catalog is away, never wrongly unknown."""

import hashlib

import pytest

from headwater.catalog.port import Key
from headwater.errors import Refused, Unreachable
from headwater.ingest.keys import KeyCache, secret_of


class Control:
    def __init__(self, **roles):
        self.number = 1
        self.away = False
        self.asked = 0
        self.keys = {name: Key(name, "p", role, name, 0) for name, role in roles.items()}

    def revision(self):
        if self.away:
            raise Unreachable("the catalog is away")
        return self.number

    def key_by_hash(self, digest):
        if self.away:
            raise Unreachable("the catalog is away")
        self.asked += 1
        return next((k for n, k in self.keys.items() if hashlib.sha256(n.encode()).digest() == digest), None)

    def revoke(self, name):
        self.keys[name] = Key(name, "p", self.keys[name].role, name, 0, revoked_at=1)
        self.number += 1


@pytest.fixture
def time():
    return [100.0]


@pytest.fixture
def control():
    return Control(good="write", loader="import", boss="admin", reader="read")


@pytest.fixture
def keys(control, tmp_path, time):
    return KeyCache(control, tmp_path / "mirror.json", lambda: time[0])


def reason(keys, secret):
    with pytest.raises(Refused) as caught:
        keys.sender(secret)
    return caught.value.status, caught.value.reason


def test_writers_importers_and_admins_may_send_and_readers_may_not(keys):
    assert [keys.sender(s).role for s in (b"good", b"loader", b"boss")] == ["write", "import", "admin"]
    assert reason(keys, b"reader") == (403, "forbidden")
    assert reason(keys, b"nobody") == (401, "unauthorized")
    assert reason(keys, None) == reason(keys, b"") == (401, "unauthorized")


def test_a_key_is_looked_up_once_as_long_as_nothing_changes(keys, control, time):
    for _ in range(5):
        keys.sender(b"good")
        time[0] += 1
    assert control.asked == 1


def test_a_revoked_key_is_refused_50_ms_later_at_most(keys, control, time):
    keys.sender(b"good")
    control.revoke("good")
    time[0] += 0.051
    assert reason(keys, b"good") == (401, "unauthorized")


def test_a_key_that_was_unknown_is_taken_50_ms_after_it_was_made(keys, control, time):
    assert reason(keys, b"new") == (401, "unauthorized")
    control.keys["new"] = Key("new", "p", "write", "new", 0)
    control.number += 1
    time[0] += 0.051
    assert keys.sender(b"new").id == "new"


def test_known_keys_send_on_while_the_catalog_is_away_and_unknown_ones_are_told_to_wait(keys, control, time):
    keys.sender(b"good")
    control.away = True
    time[0] += 60
    assert keys.sender(b"good").id == "good"
    assert reason(keys, b"boss") == (503, "unavailable")


def test_a_restart_does_not_forget_known_keys_while_the_catalog_is_away(keys, control, tmp_path):
    keys.sender(b"good")
    control.away = True
    again = KeyCache(control, tmp_path / "mirror.json")
    assert again.sender(b"good").id == "good"
    assert reason(again, b"boss") == (503, "unavailable")
    mirror = (tmp_path / "mirror.json").read_bytes()
    assert hashlib.sha256(b"good").hexdigest().encode() in mirror
    assert (tmp_path / "mirror.json").stat().st_mode & 0o777 == 0o600


def test_a_key_revoked_before_the_catalog_went_away_stays_refused_though_nobody_used_it_since(keys, control, time):
    keys.sender(b"good")
    keys.sender(b"boss")
    control.revoke("good")
    time[0] += 1
    keys.sender(b"boss")
    control.away = True
    time[0] += 1
    assert reason(keys, b"good") == (503, "unavailable")


def test_a_mirror_that_cannot_be_written_or_read_stops_nobody(control, tmp_path):
    (tmp_path / "mirror.json").write_text("not json")
    assert KeyCache(control, tmp_path / "mirror.json").sender(b"good").id == "good"
    assert KeyCache(control, tmp_path / "missing" / "mirror.json").sender(b"good").id == "good"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([(b"authorization", b"Bearer k")], b"k"),
        ([(b"authorization", b"bearer  k ")], b"k"),
        ([(b"x-api-key", b"k")], b"k"),
        ([(b"authorization", b"Basic abc"), (b"x-api-key", b"k")], b"k"),
        ([(b"authorization", b"Basic abc")], None),
        ([], None),
    ],
)
def test_a_key_comes_as_a_bearer_or_in_a_field_of_its_own(headers, expected):
    assert secret_of(headers) == expected
