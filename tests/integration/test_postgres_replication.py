"""The replication client against real servers of all five majors."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import crc32c
import pytest

from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from logship.postgres.replication import (
    ArchiveStart,
    BackupEnd,
    BackupEvent,
    BackupStart,
    Data,
    EndOfTimeline,
    Keepalive,
    ManifestStart,
    ReplicationConnection,
    XLogData,
)
from logship.wal import parse_history, segment_name, segment_start
from tests.conftest import PrimaryFactory
from tests.support.installations import all_majors
from tests.support.processes import give_to_server, make_server_directory
from tests.support.servers import PrimaryServer
from tests.support.waiting import free_port, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def primary(primary: PrimaryFactory) -> PrimaryFactory:
    """Servers that do not fsync: nothing here needs it, and it takes most of the time."""

    def make(
        *args: Any, settings: Mapping[str, str] | None = None, **arguments: Any
    ) -> PrimaryServer:
        return primary(*args, settings={"fsync": "off", **(settings or {})}, **arguments)

    return make


MB = 1 << 20


async def connect(conninfo: str, timeout_seconds: float = 10.0) -> ReplicationConnection:
    return await ReplicationConnection.connect(
        conninfo, application_name="tested", timeout_seconds=timeout_seconds
    )


async def in_thread(server: PrimaryServer, *statements: str) -> None:
    for sql in statements:
        await asyncio.to_thread(server.execute, sql)  # type: ignore[arg-type]


async def stream_until(
    connection: ReplicationConnection, end: int, batch_bytes: int = MB
) -> tuple[Lsn, bytes]:
    """(start, bytes) of the stream up to `end` at least, checked to have no gap."""
    start: Lsn | None = None
    received = bytearray()
    while start is None or start + len(received) < end:
        for event in await asyncio.wait_for(connection.receive_batch(batch_bytes), 20):
            if isinstance(event, XLogData):
                start = event.start_lsn if start is None else start
                assert event.start_lsn == start + len(received)
                received += event.data
            elif isinstance(event, Keepalive):
                connection.send_status(0, 0, 0)
    return start, bytes(received)


def wal_bytes(server: PrimaryServer, timeline: int, start: int, size: int) -> bytes:
    """What stands in the server's pg_wal."""
    content = bytearray()
    at = segment_start(start, 16 * MB)
    while len(content) < start - segment_start(start, 16 * MB) + size:
        name = segment_name(timeline, at, 16 * MB)
        content += (server.data / "pg_wal" / name).read_bytes()
        at = Lsn(at + 16 * MB)
    offset = start % (16 * MB)
    return bytes(content[offset : offset + size])


def registered_descriptors() -> set[int]:
    """What the running loop watches, its own wake-up socket aside."""
    loop = asyncio.get_running_loop()
    return {
        fd
        for fd, key in loop._selector.get_map().items()  # type: ignore[attr-defined]
        if key.data[0] is None or "_read_from_self" not in repr(key.data[0])
    }


@all_majors
async def test_the_system_is_identified(primary: PrimaryFactory, major: int) -> None:
    server = primary(major, wal_segsize_mb=4)
    async with await connect(server.dsn()) as connection:
        identity = await connection.identify_system()
        assert connection.server_version_num // 10000 == major
        assert connection.is_standby is False
        assert await connection.show("wal_segment_size") == "4MB"
        with pytest.raises(LogshipError) as caught:
            await connection.timeline_history(1)
        assert caught.value.code is Code.HISTORY_MISSING
        # A refused command leaves the session as it was.
        assert (await connection.identify_system()).timeline == 1
    rows = server.execute("select system_identifier from pg_control_system()")
    assert rows == [(identity.system_identifier,)]
    assert identity.flush_lsn <= Lsn.parse(server.current_wal_lsn())
    assert registered_descriptors() == set()


