"""An applier that starts with nothing: instances come, change and go under its feet."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from applier.fleet.registry import Registration, Registry, Removal
from logship.link.keys import generate
from tests.conftest import PrimaryFactory
from tests.support.pair import PATIENCE_SECONDS, Pair
from tests.support.servers import PrimaryServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

COUNT = "select count(*) from t"


class Fleet:
    """The commands, and what there is afterwards."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair

    def applier(self, *arguments: str | Path, code: int = 0) -> dict[str, Any]:
        done = self.pair.command("applier", *arguments, "--json")
        assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}"
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def list(self) -> dict[str, dict[str, Any]]:
        listed = self.applier("list", "--config", self.pair.applier.settings)
        return {each["name"]: each for each in listed["instances"]}

    def add(self, name: str, *options: str) -> None:
        key = self.pair.directory / "keys" / f"{name}.pub"
        if not key.exists():
            generate(key.parent, name)
        added = self.applier("add", name, "--public-key-file", key, *options)
        self.pair.standby_ports[name] = added["port"]

    def pid(self, name: str) -> int:
        data = Path(self.list()[name]["standby"]) / "data"
        return int((data / "postmaster.pid").read_text().split()[0])


def files_of(directory: Path, name: str) -> list[Path]:
    found = [*directory.glob(f"*/instances/{name}"), *directory.glob(f"*/fleet/{name}.json")]
    return [*found, *directory.glob(f"run/standby/{name}")]


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/cwd").exists()


def test_instances_come_change_and_go_while_the_applier_runs(
    primary: PrimaryFactory, pair: Pair
) -> None:
    server = primary(17)
    server.execute("create table t (id int)")
    fleet = Fleet(pair)
    start_without_instances(fleet)
    add_two_of(server, fleet)

    # A change is in force at once; the next applier knows it all, and adopts the servers.
    fleet.applier("change", "main", "--set", "settings.work_mem=9MB")
    pair.wait_on_standby("main", "show work_mem", "9MB")
    refused = fleet.applier("change", "main", "--set", "settings.work_memm=9MB", code=2)
    assert 'unrecognized configuration parameter "work_memm"' in refused["error"]["what"]
    pids = {name: fleet.pid(name) for name in ("main", "twin")}
    fleet.applier("change", "twin", "--set", "run_standby=false")
    assert not is_alive(pids["twin"])
    fleet.applier("change", "twin", "--unset", "run_standby")
    pair.wait_on_standby("twin", COUNT, 0)
    assert fleet.pid("main") == pids["main"]
    pids["twin"] = fleet.pid("twin")
    pair.applier.stop(signal.SIGKILL)
    assert sorted(fleet.list()) == ["main", "twin"], "they are listed without an applier too"
    pair.applier.start()
    for name in ("main", "twin"):
        pair.wait_status(name, lambda s: s["link"]["state"] == "connected", "its shipper is back")
    assert {name: fleet.pid(name) for name in ("main", "twin")} == pids

    # One goes, with everything; the other does not notice.
    fleet.applier("remove", "twin", "--yes")
    assert files_of(pair.directory, "twin") == [] and not is_alive(pids["twin"])
    shipper = pair.shippers["twin-2"]
    wait_until(
        lambda: any(each.get("code") == "unknown-instance" for each in shipper.events()),
        PATIENCE_SECONDS,
        "its shipper is refused",
    )
    shipper.stop()
    server.execute("insert into t values (1)")
    pair.wait_on_standby("main", COUNT, 1)
    assert fleet.pid("main") == pids["main"]

    promote_offline(server, fleet)
    end_what_was_cut_off(fleet)
    assert not is_alive(pids["main"])


def start_without_instances(fleet: Fleet) -> None:
    pair = fleet.pair
    for volume in ("wal", "data"):
        (pair.directory / volume).mkdir(mode=0o711)
    pair.more_store = f'volumes = ["{pair.directory}/wal"]'
    pair.more_standby = f'volumes = ["{pair.directory}/data"]'
    pair.write_applier_settings()
    pair.applier.start()
    wait_until(lambda: pair.client.path.exists(), PATIENCE_SECONDS, "the API answers")
    assert fleet.list() == {}


def add_two_of(server: PrimaryServer, fleet: Fleet) -> None:
    """Each with a key, a slot and a port of its own, WAL and data on different volumes."""
    pair = fleet.pair
    fleet.add("main", "--set", "shared_buffers_mb=24")
    fleet.add("twin")
    for name in ("main", "twin"):
        pair.shipper(name, server.dsn(), suffix="" if name == "main" else "-2").start()
    for name in ("main", "twin"):
        pair.wait_following(name)
    listed = fleet.list()
    for name in ("main", "twin"):
        assert listed[name]["store"].startswith(f"{pair.directory}/wal/instances/{name}/")
        assert listed[name]["standby"].startswith(f"{pair.directory}/data/instances/{name}/")
        assert (Path(listed[name]["standby"]) / "data/PG_VERSION").read_text().strip() == "17"
    # A standby that streams may still let nobody in.
    pair.wait_on_standby("main", "show shared_buffers", "24MB")


def promote_offline(server: PrimaryServer, fleet: Fleet) -> None:
    """From what is registered; then it is production, and not removed by a slip."""
    pair = fleet.pair
    pair.wait_durable("main", server)
    pair.applier.stop()
    server.kill()
    promoted = pair.command(
        "shipper", "promote", "main", "--offline", "--config", pair.applier.settings, "--json"
    )
    assert promoted.returncode == 0, promoted.stdout + promoted.stderr
    pair.applier.start()
    pair.wait_status("main", lambda s: s["phase"] == "promoted", "it is open")
    refused = fleet.applier("remove", "main", "--yes", code=3)
    assert refused["error"]["code"] == "already-promoted"
    assert fleet.applier("remove", "main", "--keep-data")["keep_server"]
    pair.standby_sql("main", "insert into t values (2)")

    # What was kept is taken up again, and clients find it where it was.
    port = pair.standby_ports["main"]
    fleet.add("main")
    assert pair.standby_ports["main"] == port
    pair.wait_status("main", lambda s: s["phase"] == "promoted", "it is known again")
    assert pair.standby_sql("main", COUNT) == [(2,)]


def end_what_was_cut_off(fleet: Fleet) -> None:
    """A removal before anything went: the next applier stops the server and ends it."""
    pair = fleet.pair
    pair.applier.stop(signal.SIGKILL)
    registry = Registry(pair.directory / "applier")
    settings = registry.load().entries["main"].registration.settings
    removal = Removal(keep_data=False, keep_server=False)
    registry.save(Registration(name="main", settings=settings, removing=removal))
    pair.applier.start()
    wait_until(
        lambda: files_of(pair.directory, "main") == [], PATIENCE_SECONDS, "nothing is left of it"
    )
    with pytest.raises(psycopg.OperationalError):
        pair.standby_sql("main", COUNT)
    wait_until(lambda: fleet.list() == {}, PATIENCE_SECONDS, "the applier runs with none")
    assert os.listdir(pair.directory / "applier" / "fleet") == []
