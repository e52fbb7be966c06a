"""What goes wrong between two hosts, with real processes: a clear error, and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from logship.link.keys import generate
from logship.lsn import Lsn
from tests.conftest import PrimaryFactory
from tests.support.installations import older_minor_dir, postgres_dir
from tests.support.pair import PATIENCE_SECONDS, Pair, Process, durable_lsn
from tests.support.servers import PrimaryServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

COUNT = "select count(*) from t"


def prepare(server: PrimaryServer) -> None:
    server.execute("create table t (id int generated always as identity, v text)")
    insert(server, 100)


def insert(server: PrimaryServer, count: int = 1) -> None:
    server.execute(f"insert into t (v) select repeat('v', 100) from generate_series(1, {count})")


def wait_event(process: Process, code: str, *, more_than: int = 0) -> dict[str, Any]:
    """The first event with that code, once there are more than `more_than`."""

    def found() -> list[dict[str, Any]]:
        return [event for event in process.events() if event.get("code") == code][more_than:]

    try:
        return wait_until(found, PATIENCE_SECONDS, f"{code} in the log")[0]
    except TimeoutError as error:
        raise AssertionError(f"{error}\n{process.log[-3000:]}") from None


def check_clear(event: dict[str, Any]) -> None:
    assert event["level"] in ("warning", "error")
    assert event["what"]
    assert event["hint"]
    assert "Traceback" not in str(event)


def test_another_cluster_under_the_same_name_is_refused(
    primary: PrimaryFactory, pair: Pair
) -> None:
    server = primary(17)
    prepare(server)
    shipper = pair.protect("main", server)
    pair.wait_on_standby("main", COUNT, 100)
    shipper.stop()
    other = pair.shipper("main", primary(17, name="other").dsn())
    other.start()
    event = wait_event(other, "system-identifier-mismatch")
    check_clear(event)
    other.stop()
    pair.shipper("main", server.dsn()).start()
    insert(server)
    pair.wait_on_standby("main", COUNT, 101)


def test_keys_that_do_not_fit_are_told_apart(primary: PrimaryFactory, pair: Pair) -> None:
    server = primary(18)
    for name in ("main", "side"):
        pair.add(name)
    pair.applier.start()
    generate(pair.directory / "keys", "stranger")

    unknown = pair.shipper("main", server.dsn(), key="stranger", suffix="-unknown")
    unknown.start()
    event = wait_event(unknown, "link-authentication")
    check_clear(event)
    assert "does not know our key" in event["what"]
    unknown.stop()

    foreign = pair.shipper("main", server.dsn(), key="side", suffix="-foreign")
    foreign.start()
    event = wait_event(foreign, "key-not-allowed")
    check_clear(event)
    assert "side" in event["what"]
    foreign.stop()

    missing = pair.shipper("main", server.dsn(), key="nowhere", suffix="-missing")
    missing.start()
    assert missing.wait() in (1, 2)
    assert "there is no key file" in missing.log
    assert "Traceback" not in missing.log

    # The applier's own key is wrong in the shipper's settings.
    wrong = pair.shipper("main", server.dsn(), suffix="-wrong")
    text = wrong.settings.read_text().replace("keys/applier.pub", "keys/stranger.pub")
    wrong.settings.write_text(text)
    wrong.start()
    event = wait_event(wrong, "link-authentication")
    assert "public key" in event["what"]
    assert pair.status("main")["phase"] == "waiting"


def test_a_second_shipper_is_refused_while_the_first_ships(
    primary: PrimaryFactory, pair: Pair
) -> None:
    server = primary(17)
    prepare(server)
    pair.protect("main", server)
    second = pair.shipper("main", server.dsn(), suffix="-second")
    second.start()
    event = wait_event(second, "instance-busy")
    check_clear(event)
    insert(server)
    pair.wait_on_standby("main", COUNT, 101)

    # The same state directory is refused at once, before anything is disturbed.
    third = pair.shipper("main", server.dsn(), suffix="-third")
    third.settings.write_text(third.settings.read_text().replace("/shipper-third", "/shipper"))
    third.start()
    assert third.wait() == 3
    assert "another shipper runs" in third.log


@pytest.fixture
def small_disk(shared_tmp_path: Path) -> Path:
    """A file system of its own where the applier keeps everything."""
    directory = shared_tmp_path / "applier"
    directory.mkdir(mode=0o711)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300m,mode=0711", "tmpfs", directory],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.strip()}")
    return directory


def test_a_full_store_holds_the_wal_back_and_resumes(
    primary: PrimaryFactory, small_disk: Path, pair: Pair
) -> None:
    try:
        server = primary(17)
        prepare(server)
        pair.keep_free_mb = 40
        pair.protect("main", server)
        pair.wait_on_standby("main", COUNT, 100)
        ballast = small_disk / "ballast"
        room = os.statvfs(small_disk)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - (45 << 20))
        for _ in range(4):
            server.execute("select pg_switch_wal()")
            insert(server, 2000)
        status = pair.wait_status(
            "main",
            lambda s: any(alarm["code"] == "disk-full" for alarm in s["alarms"]),
            "the alarm",
        )
        gap = status["transfer_gap"]["bytes"]
        assert gap is None or gap > 0
        confirmed = wait_until(
            lambda: server.execute(
                "select flush_lsn::text from pg_stat_replication where application_name = %s",
                "logship_main",
            ),
            PATIENCE_SECONDS,
            "a shipper that streams",
        )
        # Looked at afterwards: what fits into the last of the room may come in between.
        held = durable_lsn(pair.status("main"))
        assert Lsn.parse(confirmed[0][0]) <= held, "nothing acked that is not durable"
        ballast.unlink()
        pair.wait_on_standby("main", COUNT, 8100)
        pair.wait_status("main", lambda s: not s["alarms"], "the alarm is over")
        assert server.execute(
            "select wal_status from pg_replication_slots where slot_name = 'logship_main'"
        ) == [("reserved",)]
    finally:
        pair.destroy()
        subprocess.run(["umount", "-l", small_disk], check=False)


def lose_slot(server: PrimaryServer) -> None:
    """Write until the primary has thrown away what the slot needed."""

    def lost() -> bool:
        insert(server, 5000)
        server.execute("select pg_switch_wal()")
        server.execute("checkpoint")
        rows = server.execute(
            "select wal_status from pg_replication_slots where slot_name = 'logship_main'"
        )
        return bool(rows and rows[0][0] == "lost")

    wait_until(lost, PATIENCE_SECONDS, "the slot is lost")


def test_a_lost_slot_is_a_named_gap_and_a_new_seed_heals_it(
    primary: PrimaryFactory, pair: Pair
) -> None:
    server = primary(
        17,
        wal_segsize_mb=1,
        settings={"max_slot_wal_keep_size": "2MB", "max_wal_size": "3MB", "min_wal_size": "2MB"},
    )
    prepare(server)
    shipper = pair.protect("main", server)
    pair.wait_on_standby("main", COUNT, 100)
    shipper.stop()
    lose_slot(server)
    shipper.start()
    status = pair.wait_status("main", lambda s: s["gap"], "the gap is named")
    assert status["gap"] is not None
    assert status["gap"]["code"] == "wal-removed"
    alarms = {alarm["code"]: alarm for alarm in status["alarms"]}
    assert "applier seed main" in alarms["wal-gap"]["hint"]
    # Never a silent hole: the standby stays where it was.
    assert pair.standby_sql("main", COUNT) == [(100,)]

    asked = pair.command("applier", "seed", "main")
    assert asked.returncode == 0, asked.stderr
    count = server.execute(COUNT)[0][0]
    pair.wait_on_standby("main", COUNT, count)
    insert(server)
    pair.wait_on_standby("main", COUNT, count + 1)
    status = pair.wait_status("main", lambda s: s["phase"] == "following", "it follows again")
    assert status["gap"] is None
    assert not any(alarm["code"] == "wal-gap" for alarm in status["alarms"])


def test_a_slot_that_was_dropped_is_made_again_without_a_hole(
    primary: PrimaryFactory, pair: Pair
) -> None:
    server = primary(17, settings={"wal_keep_size": "128MB"})
    prepare(server)
    shipper = pair.protect("main", server)
    pair.wait_on_standby("main", COUNT, 100)
    shipper.stop()
    # Its walsender learns of it a moment later, and a slot in use can't be dropped.
    unused = "select not active from pg_replication_slots where slot_name = 'logship_main'"
    wait_until(lambda: server.execute(unused) == [(True,)], PATIENCE_SECONDS, "the slot is free")
    server.execute("select pg_drop_replication_slot('logship_main')")
    insert(server, 10)
    shipper.start()
    pair.wait_on_standby("main", COUNT, 110)
    assert server.execute("select count(*) from pg_replication_slots") == [(1,)]


def test_a_standby_ahead_of_a_new_timelines_fork_is_refused_and_explained(
    primary: PrimaryFactory, pair: Pair, shared_tmp_path: Path
) -> None:
    """The heir of the primary had less than our standby: following it would corrupt."""
    server = primary(17, settings={"wal_keep_size": "256MB"})
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
    wait_until(lambda: heir.execute(COUNT)[0][0] == 100, PATIENCE_SECONDS, "the heir follows")
    heir.stop("fast")
    insert(server, 1000)
    pair.wait_on_standby("main", COUNT, 1100)
    server.stop("immediate")
    heir.start()
    heir.promote()
    wait_until(
        lambda: not heir.execute("select pg_is_in_recovery()")[0][0], PATIENCE_SECONDS, "promoted"
    )
    insert(heir, 5)
    status = pair.wait_status(
        "main",
        lambda s: any(alarm["code"] == "standby-ahead-of-fork" for alarm in s["alarms"]),
        "the alarm",
    )
    alarm = next(a for a in status["alarms"] if a["code"] == "standby-ahead-of-fork")
    assert alarm["hint"]
    assert pair.standby_sql("main", COUNT) == [(1100,)], "it did not follow"
    # The new line is stored all the same, and a new seed follows it.
    assert pair.command("applier", "seed", "main").returncode == 0
    pair.wait_on_standby("main", COUNT, 105)
    pair.wait_status("main", lambda s: not s["alarms"], "the alarm is over")


def test_a_blocked_instance_is_received_and_stored_but_not_replayed(
    primary: PrimaryFactory, pair: Pair
) -> None:
    """The only installation of its major is older than the primary."""
    server = primary(17)
    prepare(server)
    pair.add("main")
    older = pair.directory / "installations"
    older.mkdir()
    (older / "old").symlink_to(older_minor_dir(17))
    settings = pair.applier.settings
    settings.write_text(settings.read_text().replace(str(server.installation.parent), str(older)))
    pair.applier.start()
    pair.shipper("main", server.dsn()).start()
    status = pair.wait_status(
        "main",
        lambda s: s["phase"] == "blocked" and s["store"]["durable"] is not None,
        "blocked, and storing",
    )
    assert any(alarm["code"] == "compatibility" for alarm in status["alarms"])
    insert(server, 3000)
    pair.wait_durable("main", server)
    assert status["standby"]["state"] in (None, "stopped")
    refused = pair.command("shipper", "promote", "main", "--json")
    assert refused.returncode == 3
    assert "minor-order" in refused.stdout

    # The right version is installed: it passes, with no hand but a restart.
    (older / server.installation.name).symlink_to(server.installation)
    pair.applier.stop()
    pair.applier.start()
    pair.wait_on_standby("main", COUNT, 3100)


def test_wal_of_an_upgraded_primary_is_held_back_whatever_restarts(
    primary: PrimaryFactory, pair: Pair
) -> None:
    """The primary is upgraded before its standby: the wrong order, and the common one."""
    newer = postgres_dir(17)
    server = primary(17, installation=older_minor_dir(17))
    prepare(server)
    pair.add("main")
    installed = pair.directory / "installations"
    installed.mkdir()
    (installed / "old").symlink_to(older_minor_dir(17))
    settings = pair.applier.settings
    text = settings.read_text().replace(str(newer.parent), str(installed))
    settings.write_text(text.replace("[postgres]\n", "[postgres]\nlook_seconds = 0.5\n"))
    pair.applier.start()
    shipper = pair.shipper("main", server.dsn())
    shipper.start()
    pair.wait_on_standby("main", COUNT, 100)
    before = pair.standby_pid("main")

    server.stop("fast")
    server.installation = newer
    server.start()
    insert(server, 50)
    pair.wait_status("main", lambda s: s["phase"] == "blocked", "blocked")
    pair.wait_durable("main", server)
    assert pair.standby_sql("main", COUNT) == [(100,)]

    for process in (pair.applier, shipper):
        process.stop(signal.SIGKILL)
        process.start()
    insert(server, 50)
    pair.wait_durable("main", server)
    assert pair.status("main")["phase"] == "blocked"
    assert pair.standby_sql("main", COUNT) == [(100,)], "it replayed WAL it was not checked against"
    assert pair.standby_pid("main") == before

    # The package is upgraded here as well: nothing else needs to be done.
    (installed / "new").symlink_to(newer)
    pair.wait_on_standby("main", COUNT, 200)
    assert pair.standby_sql("main", "show server_version") == [(newer.name,)]
    assert pair.standby_pid("main") != before


def test_the_old_standby_can_be_promoted_while_a_new_seed_is_still_arriving(
    primary: PrimaryFactory, pair: Pair
) -> None:
    """After a gap the alarm promises it; an unfinished seed must not take it away."""
    server = primary(
        17,
        wal_segsize_mb=1,
        settings={"max_slot_wal_keep_size": "2MB", "max_wal_size": "3MB", "min_wal_size": "2MB"},
    )
    prepare(server)
    shipper = pair.protect("main", server)
    pair.wait_on_standby("main", COUNT, 100)
    shipper.stop()
    lose_slot(server)
    shipper.settings.write_text(shipper.settings.read_text() + "[seed]\nmax_rate_mb_s = 1\n")
    shipper.start()
    pair.wait_status("main", lambda s: s["gap"], "the gap is named")
    assert pair.command("applier", "seed", "main").returncode == 0
    pair.wait_status("main", lambda s: s["phase"] == "seeding", "a seed arrives")
    server.kill()
    shipper.stop(signal.SIGKILL)
    pair.wait_status("main", lambda s: s["link"]["state"] == "lost", "the shipper is gone")

    record = pair.promote("main")
    assert pair.standby_sql("main", COUNT) == [(100,)]
    assert record["lost_bytes"] > 1 << 20
    pair.standby_sql("main", "insert into t (v) values ('after')")
