"""Source `archive` against real servers and real directories: the contract, and what is its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from logship.wal import history_name, parse_segment_name, segment_name
from shipper.sources.archive import ArchiveSource
from tests.conftest import PrimaryFactory
from tests.integration.source_contract import (
    Collected,
    SourceContract,
    first_position,
    read_until,
)
from tests.support.installations import ARCHIVING_MAJORS
from tests.support.outboxes import SEGMENT, archive_settings, make_outbox, wait_archived
from tests.support.servers import PrimaryServer
from tests.support.waiting import until, wait_until

pytestmark = pytest.mark.integration


class ArchiveRig:
    """A primary and, where a switch is to come, a standby; both archive into one outbox."""

    segment_bytes = SEGMENT

    def __init__(self, server: PrimaryServer, directory: Path, outbox: Path) -> None:
        self.server = server
        self.directory = directory
        self.outbox = outbox
        self.old_data: Path | None = None
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

    def make_source(self, *, will_switch: bool = False) -> ArchiveSource:
        if will_switch and self.standby is None:
            self.standby = self.server.clone_as_standby(self.directory / "standby")
        return ArchiveSource(
            self.conninfo(),
            outbox=self.outbox,
            memory_file=self.directory / "outbox.json",
            application_name="logship_test",
            connect_timeout_seconds=30,
        )

    def write(self) -> Lsn:
        self.server.execute("insert into t select repeat('x', 200) from generate_series(1, 500)")
        return wait_archived(self.server, self.outbox)

    def wal_file(self, timeline: int, lsn: int) -> Path:
        name = segment_name(timeline, lsn, self.segment_bytes)
        here = self.server.data / "pg_wal" / name
        if here.exists() or self.old_data is None:
            return here
        return self.old_data / "pg_wal" / name

    def switch_timeline(self) -> None:
        assert self.standby is not None
        target = self.write()
        standby = self.standby
        replayed = "select pg_last_wal_replay_lsn() >= %s::pg_lsn"
        wait_until(
            lambda: standby.execute(replayed, str(target))[0][0], 30, "the standby caught up"
        )
        self.server.stop("immediate")
        standby.promote()
        self.old_data = self.server.data
        self.server, self.standby = standby, self.server

    def restart(self) -> None:
        self.server.restart()

    def kept_from(self) -> Lsn | None:
        places = [
            parse_segment_name(path.name, self.segment_bytes)[1]
            for path in self.outbox.iterdir()
            if len(path.name) == 24
        ]
        return min(places, default=None)


class TestArchiveSource(SourceContract):
    @pytest.fixture(params=ARCHIVING_MAJORS)
    def rig(
        self, request: pytest.FixtureRequest, primary: PrimaryFactory, shared_tmp_path: Path
    ) -> ArchiveRig:
        outbox = make_outbox(shared_tmp_path / "outbox")
        server = primary(
            request.param,
            wal_segsize_mb=1,
            settings={"wal_keep_size": "512MB", **archive_settings(request.param, outbox)},
        )
        return ArchiveRig(server, shared_tmp_path, outbox)


async def test_a_clone_that_was_promoted_for_a_trial_is_not_followed(
    primary: PrimaryFactory, shared_tmp_path: Path
) -> None:
    outbox = make_outbox(shared_tmp_path / "outbox")
    server = primary(
        17,
        wal_segsize_mb=1,
        settings={"wal_keep_size": "512MB", **archive_settings(17, outbox)},
    )
    rig = ArchiveRig(server, shared_tmp_path, outbox)
    source = rig.make_source(will_switch=True)
    clone = rig.standby
    assert clone is not None
    start = first_position(await source.open())
    assert source.reachable
    collected = Collected(SEGMENT)
    await source.start(start, frozenset())
    await read_until(source, collected, 1, rig.write())
    await asyncio.to_thread(clone.promote)
    clone.execute("create table trial as select generate_series(1, 1000)")
    await asyncio.to_thread(wait_archived, clone, outbox)
    assert (outbox / history_name(2)).exists()
    for _ in range(3):
        await read_until(source, collected, 1, rig.write())
    assert collected.histories == {}
    assert {span.timeline for span in collected.spans} == {1}
    collected.check_against(rig)
    source.acknowledge(collected.end, collected.end, Lsn(0))
    await until(lambda: not list(outbox.glob("00000001" + "?" * 16)), "what was shipped goes")
    assert (outbox / history_name(2)).exists(), "what was not stays"
    await source.close()


async def test_a_history_that_is_not_in_the_outbox_is_asked_of_the_primary(
    primary: PrimaryFactory, shared_tmp_path: Path
) -> None:
    outbox = make_outbox(shared_tmp_path / "outbox")
    server = primary(17, wal_segsize_mb=1, settings=archive_settings(17, outbox))
    rig = ArchiveRig(server, shared_tmp_path, outbox)
    await rig.make_source(will_switch=True).close()
    await asyncio.to_thread(rig.switch_timeline)
    end = rig.write()
    text = (outbox / history_name(2)).read_bytes()
    for path in outbox.iterdir():
        if not path.name.startswith("00000002" + "0" * 8):
            path.unlink()
    source = rig.make_source()
    identity = await source.open()
    assert identity.timeline == 2
    start = rig.kept_from()
    assert start is not None
    collected = Collected(SEGMENT)
    await source.start(Position(2, start + SEGMENT), frozenset())
    await read_until(source, collected, 2, max(end, Lsn(rig.write())))
    assert collected.histories == {2: text}
    await source.close()


async def test_a_store_that_is_on_another_line_than_the_primary_is_told_so(
    primary: PrimaryFactory, shared_tmp_path: Path
) -> None:
    outbox = make_outbox(shared_tmp_path / "outbox")
    server = primary(17, wal_segsize_mb=1, settings=archive_settings(17, outbox))
    rig = ArchiveRig(server, shared_tmp_path, outbox)
    source = rig.make_source()
    start = first_position(await source.open())
    with pytest.raises(LogshipError) as caught:
        await source.start(Position(2, start.lsn), frozenset({2}))
    assert caught.value.code is Code.TIMELINE_DIVERGED
    await source.close()


@pytest.mark.parametrize("wal_segsize_mb", [16, 64])
async def test_any_segment_size_is_taken_from_the_server(
    primary: PrimaryFactory, shared_tmp_path: Path, wal_segsize_mb: int
) -> None:
    outbox = make_outbox(shared_tmp_path / "outbox")
    size = wal_segsize_mb << 20
    server = primary(18, wal_segsize_mb=wal_segsize_mb, settings=archive_settings(18, outbox))
    rig = ArchiveRig(server, shared_tmp_path, outbox)
    source = rig.make_source()
    start = first_position(await source.open())
    await source.start(start, frozenset())
    collected = Collected(size)
    await read_until(source, collected, 1, rig.write())
    rig.segment_bytes = size
    collected.check_against(rig)
    await source.close()


async def test_a_primary_that_comes_back_is_noticed_and_asked_anew(
    primary: PrimaryFactory, shared_tmp_path: Path
) -> None:
    outbox = make_outbox(shared_tmp_path / "outbox")
    server = primary(17, wal_segsize_mb=1, settings=archive_settings(17, outbox))
    rig = ArchiveRig(server, shared_tmp_path, outbox)
    source = rig.make_source()
    start = first_position(await source.open())
    await source.start(start, frozenset())
    collected = Collected(SEGMENT)
    end = rig.write()
    assert (await source.observe()).slot_wal_status == ""
    server.stop()
    with pytest.raises(LogshipError):
        await source.observe()
    assert not source.reachable
    await read_until(source, collected, 1, end)
    server.start()
    await source.observe()
    assert not source.reachable, "not before it is asked what it is"
    with pytest.raises(LogshipError) as caught:
        while True:
            await asyncio.wait_for(source.read(1 << 20), 60)
    assert caught.value.code is Code.PRIMARY_NOT_READY
    assert caught.value.retryable
    identity = await source.open()
    assert source.reachable
    assert identity.flush_lsn >= end
    await source.reserve()
    await source.close()