@all_majors
async def test_slots_are_made_used_and_dropped(primary: PrimaryFactory, major: int) -> None:
    server = primary(major)
    async with await connect(server.dsn()) as one, await connect(server.dsn()) as two:
        assert await one.create_physical_slot("ours")
        assert not await one.create_physical_slot("ours")
        rows = server.execute("select slot_type, restart_lsn is not null from pg_replication_slots")
        assert rows == [("physical", True)]

        start = segment_start((await one.identify_system()).flush_lsn, 16 * MB)
        await one.start_replication("ours", start, 1)
        with pytest.raises(LogshipError) as caught:
            await two.start_replication("ours", start, 1)
        assert caught.value.code is Code.SLOT_IN_USE
        assert caught.value.retryable
        holder = server.execute("select active_pid from pg_replication_slots")[0][0]
        assert str(holder) in caught.value.what
        with pytest.raises(LogshipError) as caught:
            await two.drop_slot("ours")
        assert caught.value.code is Code.SLOT_IN_USE
        one.close()
        await asyncio.to_thread(
            wait_until,
            lambda: server.execute("select active from pg_replication_slots") == [(False,)],
            30,
            "the end of the first walsender",
        )
        assert await two.drop_slot("ours")
        assert not await two.drop_slot("ours")
        with pytest.raises(LogshipError) as caught:
            await two.start_replication("ours", start, 1)
        assert caught.value.code is Code.SLOT_LOST
    with pytest.raises(LogshipError, match="cannot name a replication slot"):
        await one.create_physical_slot('a" b')


@all_majors
async def test_a_slot_whose_wal_is_gone_is_told_from_a_slot_that_waits(
    primary: PrimaryFactory, major: int
) -> None:
    server = primary(
        major,
        wal_segsize_mb=1,
        settings={"max_slot_wal_keep_size": "2MB", "min_wal_size": "2MB", "max_wal_size": "2MB"},
    )
    async with await connect(server.dsn()) as connection:
        await connection.create_physical_slot("ours")
        start = segment_start((await connection.identify_system()).flush_lsn, MB)

        def lose() -> bool:
            server.execute("select pg_switch_wal()")
            server.execute("create table if not exists t (n int)")
            server.execute("insert into t values (1)")
            server.execute("checkpoint")
            return server.execute("select wal_status from pg_replication_slots") == [("lost",)]

        await asyncio.to_thread(wait_until, lose, 60, "the loss of the slot")
        with pytest.raises(LogshipError) as caught:
            await connection.start_replication("ours", start, 1)
            await connection.receive()
        assert caught.value.code in (Code.SLOT_LOST, Code.WAL_REMOVED)
        assert not caught.value.retryable

        with pytest.raises(LogshipError) as caught:
            await connection.start_replication(None, start, 1)
            await connection.receive()
        assert caught.value.code is Code.WAL_REMOVED
        # It still takes commands.
        assert (await connection.identify_system()).timeline == 1


@all_majors
async def test_the_stream_is_the_servers_wal_byte_for_byte(
    primary: PrimaryFactory, major: int
) -> None:
    server = primary(major)
    async with await connect(server.dsn()) as connection:
        await connection.create_physical_slot("ours")
        begin = segment_start((await connection.identify_system()).flush_lsn, 16 * MB)
        await connection.start_replication("ours", begin, 1)
        await in_thread(
            server, "create table t as select n, repeat('x', 400) from generate_series(1, 60000) n"
        )
        end = Lsn.parse(await asyncio.to_thread(server.current_wal_lsn))
        start, received = await stream_until(connection, end)
        assert start == begin
        assert received == wal_bytes(server, 1, start, len(received))
        assert len(received) > 20 * MB

        connection.send_status(end, end, end)

        def reported() -> bool:
            return server.execute(
                "select flush_lsn, r.application_name, restart_lsn from pg_stat_replication r,"
                " pg_replication_slots"
            ) == [(str(end), "tested", str(end))]

        await asyncio.to_thread(wait_until, reported, 30, "our position on the primary")


async def test_a_keepalive_answers_a_status_that_asks_for_one(primary: PrimaryFactory) -> None:
    server = primary()
    async with await connect(server.dsn()) as connection:
        end = (await connection.identify_system()).flush_lsn
        await connection.start_replication(None, segment_start(end, 16 * MB), 1)
        await stream_until(connection, end)
        connection.send_status(end, end, end, reply_requested=True)
        event = await asyncio.wait_for(connection.receive(), 30)
        while not isinstance(event, Keepalive):
            event = await asyncio.wait_for(connection.receive(), 30)
        assert event.wal_end >= end
        assert abs(event.sent_at - time.time()) < 60


async def test_single_receives_give_what_batches_give(primary: PrimaryFactory) -> None:
    server = primary()
    await in_thread(server, "create table t as select generate_series(1, 100000) as n")
    async with await connect(server.dsn()) as connection:
        end = (await connection.identify_system()).flush_lsn
        start = segment_start(end, 16 * MB)
        await connection.start_replication(None, start, 1)
        _, received = await stream_until(connection, end, batch_bytes=0)
    assert received == wal_bytes(server, 1, start, len(received))


