"""Tablespaces that primaries make while they are followed, all at the same path."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg
import pytest

from logship.errors import LogshipError
from logship.postgres.private_paths import PrivatePaths, why_not
from tests.conftest import PrimaryFactory
from tests.support.pair import Pair
from tests.support.processes import (
    give_to_server,
    make_server_directory,
    server_run_as,
)
from tests.support.servers import PrimaryServer
from tests.support.waiting import free_port, wait_until

pytestmark = pytest.mark.e2e

COUNT = "select count(*) from placed"


@pytest.fixture(scope="module", autouse=True)
def _permitted() -> None:
    why = why_not(server_run_as())
    if why:
        pytest.skip(f"mount namespaces are not permitted here: {why}")


@pytest.fixture
def location() -> Path:
    """A path that no directory of the machine leads to."""
    return Path(f"/logship-{secrets.token_hex(4)}/fast")


class Primary:
    """A server that alone has a directory at `location`."""

    def __init__(self, make: PrimaryFactory, name: str, major: int, location: Path) -> None:
        self.name = name
        self.location = location
        self.server: PrimaryServer = make(major, name=name, start=False)
        own, root = self.server.directory / "space", self.server.directory / "root"
        make_server_directory(own)
        root.mkdir()
        self.server.private_paths = PrivatePaths(root, {location: own})
        self.server.start()

    def make_tablespace(self, rows: int) -> None:
        self.server.execute(f"create tablespace fast location '{self.location}'")  # type: ignore[arg-type]
        self.server.execute("create table placed (id int) tablespace fast")
        self.insert(rows)

    def insert(self, rows: int) -> None:
        self.server.execute(f"insert into placed select generate_series(1, {rows})")  # type: ignore[arg-type]


def link_of(pair: Pair, name: str) -> Path:
    # One that is just made to take its place has another name.
    links = (pair.standby_directory(name) / "pg_tblspc").iterdir()
    (link,) = (each for each in links if each.name.isdigit())
    return link.readlink()


def ours(pair: Pair, name: str) -> Path:
    (found,) = (pair.standby_directory(name).parent / "tablespaces").glob("[0-9]*")
    return found


def restored_and_started_anew(pair: Pair, name: str) -> int:
    """Rows of what a restore leaves, started anew as whoever ran it is told to."""
    into = pair.directory / "restored"
    options = ("--into", into, "--port", str(free_port()), "--config", pair.applier.settings)
    done = pair.command("applier", "restore", name, "--latest", *options, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    run_in_shell(result["stop_command"])
    run_in_shell(result["start_command"])
    try:
        with psycopg.connect(
            host=result["socket_directory"], port=result["port"], user="postgres"
        ) as connection:
            ((rows,),) = connection.execute(COUNT).fetchall()
            return int(rows)
    finally:
        run_in_shell(f"{result['stop_command']} -m immediate")


def run_in_shell(line: str) -> None:
    subprocess.run(line, shell=True, check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_the_same_path_of_three_primaries_is_three_directories_on_one_host(
    primary: PrimaryFactory, pair: Pair, location: Path
) -> None:
    primaries = [
        Primary(primary, name, major, location)
        for name, major in (("old", 14), ("new", 18), ("twin", 18))
    ]
    for one in primaries:
        pair.add(one.name)
    old, new, twin = primaries
    twin.make_tablespace(102)  # comes with its seed
    with pair.applier.settings.open("a") as settings:
        settings.write("[seeds]\nkeep = 1\n")
    pair.applier.start()
    for one in primaries:
        pair.shipper(one.name, one.server.dsn()).start()
    for one in primaries:
        pair.wait_following(one.name)
    assert ours(pair, "twin").is_dir()
    for number, one in enumerate((old, new)):
        one.make_tablespace(100 + number)
    for number, one in enumerate(primaries):
        pair.wait_on_standby(one.name, COUNT, 100 + number)
    assert not location.exists()
    assert len({ours(pair, one.name) for one in primaries}) == 3

    # Whoever ends, the standbys go on: also from before the record again.
    pair.applier.stop(signal.SIGKILL)
    os.kill(pair.standby_pid("old"), signal.SIGKILL)
    for one in primaries:
        one.insert(10)
    pair.applier.start()
    for number, one in enumerate(primaries):
        pair.wait_on_standby(one.name, COUNT, 110 + number)

    # Promoted, it has no need of the path from its first checkpoint on.
    assert link_of(pair, "new") == location
    pair.wait_durable("new", new.server)
    new.server.kill()
    pair.promote("new")
    pair.standby_sql("new", "insert into placed values (0)")
    os.kill(pair.standby_pid("new"), signal.SIGKILL)
    pair.wait_on_standby("new", COUNT, 112)
    pair.standby_sql("new", "checkpoint")
    wait_until(lambda: link_of(pair, "new") == ours(pair, "new"), 30, "the link is turned")
    os.kill(pair.standby_pid("new"), signal.SIGKILL)
    pair.wait_on_standby("new", COUNT, 112)

    # A restore knows the record as well.
    pair.wait_durable("old", old.server)
    assert restored_and_started_anew(pair, "old") == 110

    # What is dropped leaves nothing.
    old.server.execute("drop table placed")
    old.server.execute("drop tablespace fast")
    old.server.execute("checkpoint")
    pair.wait_durable("old", old.server)
    pair.wait_on_standby("old", "select count(*) from pg_tablespace where spcname = 'fast'", 0)
    pair.standby_sql("old", "checkpoint")
    home = pair.standby_directory("old").parent / "tablespaces"
    wait_until(lambda: not list(home.glob("[0-9]*")), 30, "the dropped tablespace is tidied up")
    assert pair.status("twin")["alarms"] == []
    assert not location.parent.exists()


def test_where_no_path_can_be_private_the_standby_waits_for_a_directory(
    primary: PrimaryFactory, pair: Pair, location: Path
) -> None:
    one = Primary(primary, "main", 18, location)
    pair.more_standby = 'private_paths = "never"'
    pair.protect("main", one.server)
    one.make_tablespace(100)
    pair.wait_durable("main", one.server)
    held = pair.wait_status("main", lambda s: s["alarms"], "the alarm")
    assert [alarm["code"] for alarm in held["alarms"]] == ["tablespace-path"]
    assert str(location) in held["alarms"][0]["what"]
    with pytest.raises(LogshipError) as refused:
        pair.promote("main")
    assert refused.value.code == "tablespace-path"

    location.parent.mkdir()
    try:
        location.mkdir(mode=0o700)
        give_to_server(location)
        pair.wait_on_standby("main", COUNT, 100)
        pair.wait_status("main", lambda s: s["alarms"] == [], "no alarm")
        assert (location / "logship-owner").exists()
    finally:
        pair.destroy()
        shutil.rmtree(location.parent)
