"""A standby on another minor, and a primary that comes back as another cluster: both real."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from logship.errors import Code, LogshipError
from tests.conftest import PrimaryFactory
from tests.crash import dying
from tests.support import upgrading
from tests.support.installations import older_minor_dir, postgres_dir
from tests.support.pair import PATIENCE_SECONDS, Pair
from tests.support.servers import PrimaryServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

COUNT = "select count(*) from t"
FENCED = r"after:^rename .*instance\.json"
SLOW_SEED = "[seed]\nmax_rate_mb_s = 1\n"

# A build that says what it is, and starts, if `dead` is not there, as one that is told to stream
# from nowhere: what a real one does that can't load what it needs to connect.
BROKEN_POSTGRES = """#!/bin/sh
case "$1" in
-D) [ -e {here}/dead ] && {{ echo "FATAL:  this build is broken"; exit 1; }}
    exec {real} "$@" -c primary_conninfo='host={here}/nowhere' ;;
esac
exec {real} "$@"
"""


def prepare(server: PrimaryServer) -> None:
    server.execute("create table t (id int generated always as identity, v text)")
    insert(server, 100)


def insert(server: PrimaryServer, count: int = 1) -> None:
    server.execute(f"insert into t (v) select repeat('v', 100) from generate_series(1, {count})")


def name_of(server: PrimaryServer) -> str:
    """As operators write it."""
    identifier = server.execute("select system_identifier from pg_control_system()")[0][0]
    return f"{identifier}-{server.execute('show server_version_num')[0][0][:2]}"


def have_only(pair: Pair, installation: Path) -> Path:
    """The directory in which the applier looks for others from now on."""
    installed = pair.directory / "installations"
    installed.mkdir()
    (installed / "old").symlink_to(installation)
    settings = pair.applier.settings
    settings.write_text(settings.read_text().replace(str(installation.parent), str(installed)))
    return installed


def make_broken(directory: Path, like: Path) -> None:
    """An installation of the version of `like` that can't stream."""
    programs = directory / "bin"
    programs.mkdir(parents=True)
    for name in ("lib", "share"):
        (directory / name).symlink_to(like / name)
    (programs / "initdb").symlink_to(like / "bin" / "initdb")
    # A copy: through a link it would find the real server beside itself.
    shutil.copy(like / "bin" / "pg_ctl", programs / "pg_ctl")
    script = BROKEN_POSTGRES.format(here=directory, real=like / "bin" / "postgres")
    (programs / "postgres").write_text(script)
    (programs / "postgres").chmod(0o755)


