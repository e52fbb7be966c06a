"""The shell on a real unix socket, with clients that speak the protocol by hand."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from applier.walserver.gate import Gate
from applier.walserver.server import WalServer
from applier.walserver.status import StandbyState, StandbyStatus
from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from tests.unit.applier.walserver.memory_source import MemorySource
from tests.unit.applier.walserver.transcript import STANDBY, answers, query, report, startup

SEGMENT = 1 << 20
WAIT_SECONDS = 10


class Client:
    """A standby's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, server: WalServer, **parameters: str) -> Client:
        client = cls(*await asyncio.open_unix_connection(str(server.socket_path)))
        client.writer.write(startup(**{**STANDBY, **parameters}))
        return client

    @classmethod
    async def streaming(cls, server: WalServer, start: int = SEGMENT, **parameters: str) -> Client:
        client = await cls.connect(server, **parameters)
        await client.until("ready")
        client.writer.write(query(f"START_REPLICATION {Lsn(start)} TIMELINE 1"))
        await client.until("copy")
        return client

    async def next(self) -> str:
        head = await asyncio.wait_for(self.reader.readexactly(5), WAIT_SECONDS)
        (length,) = struct.unpack("!I", head[1:])
        body = await asyncio.wait_for(self.reader.readexactly(length - 4), WAIT_SECONDS)
        [line] = answers([head + body])
        return line

    async def until(self, line: str) -> str:
        while not (found := await self.next()).startswith(line):
            pass
        return found

    async def ended(self) -> bool:
        return await asyncio.wait_for(self.reader.read(), WAIT_SECONDS) == b""

    def close(self) -> None:
        self.writer.close()


@pytest.fixture
def source() -> MemorySource:
    made = MemorySource(segment_bytes=SEGMENT)
    made.append(1, SEGMENT, b"1" * 1000)
    return made


@pytest.fixture
def seen() -> list[StandbyStatus]:
    return []


@pytest.fixture
async def server(
    tmp_path: Path, source: MemorySource, seen: list[StandbyStatus]
) -> AsyncIterator[WalServer]:
    made = WalServer(
        tmp_path / "wal",
        allowed_uids=frozenset({os.geteuid()}),
        on_status=lambda _, status: seen.append(status),
    )
    await made.start()
    made.serve("orders", source, "17.9")
    yield made
    await made.stop()


async def test_the_socket_is_where_libpq_looks_and_open_to_other_users(server: WalServer) -> None:
    assert server.socket_path.name == ".s.PGSQL.5432"
    assert stat.S_IMODE(server.socket_path.stat().st_mode) == 0o777
    assert stat.S_IMODE(server.socket_path.parent.stat().st_mode) == 0o711


async def test_wal_reaches_the_standby_in_the_next_turn_of_the_loop(
    server: WalServer, source: MemorySource
) -> None:
    client = await Client.streaming(server)
    await client.until("wal 0/100000..0/1003E8")
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    source.append(1, SEGMENT + 1000, b"1" * 24)
    await asyncio.sleep(0)  # One turn: what was called soon has run when it is over.
    with socket.socket(fileno=os.dup(client.writer.get_extra_info("socket").fileno())) as twin:
        assert len(twin.recv(1000, socket.MSG_PEEK)) == 5 + 25 + 24
    client.close()


async def test_a_user_that_is_not_allowed_gets_nothing(
    tmp_path: Path, source: MemorySource
) -> None:
    server = WalServer(tmp_path, 1, allowed_uids=frozenset({os.geteuid() + 1}))
    server.serve("orders", source, "17.9")
    await server.start()
    try:
        client = await Client.connect(server)
        assert (await client.next()).startswith("FATAL 28000 operating system user")
        assert await client.ended()
        client.close()
    finally:
        await server.stop()


async def test_an_instance_that_is_not_served_is_named(server: WalServer) -> None:
    client = await Client.connect(server, user="stranger")
    assert await client.next() == 'FATAL 28000 instance "stranger" is not served here'
    assert await client.ended()
    client.close()


async def test_a_dead_process_s_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / ".s.PGSQL.5432"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    server = WalServer(tmp_path, allowed_uids=frozenset())
    await server.start()
    await server.stop()
    assert not path.exists()


async def test_a_live_server_s_socket_is_left_alone(server: WalServer) -> None:
    second = WalServer(server.socket_path.parent, allowed_uids=frozenset())
    with pytest.raises(LogshipError, match="another server listens") as caught:
        await second.start()
    assert caught.value.code is Code.SOCKET_IN_USE
    await second.stop()
    client = await Client.connect(server)
    await client.until("ready")
    client.close()


