"""WAL that real servers wrote, of every major and several segment sizes, through the store."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from applier.store import Store
from logship.lsn import Lsn, Position
from logship.wal import WalLine, history_name, segment_end, segment_name, segment_start
from tests.conftest import PrimaryFactory
from tests.support.installations import MAJORS
from tests.support.servers import PrimaryServer

pytestmark = pytest.mark.integration

KEEP_WAL = {"wal_keep_size": "512MB"}


def line_of(server: PrimaryServer, major: int) -> WalLine:
    ((system_identifier,),) = server.execute("SELECT system_identifier FROM pg_control_system()")
    ((segment_bytes,),) = server.execute(
        "SELECT setting::int8 FROM pg_settings WHERE name = 'wal_segment_size'"
    )
    return WalLine(system_identifier, major, segment_bytes)


def flushed(server: PrimaryServer) -> Lsn:
    ((lsn,),) = server.execute("SELECT pg_current_wal_flush_lsn()::text")
    return Lsn.parse(lsn)


def wal_file(server: PrimaryServer, timeline: int, lsn: int, line: WalLine) -> Path:
    return server.data / "pg_wal" / segment_name(timeline, lsn, line.segment_bytes)


async def ship(
    server: PrimaryServer, store: Store, timeline: int, start: int, end: int, seed: int
) -> None:
    """Append [start, end) of the server's files, cut anywhere."""
    chosen = random.Random(seed)
    line = store.line
    while start < end:
        content = wal_file(server, timeline, start, line).read_bytes()
        stop = min(end, segment_end(start, line.segment_bytes))
        while start < stop:
            cut = min(stop, start + chosen.choice((8, 100, 5000, 131_072, 1_000_000)))
            offset = start % line.segment_bytes
            await store.append(timeline, start, content[offset : offset + cut - start])
            start = cut
        await store.flush()


def work(server: PrimaryServer) -> None:
    server.execute(
        "CREATE TABLE IF NOT EXISTS t AS SELECT g, md5(g::text) FROM generate_series(1, 9000) g"
    )
    server.execute("UPDATE t SET md5 = md5(md5)")


@pytest.mark.parametrize(
    ("major", "segment_mb"),
    [(major, 16) for major in MAJORS] + [(MAJORS[0], 1), (MAJORS[-1], 1), (MAJORS[-1], 64)],
)
async def test_real_wal_passes_the_checks_and_becomes_the_same_files(
    primary: PrimaryFactory, tmp_path: Path, major: int, segment_mb: int
) -> None:
    server = primary(major, wal_segsize_mb=segment_mb, settings=KEEP_WAL)
    line = line_of(server, major)
    assert line.segment_bytes == segment_mb << 20
    start = segment_start(flushed(server), line.segment_bytes)
    work(server)
    server.execute("SELECT pg_switch_wal()")  # leaves pages without headers behind it
    work(server)
    server.execute("CHECKPOINT")
    end = flushed(server)
    store = Store.open(tmp_path / "wal", line, keep_free_bytes=0)
    await store.begin_chain(1, start)
    await ship(server, store, 1, start, end, seed=major)
    assert store.durable == Position(1, end)
    store.close()
    store = Store.open(tmp_path / "wal", None, keep_free_bytes=0)
    assert store.durable == Position(1, end)
    lsn = int(start)
    while lsn < end:
        original = wal_file(server, 1, lsn, line)
        stop = segment_end(lsn, line.segment_bytes)
        if stop <= end:
            assert (tmp_path / "wal" / original.name).read_bytes() == original.read_bytes()
        else:
            stored = (tmp_path / "wal" / f"{original.name}.partial").read_bytes()
            assert len(stored) == line.segment_bytes + 8192
            assert stored[: end - lsn] == original.read_bytes()[: end - lsn]
        lsn = stop
    store.close()


@pytest.mark.parametrize("major", [MAJORS[0], MAJORS[-1]])
async def test_a_real_promotions_new_timeline_follows(
    primary: PrimaryFactory, tmp_path: Path, shared_tmp_path: Path, major: int
) -> None:
    server = primary(major, wal_segsize_mb=1, settings=KEEP_WAL)
    line = line_of(server, major)
    start = segment_start(flushed(server), line.segment_bytes)
    work(server)
    store = Store.open(tmp_path / "wal", line, keep_free_bytes=0)
    await store.begin_chain(1, start)
    standby = server.clone_as_standby(shared_tmp_path / "standby")
    end = flushed(server)
    await ship(server, store, 1, start, end, seed=1)
    server.stop()
    standby.promote()
    work(standby)
    standby.execute("CHECKPOINT")
    content = (standby.data / "pg_wal" / history_name(2)).read_bytes()
    await store.add_history(2, content)
    fork = store.histories()[2].end_of(1)
    assert fork is not None
    held = store.end_of(1)
    assert held is not None
    # The old primary wrote its shutdown checkpoint after the last look.
    await ship(server, store, 1, held, fork, seed=2)
    new_end = flushed(standby)
    first = segment_start(fork, line.segment_bytes)
    await ship(standby, store, 2, first, new_end, seed=3)
    assert store.durable == Position(2, new_end)
    store.close()
    store = Store.open(tmp_path / "wal", None, keep_free_bytes=0)
    assert store.durable == Position(2, new_end)
    assert store.history_content(2) == content
    store.close()
