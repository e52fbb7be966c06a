"""The WAL server before real walreceivers of all majors."""

from __future__ import annotations

import asyncio
import os
import pwd
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from applier.store.store import Store
from applier.walserver.gate import OPEN_GATE
from applier.walserver.server import WalServer
from applier.walserver.status import StandbyState, StandbyStatus
from logship.errors import Code
from logship.lsn import Lsn, Position
from tests.conftest import PrimaryFactory
from tests.integration.walserver_feed import feeding, source_of
from tests.support.installations import all_majors
from tests.support.processes import server_account
from tests.support.servers import PrimaryServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

FAST = {
    "wal_retrieve_retry_interval": "100ms",
    "wal_receiver_status_interval": "1s",
    "hot_standby": "on",
}


PATIENCE_SECONDS = 30.0


def standby_uid() -> int:
    account: pwd.struct_passwd | None = server_account()
    return os.geteuid() if account is None else account.pw_uid


@pytest.fixture
async def server(shared_tmp_path: Path) -> AsyncIterator[WalServer]:
    made = new_server(shared_tmp_path)
    await made.start()
    yield made
    await made.stop()


def new_server(directory: Path) -> WalServer:
    return WalServer(directory / "wal", 6000, allowed_uids=frozenset({standby_uid()}))


async def start_standby(
    origin: PrimaryServer,
    server: WalServer,
    name: str = "standby",
    settings: Mapping[str, str] | None = None,
) -> PrimaryServer:
    """A clone of `origin` that streams from `server`."""
    directory = server.socket_path.parent
    conninfo = f"host={directory} port=6000 user=orders application_name={name}"
    ours = {**FAST, "primary_conninfo": conninfo, "primary_slot_name": "", **(settings or {})}
    return await asyncio.to_thread(
        origin.clone_as_standby, origin.directory.parent / name, settings=ours
    )


async def rows(server: PrimaryServer, count: int) -> None:
    """Wait until the table `t` of `server` has `count` rows."""

    def seen() -> bool:
        return server.execute("select count(*) from t") == [(count,)]

    what = f"{count} rows on {server.directory.name}"
    await asyncio.to_thread(wait_until, seen, PATIENCE_SECONDS, what)


async def insert(server: PrimaryServer, count: int = 1) -> None:
    await asyncio.to_thread(
        server.execute, "insert into t select repeat('x', 500) from generate_series(1, %s)", count
    )


async def create_table(server: PrimaryServer) -> None:
    await asyncio.to_thread(server.execute, "create table t (v text)")


async def refused(server: WalServer, *, other_than_pid: int = 0) -> StandbyStatus:
    """The only standby, as it is when it is refused.  Later it may have come again, and a new
    connection is refused only once it has asked."""
    seen: list[StandbyStatus] = []

    def condition(standbys: Sequence[StandbyStatus]) -> bool:
        seen[:] = standbys
        return [s.state for s in standbys] == [StandbyState.REFUSED] and (
            standbys[0].pid != other_than_pid
        )

    await server.wait_until("orders", condition, PATIENCE_SECONDS)
    return seen[0]


def is_in(state: StandbyState, name: str = "standby") -> Callable[[Sequence[StandbyStatus]], bool]:
    def condition(standbys: Sequence[StandbyStatus]) -> bool:
        return any(s.state is state and s.application_name == name for s in standbys)

    return condition


@all_majors
async def test_a_standby_follows_and_comes_back_after_our_restart(
    major: int, primary: PrimaryFactory, server: WalServer, shared_tmp_path: Path
) -> None:
    origin = primary(major, wal_segsize_mb=1)
    await create_table(origin)
    source = source_of(origin, major)
    async with feeding(origin, source):
        server.serve("orders", source, f"{major}.1")
        standby = await start_standby(origin, server)
        await rows(standby, 0)
        waits = []
        for count in range(1, 4):
            await insert(origin)
            started = time.monotonic()
            await rows(standby, count)
            waits.append(time.monotonic() - started)
        assert min(waits) < 1
        await server.stop()

        again = new_server(shared_tmp_path)
        again.serve("orders", source, f"{major}.1")
        await insert(origin, 5000)  # More than two segments.
        await again.start()
        try:
            await rows(standby, 5003)
            written = source.written
            assert written is not None
            status = await again.wait_for_flush("orders", written, PATIENCE_SECONDS)
            assert status.application_name == "standby"
            assert status.timeline == 1
            assert status.flush_lsn >= written.lsn
        finally:
            await again.stop()