async def test_a_file_in_the_socket_s_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".s.PGSQL.5432").write_text("precious")
    with pytest.raises(LogshipError, match="in the way"):
        await WalServer(tmp_path, allowed_uids=frozenset()).start()
    assert (tmp_path / ".s.PGSQL.5432").read_text() == "precious"


async def test_a_path_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogshipError, match="longer than 107 bytes"):
        await WalServer(tmp_path / ("x" * 120), allowed_uids=frozenset()).start()


async def test_statuses_tell_what_standbys_report(
    server: WalServer, source: MemorySource, seen: list[StandbyStatus]
) -> None:
    client = await Client.streaming(server)
    await client.until("wal")
    client.writer.write(report(SEGMENT + 1000, SEGMENT + 900, SEGMENT + 800))
    status = await server.wait_for_flush("orders", Position(1, Lsn(SEGMENT + 900)), WAIT_SECONDS)
    assert server.standbys("orders") == [status]
    assert status.pid == os.getpid()
    assert (status.application_name, status.state) == ("standby", StandbyState.STREAMING)
    assert (status.timeline, status.sent_lsn) == (1, SEGMENT + 1000)
    assert (status.write_lsn, status.flush_lsn, status.apply_lsn) == (
        SEGMENT + 1000,
        SEGMENT + 900,
        SEGMENT + 800,
    )
    with pytest.raises(TimeoutError):
        await server.wait_for_flush("orders", Position(1, Lsn(SEGMENT + 901)), 0.01)
    client.close()
    await server.wait_until("orders", lambda standbys: not standbys, WAIT_SECONDS)
    assert seen[-1].state is StandbyState.DISCONNECTED
    assert source.subscribers == 1


async def test_a_refusal_is_told_until_a_report_shows_that_it_is_over(
    server: WalServer, source: MemorySource
) -> None:
    """It comes again and again, and is given WAL until it has said where it is."""
    fork = Lsn(SEGMENT + 500)
    source.add_history(2, f"1\t{fork}\tx\n".encode())
    source.append(2, SEGMENT, b"1" * 500)
    client = await Client.streaming(server)
    client.writer.write(report(SEGMENT + 1000, SEGMENT + 1000, SEGMENT + 1000))
    await client.until("ERROR")
    client.close()
    await server.wait_until("orders", lambda seen: seen[0].state == "refused", WAIT_SECONDS)
    [refused] = server.standbys("orders")
    again = await Client.streaming(server)
    await again.until("wal")
    assert server.standbys("orders") == [refused]
    again.writer.write(report(fork, fork, SEGMENT))
    await server.wait_for_flush("orders", Position(1, fork), WAIT_SECONDS)
    [status] = server.standbys("orders")
    assert (status.refusal, status.timeline) == (None, 1)
    again.close()


@pytest.mark.parametrize("asked", [2 * SEGMENT + 500, 2 * SEGMENT + 400])
async def test_what_is_on_a_later_timeline_is_had_once_the_standby_is_on_it(
    server: WalServer, source: MemorySource, asked: int
) -> None:
    """Also where that timeline has nothing of its own yet: a standby that is promoted before it
    knows the timeline gives its own new one the same number."""
    source.append(1, SEGMENT + 1000, b"1" * (SEGMENT + 5000))
    client = await Client.streaming(server, 2 * SEGMENT)
    client.writer.write(report(2 * SEGMENT + 5000, 2 * SEGMENT + 5000, 2 * SEGMENT))
    fork = Lsn(2 * SEGMENT + 500)
    await server.wait_for_flush("orders", Position(1, Lsn(2 * SEGMENT + 5000)), WAIT_SECONDS)
    source.add_history(2, f"1\t{fork}\tx\n".encode())
    await server.wait_for_flush("orders", Position(1, fork), WAIT_SECONDS)
    with pytest.raises(TimeoutError):
        await server.wait_for_flush("orders", Position(2, Lsn(asked)), 0.01)
    client.close()
    source.append(2, 2 * SEGMENT, b"1" * 500)
    follower = await Client.connect(server)
    await follower.until("ready")
    follower.writer.write(query(f"START_REPLICATION {Lsn(2 * SEGMENT)} TIMELINE 2"))
    await follower.until("copy")
    follower.writer.write(report(fork, fork, fork))
    await server.wait_for_flush("orders", Position(2, Lsn(asked)), WAIT_SECONDS)
    await server.wait_for_flush("orders", Position(1, fork), WAIT_SECONDS)
    follower.close()


