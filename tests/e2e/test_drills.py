"""Drills beside a running applier: one that passes, one that does not, and one that is killed."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from logship.commandline import EXIT_INTERRUPTED
from logship.postgres.postmaster import running_postmaster
from tests.conftest import PrimaryFactory
from tests.e2e.test_road import COUNT, insert, prepare
from tests.support.installations import MAJORS
from tests.support.pair import PATIENCE_SECONDS, Pair
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


def test_a_drill_shows_whether_the_instance_can_be_recovered(
    primary: PrimaryFactory, pair: Pair
) -> None:
    server = primary(MAJORS[-1], wal_segsize_mb=1, settings={"max_prepared_transactions": "1"})
    prepare(server)
    pair.more = "[seeds]\nkeep = 1\n"
    pair.add("main")
    pair.applier.start()
    pair.shipper("main", server.dsn()).start()
    pair.wait_following("main")
    kept = pair.directory / "applier" / "seeds"
    wait_until(lambda: list(kept.glob("*/*/seeds/*/end")), PATIENCE_SECONDS, "a kept seed")
    server.execute("create database other")
    ((before,),) = server.execute("select extract(epoch from clock_timestamp())::float")
    insert(server, 3000)
    pair.wait_durable("main", server)
    assert pair.status("main")["last_drill"] is None

    standby = pair.standby_pid("main")
    passed = drill(pair, "--read-tables")
    assert passed.returncode == 0, passed.stderr
    told = json.loads(passed.stdout)
    assert told["passed"] and told["databases"] >= 3 and told["tables"] > 3 * 50, told
    last = pair.status("main")["last_drill"]
    assert last == {
        **{name: told[name] for name in ("at", "passed", "seconds", "timeline", "lsn")},
        "last_commit_time": told["last_commit_time"],
        "error": None,
    }
    assert last["seconds"] > 0 and told["last_commit_time"] > before
    assert not own_directory(pair).exists(), "nothing of it stays"
    assert pair.standby_pid("main") == standby

    a_damaged_seed_is_found(pair, kept)
    # Has whoever reads that table wait for it: a drill is at that for seconds.
    server.execute("begin; lock table t; prepare transaction 'forgotten'")
    pair.wait_durable("main", server)
    what_a_killed_one_leaves_goes_with_the_next(pair)
    server.execute("rollback prepared 'forgotten'")
    insert(server, 5)
    pair.wait_on_standby("main", COUNT, server.execute(COUNT)[0][0])


def a_damaged_seed_is_found(pair: Pair, kept: Path) -> None:
    before = pair.status("main")["last_drill"]
    piece = next(path for path in sorted(kept.glob("*/*/seeds/*/base/**/*")) if path.is_file())
    whole = piece.read_bytes()
    piece.write_bytes(whole[: len(whole) // 2])
    failed = drill(pair)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr, failed.stderr
    status = pair.status("main")
    last = status["last_drill"]
    assert before and last and last["error"] and last["at"] > before["at"]
    (alarm,) = [each for each in status["alarms"] if each["code"] == "drill-failed"]
    assert last["error"]["what"] in alarm["what"]
    shown = pair.command("shipper", "status")
    assert "failed" in shown.stdout, shown.stdout
    piece.write_bytes(whole)


def what_a_killed_one_leaves_goes_with_the_next(pair: Pair) -> None:
    killed = pair.begin("applier", *arguments(pair), "--read-tables")
    left = server_of(pair, killed)
    killed.kill()
    killed.communicate(timeout=PATIENCE_SECONDS)
    # And who has seen enough leaves nothing behind.
    for number in (signal.SIGINT, signal.SIGTERM):
        stopped = pair.begin("applier", *arguments(pair), "--read-tables")
        server_of(pair, stopped, other_than=left)
        stopped.send_signal(number)
        assert "Traceback" not in stopped.communicate(timeout=PATIENCE_SECONDS)[1]
        assert stopped.returncode == EXIT_INTERRUPTED
        assert not own_directory(pair).exists() and not Path(f"/proc/{left}/cwd").exists()
    again = drill(pair)
    assert again.returncode == 0, again.stderr
    assert not own_directory(pair).exists()
    healed = pair.status("main")
    assert healed["last_drill"] and healed["last_drill"]["passed"]
    assert "drill-failed" not in [each["code"] for each in healed["alarms"]]


def server_of(pair: Pair, drill: subprocess.Popen[str], other_than: int | None = None) -> int:
    """The process of the server that a drill has just started."""

    def looked() -> int | None:
        assert drill.poll() is None, f"it was too quick: {drill.communicate()}"
        found = running_postmaster(own_directory(pair) / "data")
        return None if found is None or found.pid == other_than else found.pid

    found = wait_until(looked, PATIENCE_SECONDS, "the server of a drill")
    assert found is not None
    return found


def own_directory(pair: Pair) -> Path:
    return pair.directory / "applier" / "drills" / "main"


def drill(pair: Pair, *more: str) -> subprocess.CompletedProcess[str]:
    return pair.command("applier", *arguments(pair), *more)


def arguments(pair: Pair) -> tuple[str | Path, ...]:
    return ("drill", "main", "--json", "--config", pair.applier.settings)
