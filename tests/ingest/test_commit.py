"""Group commit: what arrives together becomes durable together, in order; a full log refuses and goes on."""

import asyncio
import threading
from itertools import count

import pytest

from headwater.errors import Refused, StoreFull
from headwater.ingest import commit as commit_module
from headwater.ingest.commit import GroupCommit, Room
from headwater.ingest.tally import Tally
from headwater.model.event import parse_body
from headwater.model.rejection import Rejection


class Log:
    """Remembers appends; `gate` holds each one back, `failure` is raised by the next."""

    def __init__(self):
        self.appends = []
        self.next = 0
        self.failure = None
        self.gate = threading.Event()
        self.gate.set()

    def append(self, batch, rejections=()):
        self.gate.wait(10)
        if self.failure is not None:
            raise self.failure
        first = self.next
        if batch is not None:
            self.next += batch.num_rows
        if batch is not None or rejections:
            self.appends.append((batch, list(rejections)))
        return first


def one(event_id, at, project="p"):
    body = b'{"eventType":"x","eventId":"%b"}' % event_id.encode()
    return parse_body(body, "single", received_at=at, project_id=project, new_id=lambda: "")


def ids(log):
    return [batch.column("event_id").to_pylist() for batch, _ in log.appends if batch is not None]


async def opened(log):
    return GroupCommit(log, 0, Tally())


def test_requests_of_one_moment_share_an_append_with_their_rejections():
    async def scenario():
        log = Log()
        commit = await opened(log)
        refused = Rejection("p", 5, "ingest", "invalid_json", "", b"")
        await asyncio.gather(
            *(commit.append(one(str(i), i, f"p{i % 2}"), [], 10) for i in range(5)), commit.append(None, [refused], 1)
        )
        await commit.drain()
        assert ids(log) == [["0", "1", "2", "3", "4"]]
        batch, rejections = log.appends[0]
        assert batch.column("project_id").to_pylist() == ["p0", "p1", "p0", "p1", "p0"]
        assert rejections == [refused]
        assert commit.position == 5

    asyncio.run(scenario())


def test_what_arrives_during_an_append_becomes_the_next_one_in_order():
    async def scenario():
        log = Log()
        commit = await opened(log)
        log.gate.clear()
        first = asyncio.create_task(commit.append(one("a", 1), [], commit_module.GROUP_BYTES))
        await asyncio.sleep(0)
        rest = [asyncio.create_task(commit.append(one(n, 2), [], 1)) for n in "bcd"]
        await asyncio.sleep(0)
        assert not first.done()
        rest[1].cancel()  # a client that goes away takes nobody with it
        await asyncio.sleep(0)
        log.gate.set()
        await asyncio.gather(first, rest[0], rest[2])
        await commit.drain()
        assert ids(log) == [["a"], ["b", "c", "d"]]

    asyncio.run(scenario())


def test_receipts_never_go_back_within_a_log():
    async def scenario():
        log = Log()
        commit = GroupCommit(log, 100, Tally())
        assert [commit.received_at(t) for t in (50, 120, 110)] == [100, 120, 120]
        await asyncio.gather(*(commit.append(one(str(t), t), [], 1) for t in (120, 110, 130)))
        await commit.drain()
        received = log.appends[0][0].column("received_at").cast("int64").to_pylist()
        assert received == [120, 120, 130]

    asyncio.run(scenario())


@pytest.mark.parametrize("failure", [StoreFull("no room"), RuntimeError("a surprise")])
def test_a_failed_append_is_503_with_a_time_to_come_back_and_the_next_one_works(failure):
    async def scenario():
        log = Log()
        commit = await opened(log)
        log.failure = failure
        with pytest.raises(Refused) as caught:
            await commit.append(one("a", 1), [], 1)
        assert (caught.value.status, caught.value.reason, caught.value.retry_after) == (503, "unavailable", 5)
        log.failure = None
        await commit.append(one("b", 1), [], 1)
        await commit.drain()
        assert ids(log) == [["b"]]

    asyncio.run(scenario())


def test_too_many_bytes_at_once_are_refused_and_given_back_when_answered():
    async def scenario():
        commit = await opened(Log())
        with Room(commit) as room:
            room.take(commit_module.HELD_BYTES)
            with pytest.raises(Refused, match="more is arriving") as caught, Room(commit) as other:
                other.take(1)
            assert (caught.value.status, caught.value.reason, caught.value.retry_after) == (503, "overloaded", 1)
        with Room(commit) as room:
            room.take(commit_module.HELD_BYTES)
        assert commit.held == 0
        await commit.drain()

    asyncio.run(scenario())


def test_a_trim_never_overlaps_an_append():
    async def scenario():
        log = Log()
        commit = await opened(log)
        log.gate.clear()
        order = count()
        appended = asyncio.create_task(commit.append(one("a", 1), [], commit_module.GROUP_BYTES))
        await asyncio.sleep(0)
        trimmed = asyncio.create_task(commit.in_turn(lambda: (len(log.appends), next(order))))
        await asyncio.sleep(0)
        assert not trimmed.done()
        log.gate.set()
        assert (await trimmed)[0] == 1
        await appended
        await commit.drain()

    asyncio.run(scenario())
