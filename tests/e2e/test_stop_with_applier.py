"""An applier that takes its servers down with it, and the shipper's health meanwhile."""

from __future__ import annotations

import json
from typing import Any

import pytest

from logship.postgres.control_file import State, read_control_file
from tests.conftest import PrimaryFactory
from tests.support.pair import PATIENCE_SECONDS, Pair
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

COUNT = "select count(*) from t"


def health(pair: Pair) -> tuple[int, dict[str, Any]]:
    """The shipper's answer and the exit code."""
    settings = pair.shippers["main"].settings
    done = pair.command("shipper", "health", "--config", settings, "--json")
    return done.returncode, json.loads(done.stdout)


def test_servers_stop_in_order_with_the_applier_and_come_back(
    primary: PrimaryFactory, pair: Pair
) -> None:
    server = primary(17)
    server.execute("create table t (id int)")
    pair.more_standby = "stop_with_applier = true"
    shipper = pair.protect("main", server)
    pair.wait_on_standby("main", COUNT, 0)
    code, said = health(pair)
    assert (code, said["state"], said["healthy"]) == (0, "shipping", True)

    directory = pair.standby_directory("main")
    assert pair.applier.stop() == 0
    assert not (directory / "postmaster.pid").exists()
    assert read_control_file(directory).state is State.SHUTDOWNED_IN_RECOVERY
    wait_until(lambda: health(pair)[1]["error"], PATIENCE_SECONDS, "the shipper says what is wrong")
    code, said = health(pair)
    assert (code, said["state"], said["healthy"]) == (1, "connecting", False)

    server.execute("insert into t values (1)")
    pair.applier.start()
    pair.wait_on_standby("main", COUNT, 1)
    pair.wait_durable("main", server)
    assert health(pair)[0] == 0

    server.kill()
    pair.promote("main")
    pair.standby_sql("main", "insert into t values (2)")
    assert pair.applier.stop() == 0
    assert read_control_file(directory).state is State.SHUTDOWNED
    pair.applier.start()
    pair.wait_on_standby("main", COUNT, 2)

    shipper.stop()
    done = pair.command("shipper", "health", "--config", shipper.settings, "--json")
    assert json.loads(done.stdout)["error"]["code"] == "shipper-unreachable"
    assert done.returncode == 1