async def test_a_start_past_the_servers_wal_has_its_own_code(primary: PrimaryFactory) -> None:
    server = primary()
    async with await connect(server.dsn()) as connection:
        end = (await connection.identify_system()).flush_lsn
        await connection.start_replication(None, segment_start(end, 16 * MB) + 16 * MB, 1)
        with pytest.raises(LogshipError) as caught:
            await connection.receive()
        assert caught.value.code is Code.PRIMARY_BEHIND
        with pytest.raises(LogshipError) as caught:
            await connection.start_replication(None, end, 7)
        assert caught.value.code is Code.NOT_IN_HISTORY


@all_majors
async def test_a_promotion_ends_the_timeline_and_leads_to_the_next(
    primary: PrimaryFactory, shared_tmp_path: Path, major: int
) -> None:
    server = primary(major)
    clone = await asyncio.to_thread(server.clone_as_standby, shared_tmp_path / "standby")
    await in_thread(server, "create table t as select generate_series(1, 1000) as n")
    # A segment before that of the table goes at the checkpoint that follows a promotion.
    written = await _flush_lsn(server)
    await asyncio.to_thread(
        wait_until, lambda: Lsn.parse(clone.current_wal_lsn()) >= written, 30, "replay"
    )
    async with await connect(clone.dsn()) as connection:
        assert connection.is_standby
        begin = segment_start((await connection.identify_system()).flush_lsn, 16 * MB)
        await connection.start_replication(None, begin, 1)
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(clone.promote)
        await in_thread(clone, "create table u as select generate_series(1, 1000) as n")

        end_of_first = begin
        while True:
            event = await asyncio.wait_for(connection.receive(), 30)
            if isinstance(event, XLogData):
                end_of_first = Lsn(event.start_lsn + len(event.data))
            elif isinstance(event, EndOfTimeline):
                break
        assert event.next_timeline == 2
        assert event.start_lsn == end_of_first
        name, content = await connection.timeline_history(2)
        assert name == "00000002.history"
        assert parse_history(2, content).end_of(1) == event.start_lsn
        assert content == (clone.data / "pg_wal" / name).read_bytes()

        identity = await connection.identify_system()
        assert identity.timeline == 2
        start = segment_start(event.start_lsn, 16 * MB)
        await connection.start_replication(None, start, 2)
        _, received = await stream_until(connection, identity.flush_lsn)
        assert received == wal_bytes(clone, 2, start, len(received))

    async with await connect(clone.dsn()) as connection:
        # From the very end of the first there is nothing but the way on.
        await connection.start_replication(None, event.start_lsn, 1)
        assert await connection.receive() == event
        # And past it, no way at all.
        with pytest.raises(LogshipError) as caught:
            await connection.start_replication(None, event.start_lsn + 1, 1)
        assert caught.value.code is Code.NOT_IN_HISTORY


@all_majors
async def test_a_base_backup_is_the_same_from_every_major(
    primary: PrimaryFactory, shared_tmp_path: Path, major: int
) -> None:
    server = primary(major)
    location = shared_tmp_path / "space"
    make_server_directory(location)
    server.execute(f"create tablespace space location '{location}'")  # type: ignore[arg-type]
    server.execute(
        "create table here as select n, repeat('x', 90) from generate_series(1, 90000) n"
    )
    server.execute("create table there tablespace space as select generate_series(1, 5000) as n")
    oid = server.execute("select oid::text from pg_tablespace where spcname = 'space'")[0][0]
    events: list[BackupEvent] = []
    archives: dict[str, bytearray] = {}
    into = bytearray()
    async with await connect(server.dsn()) as connection:
        async for event in connection.base_backup("it's ours"):
            if isinstance(event, Data):
                into += event.data
                continue
            if isinstance(event, ArchiveStart):
                into = archives[event.oid] = bytearray()
            elif isinstance(event, ManifestStart):
                into = archives["manifest"] = bytearray()
            events.append(event)
        assert (await connection.identify_system()).timeline == 1

    begin, end = events[0], events[-1]
    assert isinstance(begin, BackupStart)
    assert isinstance(end, BackupEnd)
    assert begin.timeline == end.timeline == 1
    assert begin.start_lsn < end.end_lsn
    assert [(str(t.oid), t.location) for t in begin.tablespaces] == [(oid, str(location))]
    assert begin.estimated_bytes > 10 * MB
    assert set(archives) == {"", oid, "manifest"}
    assert list(archives)[-1] == "manifest"

    manifest = json.loads(archives["manifest"])
    listed = {entry["Path"]: entry for entry in manifest["Files"]}
    files: dict[str, bytes] = {}
    for name, prefix in (("", ""), (oid, f"pg_tblspc/{oid}/")):
        archive = bytes(archives[name]) + bytes(1024)  # 14 leaves the end off
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar:
                if member.isfile():
                    reader = tar.extractfile(member)
                    assert reader is not None
                    files[prefix + member.name] = reader.read()
                elif member.issym():
                    assert member.name == f"pg_tblspc/{oid}/"
                    assert member.linkname == str(location)
    for path, entry in listed.items():
        assert len(files[path]) == entry["Size"]
        checksum = crc32c.crc32c(files[path]).to_bytes(4, "little").hex()
        assert checksum == entry["Checksum"], path
    assert b"LABEL: it's ours" in files["backup_label"]
    assert "tablespace_map" not in files


