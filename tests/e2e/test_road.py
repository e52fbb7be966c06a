"""The main job on every major: seed, follow, through restarts and timelines, promote."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path

import psycopg
import pytest

from logship.errors import LogshipError
from logship.lsn import Lsn
from tests.conftest import PrimaryFactory
from tests.support.installations import all_majors
from tests.support.pair import PATIENCE_SECONDS, Pair
from tests.support.servers import PrimaryServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

COUNT = "select count(*) from t"


def prepare(server: PrimaryServer) -> None:
    server.execute("create table t (id int generated always as identity primary key, v text)")
    insert(server, 1000)


def insert(server: PrimaryServer, count: int = 1) -> None:
    server.execute(f"insert into t (v) select repeat('v', 100) from generate_series(1, {count})")


@all_majors
def test_follows_through_restarts_of_everything_and_opens(
    major: int, primary: PrimaryFactory, pair: Pair
) -> None:
    server = primary(major)
    prepare(server)
    shipper = pair.protect("main", server)
    pair.wait_on_standby("main", COUNT, 1000)
    postmaster = pair.standby_pid("main")

    shipper.stop(signal.SIGKILL)
    insert(server)
    shipper.start()
    pair.wait_on_standby("main", COUNT, 1001)

    pair.applier.stop()
    insert(server)
    assert pair.standby_sql("main", "select pg_is_in_recovery()") == [(True,)]
    pair.applier.start()
    pair.wait_on_standby("main", COUNT, 1002)
    assert pair.standby_pid("main") == postmaster, "the standby outlives the applier"

    pair.applier.stop(signal.SIGKILL)
    insert(server)
    pair.applier.start()
    pair.wait_on_standby("main", COUNT, 1003)
    assert pair.standby_pid("main") == postmaster

    os.kill(postmaster, signal.SIGKILL)
    insert(server)
    pair.wait_on_standby("main", COUNT, 1004)
    assert pair.standby_pid("main") != postmaster

    server.restart()
    insert(server)
    pair.wait_on_standby("main", COUNT, 1005)

    pair.wait_durable("main", server)
    server.kill()
    record = pair.promote("main")
    assert pair.standby_sql("main", COUNT) == [(1005,)]
    assert record["lost_bytes"] == 0
    pair.standby_sql("main", "insert into t (v) values ('after')")
    assert pair.status("main")["phase"] == "promoted"


def test_each_commit_becomes_visible_though_nothing_follows_it(
    primary: PrimaryFactory, pair: Pair
) -> None:
    """No segment must be full, nor anything be written after it; benchmarks say how soon."""
    server = primary(17)
    prepare(server)
    pair.protect("main", server)
    pair.wait_on_standby("main", COUNT, 1000)
    for number in range(20):
        insert(server)
        pair.wait_on_standby("main", COUNT, 1001 + number)


@all_majors
def test_promotes_offline_from_local_disk_alone(
    major: int, primary: PrimaryFactory, pair: Pair
) -> None:
    server = primary(major)
    prepare(server)
    shipper = pair.protect("main", server)
    insert(server, 500)
    target = str(server.execute("select pg_current_wal_flush_lsn()")[0][0])
    wait_until(
        lambda: server.execute(
            "select count(*) from pg_stat_replication"
            " where application_name = 'logship_main' and flush_lsn >= %s::pg_lsn",
            target,
        )[0][0],
        PATIENCE_SECONDS,
        "all of it is durable",
    )
    server.kill()
    shipper.stop(signal.SIGKILL)
    pair.applier.stop(signal.SIGKILL)
    os.kill(pair.standby_pid("main"), signal.SIGKILL)

    done = pair.command(
        "shipper", "promote", "main", "--offline", "--config", pair.applier.settings, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert '"offline": true' in done.stdout
    assert pair.standby_sql("main", COUNT) == [(1500,)]
    pair.standby_sql("main", "insert into t (v) values ('after')")

    # The applier that comes back knows, leaves the open server alone, and accepts nothing.
    opened = pair.standby_pid("main")
    pair.applier.start()
    pair.wait_status("main", lambda s: s["phase"] == "promoted", "the promotion is known")
    assert pair.standby_pid("main") == opened
    again = pair.command("shipper", "promote", "main", "--json")
    assert again.returncode == 3
    assert '"already-promoted"' in again.stdout


def test_offline_is_refused_while_an_applier_runs(primary: PrimaryFactory, pair: Pair) -> None:
    server = primary(17)
    pair.protect("main", server)
    done = pair.command(
        "shipper", "promote", "main", "--offline", "--config", pair.applier.settings
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert pair.status("main")["phase"] == "following"


@all_majors
def test_follows_a_timeline_switch_of_its_primary(
    major: int, primary: PrimaryFactory, pair: Pair, shared_tmp_path: Path
) -> None:
    server = primary(major, settings={"wal_keep_size": "256MB"})
    prepare(server)
    heir = server.clone_as_standby(shared_tmp_path / "heir")
    conninfo = (
        f"host=127.0.0.1,127.0.0.1 port={server.port},{heir.port} user=postgres"
        " dbname=postgres target_session_attrs=read-write"
    )
    pair.add("main")
    pair.applier.start()
    pair.shipper("main", conninfo).start()
    pair.wait_following("main")
    insert(server, 10)
    pair.wait_on_standby("main", COUNT, 1010)
    wait_until(lambda: heir.execute(COUNT)[0][0] == 1010, PATIENCE_SECONDS, "the heir has it all")

    server.stop("fast")
    heir.promote()
    wait_until(
        lambda: not heir.execute("select pg_is_in_recovery()")[0][0], PATIENCE_SECONDS, "promoted"
    )
    insert(heir, 5)
    pair.wait_on_standby("main", COUNT, 1015)
    assert pair.status("main")["primary"]["timeline"] == 2

    heir.kill()
    pair.promote("main")
    assert pair.standby_sql("main", COUNT) == [(1015,)]
    assert pair.standby_sql(
        "main", "select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
    ) == [("00000003",)]


@pytest.mark.on_disk
@pytest.mark.parametrize("major", [14, 18])
def test_sync_loses_nothing_that_was_acknowledged(
    major: int, primary: PrimaryFactory, pair: Pair
) -> None:
    server = primary(major)
    prepare(server)
    pair.protect("main", server, protection="sync")
    # Whoever has just connected, perhaps once more, has not asked the primary yet.
    pair.wait_status(
        "main", lambda s: s["protection"]["in_effect"] == "async", "as the primary sees it"
    )
    server.execute("alter system set synchronous_standby_names = 'logship_main'")
    server.reload()
    pair.wait_status("main", lambda s: s["protection"]["in_effect"] == "sync", "sync in effect")

    acknowledged: list[int] = []

    def write() -> None:
        with (
            contextlib.suppress(psycopg.Error),
            psycopg.connect(server.dsn(), autocommit=True) as connection,
        ):
            while True:
                rows = connection.execute("insert into t (v) values ('s') returning id").fetchall()
                acknowledged.append(rows[0][0])

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    # Each waits for two disks.
    wait_until(lambda: len(acknowledged) > 300, 3 * PATIENCE_SECONDS, "300 commits")
    server.kill()
    for writer in writers:
        writer.join()
    pair.promote("main")
    found = {row[0] for row in pair.standby_sql("main", "select id from t")}
    assert set(acknowledged) <= found


def test_the_shipper_of_a_promoted_instance_is_fenced_and_says_so(
    primary: PrimaryFactory, pair: Pair
) -> None:
    server = primary(18)
    prepare(server)
    shipper = pair.protect("main", server)
    durable = pair.status("main")["store"]["durable"]
    record = pair.promote("main")
    insert(server, 100)
    event = wait_until(
        lambda: [e for e in shipper.events() if e.get("code") == "fenced"],
        PATIENCE_SECONDS,
        "it says so",
    )[0]
    assert event["level"] == "error"
    assert shipper.is_running
    assert pair.status("main")["promotion"] is not None
    assert Lsn.parse(record["durable_lsn"]) >= Lsn.parse(str(durable).split(":")[1])

    # Nor after restarts of both: the fence is on disk.
    shipper.stop()
    pair.applier.stop()
    pair.applier.start()
    count = len([e for e in shipper.events() if e.get("code") == "fenced"])
    shipper.start()
    wait_until(
        lambda: len([e for e in shipper.events() if e.get("code") == "fenced"]) > count,
        PATIENCE_SECONDS,
        "it is told again",
    )
    assert pair.standby_sql("main", COUNT) == [(1000,)]


def test_promoting_what_is_not_there_is_refused_and_changes_nothing(
    primary: PrimaryFactory, pair: Pair
) -> None:
    pair.add("empty")
    pair.applier.start()
    wait_until(
        lambda: (pair.directory / "run" / "applier.sock").exists(), PATIENCE_SECONDS, "the API"
    )
    done = pair.command("shipper", "promote", "empty", "--json")
    assert done.returncode == 3, done.stdout
    assert '"promote-refused"' in done.stdout
    with pytest.raises(LogshipError) as caught:
        pair.promote("nobody")
    assert caught.value.code == "unknown-instance"
    assert pair.status("empty")["phase"] == "waiting"