def promote_offline_until(
    step: str, pair: Pair, incarnation: str
) -> subprocess.CompletedProcess[str]:
    """`shipper promote --offline` of a cluster of before, which dies at `step`."""
    return subprocess.run(
        [
            *(sys.executable, dying.__file__, pair.directory / "steps", step, "start"),
            *("shipper", "promote", "main", "--offline", "--incarnation", incarnation),
            *("--config", pair.applier.settings),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def switch(pair: Pair, version: str, within_seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
    return pair.client.switch_installation("main", version, within_seconds)


def die_while_it_is_tried(pair: Pair, version: str) -> None:
    """What has not proved itself is not remembered by the next applier."""

    def switch_in_vain() -> None:
        with pytest.raises(LogshipError, match="broke off"):
            switch(pair, version)

    asking = threading.Thread(target=switch_in_vain)
    asking.start()
    pair.wait_on_standby("main", "show server_version", version)
    pair.applier.stop(signal.SIGKILL)
    asking.join(PATIENCE_SECONDS)
    pair.applier.start()


def test_a_standby_moves_to_another_minor_and_comes_back_where_that_does_not_stream(
    primary: PrimaryFactory, pair: Pair
) -> None:
    older, newer = older_minor_dir(17), postgres_dir(17)
    server = primary(17, installation=older)
    prepare(server)
    pair.add("main")
    installed = have_only(pair, older)
    pair.applier.start()
    pair.shipper("main", server.dsn()).start()
    pair.wait_on_standby("main", COUNT, 100)
    first = pair.standby_pid("main")

    with pytest.raises(LogshipError) as caught:
        switch(pair, newer.name)
    assert caught.value.code is Code.NO_INSTALLATION
    assert pair.standby_pid("main") == first, "what is refused changes nothing"

    # It appears while the applier runs, and is no good: it does not start, or does not stream.
    broken = installed / "new"
    make_broken(broken, newer)
    for dead in (True, False):
        (broken / "dead").touch() if dead else (broken / "dead").unlink()
        with pytest.raises(LogshipError) as caught:
            switch(pair, newer.name, 3.0)
        assert caught.value.code is Code.SWITCH_FAILED
        assert ("this build is broken" in caught.value.what) == dead
        insert(server)
        pair.wait_on_standby("main", COUNT, 101 if dead else 102)
        assert pair.standby_sql("main", "show server_version") == [(older.name,)]
    status = pair.status("main")
    assert status["standby"]["chosen"] is None
    assert status["alarms"] == []

    die_while_it_is_tried(pair, newer.name)
    pair.wait_on_standby("main", "show server_version", older.name)
    insert(server)
    pair.wait_on_standby("main", COUNT, 103)

    shutil.rmtree(broken)
    broken.symlink_to(newer)
    done = pair.command("applier", "switch-installation", "main", "--to", newer.name)
    assert done.returncode == 0, done.stderr
    assert f"streams on {newer.name}" in done.stdout
    assert pair.standby_sql("main", "show server_version") == [(newer.name,)]
    before = pair.standby_pid("main")
    pair.applier.stop(signal.SIGKILL)
    pair.applier.start()
    pair.wait_following("main")
    insert(server)
    pair.wait_on_standby("main", COUNT, 104)
    assert pair.standby_pid("main") == before, "the choice is remembered, nothing is restarted"
    status = pair.status("main")
    assert (status["standby"]["chosen"], status["standby"]["version"]) == (newer.name, newer.name)

    assert switch(pair, "auto")["version"] == older.name, "the nearest to the primary"
    assert pair.status("main")["standby"]["chosen"] is None


@pytest.mark.skipif(not upgrading.is_there(), reason="pg_upgrade of Debian's PostgreSQL 15")
def test_the_cluster_of_before_pg_upgrade_is_kept_until_the_new_one_streams(
    primary: PrimaryFactory, pair: Pair
) -> None:
    old = primary(upgrading.OLD_MAJOR)
    prepare(old)
    before = name_of(old)
    shipper = pair.protect("main", old)
    pair.wait_on_standby("main", COUNT, 100)
    old.stop()
    new = primary(installation=upgrading.DEBIAN, name="upgraded", start=False)
    upgrading.upgrade(old, new)
    new.start()
    after = name_of(new)

    # Nobody told the shipper, nor the applier.
    status = pair.wait_status(
        "main",
        lambda s: s["phase"] == "following" and any(each["removed_at"] for each in s["previous"]),
        "the upgraded cluster's standby streams",
    )
    assert status["incarnation"] is not None and status["incarnation"]["major"] == 15
    (kept,) = status["previous"]
    assert f"{kept['system_identifier']}-{kept['major']}" == before
    insert(new)
    pair.wait_on_standby("main", COUNT, 101)
    assert shipper.is_running
    place = pair.directory / "applier" / "instances" / "main" / before
    assert (place / "data").is_dir()
    detail = pair.command("shipper", "status", "main").stdout
    assert f"PostgreSQL 14, system identifier {kept['system_identifier']}" in detail

    # The upgrade went wrong: back to what was before it, though the new one streams already.
    done = pair.command("shipper", "promote", "main", "--yes", "--incarnation", before)
    assert done.returncode == 0, done.stderr
    assert f"nothing of what {after} wrote is in it" in done.stdout
    assert pair.standby_sql("main", COUNT) == [(100,)]
    assert pair.standby_sql("main", "show server_version") == [(postgres_dir(14).name,)]
    pair.standby_sql("main", "insert into t (v) values ('after')")
    (kept,) = pair.status("main")["previous"]
    assert (kept["major"], kept["removed_at"]) == (15, None)
    done = pair.command("applier", "forget", "main", after)
    assert done.returncode == 0, done.stderr
    pair.wait_status("main", lambda s: not s["previous"], "it is forgotten")
    wait_until(lambda: not (place.parent / after).exists(), PATIENCE_SECONDS, "its files are gone")
    assert pair.standby_sql("main", COUNT) == [(101,)]


def test_the_cluster_of_before_can_be_promoted_while_the_new_one_is_seeded(
    primary: PrimaryFactory, pair: Pair
) -> None:
    old = primary(16)
    prepare(old)
    before = name_of(old)
    shipper = pair.protect("main", old)
    pair.wait_on_standby("main", COUNT, 100)
    pair.wait_durable("main", old)
    shipper.stop()
    old.kill()
    # What pg_upgrade would leave: a higher major, and so another system identifier.
    new = primary(17, name="new")
    after = name_of(new)
    shipper = pair.shipper("main", new.dsn(), more=SLOW_SEED)
    shipper.start()
    pair.wait_status("main", lambda s: s["phase"] == "seeding", "the new one is seeded")
    pair.applier.stop(signal.SIGKILL)
    pair.applier.start()
    status = pair.wait_status("main", lambda s: s["phase"] == "seeding", "seeded again")
    assert [each["major"] for each in status["previous"]] == [16]
    assert status["previous"][0]["removed_at"] is None
    new.kill()
    shipper.stop()

    refused = pair.command("shipper", "promote", "main", "--yes")
    assert refused.returncode == 3
    assert f"shipper promote main --incarnation {before}" in refused.stderr
    pair.applier.stop(signal.SIGKILL)
    died = promote_offline_until(FENCED, pair, before)
    assert died.returncode == dying.EXIT_STATUS, died.stderr
    pair.applier.start()
    status = pair.wait_status("main", lambda s: s["phase"] == "promoted", "finished by itself")
    assert status["incarnation"] is not None and status["incarnation"]["major"] == 16
    assert status["promotion"] is not None
    assert f"nothing of what {after} wrote is in it" in status["promotion"]["lost"]
    assert pair.standby_sql("main", COUNT) == [(100,)]
    pair.standby_sql("main", "insert into t (v) values ('after')")