async def test_a_base_backup_left_early_closes_its_connection(primary: PrimaryFactory) -> None:
    server = primary()
    connection = await connect(server.dsn())
    events = connection.base_backup("left")
    async for event in events:
        if isinstance(event, Data):
            break
    await events.aclose()
    with pytest.raises(LogshipError, match="closed on this side"):
        await connection.identify_system()
    assert registered_descriptors() == set()
    await asyncio.to_thread(
        wait_until,
        lambda: server.execute("select count(*) from pg_stat_replication") == [(0,)],
        30,
        "the end of the walsender",
    )


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
async def test_a_server_that_ends_in_mid_stream_can_be_tried_again(
    primary: PrimaryFactory, mode: str
) -> None:
    server = primary()
    connection = await connect(server.dsn())
    end = (await connection.identify_system()).flush_lsn
    await connection.start_replication(None, segment_start(end, 16 * MB), 1)
    await stream_until(connection, end)
    stop = asyncio.create_task(
        asyncio.to_thread(server.kill) if mode == "kill" else asyncio.to_thread(server.stop, mode)  # type: ignore[arg-type]
    )
    with pytest.raises(LogshipError) as caught:
        while True:
            event = await asyncio.wait_for(connection.receive(), 30)
            # A fast shutdown waits until we have all.
            if isinstance(event, XLogData):
                end = Lsn(event.start_lsn + len(event.data))
            connection.send_status(end, end, end)
    assert caught.value.code is Code.PRIMARY_UNREACHABLE
    assert caught.value.retryable
    await stop
    connection.close()
    with pytest.raises(LogshipError) as caught:
        await connect(server.dsn())
    assert caught.value.code is Code.PRIMARY_UNREACHABLE
    assert caught.value.retryable

    await asyncio.to_thread(server.start)
    async with await connect(server.dsn()) as again:
        await again.start_replication(None, segment_start(end, 16 * MB), 1)
        await stream_until(again, (await _flush_lsn(server)))
    assert registered_descriptors() == set()


async def _flush_lsn(server: PrimaryServer) -> Lsn:
    return Lsn.parse(await asyncio.to_thread(server.current_wal_lsn))


async def test_a_terminated_walsender_can_be_tried_again(primary: PrimaryFactory) -> None:
    server = primary()
    async with await connect(server.dsn()) as connection:
        end = (await connection.identify_system()).flush_lsn
        await connection.start_replication(None, segment_start(end, 16 * MB), 1)
        await stream_until(connection, end)
        await in_thread(server, "select pg_terminate_backend(pid) from pg_stat_replication")
        with pytest.raises(LogshipError, match="administrator command") as caught:
            while True:
                await asyncio.wait_for(connection.receive(), 30)
    assert caught.value.code is Code.PRIMARY_UNREACHABLE
    assert caught.value.retryable


async def test_a_cancelled_receive_loses_nothing(primary: PrimaryFactory) -> None:
    server = primary()
    async with await connect(server.dsn()) as connection:
        end = (await connection.identify_system()).flush_lsn
        start = segment_start(end, 16 * MB)
        await connection.start_replication(None, start, 1)
        _, received = await stream_until(connection, end)
        receiving = asyncio.create_task(connection.receive_batch(MB))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        assert registered_descriptors() == set()
        await in_thread(server, "create table t as select generate_series(1, 1000) as n")
        more_start, more = await stream_until(connection, await _flush_lsn(server))
        assert more_start == start + len(received)
        assert received + more == wal_bytes(server, 1, start, len(received + more))


