"""WAL that the primary has removed comes from its own archive, and then from the primary again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from logship.wal import segment_name
from shipper.agent.shipping import GAP_CODES
from shipper.sources.gap_filling import GapFillingSource
from tests.conftest import PrimaryFactory
from tests.integration.source_contract import Collected, first_position, read_until
from tests.integration.test_source_stream import StreamRig, drop_slot
from tests.support.processes import make_server_directory
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

MB = 1 << 20


@pytest.fixture
def archive(shared_tmp_path: Path) -> Path:
    made = shared_tmp_path / "archive"
    make_server_directory(made, 0o755)
    return made


@pytest.fixture
def rig(primary: PrimaryFactory, shared_tmp_path: Path, archive: Path) -> StreamRig:
    server = primary(
        17,
        wal_segsize_mb=1,
        settings={
            "archive_mode": "on",
            "archive_command": f"cp %p {archive}/%f",
            "min_wal_size": "2MB",
            "max_wal_size": "2MB",
        },
    )
    made = StreamRig(server, shared_tmp_path)
    made.segment_bytes = MB
    return made


def filling(rig: StreamRig, archive: Path, *, will_switch: bool = False) -> GapFillingSource:
    return GapFillingSource(rig.make_source(will_switch=will_switch), archive)


def end_segments(rig: StreamRig, count: int) -> None:
    for _ in range(count):
        rig.write()
        rig.server.execute("select pg_switch_wal()")


def forget_wal(rig: StreamRig, archive: Path, timeline: int, lsn: Lsn) -> None:
    """Have the primary archive, and then remove, its WAL up to `lsn`."""
    drop_slot(rig.server)
    archived = archive / segment_name(timeline, lsn, MB)

    def is_removed() -> bool:
        end_segments(rig, 1)
        rig.server.execute("checkpoint")
        return archived.exists() and not rig.wal_file(timeline, lsn).exists()

    wait_until(is_removed, 60, f"{lsn} is archived and removed")


def wait_archived(rig: StreamRig) -> None:
    """Until the archive has all segments that are finished, whole."""
    rig.write()
    ((last,),) = rig.server.execute("select pg_walfile_name(pg_switch_wal())")
    archived = "select last_archived_wal >= %s from pg_stat_archiver"
    wait_until(lambda: rig.server.execute(archived, last)[0][0], 60, f"{last} is archived")


async def test_removed_wal_is_read_from_the_archive_and_the_stream_goes_on(
    rig: StreamRig, archive: Path
) -> None:
    plain = rig.make_source()
    start = first_position(await plain.open())
    await plain.start(start, frozenset())
    await asyncio.to_thread(end_segments, rig, 4)
    await plain.close()
    await asyncio.to_thread(forget_wal, rig, archive, 1, Lsn(start.lsn + 2 * MB))

    await plain.open()
    with pytest.raises(LogshipError) as refused:
        await plain.start(start, frozenset())
        await plain.read(MB)
    assert refused.value.code is Code.WAL_REMOVED and refused.value.code in GAP_CODES
    await plain.close()

    source = filling(rig, archive)
    await source.open()
    await source.start(start, frozenset())
    collected = Collected(MB)
    await read_until(source, collected, 1, rig.write())
    assert collected.spans[0].start_lsn == start.lsn
    # The stream is live again: it is told what is durable, and WAL comes as it is written.
    source.acknowledge(collected.end, collected.end, Lsn(0))
    await read_until(source, collected, 1, rig.write())
    wait_until(lambda: rig.kept_from() >= collected.spans[0].end_lsn, 60, "the slot moves")  # type: ignore[operator]
    for span in collected.spans:
        name = segment_name(1, span.start_lsn, MB)
        try:
            content = rig.wal_file(1, span.start_lsn).read_bytes()
        except FileNotFoundError:  # so it is whole in the archive, where another may be on its way
            content = (archive / name).read_bytes()
        assert content[span.start_lsn % MB :][: span.size_bytes] == b"".join(span.chunks), name
    await source.close()


async def test_what_neither_has_is_a_gap_and_damage_is_not_shipped(
    rig: StreamRig, archive: Path
) -> None:
    first = rig.make_source()
    start = first_position(await first.open())
    await first.start(start, frozenset())
    await first.close()
    await asyncio.to_thread(end_segments, rig, 4)
    await asyncio.to_thread(forget_wal, rig, archive, 1, Lsn(start.lsn + 3 * MB))
    third = archive / segment_name(1, start.lsn + 2 * MB, MB)
    content = bytearray(third.read_bytes())
    content[8192:8200] = b"damaged!"
    third.write_bytes(content)

    source = filling(rig, archive)
    await source.open()
    await source.start(start, frozenset())
    collected = Collected(MB)
    with pytest.raises(LogshipError) as refused:
        await read_until(source, collected, 1, start.lsn + 4 * MB)
    assert refused.value.code is Code.WAL_REMOVED
    assert collected.end == Position(1, Lsn(start.lsn + 2 * MB)), "all that is sound came"

    # Without any archive it is what the primary says.
    archive.rename(archive.with_name("away"))
    await source.open()
    with pytest.raises(LogshipError) as gone:
        await source.start(start, frozenset())
        await source.read(MB)
    assert gone.value.code is Code.WAL_REMOVED
    await source.close()


async def test_a_timeline_switch_inside_the_archive_is_followed_history_first(
    rig: StreamRig, archive: Path
) -> None:
    source = filling(rig, archive, will_switch=True)
    start = first_position(await source.open())
    await source.start(start, frozenset())
    await source.close()
    await asyncio.to_thread(end_segments, rig, 2)
    # What a server has not archived when it dies, its standby does not archive either.
    await asyncio.to_thread(wait_archived, rig)
    await asyncio.to_thread(rig.switch_timeline)
    await source.open()
    await source.start(Position(1, start.lsn), frozenset())  # makes the slot on the new server
    await source.close()
    await asyncio.to_thread(end_segments, rig, 2)
    forked = Lsn.parse(rig.server.execute("select pg_current_wal_lsn()::text")[0][0])
    await asyncio.to_thread(forget_wal, rig, archive, 2, Lsn(forked - MB))

    await source.open()
    await source.start(start, frozenset())
    collected = Collected(MB)
    await read_until(source, collected, 2, rig.write())
    assert collected.spans[0].start_lsn == start.lsn
    assert {span.timeline for span in collected.spans} == {1, 2}
    await source.close()