@all_majors
async def test_a_timeline_switch_in_mid_segment_is_followed(
    major: int, primary: PrimaryFactory, server: WalServer
) -> None:
    origin = primary(major, wal_segsize_mb=1)
    await create_table(origin)
    source = source_of(origin, major)
    async with feeding(origin, source):
        server.serve("orders", source, f"{major}.1")
        standby = await start_standby(origin, server)
        successor = await asyncio.to_thread(
            origin.clone_as_standby, origin.directory.parent / "successor"
        )
        await insert(origin, 100)
        await rows(standby, 100)
        await rows(successor, 100)
    await asyncio.to_thread(origin.stop, "immediate")
    process = server.standbys("orders")[0].pid
    await asyncio.to_thread(successor.promote)
    async with feeding(successor, source):
        assert source.written is not None
        assert source.written.timeline == 2
        await insert(successor, 5000)
        await rows(standby, 5100)
        await server.wait_until(
            "orders", lambda seen: any(s.timeline == 2 for s in seen), PATIENCE_SECONDS
        )
    [status] = server.standbys("orders")
    assert status.pid == process, "the walreceiver lived through the switch"
    assert "FATAL" not in standby.log.split("started streaming", 1)[1]


async def test_the_gate_holds_a_standby_and_lets_it_go(
    primary: PrimaryFactory, server: WalServer
) -> None:
    origin = primary(18, wal_segsize_mb=1)
    await create_table(origin)
    source = source_of(origin, 18)
    async with feeding(origin, source):
        server.serve("orders", source, "18.1")
        standby = await start_standby(origin, server)
        await insert(origin, 10)
        await rows(standby, 10)
        await server.wait_until("orders", is_in(StandbyState.STREAMING), PATIENCE_SECONDS)
        gate = server.hold("orders")
        await insert(origin, 3000)
        await server.wait_until("orders", is_in(StandbyState.HELD), PATIENCE_SECONDS)
        [status] = server.standbys("orders")
        assert status.sent_lsn == gate.hold_at_lsn
        assert source.written is not None
        assert source.written.lsn > status.sent_lsn
        assert await asyncio.to_thread(standby.execute, "select count(*) from t") == [(10,)]
        server.set_gate("orders", OPEN_GATE)
        await rows(standby, 3010)


@pytest.mark.parametrize("major", [14, 18])
async def test_a_standby_ahead_of_the_fork_is_refused_and_named(
    major: int, primary: PrimaryFactory, server: WalServer
) -> None:
    origin = primary(major, wal_segsize_mb=16)
    await create_table(origin)
    source = source_of(origin, major)
    async with feeding(origin, source):
        server.serve("orders", source, f"{major}.1")
        standby = await start_standby(origin, server)
        successor = await asyncio.to_thread(
            origin.clone_as_standby, origin.directory.parent / "successor"
        )
        await insert(origin)
        await rows(successor, 1)
        # The successor is cut off; what the origin writes now only our standby gets.
        await asyncio.to_thread(successor.stop)
        await insert(origin, 10)
        await rows(standby, 11)
    await asyncio.to_thread(origin.stop, "immediate")
    successor.configure({"primary_conninfo": ""})
    await asyncio.to_thread(successor.start)
    await asyncio.to_thread(successor.promote)
    with capture_logs() as logs:
        async with feeding(successor, source):
            first = await refused(server)
            # It tries again and again; said once, and kept although it is gone each time.
            status = await refused(server, other_than_pid=first.pid)
    assert status.refusal is not None
    assert status.refusal.code is Code.STANDBY_AHEAD_OF_FORK
    assert "forked from timeline 1" in status.refusal.what
    refusals = [entry for entry in logs if entry["event"] == "standby refused"]
    assert [entry["code"] for entry in refusals] == ["standby-ahead-of-fork"]
    assert "not in this server's history" in standby.log
    assert await asyncio.to_thread(standby.execute, "select count(*) from t") == [(11,)]


