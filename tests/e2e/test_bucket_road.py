"""The second road, end to end and with no ZeroMQ: primary, bucket, standby, promotion."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

from logship.lsn import Lsn
from tests.conftest import PrimaryFactory
from tests.e2e.test_both_roads import SMALL_WAL, end_of
from tests.e2e.test_road import COUNT, insert, prepare
from tests.support.http_proxy import HttpProxy
from tests.support.installations import all_majors
from tests.support.load import Load
from tests.support.pair import BucketRoad, Pair
from tests.support.s3_server import S3Bucket
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

QUICK = "max_delay_seconds = 0.2"
AWAY_SECONDS = 60.0


@pytest.fixture
def proxy(s3_bucket: S3Bucket) -> Iterator[HttpProxy]:
    """Between both sides and the S3 server."""
    with HttpProxy(s3_bucket.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def road(s3_bucket: S3Bucket, proxy: HttpProxy) -> BucketRoad:
    return BucketRoad(s3_bucket.url, proxy.endpoint_url)


@pytest.fixture
def bucket_pair(shared_tmp_path: Path, road: BucketRoad) -> Iterator[Pair]:
    """A shipper and an applier that know nothing of each other but the bucket."""
    made = Pair(shared_tmp_path, bucket=road)
    yield made
    made.destroy()


@all_majors
def test_follows_through_restarts_of_both_sides_and_opens(
    major: int, primary: PrimaryFactory, bucket_pair: Pair
) -> None:
    pair, server = bucket_pair, primary(major)
    prepare(server)
    shipper = pair.protect("main", server, link=None, bucket=QUICK)
    pair.wait_on_standby("main", COUNT, 1000)
    assert pair.status("main")["link"]["state"] == "bucket"

    shipper.stop(signal.SIGKILL)
    insert(server)
    shipper.start()
    pair.wait_on_standby("main", COUNT, 1001)

    pair.applier.stop(signal.SIGKILL)
    insert(server, 5000)
    pair.applier.start()
    pair.wait_on_standby("main", COUNT, 6001)

    server.execute("select pg_switch_wal()")
    insert(server)
    pair.wait_on_standby("main", COUNT, 6002)

    pair.wait_durable("main", server)
    server.kill()
    record = pair.promote("main")
    assert pair.standby_sql("main", COUNT) == [(6002,)]
    assert record["lost_bytes"] == 0
    pair.standby_sql("main", "insert into t (v) values ('after')")
    assert pair.status("main")["phase"] == "promoted"


@pytest.mark.parametrize("major", [18])  # one: it takes two minutes, most of them waiting
def test_a_bucket_that_is_away_for_a_minute_costs_nothing_that_was_acknowledged(
    major: int,
    primary: PrimaryFactory,
    bucket_pair: Pair,
    proxy: HttpProxy,
    s3_bucket: S3Bucket,
) -> None:
    """Away for so long that the shipper gives its connection up."""
    pair, server = bucket_pair, primary(major, wal_segsize_mb=1, settings=SMALL_WAL)
    prepare(server)
    shipper = pair.protect("main", server, link=None, bucket=QUICK)
    pair.wait_on_standby("main", COUNT, 1000)
    proxy.away()
    away_at = time.monotonic()
    with contextlib.closing(s3_bucket.store()) as store:
        stored = end_of(store)

    def given_up() -> bool:
        said = any("bucket-unreachable" in str(event) for event in shipper.events())
        return said and time.monotonic() > away_at + AWAY_SECONDS

    with Load(server, 1.0, checkpoints=True):
        wait_until(given_up, AWAY_SECONDS + 120, "the shipper says that the bucket is away")
    ((held, flushed),) = server.execute(
        "select restart_lsn::text, pg_current_wal_flush_lsn()::text from pg_replication_slots"
    )
    assert Lsn.parse(held) <= stored < Lsn.parse(flushed), "the slot keeps what is not stored"
    assert pair.standby_sql("main", COUNT) == [(1000,)]
    ids = "select array_agg(id order by id) from t"
    acknowledged = server.execute(ids)
    proxy.back()
    pair.wait_on_standby("main", COUNT, len(acknowledged[0][0]), 120)
    insert(server)
    pair.wait_on_standby("main", COUNT, len(acknowledged[0][0]) + 1)
    pair.wait_durable("main", server)
    acknowledged = server.execute(ids)
    server.kill()
    assert pair.promote("main")["lost_bytes"] == 0
    assert pair.standby_sql("main", ids) == acknowledged


def test_a_second_applier_brings_its_own_standby_up_with_no_word_to_the_primary(
    primary: PrimaryFactory, bucket_pair: Pair, road: BucketRoad, shared_tmp_path: Path
) -> None:
    pair, server = bucket_pair, primary(18)
    prepare(server)
    shipper = pair.protect("main", server, link=None, bucket=QUICK)
    pair.wait_on_standby("main", COUNT, 1000)
    insert(server, 3000)
    pair.wait_on_standby("main", COUNT, 4000)
    shipper.stop()
    server.kill()
    directory = shared_tmp_path / "second"
    directory.mkdir(mode=0o755)
    second = Pair(directory, bucket=road)
    try:
        second.add("main", link=False)
        second.applier.start()
        second.wait_on_standby("main", COUNT, 4000)
        second.promote("main")
        assert second.standby_sql("main", COUNT) == [(4000,)]
    finally:
        second.destroy()


def test_a_timeline_switch_goes_through_the_bucket(
    primary: PrimaryFactory, bucket_pair: Pair, shared_tmp_path: Path
) -> None:
    pair, server = bucket_pair, primary(16)
    prepare(server)
    clone = server.clone_as_standby(shared_tmp_path / "clone")
    both = psycopg.conninfo.make_conninfo(
        "",
        host="127.0.0.1,127.0.0.1",
        port=f"{server.port},{clone.port}",
        user="postgres",
        dbname="postgres",
        target_session_attrs="read-write",
    )
    pair.add("main", link=False)
    pair.applier.start()
    pair.shipper("main", both, link=None, bucket=QUICK).start()
    pair.wait_following("main")
    pair.wait_on_standby("main", COUNT, 1000)
    wait_until(lambda: clone.execute(COUNT) == [(1000,)], 60, "the clone has all")
    server.stop()
    clone.promote()
    insert(clone, 500)
    pair.wait_on_standby("main", COUNT, 1500)
    # It replays what is not durable yet as well.
    pair.wait_status(
        "main", lambda s: str(s["store"]["durable"]).startswith("2:"), "the new timeline is durable"
    )


def test_idle_asks_for_nothing_but_the_poll(
    primary: PrimaryFactory, bucket_pair: Pair, proxy: HttpProxy
) -> None:
    """And neither side lists while WAL flows."""
    # Nothing the server writes by itself falls into the quiet time.
    server = primary(17, settings={"autovacuum": "off", "checkpoint_timeout": "1h"})
    pair = bucket_pair
    prepare(server)
    pair.protect("main", server, link=None, bucket=QUICK)
    pair.wait_on_standby("main", COUNT, 1000)
    proxy.forget()
    for number in range(5):
        insert(server)
        pair.wait_on_standby("main", COUNT, 1001 + number)
    assert proxy.counts()["LIST"] == 0
    assert proxy.counts()["PUT"] >= 1
    # A running server logs its snapshot once after the last write (LOG_SNAPSHOT_INTERVAL_MS).
    _wait_quiet(proxy)
    proxy.forget()

    def nothing_but_polls() -> bool:
        # One that is under way is no miss yet, and one of the next looks counts it.
        counts = proxy.counts()
        return counts["GET miss"] >= 50 and set(counts) == {"GET miss"}

    wait_until(nothing_but_polls, 60, "50 polls and nothing else")


def _wait_quiet(proxy: HttpProxy) -> None:
    """Until nothing but polls came for longer than the server's own habits take."""

    def puts() -> int:
        return proxy.counts()["PUT"]

    quiet_since, last = time.monotonic(), puts()

    def quiet() -> bool:
        nonlocal quiet_since, last
        now = puts()
        if now != last:
            quiet_since, last = time.monotonic(), now
        return time.monotonic() - quiet_since > 20

    wait_until(quiet, 120, "a quiet bucket")


