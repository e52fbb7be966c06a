"""From an applier without instances to a standby that follows, with one token and no key copied."""

from __future__ import annotations

import json

import pytest

from tests.conftest import PrimaryFactory
from tests.support.pair import PATIENCE_SECONDS, Pair, Process
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


def test_a_token_is_all_that_is_carried_over(primary: PrimaryFactory, pair: Pair) -> None:
    server = primary(17, settings={"max_slot_wal_keep_size": "1GB"})
    server.execute("create table t as select 1 as id")
    pair.write_applier_settings()
    pair.applier.start()
    wait_until(pair.client.path.exists, PATIENCE_SECONDS, "the API")
    address = f"tcp://127.0.0.1:{pair.link_port}"

    token = pair.command("applier", "enroll", "main", "--address", address).stdout.strip()
    settings = pair.directory / "etc" / "shipper-main.toml"
    options = ("--conninfo", server.dsn(), "--config", settings)
    state = ("--state-directory", pair.directory / "state")
    joined = pair.command("shipper", "join", token, *options, *state, "--json")
    assert joined.returncode == 0, joined.stdout
    notes = json.loads(joined.stdout)["notes"]
    assert all(note.startswith("known-bad-minors warns (17.") for note in notes), notes
    # It is there also after a restart, and nobody declared it.
    pair.applier.stop()
    pair.applier.start()
    wait_until(pair.client.path.exists, PATIENCE_SECONDS, "the API")

    check = pair.command("shipper", "check", "--config", settings, "--json")
    assert check.returncode == 0, check.stdout
    shipper = pair.shippers["main"] = Process("shipper", settings, pair.directory / "shipper.log")
    shipper.start()
    following = pair.wait_following("main")
    pair.standby_ports["main"] = json.loads(joined.stdout)["standby_port"]
    assert following["standby"]["port"] == pair.standby_ports["main"]
    pair.wait_on_standby("main", "select count(*) from t", 1)