async def test_a_flush_at_the_end_of_an_old_chain_is_waited_for(
    server: WalServer, source: MemorySource
) -> None:
    end = Lsn(SEGMENT + 1000)
    source.begin_chain(1, 4 * SEGMENT)
    client = await Client.streaming(server, SEGMENT)
    waiting = asyncio.create_task(
        server.wait_for_flush("orders", Position(1, end), WAIT_SECONDS),
    )
    client.writer.write(report(end, end - 1, SEGMENT))
    client.writer.write(report(end, end, SEGMENT))
    status = await waiting
    assert (status.state, status.flush_lsn) == (StandbyState.WAITING, end)
    client.close()


async def test_a_condition_s_error_is_raised_where_it_is_waited_for(server: WalServer) -> None:
    def condition(standbys: object) -> bool:
        if standbys:
            raise ZeroDivisionError
        return False

    waiting = asyncio.ensure_future(server.wait_until("orders", condition, WAIT_SECONDS))
    await asyncio.sleep(0)
    client = await Client.streaming(server)
    with pytest.raises(ZeroDivisionError):
        await waiting
    client.close()


async def test_a_gate_set_at_run_time_holds_and_releases(
    server: WalServer, source: MemorySource
) -> None:
    client = await Client.streaming(server)
    await client.until("wal 0/100000..0/1003E8")
    assert server.hold("orders") == Gate(hold_at_lsn=Lsn(SEGMENT + 1000))
    source.append(1, SEGMENT + 1000, b"1" * 1000)
    await server.wait_until("orders", lambda seen: seen[0].state is StandbyState.HELD, WAIT_SECONDS)
    server.set_gate("orders", Gate(hold_at_lsn=Lsn(SEGMENT + 1500)))
    await client.until("wal 0/1003E8..0/1005DC")
    client.close()


async def test_withdrawing_sends_the_standbys_away_and_serving_again_takes_them(
    server: WalServer, source: MemorySource
) -> None:
    client = await Client.streaming(server)
    server.withdraw("orders")
    assert (await client.until("FATAL")).startswith("FATAL 57P01")
    assert await client.ended()
    client.close()
    assert source.subscribers == 0
    assert server.standbys("orders") == []
    server.serve("orders", source, "17.9")
    with pytest.raises(ValueError, match="served already"):
        server.serve("orders", source, "17.9")
    again = await Client.streaming(server)
    again.close()


async def test_a_standby_that_reads_nothing_keeps_nobody_waiting_and_holds_little_memory(
    server: WalServer, source: MemorySource
) -> None:
    source.append(1, SEGMENT + 1000, b"1" * (8 * SEGMENT))
    slow = await Client.streaming(server, application_name="slow")
    slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
    quick = await Client.streaming(server, application_name="quick")
    end = Lsn(9 * SEGMENT + 1000)
    while not (await quick.until("wal")).split("..")[1].startswith(str(end)):
        pass
    status = {standby.application_name: standby for standby in server.standbys("orders")}
    assert status["quick"].sent_lsn == end
    taken = status["slow"].sent_lsn - SEGMENT
    assert taken < 2 * SEGMENT, "its socket's buffer, ours, and no more"
    assert status["slow"].state is StandbyState.CATCHUP
    # Its reports are heard all the same.
    slow.writer.write(report(SEGMENT + 7, SEGMENT + 7, SEGMENT + 7))
    await server.wait_until(
        "orders",
        lambda seen: any(s.flush_lsn == SEGMENT + 7 for s in seen),
        WAIT_SECONDS,
    )
    slow.writer.transport.abort()
    quick.close()


async def test_a_failing_read_is_told_to_the_standby_and_kept_from_the_store(
    server: WalServer, source: MemorySource
) -> None:
    client = await Client.streaming(server)
    await client.until("wal")
    source.failure = LogshipError(Code.STORE_DAMAGED, "it broke")
    source.append(1, SEGMENT + 1000, b"1")
    assert await client.until("ERROR") == "ERROR 58030 it broke"
    client.close()


async def test_garbage_ends_its_own_connection_only(server: WalServer) -> None:
    client = await Client.streaming(server)
    reader, writer = await asyncio.open_unix_connection(str(server.socket_path))
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    data = await asyncio.wait_for(reader.read(), WAIT_SECONDS)
    assert answers([data]) == ["FATAL 08P01 invalid length of startup packet"]
    writer.close()
    client.writer.write(report(1, asks=True))
    await client.until("keepalive")
    client.close()


async def test_stopping_says_goodbye_even_to_one_that_does_not_listen(server: WalServer) -> None:
    client = await Client.streaming(server)
    silent = await Client.connect(server)
    await silent.until("ready")
    await server.stop()
    assert (await client.until("FATAL")).startswith("FATAL 57P01")
    assert not server.socket_path.exists()
    for left in (client, silent):
        left.close()