async def test_closing_wakes_who_waits(primary: PrimaryFactory) -> None:
    server = primary()
    connection = await connect(server.dsn())
    end = (await connection.identify_system()).flush_lsn
    await connection.start_replication(None, segment_start(end, 16 * MB), 1)
    await stream_until(connection, end)
    receiving = asyncio.create_task(_receive_for_ever(connection))
    await asyncio.sleep(0.05)
    connection.close()
    connection.close()
    with pytest.raises(LogshipError, match="closed on this side"):
        await asyncio.wait_for(receiving, 5)
    connection.send_status(end, end, end)
    assert registered_descriptors() == set()


async def test_closing_ends_a_receive_that_lets_others_have_their_turn(
    primary: PrimaryFactory,
) -> None:
    server = primary()
    async with await connect(server.dsn()) as connection:
        end = (await connection.identify_system()).flush_lsn
        await connection.start_replication(None, segment_start(end, 16 * MB), 1)
        await connection.receive()
        receiving = asyncio.create_task(connection.receive())
        await asyncio.sleep(0)
        connection.close()
        with pytest.raises(LogshipError, match="closed on this side"):
            await asyncio.wait_for(receiving, 5)


async def _receive_for_ever(connection: ReplicationConnection) -> None:
    while True:
        await connection.receive()


async def test_many_statuses_to_a_server_that_does_not_read_do_not_pile_up(
    primary: PrimaryFactory,
) -> None:
    """A walsender that is stopped reads nothing; the newest status still arrives in the end."""
    server = primary()
    # A unix socket's buffers are small.
    async with await connect(server.dsn(host=str(server.socket_directory))) as connection:
        end = (await connection.identify_system()).flush_lsn
        await connection.start_replication(None, segment_start(end, 16 * MB), 1)
        await stream_until(connection, end)
        pid = server.execute("select pid from pg_stat_replication")[0][0]
        signal_process(pid, "SIGSTOP")
        try:
            for _ in range(20_000):  # 800 kB, more than the socket takes
                connection.send_status(1, 1, 1)
            for _ in range(100):
                connection.send_status(end, end, end)
            assert registered_descriptors()
        finally:
            signal_process(pid, "SIGCONT")
        reported = False
        while not reported:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(_receive_for_ever(connection), 0.1)
            rows = await asyncio.to_thread(
                server.execute, "select flush_lsn from pg_stat_replication"
            )
            reported = rows == [(str(end),)]
        assert registered_descriptors() == set()


def signal_process(pid: int, name: str) -> None:
    os.kill(pid, getattr(signal, name))


# --- connecting -----------------------------------------------------------------------------


async def test_of_several_hosts_the_one_that_takes_writes_is_found(
    primary: PrimaryFactory, shared_tmp_path: Path
) -> None:
    server = primary()
    clone = await asyncio.to_thread(server.clone_as_standby, shared_tmp_path / "standby")
    nobody = free_port()
    ports = f"{nobody},{clone.port},{server.port}"
    conninfo = server.dsn(host="127.0.0.1,127.0.0.1,127.0.0.1", port=ports)
    async with await connect(f"{conninfo} target_session_attrs=read-write") as connection:
        assert connection.target == f"127.0.0.1:{server.port}"
        assert not connection.is_standby
    async with await connect(conninfo) as connection:
        assert connection.target == f"127.0.0.1:{clone.port}"
    uri = (
        f"postgresql://postgres@127.0.0.1:{nobody},127.0.0.1:{clone.port}/"
        "?target_session_attrs=read-write"
    )
    with pytest.raises(LogshipError, match="read-only") as caught:
        await connect(uri)
    assert caught.value.code is Code.PRIMARY_NOT_READY
    assert caught.value.retryable
    assert "refused" in caught.value.what  # it says what each of them said
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(clone.promote)
    async with await connect(f"{conninfo} target_session_attrs=read-write") as connection:
        assert connection.target == f"127.0.0.1:{clone.port}"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port where connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def test_a_host_that_says_nothing_does_not_keep_us_from_the_next(
    primary: PrimaryFactory, silent_port: int
) -> None:
    server = primary()
    conninfo = server.dsn(host="127.0.0.1,127.0.0.1", port=f"{silent_port},{server.port}")
    # The server has as long, which is little where much else runs.
    async with await connect(conninfo, timeout_seconds=4) as connection:
        assert connection.target == f"127.0.0.1:{server.port}"
    with pytest.raises(LogshipError, match=r"no answer within 0\.5 s") as caught:
        await connect(server.dsn(port=silent_port), timeout_seconds=0.5)
    assert caught.value.code is Code.PRIMARY_UNREACHABLE
    assert caught.value.retryable
    assert registered_descriptors() == set()


