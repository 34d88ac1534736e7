"""The process as a whole: what it keeps of refused bodies, how it relays, how it stops, how long it waits."""

import gzip
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import contextmanager

import httpx
import pytest

from headwater.eventlog.adapters.sqlite import open_reader
from headwater.ingest.protocol import Protocol
from headwater.model.rejection import KEPT_BYTES

SINGLE, BATCH = "/v1/events", "/v1/events/batch"


def last_rejected(server):
    return server.rejected()[0]


@pytest.mark.parametrize(
    ("body", "headers", "status", "kept"),
    [
        (b"<xml/>", {"Content-Type": "application/xml"}, 415, b"<xml/>"),
        (b"compressed?", {"Content-Encoding": "br"}, 415, b"compressed?"),
        (b"not gzip", {"Content-Encoding": "gzip"}, 400, b"not gzip"),
        (gzip.compress(b"[nonsense", mtime=0), {"Content-Encoding": "gzip"}, 400, b"[nonsense"),
        (b"\xff\xfe[\x00]\x00", {}, 415, b"\xff\xfe[\x00]\x00"),
        (b"[" + b" " * (11 << 20), {}, 413, None),
    ],
)
def test_a_body_that_cannot_be_read_is_kept_whole_or_cut_at_one_mebibyte(server, body, headers, status, kept):
    answer = server.post(BATCH, body, headers=headers)
    assert answer.status_code == status
    rejected = last_rejected(server)
    assert (rejected.reason, rejected.stage) == (answer.json()["reason"], "ingest")
    if kept is None:
        assert (len(rejected.body), rejected.cut) == (KEPT_BYTES, True)
    else:
        assert (rejected.body, rejected.cut) == (kept, False)


def test_what_an_unknown_key_sends_is_not_kept(server):
    before = len(server.rejected())
    assert server.post(SINGLE, b"nonsense", headers={"X-API-Key": "nobody"}).status_code == 401
    assert len(server.rejected()) == before


def test_pages_of_any_origin_may_send(server):
    answer = server.client.options(BATCH, headers={"Origin": "https://a.example"})
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "x-api-key" in answer.headers["access-control-allow-headers"]
    for body in (b'[{"eventType":"x"}]', b"nonsense"):
        assert server.post(BATCH, body).headers["access-control-allow-origin"] == "*"


def test_a_body_in_chunks_and_one_without_a_content_type_are_taken(server):
    answer = server.client.post(BATCH, content=iter([b'[{"event', b'Type":"x"}]']))
    assert answer.json() == {"accepted": 1, "rejected": []}


def test_the_sign_of_life_says_where_the_log_is(server):
    server.post(SINGLE, b'{"eventType":"x"}')
    wanted, beat = server.log.end(), {}
    deadline = time.monotonic() + 10
    while beat.get("position", -1) < wanted:
        assert time.monotonic() < deadline, beat
        beat = json.loads((server.folder / "run" / "ingest.json").read_text())
        threading.Event().wait(0.05)
    assert beat["pid"] == server.process.pid


