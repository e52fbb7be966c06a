"""Source `stream` against real servers: the contract, and what is its own."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path

import pytest

from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from logship.wal import segment_name, segment_start
from shipper.agent.shipping import GAP_CODES
from shipper.sources import WalBytes
from shipper.sources.stream import StreamSource
from tests.conftest import PrimaryFactory
from tests.integration.source_contract import (
    PATIENCE_SECONDS,
    Collected,
    SourceContract,
    first_position,
    read_until,
    start_again,
)
from tests.support.installations import MAJORS
from tests.support.proxy import TcpProxy
from tests.support.servers import PrimaryServer
from tests.support.waiting import until, wait_until

pytestmark = pytest.mark.integration

SLOT = "logship_test"


class StreamRig:
    """A primary and, where a switch is to come, a standby of it; both are in the conninfo."""

    def __init__(self, server: PrimaryServer, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self.segment_bytes = 16 << 20
        self.standby: PrimaryServer | None = None
        self.server.execute("create table t (v text)")

    def conninfo(self) -> str:
        servers = [self.server] + ([self.standby] if self.standby else [])
        ports = ",".join(str(server.port) for server in servers)
        hosts = ",".join("127.0.0.1" for _ in servers)
        return (
            f"host={hosts} port={ports} user=postgres dbname=postgres"
            " target_session_attrs=read-write"
        )

    def make_source(self, *, will_switch: bool = False) -> StreamSource:
        if will_switch and self.standby is None:
            self.standby = self.server.clone_as_standby(self.directory / "standby")
        return StreamSource(
            self.conninfo(), slot=SLOT, application_name="logship_test", connect_timeout_seconds=30
        )

    def write(self) -> Lsn:
        self.server.execute("insert into t select repeat('x', 200) from generate_series(1, 500)")
        flush = self.server.execute("select pg_current_wal_flush_lsn()::text")
        return Lsn.parse(flush[0][0])

    def wal_file(self, timeline: int, lsn: int) -> Path:
        name = segment_name(timeline, lsn, self.segment_bytes)
        return self.server.data / "pg_wal" / name

    def switch_timeline(self) -> None:
        assert self.standby is not None
        target = self.write()
        replayed = "select pg_last_wal_replay_lsn() >= %s::pg_lsn"
        standby = self.standby
        wait_until(
            lambda: standby.execute(replayed, str(target))[0][0], 30, "the standby caught up"
        )
        self.server.stop("immediate")
        standby.promote()
        wait_until(lambda: not standby.execute("select pg_is_in_recovery()")[0][0], 30, "promoted")
        self.server, self.standby = standby, self.server

    def restart(self) -> None:
        self.server.restart()

    def kept_from(self) -> Lsn | None:
        rows = self.server.execute(
            "select restart_lsn::text from pg_replication_slots where slot_name = %s", SLOT
        )
        return Lsn.parse(rows[0][0]) if rows and rows[0][0] else None


class TestStreamSource(SourceContract):
    # Those between are streamed in tests/e2e/test_road.py.
    @pytest.fixture(params=(MAJORS[0], MAJORS[-1]))
    def rig(
        self, request: pytest.FixtureRequest, primary: PrimaryFactory, shared_tmp_path: Path
    ) -> StreamRig:
        server = primary(
            request.param, settings={"wal_keep_size": "512MB", "wal_sender_timeout": "10s"}
        )
        return StreamRig(server, shared_tmp_path)


def source_for(server: PrimaryServer, **options: object) -> StreamSource:
    return StreamSource(
        server.dsn(), slot=SLOT, application_name="logship_test", connect_timeout_seconds=30,
        **options,  # type: ignore[arg-type]
    )  # fmt: skip


def drop_slot(server: PrimaryServer) -> None:
    """Once the walsender that had it is gone, which is a moment after its client."""
    dropped = (
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
        " where slot_name = %s and not active"
    )
    wait_until(lambda: server.execute(dropped, SLOT), PATIENCE_SECONDS, "the slot is dropped")


@pytest.mark.parametrize("wal_segsize_mb", [1, 64])
async def test_any_segment_size_is_taken_from_the_server(
    primary: PrimaryFactory, wal_segsize_mb: int
) -> None:
    server = primary(17, wal_segsize_mb=wal_segsize_mb)
    source = source_for(server)
    identity = await source.open()
    assert identity.profile.wal_segment_size == wal_segsize_mb << 20
    await source.start(first_position(identity), frozenset())
    collected = Collected(wal_segsize_mb << 20)
    server.execute("create table t as select repeat('y', 900) from generate_series(1, 6000)")
    await read_until(source, collected, 1, Lsn.parse(server.current_wal_lsn()))
    await source.close()


async def test_the_profile_is_the_servers(primary: PrimaryFactory) -> None:
    server = primary(16, settings={"max_connections": "37", "max_wal_senders": "12"})
    source = source_for(server)
    profile = (await source.open()).profile
    assert profile.major == 16
    assert profile.max_connections == 37
    assert profile.max_wal_senders == 12
    assert profile.bootstrap_superuser == "postgres"
    assert profile.architecture in ("x86_64", "aarch64")
    (identifier,) = server.execute("select system_identifier from pg_control_system()")[0]
    assert profile.system_identifier == identifier
    await source.close()


async def test_a_slot_that_was_dropped_is_made_again_and_nothing_is_skipped(
    primary: PrimaryFactory,
) -> None:
    server = primary(18, settings={"wal_keep_size": "256MB"})
    source = source_for(server)
    start = first_position(await source.open())
    await source.start(start, frozenset())
    collected = Collected(16 << 20)
    server.execute("create table t as select repeat('y', 900) from generate_series(1, 100)")
    await read_until(source, collected, 1, Lsn.parse(server.current_wal_lsn()))
    await source.close()
    drop_slot(server)
    server.execute("insert into t select repeat('z', 900) from generate_series(1, 100)")
    again = source_for(server)
    await again.open()
    await again.start(collected.end, frozenset())
    await read_until(again, collected, 1, Lsn.parse(server.current_wal_lsn()))
    await again.close()


def lose_slot(server: PrimaryServer) -> None:
    """Write more than the slot may hold back."""
    server.execute("create table t (v text)")

    def fill_until_lost() -> bool:
        server.execute("insert into t select repeat('y', 900) from generate_series(1, 3000)")
        server.execute("select pg_switch_wal()")
        server.execute("checkpoint")
        return bool(server.execute("select wal_status = 'lost' from pg_replication_slots")[0][0])

    wait_until(fill_until_lost, 60, "the slot is lost")


SMALL_SLOT = {"max_slot_wal_keep_size": "1MB", "max_wal_size": "2MB"}


@pytest.mark.parametrize("major", [14, 18])
async def test_wal_that_is_gone_is_a_named_gap_not_a_hole(
    primary: PrimaryFactory, major: int
) -> None:
    server = primary(major, wal_segsize_mb=1, settings=SMALL_SLOT)
    source = source_for(server)
    start = first_position(await source.open())
    await source.reserve()
    await asyncio.to_thread(lose_slot, server)
    with pytest.raises(LogshipError) as caught:
        await source.start(start, frozenset())
        while True:
            await asyncio.wait_for(source.read(1 << 20), PATIENCE_SECONDS)
    assert caught.value.code == Code.WAL_REMOVED
    observation = await source.observe()
    assert observation.slot_wal_status in ("reserved", "extended")
    assert observation.slot_restart_lsn is not None and observation.slot_restart_lsn > start.lsn
    await source.close()


async def test_without_leave_to_make_the_slot_a_missing_one_is_an_error(
    primary: PrimaryFactory,
) -> None:
    server = primary(15)
    source = source_for(server, create_slot=False)
    start = first_position(await source.open())
    with pytest.raises(LogshipError) as caught:
        await source.start(start, frozenset())
    assert caught.value.code == Code.SLOT_MISSING
    assert caught.value.code not in GAP_CODES, "no WAL is gone yet"
    assert not caught.value.retryable
    server.execute(caught.value.hint.removeprefix("make it: "))
    await source.start(start, frozenset())
    await read_until(source, Collected(16 << 20), 1, Lsn.parse(server.current_wal_lsn()))
    await source.close()


@pytest.mark.parametrize("major", [14, 18])
async def test_without_leave_to_make_the_slot_a_lost_one_is_a_gap(
    primary: PrimaryFactory, major: int
) -> None:
    server = primary(major, wal_segsize_mb=1, settings=SMALL_SLOT)
    server.execute("select pg_create_physical_replication_slot(%s, true)", SLOT)
    source = source_for(server, create_slot=False)
    start = first_position(await source.open())
    await asyncio.to_thread(lose_slot, server)
    with pytest.raises(LogshipError) as caught:
        await source.start(start, frozenset())
    assert caught.value.code in GAP_CODES
    await source.close()


@pytest.mark.parametrize("create_slot", [True, False])
async def test_a_slot_that_is_dropped_just_before_it_is_used_is_no_gap(
    primary: PrimaryFactory, create_slot: bool
) -> None:
    server = primary(17)
    server.execute("select pg_create_physical_replication_slot(%s, true)", SLOT)
    source = source_for(server, create_slot=create_slot)
    start = first_position(await source.open())
    reserve = source.reserve

    async def reserve_and_lose() -> None:
        await reserve()
        server.execute("select pg_drop_replication_slot(%s)", SLOT)

    source.reserve = reserve_and_lose  # type: ignore[method-assign]
    with pytest.raises(LogshipError) as caught:
        await source.start(start, frozenset())
    assert caught.value.code == Code.SLOT_MISSING
    assert caught.value.retryable == create_slot
    await source.close()


async def test_a_primary_with_less_wal_than_the_store_is_a_gap(primary: PrimaryFactory) -> None:
    """As after a restore of an old backup."""
    source = source_for(primary(17))
    identity = await source.open()
    ahead = Position(1, Lsn(segment_start(identity.flush_lsn, 16 << 20) + (64 << 20)))
    with pytest.raises(LogshipError) as caught:
        await source.start(ahead, frozenset())
        while True:
            await asyncio.wait_for(source.read(1 << 20), PATIENCE_SECONDS)
    assert caught.value.code == Code.PRIMARY_BEHIND
    assert caught.value.code in GAP_CODES
    await source.close()


async def test_a_store_on_another_line_is_told_apart(primary: PrimaryFactory) -> None:
    source = source_for(primary(15))
    identity = await source.open()
    with pytest.raises(LogshipError) as caught:
        await source.start(Position(7, segment_start(identity.flush_lsn, 16 << 20)), frozenset())
    assert caught.value.code == Code.TIMELINE_DIVERGED
    await source.close()


# --- a primary that is not what it was ------------------------------------------------------


async def refused(source: StreamSource, start: Position) -> LogshipError:
    with pytest.raises(LogshipError) as caught:
        await source.start(start, frozenset())
    assert caught.value.retryable, "the primary is asked again by itself"
    return caught.value


async def test_nothing_is_read_before_the_primary_has_told_what_it_is(
    primary: PrimaryFactory,
) -> None:
    server = primary(17)
    source = source_for(server)
    start = first_position(await source.open())
    await asyncio.to_thread(server.stop)
    with pytest.raises(LogshipError):
        await source.open()
    # It may be of a newer minor by now.
    await asyncio.to_thread(server.start)
    assert (await refused(source, start)).code == Code.PRIMARY_UNREACHABLE
    await source.open()
    await source.start(start, frozenset())
    await source.close()


async def test_a_primary_that_restarted_changed_is_not_read_from_before_it_told(
    primary: PrimaryFactory,
) -> None:
    server = primary(17)
    source = source_for(server)
    start = first_position(await source.open())
    await source.start(start, frozenset())
    server.configure({"max_connections": "71"})
    await asyncio.to_thread(server.restart, "immediate")
    # The stream's and the questions' connections break one after the other.
    for _ in range(5):
        await refused(source, start)
    identity = await source.open()
    assert identity.profile.max_connections == 71
    await source.start(start, frozenset())
    await read_until(source, Collected(16 << 20), 1, Lsn.parse(server.current_wal_lsn()))
    await source.close()


async def test_a_stream_that_is_made_anew_from_the_same_server_goes_on(
    primary: PrimaryFactory,
) -> None:
    server = primary(17)
    source = source_for(server)
    start = first_position(await source.open())
    await source.start(start, frozenset())
    # A rewind.
    await start_again(source, start)
    await read_until(source, Collected(16 << 20), 1, Lsn.parse(server.current_wal_lsn()))
    await source.close()


async def test_a_failover_while_nothing_was_read_is_followed(
    primary: PrimaryFactory, shared_tmp_path: Path
) -> None:
    """As after a gap: the new primary gave the seed, so reading begins on its timeline."""
    rig = StreamRig(primary(17, settings={"wal_keep_size": "256MB"}), shared_tmp_path)
    source = rig.make_source(will_switch=True)
    await source.open()
    await asyncio.to_thread(rig.switch_timeline)
    seeded = Position(2, segment_start(rig.write(), 16 << 20))
    for _ in range(5):
        assert (await refused(source, seeded)).code != Code.TIMELINE_DIVERGED
    identity = await source.open()
    assert identity.timeline == 2
    collected = Collected(16 << 20)
    await source.start(seeded, frozenset())
    await read_until(source, collected, 2, rig.write())
    assert collected.spans[0].start_lsn == seeded.lsn
    await source.close()


async def test_a_start_that_is_cancelled_leaves_a_source_that_starts(
    primary: PrimaryFactory,
) -> None:
    server = primary(17)
    source = source_for(server)
    start = first_position(await source.open())
    for steps in range(40):
        starting = asyncio.create_task(source.start(start, frozenset()))
        for _ in range(steps):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await start_again(source, start)
    await read_until(source, Collected(16 << 20), 1, Lsn.parse(server.current_wal_lsn()))
    await source.close()


async def test_a_frozen_network_is_noticed_and_does_not_hold_up_who_gives_up_asking(
    primary: PrimaryFactory,
) -> None:
    server = primary(17)
    async with TcpProxy("127.0.0.1", server.port) as proxy:

        def source_that_waits(seconds: float) -> StreamSource:
            return StreamSource(
                server.dsn(port=proxy.port),
                slot=SLOT,
                application_name="logship_test",
                connect_timeout_seconds=seconds,
            )

        source = source_that_waits(5)
        await source.open()
        await source.observe()
        proxy.stall()
        async with asyncio.timeout(PATIENCE_SECONDS):
            with pytest.raises(LogshipError) as caught:
                await source.observe()
        assert caught.value.code == Code.PRIMARY_UNREACHABLE and caught.value.retryable
        proxy.resume()
        await source.observe()
        await source.close()
        # Who gives up is let go long before the question is given up.
        source = source_that_waits(3 * PATIENCE_SECONDS)
        await source.open()
        await source.observe()
        proxy.stall()
        async with asyncio.timeout(PATIENCE_SECONDS):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await source.observe()
            observing = asyncio.create_task(source.observe())
            await asyncio.sleep(0.1)
            observing.cancel()
            await asyncio.gather(observing, return_exceptions=True)
        proxy.resume()
        await source.open()
        await source.observe()
        await source.close()


async def test_opening_anew_is_not_held_up_by_a_question_that_gets_no_answer(
    primary: PrimaryFactory,
) -> None:
    server = primary(17)
    source = source_for(server)
    await source.open()
    observing = [asyncio.create_task(source.observe()) for _ in range(5)]
    await asyncio.sleep(0)
    await source.open()
    for outcome in await asyncio.gather(*observing, return_exceptions=True):
        assert not isinstance(outcome, Exception) or isinstance(outcome, LogshipError)
    await source.observe()
    count = "select count(*) from pg_stat_activity where application_name = 'logship_test_monitor'"
    # A session that nobody has any more ends when its server process sees that.
    wait_until(lambda: server.execute(count) == [(1,)], PATIENCE_SECONDS, "one session is left")
    await source.close()


async def test_a_standby_is_not_a_primary(primary: PrimaryFactory, shared_tmp_path: Path) -> None:
    standby = primary(17).clone_as_standby(shared_tmp_path / "standby")
    source = source_for(standby)
    with pytest.raises(LogshipError) as caught:
        await source.open()
    assert caught.value.code == Code.PRIMARY_NOT_READY and caught.value.retryable
    await source.close()


async def test_the_primary_shows_our_stream_to_us(primary: PrimaryFactory) -> None:
    server = primary(17, settings={"synchronous_standby_names": "logship_test"})
    source = source_for(server)
    await source.start(first_position(await source.open()), frozenset())
    collected = Collected(16 << 20)
    await read_until(source, collected, 1, Lsn.parse(server.current_wal_lsn()))
    # A standby that has flushed nothing is not synchronous yet.
    source.acknowledge(collected.end, collected.end, Lsn(0))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await source.observe()).sync_state != "sync":  # noqa: ASYNC110 (no event of ours)
            await asyncio.sleep(0.02)
    await source.close()


async def test_a_commits_wal_is_pushed_while_the_reader_waits(primary: PrimaryFactory) -> None:
    server = primary(17)
    server.execute("create table t (v int)")
    source = source_for(server)
    collected = Collected(16 << 20)
    takes, pushed = True, 0

    def on_wal(span: WalBytes) -> bool:
        nonlocal pushed
        if takes:
            pushed += 1
            collected.add(span)
        return takes

    async def reading() -> None:
        while True:
            for event in await source.read(1 << 20):
                collected.add(event)

    source.on_wal = on_wal
    await source.start(first_position(await source.open()), frozenset())
    reader = asyncio.create_task(reading())
    for number in range(20):
        takes = number % 4 != 3
        await asyncio.to_thread(server.execute, "insert into t values (1)")
        target = Lsn.parse(await asyncio.to_thread(server.current_wal_lsn))
        await until(lambda end=target: collected.spans and collected.end.lsn >= end, "it is here")
        assert source.flush_lsn >= target
    assert pushed >= 10
    assert not reader.done()

    def broken(span: WalBytes) -> bool:
        raise ZeroDivisionError(f"a bug with {span.start_lsn}")

    source.on_wal = broken
    reader.cancel()
    reader = asyncio.create_task(reading())
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not reader.done():
            await asyncio.to_thread(server.execute, "insert into t values (2)")
    with pytest.raises(ZeroDivisionError):
        await reader
    await source.close()
    for span in collected.spans:
        name = segment_name(span.timeline, span.start_lsn, 16 << 20)
        with (server.data / "pg_wal" / name).open("rb") as file:
            file.seek(span.start_lsn % (16 << 20))
            assert file.read(span.size_bytes) == b"".join(span.chunks)


async def test_a_reader_that_pauses_still_reports(primary: PrimaryFactory) -> None:
    """A stalled link must not look like a dead standby to the walsender."""
    server = primary(17)
    source = source_for(server, status_interval_seconds=0.2)
    await source.start(first_position(await source.open()), frozenset())
    told = (
        "select pid, reply_time from pg_stat_replication"
        " where application_name = 'logship_test' and reply_time is not null"
    )

    pids, times = set[int](), set[datetime]()

    def has_reported_again_and_again() -> bool:
        for pid, at in server.execute(told):
            pids.add(pid)
            times.add(at)
        return len(times) >= 4

    await asyncio.to_thread(
        wait_until, has_reported_again_and_again, PATIENCE_SECONDS, "it reports"
    )
    assert len(pids) == 1
    await source.close()