def test_writers_lose_nothing_acknowledged_under_sync(
    primary: PrimaryFactory, bucket_pair: Pair
) -> None:
    """Commits wait for the bucket; every one that returned is in it when the host is gone."""
    pair, server = bucket_pair, primary(17)
    prepare(server)
    pair.protect("main", server, link=None, bucket=QUICK, protection="sync")
    server.execute("alter system set synchronous_standby_names = 'logship_main'")
    server.reload()
    wait_until(
        lambda: server.execute("select sync_state from pg_stat_replication") == [("sync",)],
        60,
        "commits wait",
    )
    acknowledged: list[int] = []

    def write() -> None:
        try:
            with psycopg.connect(server.dsn(), autocommit=True) as connection:
                while True:
                    row = connection.execute(
                        "insert into t (v) values ('sync') returning id"
                    ).fetchone()
                    assert row is not None
                    acknowledged.append(row[0])
        except psycopg.Error:
            return

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    wait_until(lambda: len(acknowledged) >= 20, 120, "20 commits")
    server.kill()
    for writer in writers:
        writer.join(30)
    # What is in the bucket comes still: the applier goes on reading without the primary.
    # All of them: whose commit is noted last need not be the last in the WAL.
    all_of_them = f"select array_agg(id) @> array{acknowledged} from t where v = 'sync'"
    pair.wait_on_standby("main", all_of_them, True)
    pair.promote("main")
    found = {row[0] for row in pair.standby_sql("main", "select id from t where v = 'sync'")}
    assert set(acknowledged) <= found


