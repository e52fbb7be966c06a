"""What a base backup says becomes numbered frames, in order, and an end or an abort."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence

import pytest

from logship.errors import Code, LogshipError
from logship.frames import SeedAborted, SeedBegin, SeedChunk, SeedEnd, decode_from_shipper, encode
from logship.lsn import Lsn
from logship.postgres.replication import (
    ArchiveStart,
    BackupEnd,
    BackupEvent,
    BackupStart,
    Data,
    ManifestStart,
    Progress,
    SystemIdentity,
    Tablespace,
)
from logship.seal import unseal
from shipper import compression
from shipper.seeding import SeedFrame, SeedSender, sender

START = BackupStart(3, Lsn(0x2000028), (Tablespace(16385, "/mnt/fast", 7),), 4_000_000)
END = BackupEnd(3, Lsn(0x2000120))
Sent = list[tuple[SeedFrame, bytes]]


class FakeConnection:
    """Stands in for a ReplicationConnection: its base backup is a list."""

    target = "fake"

    def __init__(self, events: Sequence[BackupEvent | LogshipError]) -> None:
        self._events = events
        self.closed = False

    async def __aenter__(self) -> FakeConnection:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True

    async def identify_system(self) -> SystemIdentity:
        return SystemIdentity(7, 3, Lsn(1))

    async def base_backup(
        self, label: str, *, fast: bool, max_rate_kb: int | None
    ) -> AsyncGenerator[BackupEvent, None]:
        for event in self._events:
            if isinstance(event, LogshipError):
                raise event
            yield event


def connecting(
    monkeypatch: pytest.MonkeyPatch, events: Sequence[BackupEvent | LogshipError]
) -> FakeConnection:
    connection = FakeConnection(events)

    class Connecting:
        @staticmethod
        async def connect(conninfo: str, *, application_name: str) -> FakeConnection:
            return connection

    monkeypatch.setattr(sender, "ReplicationConnection", Connecting)
    return connection


def pieces(content: bytes, size_bytes: int = 32768) -> list[Data]:
    return [
        Data(memoryview(content)[start : start + size_bytes])
        for start in range(0, len(content), size_bytes)
    ]


def streams(sent: Sent) -> list[tuple[str, str, bytes]]:
    """(kind, archive, content) of what was sent, checking the numbering."""
    found: list[tuple[str, str, bytes]] = []
    chunks = [(frame, payload) for frame, payload in sent if isinstance(frame, SeedChunk)]
    for number, (chunk, payload) in enumerate(chunks):
        assert chunk.sequence == number
        if chunk.kind == "data":
            raw = unseal(chunk.codec, chunk.crc32c, chunk.raw_bytes, payload, max_raw_bytes=1 << 22)
            kind, archive, content = found[-1]
            found[-1] = (kind, archive, content + bytes(raw))
        else:
            found.append((chunk.kind, chunk.archive, b""))
    return found


async def collect(seed: SeedSender) -> Sent:
    sent: Sent = []

    async def send(frame: SeedFrame, payload: bytes | memoryview) -> None:
        sent.append((frame, bytes(payload)))
        decode_from_shipper(encode(frame, payload if payload else None))

    await seed.run(send)
    return sent


async def test_archives_and_manifest_arrive_as_they_were_in_large_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = os.urandom(2_500_000) + b"easy" * 500_000
    events = [
        START,
        ArchiveStart("16385"),
        *pieces(b"tablespace"),
        ArchiveStart(""),
        *pieces(base),
        Progress(5),
        ManifestStart(),
        *pieces(b"manifest"),
        END,
    ]
    connection = connecting(monkeypatch, events)
    seed = SeedSender("")
    sent = await collect(seed)
    assert sent[0][0] == SeedBegin(
        seed_id=seed.seed_id,
        timeline=3,
        start_lsn=0x2000028,
        estimated_bytes=4_000_000,
        tablespaces=[(16385, "/mnt/fast")],
    )
    assert streams(sent) == [
        ("archive", "16385", b"tablespace"),
        ("archive", "", base),
        ("manifest", "", b"manifest"),
    ]
    last = sent[-1][0]
    assert last == SeedEnd(
        seed_id=seed.seed_id, sequence=len(sent) - 2, timeline=3, end_lsn=0x2000120
    )
    assert len(sent) < 14
    assert seed.done_bytes == len(base) + 18 and seed.estimated_bytes == 4_000_000
    assert connection.closed


async def test_data_that_does_not_shrink_is_left_alone_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[bool] = []
    real = compression.seal

    def counting(raw: bytes, *, compress: bool, quick: bool) -> sender.Sealed:
        tried.append(compress)
        return real(raw, compress=compress, quick=quick)

    monkeypatch.setattr(compression, "seal", counting)
    noise = os.urandom(sender.CHUNK_BYTES)
    events = [START, ArchiveStart(""), *[Data(memoryview(noise))] * 50, END]
    connecting(monkeypatch, events)
    await collect(SeedSender(""))
    assert len(tried) == 50 and tried.count(True) < 15
    tried.clear()
    await collect(SeedSender("", compress=False))
    assert not any(tried)


async def test_a_road_without_room_stops_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0
    noise = memoryview(os.urandom(sender.CHUNK_BYTES))
    connection = connecting(monkeypatch, [])

    async def endless(
        label: str, *, fast: bool, max_rate_kb: int | None
    ) -> AsyncGenerator[BackupEvent, None]:
        nonlocal taken
        yield START
        yield ArchiveStart("")
        while True:
            taken += 1
            yield Data(noise)

    monkeypatch.setattr(connection, "base_backup", endless)
    room, waits = 10, asyncio.Event()
    sent: Sent = []

    async def send(frame: SeedFrame, payload: bytes | memoryview) -> None:
        if len(sent) == room:
            waits.set()
            await asyncio.Event().wait()
        sent.append((frame, b""))

    running = asyncio.create_task(SeedSender("").run(send))
    await waits.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert taken <= room + 6
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert connection.closed and len(sent) == room


async def test_a_failure_of_the_primary_is_told_to_the_far_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failure = LogshipError(Code.PRIMARY_UNREACHABLE, "it went away", retryable=True)
    connecting(monkeypatch, [START, ArchiveStart(""), *pieces(b"x"), failure])
    seed = SeedSender("")
    sent: Sent = []

    async def send(frame: SeedFrame, payload: bytes | memoryview) -> None:
        sent.append((frame, bytes(payload)))

    with pytest.raises(LogshipError) as caught:
        await seed.run(send)
    assert caught.value is failure
    assert sent[-1][0] == SeedAborted(
        seed_id=seed.seed_id, code="primary-unreachable", what="it went away"
    )


async def test_a_backup_that_only_stops_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    connecting(monkeypatch, [START, ArchiveStart("")])
    with pytest.raises(LogshipError) as caught:
        await collect(SeedSender(""))
    assert caught.value.code is Code.SEED_FAILED and caught.value.retryable


async def test_another_cluster_is_refused_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connecting(monkeypatch, [START, END])
    sent: Sent = []

    async def send(frame: SeedFrame, payload: bytes | memoryview) -> None:
        sent.append((frame, bytes(payload)))

    with pytest.raises(LogshipError) as caught:
        await SeedSender("", system_identifier=8).run(send)
    assert caught.value.code is Code.SYSTEM_IDENTIFIER_MISMATCH and not sent
    await SeedSender("", system_identifier=7).run(send)


async def test_a_road_that_refuses_ends_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = connecting(monkeypatch, [START, ArchiveStart(""), *pieces(b"x"), END])

    async def send(frame: SeedFrame, payload: bytes | memoryview) -> None:
        raise LogshipError(Code.LINK_LOST, "the seed must start anew", retryable=True)

    with pytest.raises(LogshipError) as caught:
        await SeedSender("").run(send)
    assert caught.value.code is Code.LINK_LOST and connection.closed
