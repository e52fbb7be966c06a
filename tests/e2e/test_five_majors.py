"""One applier, five primaries of as many majors, all at once: each is its own affair."""

from __future__ import annotations

import re
import signal

import pytest

from tests.conftest import PrimaryFactory
from tests.support.installations import MAJORS
from tests.support.pair import PATIENCE_SECONDS, Pair
from tests.support.servers import PrimaryServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

COUNT = "select count(*) from t"
VERSION = "select current_setting('server_version_num')::int / 10000"
NAMES = {major: f"pg{major}" for major in MAJORS}


def insert(server: PrimaryServer, count: int) -> None:
    server.execute(f"insert into t (v) select repeat('v', 100) from generate_series(1, {count})")


def shown(pair: Pair) -> dict[str, list[str]]:
    """`shipper status`: the cells of each line by instance, in the order of the lines."""
    done = pair.command("shipper", "status")
    assert done.returncode == 0, done.stderr
    table = done.stdout.split("\n\n")[0].splitlines()[1:]
    rows = [re.split(r" {2,}", line) for line in table]
    return {row[0]: row for row in rows}


def protect_all(pair: Pair, servers: dict[int, PrimaryServer]) -> None:
    for major, server in servers.items():
        pair.add(NAMES[major])
        # Rows of its own number: what one standby shows can't be another's.
        server.execute("create table t (v text)")
        insert(server, major)
    pair.applier.start()
    for major, server in servers.items():
        pair.shipper(NAMES[major], server.dsn()).start()
    for major in servers:
        pair.wait_following(NAMES[major])


def test_five_majors_live_at_once_and_each_is_promoted_for_itself(
    primary: PrimaryFactory, pair: Pair
) -> None:
    servers = {major: primary(major, name=f"primary{major}") for major in MAJORS}
    protect_all(pair, servers)
    for major, name in NAMES.items():
        pair.wait_on_standby(name, COUNT, major)
        assert pair.standby_sql(name, VERSION) == [(major,)]
        status = pair.status(name)
        assert str(status["standby"]["version"]).startswith(f"{major}.")
        assert status["compat"] is not None and status["compat"]["verdict"] != "block"
        assert status["alarms"] == []
    wait_until(
        lambda: list(shown(pair)) == sorted(NAMES.values()),
        PATIENCE_SECONDS,
        "lines by name, as all are well",
    )

    # All postmasters outlive the applier, and the next one adopts each for its own instance.
    postmasters = {name: pair.standby_pid(name) for name in NAMES.values()}
    pair.applier.stop(signal.SIGKILL)
    for server in servers.values():
        insert(server, 100)
    pair.applier.start()
    for major, name in NAMES.items():
        pair.wait_on_standby(name, COUNT, major + 100)
    assert {name: pair.standby_pid(name) for name in NAMES.values()} == postmasters

    # One is lost and promoted: it stands where it belongs, and the others do not notice.
    lost = 16
    pair.wait_durable(NAMES[lost], servers[lost])
    servers[lost].kill()
    wait_until(
        lambda: next(iter(shown(pair))) == NAMES[lost], PATIENCE_SECONDS, "the lost one on top"
    )
    assert pair.promote(NAMES[lost])["lost_bytes"] == 0
    assert pair.standby_sql(NAMES[lost], COUNT) == [(lost + 100,)]
    assert list(shown(pair))[-1] == NAMES[lost], "nothing is left to do for it"
    others = [major for major in MAJORS if major != lost]
    for major in others:
        insert(servers[major], 100)
    for major in others:
        pair.wait_on_standby(NAMES[major], COUNT, major + 200)
        assert pair.standby_sql(NAMES[major], "select pg_is_in_recovery()") == [(True,)]

    # The rest at once: five opened servers, each with the rows of its own primary.
    for major in others:
        pair.wait_durable(NAMES[major], servers[major])
        servers[major].kill()
    for major in others:
        assert pair.promote(NAMES[major])["lost_bytes"] == 0
    for major in others:
        assert pair.standby_sql(NAMES[major], COUNT) == [(major + 200,)]
        pair.standby_sql(NAMES[major], "insert into t values ('after')")
    assert {row[1] for row in shown(pair).values()} == {"promoted"}
