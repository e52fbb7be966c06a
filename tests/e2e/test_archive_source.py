"""From an outbox to a standby that ends where the primary is, whatever came in between."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from tests.conftest import PrimaryFactory
from tests.support.installations import ARCHIVING_MAJORS, MAJORS
from tests.support.outboxes import archive_settings, make_outbox, wait_archived
from tests.support.pair import BucketRoad, Pair, Process
from tests.support.s3_server import S3Bucket
from tests.support.servers import PrimaryServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

COUNT = "select count(*) from t"
SEGMENTS_EACH = 1000
CATCH_UP_SECONDS = 240.0
"""Two thousand segments take 40 s where nothing else runs."""


def archiving_primary(
    primary: PrimaryFactory, major: int, outbox: Path, **settings: str
) -> PrimaryServer:
    server = primary(
        major, wal_segsize_mb=1, settings={**archive_settings(major, outbox), **settings}
    )
    server.execute("create table t (id int generated always as identity primary key, v text)")
    insert(server, 1000)
    return server


def insert(server: PrimaryServer, count: int = 1) -> None:
    server.execute(f"insert into t (v) select repeat('v', 100) from generate_series(1, {count})")


def protect(pair: Pair, conninfo: str, outbox: Path) -> Process:
    """A pair that follows, with WAL from `outbox` alone."""
    pair.add("main")
    pair.applier.start()
    shipper = pair.shipper("main", conninfo)
    text = shipper.settings.read_text()
    shipper.settings.write_text(
        text.replace("[primary]\n", '[primary]\nsource = "archive"\n')
        + f'\n[archive]\noutbox = "{outbox}"\nrescan_seconds = 1\n'
    )
    shipper.start()
    pair.wait_following("main")
    return shipper


@pytest.mark.parametrize("major", ARCHIVING_MAJORS)
def test_follows_through_restarts_and_the_absence_of_its_primary(
    major: int, primary: PrimaryFactory, pair: Pair, shared_tmp_path: Path
) -> None:
    outbox = make_outbox(shared_tmp_path / "outbox")
    server = archiving_primary(primary, major, outbox)
    shipper = protect(pair, server.dsn(), outbox)
    assert server.execute("select count(*) from pg_replication_slots") == [(0,)]
    insert(server)
    wait_archived(server, outbox)
    pair.wait_on_standby("main", COUNT, 1001)

    shipper.stop(signal.SIGKILL)
    insert(server)
    wait_archived(server, outbox)
    insert(server)
    wait_archived(server, outbox)
    server.stop()
    shipper.start()
    pair.wait_on_standby("main", COUNT, 1003)
    status = pair.wait_status("main", lambda s: s["primary"]["reachable"] is False, "it is told")
    assert status["link"]["state"] == "connected"

    server.start()
    pair.wait_status("main", lambda s: s["primary"]["reachable"], "it is back")
    insert(server)
    wait_archived(server, outbox)
    pair.wait_on_standby("main", COUNT, 1004)
    wait_until(lambda: not list(outbox.iterdir()), 30, "what is durable is removed")

    server.stop()  # archives what it has
    pair.wait_status(
        "main",
        lambda s: s["primary"]["reachable"] is False and s["transfer_gap"]["bytes"] == 0,
        "everything is durable",
    )
    record = pair.promote("main")
    assert record["lost_bytes"] == 0
    assert pair.standby_sql("main", COUNT) == [(1004,)]


def test_what_a_dead_primary_archived_reaches_the_standby_through_a_bucket(
    primary: PrimaryFactory, shared_tmp_path: Path, s3_bucket: S3Bucket
) -> None:
    outbox = make_outbox(shared_tmp_path / "outbox")
    server = archiving_primary(primary, 17, outbox)
    road = BucketRoad(s3_bucket.url, s3_bucket.endpoint_url)
    pair = Pair(shared_tmp_path, bucket=road)
    try:
        pair.add("main")
        pair.applier.start()
        shipper = pair.shipper(
            "main",
            server.dsn(),
            link=None,
            bucket="max_delay_seconds = 0.2",
            primary='source = "archive"',
            more=f'\n[archive]\noutbox = "{outbox}"\nrescan_seconds = 1\n',
        )
        shipper.start()
        wait_archived(server, outbox)
        pair.wait_following("main")
        shipper.stop(signal.SIGKILL)
        insert(server)
        wait_archived(server, outbox)
        server.kill()
        assert list(outbox.iterdir())
        shipper.start()
        pair.wait_on_standby("main", COUNT, 1001)
    finally:
        pair.destroy()


@pytest.mark.timeout(600)
def test_two_thousand_segments_in_random_order_with_a_switch_in_the_middle(
    primary: PrimaryFactory, pair: Pair, shared_tmp_path: Path
) -> None:
    outbox = make_outbox(shared_tmp_path / "outbox")
    staging = make_outbox(shared_tmp_path / "staging")
    # Where machines are busy a minute goes by, and a segment would go where nobody looks any more.
    server = archiving_primary(primary, MAJORS[-1], outbox, fsync="off", archive_timeout="0")
    successor = server.clone_as_standby(shared_tmp_path / "successor")
    conninfo = (
        f"host=127.0.0.1,127.0.0.1 port={server.port},{successor.port} user=postgres"
        " dbname=postgres target_session_attrs=read-write"
    )
    shipper = protect(pair, conninfo, outbox)
    insert(server)
    wait_archived(server, outbox)
    pair.wait_on_standby("main", COUNT, 1001)
    wait_until(lambda: not list(outbox.iterdir()), 30, "all of it is shipped")
    shipper.stop()

    for each in (server, successor):
        each.configure({"basic_archive.archive_directory": str(staging)})
        each.reload()
    fill(server)
    switched = wait_archived(server, staging)
    replayed = "select pg_last_wal_replay_lsn() >= %s::pg_lsn"
    wait_until(
        lambda: successor.execute(replayed, str(switched))[0][0], 60, "the successor caught up"
    )
    server.stop("immediate")
    successor.promote()
    fill(successor)
    wait_archived(successor, staging)
    rows = successor.execute(COUNT)[0][0]
    assert rows > 1001

    names = os.listdir(staging)
    assert sum(len(name) == 24 for name in names) >= 2 * SEGMENTS_EACH
    assert {"00000002.history"} < set(names)
    random.Random(4).shuffle(names)
    for name in names:
        (staging / name).rename(outbox / name)
    shipper.start()
    pair.wait_on_standby("main", COUNT, rows, CATCH_UP_SECONDS)
    end = successor.current_wal_lsn()
    status = pair.wait_status(
        "main", lambda s: s["store"]["durable"].startswith("2:"), "on the new timeline"
    )
    assert status["primary"]["timeline"] == 2
    left = ["00000002.history"]
    wait_until(lambda: os.listdir(outbox) == left, 60, "all WAL is removed")
    successor.configure({"basic_archive.archive_directory": str(outbox)})
    successor.reload()
    insert(successor)
    wait_archived(successor, outbox)
    pair.wait_on_standby("main", COUNT, rows + 1)
    pair.wait_on_standby("main", f"select pg_last_wal_replay_lsn() >= '{end}'::pg_lsn", True)


def fill(server: PrimaryServer) -> None:
    """Finish SEGMENTS_EACH segments, with something to count in between."""
    server.execute(
        f"do $$ begin for i in 1..{SEGMENTS_EACH} loop"
        " insert into t (v) values (i::text); perform pg_switch_wal(); end loop; end $$"
    )
