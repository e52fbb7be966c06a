"""Retention beside a living standby: it goes on, restarts and opens with what is left."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from logship.bucket.keys import Keys
from logship.bucket.seed_archive import list_seeds
from logship.identity import Incarnation
from logship.objects.directory import DirectoryStore
from tests.conftest import PrimaryFactory
from tests.support.installations import MAJORS
from tests.support.pair import Pair
from tests.support.servers import PrimaryServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

COUNT = "select count(*) from t"
SETTINGS = """
[seeds]
keep = 1
[retention]
window_hours = 0
"""


def write_segments(server: PrimaryServer, count: int) -> None:
    for _ in range(count):
        server.execute("insert into t select g, repeat('v', 100) from generate_series(1, 100) g")
        server.execute("select pg_switch_wal()")


def kept_segments(pair: Pair) -> set[str]:
    """Names of segments of which the store has something.

    One that is being written is named without its `.partial`: its file gets another name
    while a test looks, and nothing has left the store then.
    """
    (store,) = (pair.directory / "applier" / "instances" / "main").glob("*/wal")
    names = (path.name.split(".")[0] for path in store.iterdir())
    return {name for name in names if len(name) == 24}


@pytest.mark.parametrize("major", [MAJORS[0], MAJORS[-1]])
def test_a_standby_goes_on_with_what_retention_leaves(
    major: int, primary: PrimaryFactory, pair: Pair
) -> None:
    server = primary(major)
    server.execute("create table t (id int, v text)")
    pair.add("main", more=SETTINGS)
    pair.applier.start()
    pair.shipper("main", server.dsn()).start()
    pair.wait_following("main")
    write_segments(server, 4)
    pair.wait_on_standby("main", COUNT, 400)

    # The kept seed needs all of it.
    before = kept_segments(pair)
    answer = pair.client.retention("main", dry_run=False)
    assert answer["parts"]["store"]["removed"] == [] and kept_segments(pair) >= before

    # The next one takes its place, and the standby has a restartpoint after it.
    first = wait_until(lambda: kept_seeds(pair), 60, "the first is kept")
    pair.client.request_seed("main", "another")
    wait_until(lambda: kept_seeds(pair) not in ([], first), 60, "the next seed is kept")
    pair.wait_following("main")
    write_segments(server, 3)
    server.execute("checkpoint")
    write_segments(server, 1)
    pair.wait_on_standby("main", COUNT, 800)
    pair.standby_sql("main", "checkpoint")
    wait_until(
        lambda: pair.client.retention("main", dry_run=True)["parts"]["store"]["removed"],
        60,
        "something may go",
    )
    before = kept_segments(pair)
    told = pair.client.retention("main", dry_run=True)["parts"]["store"]["removed"]
    done = pair.client.retention("main", dry_run=False)["parts"]["store"]["removed"]
    assert done == told
    gone = before - kept_segments(pair)
    assert len(gone) == sum(group["pieces"] for group in done) >= 4

    os.kill(pair.standby_pid("main"), signal.SIGKILL)
    pair.applier.stop(signal.SIGKILL)
    write_segments(server, 1)
    pair.applier.start()
    pair.wait_on_standby("main", COUNT, 900)
    assert not gone & kept_segments(pair)
    pair.wait_durable("main", server)
    server.kill()
    assert pair.promote("main")["lost_bytes"] == 0
    assert pair.standby_sql("main", COUNT) == [(900,)]
    held = pair.client.retention("main", dry_run=False)["parts"]["store"]["held"]
    assert "promoted" in held


def kept_seeds(pair: Pair) -> list[str]:
    directory: Path = pair.directory / "applier" / "seeds"
    names = [path.name for path in (directory / "main").glob("*")]
    return [
        info.name.seed_id
        for name in names
        for info in list_seeds(DirectoryStore(directory), Keys("main", Incarnation.parse(name)))
    ]