async def test_an_idle_standby_stays_connected(
    primary: PrimaryFactory, shared_tmp_path: Path
) -> None:
    origin = primary(17, wal_segsize_mb=1)
    source = source_of(origin, 17)
    # Longer than a busy machine keeps either of them from saying anything.
    timeout_seconds = 5
    server = WalServer(
        shared_tmp_path / "wal",
        6000,
        allowed_uids=frozenset({standby_uid()}),
        timeout_seconds=timeout_seconds,
    )
    await server.start()
    try:
        server.serve("orders", source, "17.1")
        # It reports by itself only every hour, and gives us up after as long a silence.
        settings = {
            "wal_receiver_status_interval": "3600s",
            "wal_receiver_timeout": f"{timeout_seconds}s",
        }
        async with feeding(origin, source):
            await start_standby(origin, server, settings=settings)
        await server.wait_until("orders", is_in(StandbyState.STREAMING), PATIENCE_SECONDS)
        [before] = server.standbys("orders")
        last = before.last_reply_at
        assert last is not None

        def heard_long_after(standbys: Sequence[StandbyStatus]) -> bool:
            return any((s.last_reply_at or 0) > last + 2 * timeout_seconds for s in standbys)

        await server.wait_until("orders", heard_long_after, 2 * PATIENCE_SECONDS)
        [after] = server.standbys("orders")
        assert after.pid == before.pid
        assert after.connected_at == before.connected_at
    finally:
        await server.stop()


async def test_a_standby_ahead_of_what_is_written_waits_and_goes_on(
    primary: PrimaryFactory, server: WalServer
) -> None:
    origin = primary(16, wal_segsize_mb=1)
    await create_table(origin)
    source = source_of(origin, 16)
    async with feeding(origin, source):
        server.serve("orders", source, "16.1")
        standby = await start_standby(origin, server)
        before = source.written
        await insert(origin, 5000)
        await rows(standby, 5000)
    assert before is not None
    server.withdraw("orders")
    source.lose(1, before.lsn)  # As a crash of ours may: the standby has segments more.
    server.serve("orders", source, "16.1")
    await server.wait_until("orders", is_in(StandbyState.WAITING), PATIENCE_SECONDS)
    process = server.standbys("orders")[0].pid
    async with feeding(origin, source):
        await insert(origin)
        await rows(standby, 5001)
    assert server.standbys("orders")[0].pid == process
    assert await asyncio.to_thread(standby.execute, "select pg_is_in_recovery()") == [(True,)]


async def test_waiting_for_a_flush_that_does_not_come_times_out(
    primary: PrimaryFactory, server: WalServer
) -> None:
    origin = primary(15, wal_segsize_mb=1)
    source = source_of(origin, 15)
    async with feeding(origin, source):
        server.serve("orders", source, "15.1")
    assert source.written is not None
    beyond = Position(1, Lsn(source.written.lsn + 1))
    with pytest.raises(TimeoutError):
        await server.wait_for_flush("orders", beyond, 0.1)


async def test_a_standby_follows_out_of_the_real_store(
    primary: PrimaryFactory, server: WalServer, tmp_path: Path
) -> None:
    origin = primary(17, wal_segsize_mb=1)
    await create_table(origin)
    store = Store.open(tmp_path / "wal", source_of(origin, 17).line, keep_free_bytes=0)
    try:
        server.serve("orders", store, "17.1")
        async with feeding(origin, store):
            standby = await start_standby(origin, server)
            await insert(origin, 5000)
            await rows(standby, 5000)
            # Nothing was made durable here, and the standby has it all the same.
            assert store.written is not None
            await server.wait_for_flush("orders", store.written, PATIENCE_SECONDS)
        server.withdraw("orders")
    finally:
        store.close()