async def test_a_cancelled_connect_leaves_nothing(silent_port: int) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await connect(f"host=127.0.0.1 port={silent_port} user=postgres")
    assert registered_descriptors() == set()


async def test_service_files_and_passfiles_are_read(
    primary: PrimaryFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = primary()
    demand_passwords(server, "sec ret")
    service = tmp_path / "services"
    service.write_text(
        f"[prod]\nhost=127.0.0.1,127.0.0.1\nport={free_port()},{server.port}\nuser=shipper\n"
    )
    passfile = tmp_path / "passfile"
    passfile.write_text(f"127.0.0.1:{server.port}:replication:shipper:sec ret\n")
    passfile.chmod(0o600)
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    async with await connect(f"service=prod passfile={passfile}") as connection:
        assert connection.target == f"127.0.0.1:{server.port}"
        assert (await connection.identify_system()).timeline == 1
    with pytest.raises(LogshipError) as caught:
        await connect(f"service=prod passfile={tmp_path}/none port={server.port} host=127.0.0.1")
    assert caught.value.code is Code.PRIMARY_REFUSED
    assert "replication" in caught.value.hint
    with pytest.raises(LogshipError) as caught:
        await connect("service=absent")
    assert caught.value.code is Code.SETTINGS


def demand_passwords(server: PrimaryServer, password: str) -> None:
    server.execute("create role shipper replication login")
    server.execute("create role reader login")
    server.execute(f"alter role shipper password '{password}'")  # type: ignore[arg-type]
    server.execute(f"alter role reader password '{password}'")  # type: ignore[arg-type]
    hba = server.data / "pg_hba.conf"
    hba.write_text(
        "host all postgres 127.0.0.1/32 trust\n"
        "host replication shipper,reader 127.0.0.1/32 scram-sha-256\n"
    )
    give_to_server(hba)
    server.reload()


@all_majors
async def test_refusals_say_what_to_do_and_never_the_password(
    primary: PrimaryFactory, major: int
) -> None:
    server = primary(major)
    demand_passwords(server, "right-secret")
    for user, password, says in (
        ("shipper", "wrong-secret", "password authentication failed"),
        ("reader", "right-secret", "replication" if major < 16 else "REPLICATION"),
        ("postgres", "right-secret", "pg_hba.conf"),
    ):

        async def refused(conninfo: str = server.dsn(user=user, password=password)) -> LogshipError:
            with pytest.raises(LogshipError) as caught:
                (await connect(conninfo)).close()
            return caught.value

        error = await refused()
        assert error.code is Code.PRIMARY_REFUSED, (user, error)
        assert says in error.what
        assert error.hint
        assert not error.retryable
        assert "secret" not in repr(error) + str(error)
    async with await connect(server.dsn(user="shipper", password="right-secret")):
        pass


async def test_a_string_that_can_not_be_read_is_no_leak() -> None:
    for conninfo in ("host=h password=se cret", "postgresql://u:secret@[h", "passwort=secret"):
        with pytest.raises(LogshipError) as caught:
            await connect(conninfo)
        assert caught.value.code is Code.SETTINGS
        assert "cret" not in str(caught.value), conninfo


async def test_a_server_without_free_walsenders_is_worth_another_try(
    primary: PrimaryFactory,
) -> None:
    server = primary(settings={"max_wal_senders": "1"})
    async with await connect(server.dsn()):
        with pytest.raises(LogshipError) as caught:
            await connect(server.dsn())
    assert caught.value.code is Code.PRIMARY_NOT_READY
    assert caught.value.retryable
    assert "max_wal_senders" in caught.value.hint


async def test_unknown_hosts_and_missing_sockets_are_unreachable(tmp_path: Path) -> None:
    for host in ("no-such-host.invalid", str(tmp_path)):
        with pytest.raises(LogshipError) as caught:
            await connect(f"host={host} user=postgres")
        assert caught.value.code is Code.PRIMARY_UNREACHABLE
        assert caught.value.retryable
        assert host in caught.value.what


async def test_unix_sockets_work(primary: PrimaryFactory) -> None:
    server = primary()
    async with await connect(server.dsn(host=str(server.socket_directory))) as connection:
        assert (await connection.identify_system()).timeline == 1