def test_the_bucket_stands_in_for_a_link_that_is_away_and_is_let_go_of_again(
    primary: PrimaryFactory, bucket_pair: Pair
) -> None:
    pair, server = bucket_pair, primary(17)
    prepare(server)
    shipper = pair.protect("main", server, bucket=QUICK)
    idle = {"state": "idle", "error": None, "alive_at": None}
    pair.wait_status(
        "main",
        lambda s: (s["link"]["state"], s["bucket"]) == ("connected", idle),
        "the link has the word, and the bucket is not read",
    )
    shipper.stop()
    insert(server, 300)
    alone = pair.shipper("main", server.dsn(), link=None, bucket=QUICK)
    alone.start()
    pair.wait_on_standby("main", COUNT, 1300)
    assert pair.status("main")["link"]["state"] == "bucket"
    alone.stop()
    again = pair.shipper("main", server.dsn(), bucket=QUICK)
    insert(server, 300)
    again.start()
    pair.wait_on_standby("main", COUNT, 1600)
    pair.wait_status("main", lambda s: s["link"]["state"] == "connected", "the link is back")
    pair.wait_status("main", lambda s: (s["bucket"] or {}).get("state") == "idle", "it rests")


def test_a_seed_comes_from_the_bucket_or_a_copy_of_it_when_it_is_asked_for(
    primary: PrimaryFactory, shared_tmp_path: Path
) -> None:
    """With a bucket that is a directory: a copy of it is one too."""
    server = primary(17)
    prepare(server)
    bucket = shared_tmp_path / "bucket"
    directory = shared_tmp_path / "pair"
    directory.mkdir(mode=0o711)
    pair = Pair(directory, bucket=BucketRoad(f"file://{bucket}"))
    try:
        pair.protect("main", server, link=None, bucket=QUICK)
        pair.wait_on_standby("main", COUNT, 1000)
        for source in ("bucket", str(bucket)):
            before = pair.standby_directory("main").stat().st_ino
            done = pair.command("applier", "seed", "main", "--from", source)
            assert done.returncode == 0, done.stderr
            wait_until(partial(_is_another, pair, before), 60, "the data directory is another one")
            insert(server, 10)
            pair.wait_on_standby("main", COUNT, server.execute(COUNT)[0][0])
        assert pair.command("applier", "seed", "main", "--from", "/nonexistent").returncode == 2
        assert pair.command("applier", "seed", "main", "--from", "link").returncode == 3
    finally:
        pair.destroy()


def _is_another(pair: Pair, inode: int) -> bool:
    try:
        return pair.standby_directory("main").stat().st_ino != inode
    except (FileNotFoundError, ValueError):
        return False  # between the two
