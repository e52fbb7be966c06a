"""Walking the WAL that servers of every major wrote, against what they said when they wrote it."""

from __future__ import annotations

import re
import subprocess
import time

import psycopg
import pytest

from logship.lsn import Lsn
from logship.wal import WalLine, segment_end, segment_name, segment_start
from logship.wal_records import Kind, Mark, RecordWalk, marks_in, record_end
from tests.conftest import PrimaryFactory
from tests.integration.test_store_real_wal import KEEP_WAL, flushed, line_of, wal_file
from tests.support.installations import all_majors, wheel_dir
from tests.support.servers import PrimaryServer

pytestmark = pytest.mark.integration

COMMITS = 60


def work(server: PrimaryServer) -> list[tuple[str, Lsn]]:
    """Transactions of all kinds; returns each one's kind with the WAL's insert position after."""
    journal: list[tuple[str, Lsn]] = []
    with psycopg.connect(server.dsn(), autocommit=True) as connection:

        def run(kind: str, *statements: str) -> None:
            for statement in statements:
                connection.execute(statement)  # type: ignore[call-overload]
            row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
            assert row is not None
            journal.append((kind, Lsn.parse(row[0])))

        run("commit", "CREATE TABLE t (id int, filler text)")
        for number in range(COMMITS):
            run("commit", f"INSERT INTO t VALUES ({number}, repeat('x', {number * 150}))")
            run("restore point", f"SELECT pg_create_restore_point('point {number}')")
        run("abort", "BEGIN", "INSERT INTO t VALUES (-1, '')", "ROLLBACK")
        run("prepared", "BEGIN", "INSERT INTO t VALUES (-2, '')", "PREPARE TRANSACTION 'a'")
        run("commit", "COMMIT PREPARED 'a'")
        run("prepared", "BEGIN", "INSERT INTO t VALUES (-3, '')", "PREPARE TRANSACTION 'b'")
        run("abort", "ROLLBACK PREPARED 'b'")
        # Of an origin: a header more in front of the main data.
        run("none", "SELECT pg_replication_origin_create('elsewhere')")
        run("none", "SELECT pg_replication_origin_session_setup('elsewhere')")
        run("commit", "INSERT INTO t VALUES (-4, '')")
        run("none", "SELECT pg_replication_origin_session_reset()")
        run("switch", "SELECT pg_switch_wal()")
        run("commit", "UPDATE t SET filler = filler || 'y'")
        run("checkpoint", "CHECKPOINT")
    return journal


def walk_all(server: PrimaryServer, line: WalLine, start: Lsn, end: Lsn) -> list[Mark]:
    marks, walk = marks_in(_pieces(server, line, start, end), line, start)
    assert not walk.stopped
    assert walk.end == end
    return marks


def _pieces(server: PrimaryServer, line: WalLine, start: Lsn, end: Lsn) -> list[bytes]:
    pieces, lsn = [], int(start)
    while lsn < end:
        content = wal_file(server, 1, lsn, line).read_bytes()
        stop = min(int(end), segment_end(lsn, line.segment_bytes))
        offset = lsn % line.segment_bytes
        pieces.append(content[offset : offset + stop - lsn])
        lsn = stop
    return pieces


@all_majors
def test_times_and_names_are_found_where_the_server_wrote_them(
    primary: PrimaryFactory, major: int
) -> None:
    settings = {**KEEP_WAL, "max_prepared_transactions": "5", "wal_compression": "on"}
    settings |= {"autovacuum": "off", "checkpoint_timeout": "1h"}
    server = primary(major, wal_segsize_mb=1, settings=settings)
    line = line_of(server, major)
    start = segment_start(flushed(server), line.segment_bytes)
    before = time.time()
    began = flushed(server)
    journal = work(server)
    end = flushed(server)
    after = time.time()
    marks = [mark for mark in walk_all(server, line, start, end) if mark.start_lsn >= began]
    names = [mark.name for mark in marks if mark.kind is Kind.RESTORE_POINT]
    assert names == [f"point {number}" for number in range(COMMITS)]
    times = [mark.time for mark in marks if mark.kind is not Kind.SWITCH]
    assert all(time is not None for time in times)
    exact = [mark.time or 0 for mark in marks if mark.kind in (Kind.COMMIT, Kind.RESTORE_POINT)]
    assert exact == sorted(exact)
    assert before * 1e6 <= exact[0] <= exact[-1] <= after * 1e6
    for kind, position in journal:
        if kind in ("none", "prepared"):
            continue
        done = record_end(position, line.segment_bytes)
        here = [mark for mark in marks if mark.end_lsn <= done]
        assert here, (kind, position)
        assert here[-1].kind.value == kind, (kind, position, here[-1])
        if kind != "switch":
            assert done - here[-1].end_lsn < 200  # of a standby's snapshot at most
    for offset in range(0, int(end - start), 5 * 8192):
        pieces = _pieces(server, line, Lsn(start + offset), end)
        later, walk = marks_in(pieces, line, start + offset)
        assert not walk.stopped
        later = [mark for mark in later if mark.start_lsn >= began]
        assert later == [mark for mark in marks if mark.start_lsn >= start + offset]


def test_pg_waldump_sees_the_same(primary: PrimaryFactory) -> None:
    server = primary(18, installation=wheel_dir(), wal_segsize_mb=1, settings=KEEP_WAL)
    line = line_of(server, 18)
    start = segment_start(flushed(server), line.segment_bytes)
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("CREATE TABLE t AS SELECT g FROM generate_series(1, 20000) g")
        for number in range(200):
            connection.execute("INSERT INTO t VALUES (%s)", [number])
        connection.execute("SELECT pg_create_restore_point('here')")
        connection.execute("SELECT pg_switch_wal()")
        connection.execute("CHECKPOINT")
    end = flushed(server)
    command = [wheel_dir() / "bin" / "pg_waldump", "-p", server.data / "pg_wal"]
    output = subprocess.run(
        [*command, "-s", str(start), "-e", str(end)], capture_output=True, text=True, check=False
    ).stdout
    wanted = re.compile(r"lsn: (\S+), .*desc: (COMMIT|ABORT|RESTORE|SWITCH|CHECKPOINT_[SO]|END_OF)")
    seen = [Lsn.parse(found[1]) for line_ in output.splitlines() if (found := wanted.search(line_))]
    assert len(seen) > 200
    assert seen == [mark.start_lsn for mark in walk_all(server, line, start, end)]
    name = segment_name(1, start, line.segment_bytes)
    walk = RecordWalk(line, start)
    walk.feed((server.data / "pg_wal" / name).read_bytes())
    assert walk.stopped == ""
