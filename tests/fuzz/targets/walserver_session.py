"""A whole session of the WAL server with the real walsender behind it, over WAL in memory.

Input: steps: kind (one byte: bytes arrive, time passes, output is taken, WAL is read, the
source grows, a read fails), then what it needs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from random import Random

from applier.walserver.codec import MAX_COPY_BYTES, MAX_QUERY_BYTES, SqlError
from applier.walserver.replication import WalSender
from applier.walserver.session import OUTPUT_LIMIT_BYTES, Client, Role, Session
from logship.errors import Code, LogshipError
from tests.fuzz.target import Input, MutateBytes, chunk
from tests.unit.applier.walserver import transcript
from tests.unit.applier.walserver.memory_source import MemorySource

SEGMENT = 1 << 20
FORK = SEGMENT + 900
HISTORY = f"1\t0/{FORK:X}\tno recovery target specified\n".encode()
BYTES, TIME, TAKE, READ, GROW, FAIL = range(6)
ONE_REPLY_BYTES = 64 * 1024
"""The largest: WAL of MAX_SEND_BYTES, or a history, is taken before the next is made."""
SHORT_RUNS = 8000


class Standby:
    """A client that checks what it is sent."""

    def __init__(self) -> None:
        self.source = MemorySource(segment_bytes=SEGMENT)
        self.source.append(1, SEGMENT, b"1" * 900)
        self.now = 0.0
        self.session = Session(self._open_role, process_id=7, secret=b"s" * 32, now=0)
        self.unread = b""
        self.said = 0

    def _open_role(self, client: Client) -> Role:
        if client.user != "orders":
            raise SqlError("28000", "not served", fatal=True)
        return WalSender(self.source, "17.9", wall_clock=lambda: 1_000_000_000.0)

    def step(self, steps: Input) -> None:
        kind = steps.number() % 6
        if kind == BYTES:
            self.session.receive_data(steps.chunk(), self.now)
        elif kind == TIME:
            self.now += steps.number()
            self.session.advance(self.now)
        elif kind == TAKE:
            self.take()
        elif kind == READ:
            self.take()
            self.read()
        elif kind == GROW:
            self._grow()
        elif request := self.session.wal_wanted(self.now):
            code = (Code.WAL_REMOVED, Code.STORE_FAILED)[steps.number() % 2]
            self.session.wal_failed(LogshipError(code, f"{request.lsn} is gone"), self.now)
        self.check()

    def read(self) -> None:
        request = self.session.wal_wanted(self.now)
        if request is None:
            return
        assert request.max_bytes > 0
        data = self.source.read(*request)
        assert data
        self.session.wal_read(request, data, self.now)

    def take(self) -> None:
        """The server's messages: each of a known kind and whole, WAL as the source has it."""
        output = self.session.data_to_send()
        data = b"".join(output)
        while data:
            if data[:1] == b"N" and not self.said:
                data = data[1:]  # the answer to an SSLRequest has no length
                continue
            self.said += 1
            kind, (length,) = data[:1], struct.unpack_from("!I", data, 1)
            assert kind in b"RSKZTDCEWdcvI", kind
            body, data = data[5 : 1 + length], data[1 + length :]
            assert len(body) == length - 4
            if kind == b"d" and body[:1] == b"w":
                self._check_wal(body)

    def _check_wal(self, body: bytes) -> None:
        start, _, _ = struct.unpack_from("!QQq", body, 1)
        held = [self.source.end_of(timeline) for timeline in (1, 2)]
        assert any(end is not None and start + len(body) - 25 <= end for end in held)
        assert len(body) > 25

    def _grow(self) -> None:
        if self.source.end_of(2) is not None:
            end = self.source.end_of(2)
            assert end is not None
            self.source.append(2, end, b"2" * 500)
        elif self.source.histories():
            self.source.append(2, SEGMENT, b"1" * 900 + b"2" * 100)
        else:
            self.source.add_history(2, HISTORY)
        self.session.advance(self.now)

    def check(self) -> None:
        session = self.session
        assert session._decoder.buffered_bytes <= ONE_REPLY_BYTES + MAX_QUERY_BYTES
        assert session._output_bytes <= OUTPUT_LIMIT_BYTES + ONE_REPLY_BYTES + MAX_COPY_BYTES
        deadline = session.deadline
        assert deadline is None or deadline == deadline
        if session.closed:
            assert session.wal_wanted(self.now) is None


def run(data: bytes) -> bool:
    client, steps = Standby(), Input(data)
    while steps and not client.session.closed:
        client.step(steps)
    client.take()
    served = client.session.role is not None
    client.session.shut_down()
    client.take()
    client.session.receive_data(b"more", client.now)
    client.session.advance(client.now)
    assert client.session.data_to_send() == []
    return served


def _bytes(data: bytes) -> bytes:
    return bytes([BYTES]) + chunk(data)


HELLO = _bytes(transcript.startup(**transcript.STANDBY)) + bytes([TAKE])


def seeds() -> Iterator[bytes]:
    start = _bytes(transcript.query("START_REPLICATION 0/100000 TIMELINE 1"))
    status = _bytes(transcript.report(FORK, FORK, FORK, asks=True))
    yield HELLO + _bytes(transcript.query("IDENTIFY_SYSTEM")) + bytes([TAKE])
    yield HELLO + start + bytes([READ, READ, TAKE]) + status + bytes([TAKE])
    yield HELLO + start + bytes([READ, TIME, 31, TAKE, TIME, 31, TAKE])
    yield (
        HELLO
        + start
        + bytes([READ, GROW, GROW])
        + status
        + bytes([TIME, 1, TAKE])
        + _bytes(transcript.copy_done())
        + bytes([TAKE])
        + _bytes(transcript.query("TIMELINE_HISTORY 2"))
        + _bytes(transcript.query("START_REPLICATION 0/100000 TIMELINE 2"))
        + bytes([READ, TAKE, GROW, READ, TAKE])
    )
    yield HELLO + start + bytes([FAIL, 0, TAKE]) + start + bytes([FAIL, 1, TAKE])
    yield HELLO + _bytes(transcript.query("SHOW wal_segment_size") * 20) + bytes([TAKE, TAKE])
    yield HELLO + _bytes(transcript.message("P", b"x") + transcript.message("S")) + bytes([TAKE])


QUERIES = (
    "IDENTIFY_SYSTEM",
    "START_REPLICATION 0/100000 TIMELINE 1",
    "START_REPLICATION 0/100000 TIMELINE 2",
    "START_REPLICATION 0/FFFFFFFF",
    "TIMELINE_HISTORY 2",
    "SHOW data_directory_mode",
    "",
    ";",
)
MESSAGES = (
    *map(transcript.query, QUERIES),
    transcript.report(FORK, FORK, FORK),
    transcript.report((1 << 64) - 1, (1 << 64) - 1, (1 << 64) - 1, asks=True),
    transcript.feedback(),
    transcript.copy_done(),
    transcript.message("f", b"x\0"),
    transcript.message("S"),
    transcript.message("H"),
    transcript.message("B"),
)


def mutate(data: bytes, max_bytes: int, random: Random, other: MutateBytes) -> bytes:
    steps = HELLO if random.random() < 0.3 else data
    for _ in range(random.randrange(1, 5)):
        kind = random.randrange(12)
        if kind > FAIL or kind == BYTES:
            steps += _bytes(random.choice(MESSAGES))
        elif kind in (TIME, FAIL):
            steps += bytes([kind, random.choice((0, 1, 16, 31, 61))])
        else:
            steps += bytes([kind])
    return steps if len(steps) <= max_bytes else other(data, max_bytes)