@contextmanager
def started(folder):
    command = [sys.executable, "-m", "tests.ingest.server", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def test_sigterm_finishes_what_is_in_flight_and_ends_with_exit_code_zero(tmp_path):
    with started(tmp_path) as (process, port):
        acknowledged = []
        go = threading.Event()

        def send(name):
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": "write"}) as client:
                for i in range(2000):
                    try:
                        answer = client.post(SINGLE, json={"eventType": "x", "eventId": f"{name}-{i}"})
                    except httpx.TransportError:
                        return
                    assert answer.status_code == 202
                    acknowledged.append(f"{name}-{i}")
                    if i == 10:
                        go.set()

        threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        go.wait(30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        for thread in threads:
            thread.join(30)
    reader = open_reader(tmp_path / "log")
    stored = {e for record in reader.read(0, 1 << 30) for e in record.batch.column("event_id").to_pylist()}
    reader.close()
    assert len(acknowledged) > 10
    assert set(acknowledged) <= stored


class Query(threading.Thread):
    """Stands where `query` would: says each time the next of `answers`, remembers what it was asked."""

    def __init__(self, path, *answers):
        super().__init__(daemon=True)
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(path))
        self.listening.listen()
        self.answers = deque(answers)
        self.asked = []
        self.start()

    def run(self):
        while self.answers:
            connection, _ = self.listening.accept()
            with connection:
                heard = b""
                while b"\r\n\r\n" not in heard:
                    heard += connection.recv(65536)
                head, _, body = heard.partition(b"\r\n\r\n")
                lines = head.lower().split(b"\r\n")
                length = next((int(h.split(b":")[1]) for h in lines if h.startswith(b"content-length")), 0)
                chunked = b"transfer-encoding: chunked" in lines
                while len(body) < length or (chunked and not body.endswith(b"0\r\n\r\n")):
                    body += connection.recv(65536)
                self.asked.append((head, body))
                connection.sendall(self.answers.popleft())


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nConnection: close, X-Own\r\nX-Own: 1\r\n"


@pytest.fixture
def relaying(tmp_path):
    with started(tmp_path) as (_, port), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        yield lambda *answers: Query(tmp_path / "run" / "query.sock", *answers), client


def test_everything_else_goes_to_query_and_comes_back_as_it_is(relaying):
    start_query, client = relaying
    query = start_query(OK + b"Content-Length: 3\r\n\r\na,b")
    answer = client.post(
        "/v1/query?x=1&y=%20", content=b'{"sql":"SELECT 1"}', headers={"X-API-Key": "k", "X-Forwarded-For": "9.9.9.9"}
    )
    assert (answer.status_code, answer.text, answer.headers["content-type"]) == (200, "a,b", "text/csv")
    assert "x-own" not in answer.headers
    head, body = query.asked[0]
    assert head.startswith(b"POST /v1/query?x=1&y=%20 HTTP/1.1\r\n")
    assert body == b'{"sql":"SELECT 1"}'
    assert b"x-api-key: k" in head.lower()
    assert b"x-forwarded-for: 127.0.0.1" in head
    assert b"9.9.9.9" not in head


def test_chunks_heads_and_empty_answers_pass_both_ways(relaying):
    start_query, client = relaying
    query = start_query(
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        OK + b"Content-Length: 5\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        OK + b"\r\nuntil the end",
    )
    assert client.post("/v1/query", content=iter([b"12", b"345"])).text == "abcde"
    assert query.asked[0][1].endswith(b"45\r\n0\r\n\r\n")
    assert client.head("/v1/events").headers["content-length"] == "5"
    assert client.delete("/v1/keys/1").status_code == 204
    assert client.get("/").text == "until the end"


def test_an_answer_that_breaks_off_never_looks_whole(relaying):
    start_query, client = relaying
    start_query(
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        OK + b"Content-Length: 10\r\n\r\nabc",
        b"",
        b"nonsense\r\n\r\n",
    )
    for _ in range(2):
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/v1/metrics")
    for _ in range(2):
        answer = client.get("/v1/metrics")
        assert (answer.status_code, answer.json()["reason"]) == (503, "unavailable")


class Wire:
    """A transport that remembers."""

    def __init__(self):
        self.sent = b""
        self.closed = False

    def write(self, data):
        self.sent += data

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed

    def get_extra_info(self, name):
        return None

    def pause_reading(self): ...
    def resume_reading(self): ...


class Loop:
    def __init__(self):
        self.now = 1000.0

    def time(self):
        return self.now

    def call_soon(self, call):
        return None

    def create_task(self, coroutine):
        coroutine.close()
        return type("Task", (), {"add_done_callback": lambda *_: None})()


@pytest.fixture
def connection():
    import uvicorn
    from uvicorn.server import ServerState

    async def app(scope, receive, send): ...

    config = uvicorn.Config(app, lifespan="off", log_config=None, ws="none")
    config.load()
    made = Protocol(config, ServerState(), {}, Loop())
    made.wire = Wire()
    made.connection_made(made.wire)
    return made


HEAD = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"


@pytest.mark.parametrize(("arrived", "answered"), [(b"", b""), (b"POST /v1/ev", b"HTTP/1.1 400 ")])
def test_headers_have_five_seconds_to_arrive(connection, arrived, answered):
    if arrived:
        connection.data_received(arrived)
    connection.check(1005.0)
    assert not connection.wire.closed
    connection.check(1005.1)
    assert connection.wire.closed
    assert connection.wire.sent.startswith(answered)


def test_a_trickle_of_header_bytes_buys_no_time(connection):
    for second in range(5):
        connection.loop.now = 1000.0 + second
        connection.data_received(b"POST "[second : second + 1])
        connection.check(connection.loop.now)
    connection.check(1005.1)
    assert connection.wire.closed


def test_a_body_has_thirty_seconds_and_longer_only_at_a_good_rate(connection):
    connection.data_received(HEAD)
    connection.data_received(b"x" * 500_000)
    connection.check(1030.0)
    connection.check(1030.1)  # 16 KiB a second were kept
    assert not connection.wire.closed
    connection.data_received(b"x" * 100)
    connection.check(1061.0)  # nothing was read from it meanwhile: the sender is not to blame
    assert not connection.wire.closed
    connection.flow.resume_reading()
    connection.check(1092.0)
    assert connection.wire.closed
    assert b"bad_request" in connection.wire.sent


def test_a_header_without_an_end_is_refused_at_64_kib(connection):
    connection.data_received(b"GET / HTTP/1.1\r\nX: ")
    for _ in range(70):
        if not connection.wire.closed:
            connection.data_received(b"a" * 1000)
    assert connection.wire.closed
    assert connection.wire.sent.startswith(b"HTTP/1.1 400 ")


def test_a_kept_connection_may_rest_between_requests(connection):
    connection.data_received(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    connection.check(2000.0)
    assert not connection.wire.closed
