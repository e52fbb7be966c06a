"""Real base backups of every major: sent, received, and started as a standby."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from applier.receivers.seed.placement import SeedPlaced
from applier.receivers.seed.receiver import SeedReceiver
from logship.bucket.keys import Keys
from logship.bucket.seed_archive import SeedArchiveWriter, list_seeds, read_seed
from logship.errors import Code, LogshipError
from logship.frames import SeedBegin, SeedChunk, SeedEnd, decode_from_shipper, encode
from logship.identity import Incarnation
from logship.objects.directory import DirectoryStore
from logship.postgres.run_as import RunAs
from logship.seal import seal, unseal
from shipper.seeding import SeedFrame, SeedSender
from tests.conftest import PrimaryFactory
from tests.support.installations import MAJORS, all_majors
from tests.support.processes import give_to_server, make_server_directory
from tests.support.servers import PrimaryServer
from tests.support.waiting import free_port, wait_until

pytestmark = pytest.mark.integration

MARKER = b"tamper-with-this-text"


class Applier:
    """The receiving end, without the link: frames go through their wire form."""

    def __init__(self, directory: Path, system_identifier: int) -> None:
        make_server_directory(directory, 0o755)
        self.directory = directory
        self.receiver = SeedReceiver(
            directory,
            run_as=RunAs.of(None),
            keep_free_bytes=0,
            system_identifier=system_identifier,
        )
        self.placed: SeedPlaced | None = None

    async def take(self, frame: SeedFrame, payload: bytes | memoryview) -> None:
        arrived, content = decode_from_shipper(
            encode(frame, payload if isinstance(frame, SeedChunk) else None)
        )
        if isinstance(arrived, SeedBegin):
            await self.receiver.begin(arrived)
        elif isinstance(arrived, SeedChunk):
            await self.receiver.chunk(arrived, content)
        elif isinstance(arrived, SeedEnd):
            self.placed = await self.receiver.end(arrived, _nothing_runs)
        else:
            await self.receiver.abort()


async def _nothing_runs() -> None:
    """There is no standby to stop."""


@contextlib.asynccontextmanager
async def applying(directory: Path, server: PrimaryServer) -> AsyncIterator[Applier]:
    applier = Applier(directory, system_identifier(server))
    try:
        yield applier
    finally:
        await applier.receiver.abort()


def system_identifier(server: PrimaryServer) -> int:
    return int(server.execute("select system_identifier from pg_control_system()")[0][0])


def filled(primary: PrimaryFactory, directory: Path, major: int = MAJORS[-1]) -> PrimaryServer:
    """A primary with a table, some of it in a tablespace."""
    server = primary(major, settings={"wal_keep_size": "256MB"})
    make_server_directory(directory / "fast")
    server.execute("create table plain as select g, md5(g::text) from generate_series(1, 20000) g")
    server.execute(f"create tablespace fast location '{directory / 'fast'}'")
    server.execute("create table placed tablespace fast as select * from plain")
    return server


def started_standby(server: PrimaryServer, directory: Path) -> PrimaryServer:
    """A native standby of `server` on the seed in `directory`."""
    standby = PrimaryServer(server.installation, directory, free_port())
    standby.configure(
        {
            "port": str(standby.port),
            "unix_socket_directories": str(directory),
            "primary_conninfo": server.dsn(),
        }
    )
    signal_file = standby.data / "standby.signal"
    signal_file.touch()
    give_to_server(signal_file)
    server.clones.append(standby)
    standby.start()
    return standby


@all_majors
async def test_a_seed_of_every_major_starts_as_a_standby_with_its_tablespace(
    primary: PrimaryFactory, shared_tmp_path: Path, major: int
) -> None:
    server = filled(primary, shared_tmp_path, major)
    async with applying(shared_tmp_path / "incarnation", server) as applier:
        sender = SeedSender(server.dsn(), system_identifier=system_identifier(server))
        end = await sender.run(applier.take)
        assert applier.placed is not None and applier.placed.end_lsn == end.end_lsn
        assert list(applier.placed.tablespaces.values()) == [str(shared_tmp_path / "fast")]
        assert 0 < sender.estimated_bytes <= sender.done_bytes * 1.1
        assert applier.receiver.received_bytes == sender.done_bytes
    server.execute("insert into placed values (0, 'after the seed')")
    standby = started_standby(server, applier.directory)
    links = list((standby.data / "pg_tblspc").iterdir())
    assert [link.readlink().parent for link in links] == [applier.directory / "tablespaces"]
    wait_until(
        lambda: standby.execute("select count(*) from placed") == [(20001,)], 30, "the last row"
    )
    assert standby.execute("select sum(g) from plain") == [(20000 * 20001 // 2,)]


async def test_a_byte_changed_on_the_way_under_a_right_crc_is_found_by_the_manifest(
    primary: PrimaryFactory, shared_tmp_path: Path
) -> None:
    server = primary()
    server.execute("create table t as select 'tamper-with-this-text' from generate_series(1, 500)")
    server.execute("checkpoint")
    async with applying(shared_tmp_path / "incarnation", server) as applier:
        tampered = 0

        async def tampering(frame: SeedFrame, payload: bytes | memoryview) -> None:
            nonlocal tampered
            if isinstance(frame, SeedChunk) and frame.kind == "data" and not tampered:
                raw = unseal(
                    frame.codec, frame.crc32c, frame.raw_bytes, payload, max_raw_bytes=1 << 22
                )
                changed = bytes(raw).replace(MARKER, b"T" + MARKER[1:], 1)
                if changed != raw:
                    tampered += 1
                    sealed = seal(changed)
                    payload = sealed.payload
                    frame = SeedChunk(
                        seed_id=frame.seed_id,
                        sequence=frame.sequence,
                        kind="data",
                        raw_bytes=sealed.raw_bytes,
                        crc32c=sealed.crc32c,
                        codec=sealed.codec,
                    )
            await applier.take(frame, payload)

        with pytest.raises(LogshipError) as caught:
            await SeedSender(server.dsn()).run(tampering)
        assert tampered == 1
        assert caught.value.code is Code.SEED_MANIFEST_MISMATCH
        assert "base/" in caught.value.what
        assert not (applier.directory / "data").exists()
        await SeedSender(server.dsn()).run(applier.take)
        assert applier.placed is not None


async def test_a_cut_in_the_middle_continues_with_what_was_not_acknowledged(
    primary: PrimaryFactory, shared_tmp_path: Path
) -> None:
    server = filled(primary, shared_tmp_path)
    async with applying(shared_tmp_path / "incarnation", server) as applier:
        kept: list[tuple[SeedFrame, bytes]] = []

        async def lossy(frame: SeedFrame, payload: bytes | memoryview) -> None:
            """Cut before the fifth chunk; back again, all is repeated, after the ninth."""
            kept.append((frame, bytes(payload)))
            sequence = getattr(frame, "sequence", -1)
            if sequence < 5 or sequence > 9:
                await applier.take(frame, payload)
            elif sequence == 9:
                for missed in kept:
                    await applier.take(*missed)

        await SeedSender(server.dsn(), compress=False).run(lossy)
        assert len(kept) > 15 and applier.placed is not None


async def test_a_primary_that_dies_in_the_middle_leaves_nothing_behind(
    primary: PrimaryFactory, shared_tmp_path: Path
) -> None:
    server = primary()
    # Throttled, as the whole backup fits into the socket's buffers otherwise.
    sender = SeedSender(server.dsn(), max_rate_kb_s=1024)
    async with applying(shared_tmp_path / "incarnation", server) as applier:
        told: list[SeedFrame] = []

        async def send(frame: SeedFrame, payload: bytes | memoryview) -> None:
            told.append(frame)
            await applier.take(frame, payload)
            if getattr(frame, "sequence", -1) == 1:
                server.kill()

        with pytest.raises(LogshipError) as caught:
            await sender.run(send)
        assert caught.value.retryable
        assert type(told[-1]).__name__ == "SeedAborted"
        assert not list(applier.directory.iterdir())


@pytest.mark.parametrize("major", [MAJORS[0], MAJORS[-1]])
async def test_a_seed_starts_from_its_archive(
    primary: PrimaryFactory, shared_tmp_path: Path, major: int
) -> None:
    server = filled(primary, shared_tmp_path, major)
    keys = Keys("main", Incarnation(system_identifier(server), major))
    store = DirectoryStore(shared_tmp_path / "archive")
    writer = SeedArchiveWriter(store, keys)

    async def keep(frame: SeedFrame, payload: bytes | memoryview) -> None:
        await asyncio.to_thread(writer.take, frame, payload)

    sender = SeedSender(server.dsn())
    await sender.run(keep)
    (info,) = list_seeds(store, keys)
    assert info.raw_bytes == sender.done_bytes and info.stored_bytes < info.raw_bytes / 2
    async with applying(shared_tmp_path / "incarnation", server) as applier:
        for frame, payload in read_seed(store, keys, info):
            await applier.take(frame, payload)
        assert applier.placed is not None and applier.placed.end_lsn == info.end_lsn
    server.execute("insert into placed values (0, 'after the seed')")
    standby = started_standby(server, applier.directory)
    wait_until(
        lambda: standby.execute("select count(*) from placed") == [(20001,)], 30, "the last row"
    )
    assert standby.execute("select sum(g) from plain") == [(20000 * 20001 // 2,)]
