"""WAL that the kernel copies from a file to the standby's socket, past the applier's memory."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from applier.store.reading import FileSlice
from applier.walserver.gate import Gate
from applier.walserver.server import WalServer
from applier.walserver.status import StandbyState
from logship.lsn import Lsn
from tests.unit.applier.walserver.memory_source import MemorySource
from tests.unit.applier.walserver.test_server import SEGMENT, WAIT_SECONDS, Client
from tests.unit.applier.walserver.transcript import report

WAL_HEADER_BYTES = 5 + 25


class FileSource(MemorySource):
    """Has its WAL in a file too, and counts what it shares."""

    def __init__(self, path: Path) -> None:
        super().__init__(segment_bytes=SEGMENT)
        self.path = path
        self.slices: list[FileSlice] = []

    def fill(self, size_bytes: int) -> bytes:
        """The whole WAL, from SEGMENT on, which no place has in common with another."""
        wal = b"".join(number.to_bytes(8, "big") for number in range(size_bytes // 8))
        self.path.write_bytes(wal)
        self.append(1, SEGMENT, wal)
        return wal

    def share(self, timeline: int, lsn: int, max_bytes: int, /) -> FileSlice | None:
        size_bytes = len(self.read(timeline, lsn, min(max_bytes, SEGMENT - lsn % SEGMENT)))
        fd = os.open(self.path, os.O_RDONLY)
        try:
            self.slices.append(FileSlice(fd, lsn - SEGMENT, size_bytes))
        finally:
            os.close(fd)
        return self.slices[-1]


@pytest.fixture
def source(tmp_path: Path) -> FileSource:
    return FileSource(tmp_path / "wal-bytes")


@pytest.fixture
async def server(tmp_path: Path, source: FileSource) -> AsyncIterator[WalServer]:
    made = WalServer(tmp_path / "wal", allowed_uids=frozenset({os.geteuid()}))
    await made.start()
    made.serve("orders", source, "17.9")
    yield made
    await made.stop()
    assert all(each.fd == -1 for each in source.slices), "handles are left open"


async def wal_of(client: Client, size_bytes: int) -> bytes:
    """So much WAL from the messages that come; the kinds of others are passed over."""
    wal = b""
    while len(wal) < size_bytes:
        head = await asyncio.wait_for(client.reader.readexactly(5), WAIT_SECONDS)
        length = int.from_bytes(head[1:], "big") - 4
        body = await asyncio.wait_for(client.reader.readexactly(length), WAIT_SECONDS)
        if head[:1] == b"d" and body[:1] == b"w":
            assert int.from_bytes(body[1:9], "big") == SEGMENT + len(wal)
            wal += body[25:]
    return wal


async def stalled(server: WalServer, source: FileSource) -> Client:
    """A client that reads nothing, in the middle of a message."""
    client = await Client.streaming(server)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    before = -1
    while before != (before := sum(each.size_bytes for each in source.slices)) or not before:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return client


async def test_what_is_shared_arrives_byte_for_byte_at_a_reader_of_any_speed(
    server: WalServer, source: FileSource
) -> None:
    wal = source.fill(9 * SEGMENT + 80_000)
    quick = await Client.streaming(server, application_name="quick")
    slow = await stalled(server, source)
    assert await wal_of(quick, len(wal)) == wal
    slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert await wal_of(slow, len(wal)) == wal
    assert source.slices
    quick.close()
    slow.close()


async def test_small_pieces_go_the_short_way(server: WalServer, source: FileSource) -> None:
    wal = source.fill(8000)
    client = await Client.streaming(server)
    assert await wal_of(client, len(wal)) == wal
    assert not source.slices
    client.close()


async def test_an_answer_waits_for_the_end_of_the_message(
    server: WalServer, source: FileSource
) -> None:
    wal = source.fill(6 * SEGMENT)
    client = await stalled(server, source)
    client.writer.write(report(SEGMENT + 7, SEGMENT + 7, SEGMENT + 7, asks=True))
    await server.wait_until("orders", lambda seen: seen[0].flush_lsn == SEGMENT + 7, WAIT_SECONDS)
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert await wal_of(client, len(wal)) == wal
    client.writer.write(report(SEGMENT + 8, asks=True))
    await client.until("keepalive")
    client.close()


async def test_a_goodbye_never_stands_where_wal_should(
    server: WalServer, source: FileSource
) -> None:
    wal = source.fill(8 * SEGMENT)
    client = await stalled(server, source)
    server.withdraw("orders")
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    received = await asyncio.wait_for(client.reader.read(-1), WAIT_SECONDS)
    position = 0
    while received:
        body = received[WAL_HEADER_BYTES : 1 + int.from_bytes(received[1:5], "big")]
        assert body == wal[position : position + len(body)]
        position += len(body)
        received = received[WAL_HEADER_BYTES + len(body) :]
    assert position < len(wal)
    client.close()


async def test_a_standby_that_goes_in_the_middle_of_a_message_leaves_nothing_open(
    server: WalServer, source: FileSource
) -> None:
    source.fill(8 * SEGMENT)
    client = await stalled(server, source)
    client.writer.transport.abort()
    await server.wait_until("orders", lambda seen: not seen, WAIT_SECONDS)
    assert all(each.fd == -1 for each in source.slices)


async def test_a_file_that_is_cut_ends_the_connection(
    server: WalServer, source: FileSource
) -> None:
    wal = source.fill(SEGMENT)
    os.truncate(source.path, SEGMENT // 2)
    client = await Client.streaming(server)
    received = await asyncio.wait_for(client.reader.read(-1), WAIT_SECONDS)
    assert received[WAL_HEADER_BYTES:] == wal[: SEGMENT // 2]
    client.close()


async def test_a_file_system_without_sendfile_is_read_instead(
    server: WalServer, source: FileSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "sendfile", refuse)
    wal = source.fill(5 * SEGMENT)
    client = await Client.streaming(server)
    assert await wal_of(client, len(wal)) == wal
    assert source.slices
    client.close()


async def test_a_gate_holds_what_is_shared_too(server: WalServer, source: FileSource) -> None:
    wal = source.fill(3 * SEGMENT)
    hold = SEGMENT + 200_000
    server.set_gate("orders", Gate(hold_at_lsn=Lsn(hold)))
    client = await Client.streaming(server)
    assert await wal_of(client, 200_000) == wal[:200_000]
    await server.wait_until("orders", lambda seen: seen[0].state is StandbyState.HELD, WAIT_SECONDS)
    assert server.standbys("orders")[0].sent_lsn == hold
    client.close()
