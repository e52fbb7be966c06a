"""`check` finds what is wrong with real servers, keys, ports and directories."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from applier.api.server import ApiServer
from applier.fleet.registry import Registration, Registry
from applier.settings import load_applier_settings
from logship.link.keys import KeyPair, generate, load_pair
from logship.link.transport import Router
from logship.settings import parse_settings
from logship.settings_text import toml_value
from shipper.commands.primary_facts import read_facts
from shipper.settings import ShipperSettings
from tests.conftest import PrimaryFactory
from tests.integration.command_runner import Outcome, run
from tests.integration.test_commands_with_an_applier import Operations
from tests.support.installations import all_majors, cache_directory, postgres_dir
from tests.support.waiting import free_port

READY = {"max_slot_wal_keep_size": "1GB"}


class Recovery(NamedTuple):
    """A recovery server's link, as far as a handshake goes."""

    endpoint: str
    keys: KeyPair


@pytest.fixture
async def recovery(tmp_path: Path) -> AsyncIterator[Recovery]:
    keys, shipper_keys = generate(tmp_path, "applier"), generate(tmp_path, "main")
    router = Router(
        keys=keys,
        allowed_public_keys=[shipper_keys.public],
        on_message=lambda _peer, _parts: None,
        on_gone=lambda _peer: None,
    )
    yield Recovery(router.bind("tcp://127.0.0.1:0"), keys)
    router.close()


def shipper_file(directory: Path, conninfo: str, address: str, **changes: object) -> Path:
    values = {
        "instance": "main",
        "state_directory": "state",
        "primary.conninfo": conninfo,
        "link.address": address,
        "link.applier_public_key_file": "applier.pub",
        "link.secret_key_file": "main.key",
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    file = directory / "shipper.toml"
    file.write_text("".join(f"{name} = {toml_value(value)}\n" for name, value in values.items()))
    return file


def levels(outcome: Outcome) -> dict[str, str]:
    return {each["name"]: each["level"] for each in outcome.document["checks"]}


def troubles(outcome: Outcome) -> dict[str, str]:
    return {name: level for name, level in levels(outcome).items() if level != "ok"}


@all_majors
async def test_a_primary_of_every_major_passes(
    primary: PrimaryFactory, recovery: Recovery, tmp_path: Path, major: int
) -> None:
    server = primary(major, settings=READY)
    file = shipper_file(tmp_path, server.dsn(), recovery.endpoint)
    outcome = await run("shipper", "check", "--config", file, "--json")
    # The test's servers run without fsync.
    assert troubles(outcome) in (
        {},
        {"fsync": "warn"},
        {"fsync": "warn", "full_page_writes": "warn"},
    )
    assert (outcome.code, outcome.document["ok"]) == (0, True)
    expected = {"primary", "databases", "replication", "slot", "link", "secret-key"}
    assert expected <= levels(outcome).keys()


async def test_everything_that_is_wrong_is_found_at_once(
    primary: PrimaryFactory, recovery: Recovery, tmp_path: Path
) -> None:
    server = primary(settings={"wal_level": "minimal", "max_wal_senders": "0"})
    server.execute("create role weak login password 'hunter2'")
    (tmp_path / "state").write_text("not a directory")
    (tmp_path / "main.key").chmod(0o644)
    file = shipper_file(
        tmp_path, server.dsn(user="weak", password="hunter2"), recovery.endpoint, protection="sync"
    )
    outcome = await run("shipper", "check", "--config", file, "--json")
    assert outcome.code == 3
    found = troubles(outcome)
    for name in (
        "state-directory",
        "role",
        "wal_level",
        "max_wal_senders",
        "replication",
        "protection",
        "secret-key",
    ):
        assert found[name] == "fail"
    assert found["monitoring"] == found["databases"] == found["link"] == "warn"
    assert "hunter2" not in outcome.out + outcome.err
    assert all(each["hint"] for each in outcome.document["checks"] if each["level"] != "ok")


async def test_the_text_form_has_a_remedy_under_each_trouble(
    recovery: Recovery, tmp_path: Path
) -> None:
    dsn = f"host=127.0.0.1 port={free_port()} user=u password=hunter2"
    file = shipper_file(tmp_path, dsn, recovery.endpoint)
    outcome = await run("shipper", "check", "--config", file)
    assert outcome.code == 3
    lines = outcome.out.splitlines()
    failures = [number for number, line in enumerate(lines) if line.startswith("fail")]
    assert len(failures) == 2
    assert all(lines[number + 1].lstrip().startswith("-> ") for number in failures)
    assert lines[-1].endswith("2 failed, 0 warnings")
    assert "hunter2" not in outcome.out + outcome.err


async def test_a_standby_is_no_primary(
    primary: PrimaryFactory, recovery: Recovery, shared_tmp_path: Path, tmp_path: Path
) -> None:
    standby = primary(settings=READY).clone_as_standby(shared_tmp_path / "clone")
    file = shipper_file(tmp_path, standby.dsn(), recovery.endpoint)
    outcome = await run("shipper", "check", "--config", file, "--json")
    assert outcome.code == 3
    assert troubles(outcome)["is-primary"] == "fail"


async def test_slots_and_synchronous_names_are_read_from_the_server(
    primary: PrimaryFactory,
) -> None:
    server = primary(settings={"synchronous_standby_names": "FIRST 1 (other)"})
    server.execute("select pg_create_physical_replication_slot('logship_main', true)")
    text = f"""
        instance = "main"
        primary.conninfo = "{server.dsn()}"
        link = {{ address = "tcp://r:1", applier_public_key_file = "a", secret_key_file = "b" }}
    """
    facts = read_facts(parse_settings(text, ShipperSettings, file=Path("/x")))
    assert facts.slot is not None
    assert (facts.slot.slot_type, facts.slot.wal_status) == ("physical", "reserved")
    assert facts.slot.active_application is None
    assert facts.parameters["synchronous_standby_names"] == "FIRST 1 (other)"
    assert (facts.slots_in_use, facts.may_replicate, facts.in_recovery) == (1, True, False)


async def test_a_key_that_the_applier_does_not_know_is_found(
    recovery: Recovery, tmp_path: Path
) -> None:
    generate(tmp_path, "stranger")
    file = shipper_file(
        tmp_path, f"host={tmp_path}", recovery.endpoint, link__secret_key_file="stranger.key"
    )
    outcome = await run("shipper", "check", "--config", file, "--json")
    assert troubles(outcome)["link"] == "fail"


async def test_an_applier_with_another_key_or_none_at_all_is_found(
    recovery: Recovery, tmp_path: Path
) -> None:
    file = shipper_file(
        tmp_path, f"host={tmp_path}", recovery.endpoint, link__applier_public_key_file="main.pub"
    )
    wrong = await run("shipper", "check", "--config", file, "--json")
    assert troubles(wrong)["link"] == "fail"
    file = shipper_file(tmp_path, f"host={tmp_path}", f"tcp://127.0.0.1:{free_port()}")
    nobody = await run("shipper", "check", "--config", file, "--json")
    assert troubles(nobody)["link"] == "fail"


def applier_file(home: Path, run_directory: Path, **changes: object) -> Path:
    values: dict[str, Any] = {
        "directory": str(run_directory / "data"),
        "link.listen": f"tcp://127.0.0.1:{free_port()}",
        "link.secret_key_file": "applier.key",
        "api.socket": str(run_directory / "api.sock"),
        "wal_server.socket_directory": str(run_directory / "wal"),
        "postgres.installations": [str(cache_directory())],
        "store.keep_free_mb": 1,
        "standby.private_paths": "never",  # whatever this machine permits
        "instances.main.port": free_port(),
        "instances.main.listen_addresses": "localhost",
        "instances.main.public_key_file": "main.pub",
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    file = home / "applier.toml"
    file.write_text("".join(f"{name} = {toml_value(value)}\n" for name, value in values.items()))
    return file


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    generate(tmp_path, "applier")
    generate(tmp_path, "main")
    return tmp_path


async def test_a_recovery_server_that_is_ready_passes(keys: Path, shared_tmp_path: Path) -> None:
    file = applier_file(keys, shared_tmp_path)
    outcome = await run("applier", "check", "--config", file, "--json")
    assert outcome.code == 0, outcome
    assert troubles(outcome) == {}
    (listing,) = [c["what"] for c in outcome.document["checks"] if c["name"] == "installations"]
    assert str(postgres_dir(17)) in listing
    assert load_pair(keys / "applier.key").public in outcome.out
    assert not (shared_tmp_path / "data").exists(), "a check changes nothing"


async def test_what_was_added_and_the_volumes_are_looked_at_too(
    keys: Path, shared_tmp_path: Path
) -> None:
    (shared_tmp_path / "volume").mkdir()
    file = applier_file(
        keys,
        shared_tmp_path,
        store__volumes=[str(shared_tmp_path / "volume"), str(shared_tmp_path / "away")],
    )
    registry = Registry(shared_tmp_path / "data")
    said = {"public_key": generate(keys, "late").public, "listen_addresses": "localhost"}
    taken = load_applier_settings(file).instances["main"].port
    registry.save(Registration(name="late", settings={**said, "port": free_port()}))
    registry.save(Registration(name="misfit", settings={**said, "port": taken}))
    registry.path("torn").write_text("{")
    outcome = await run("applier", "check", "--config", file, "--json")
    assert outcome.code == 3
    found = {each["name"]: each for each in outcome.document["checks"]}
    assert found["public-key:late"]["level"] == found["port:late"]["level"] == "ok"
    assert "the same port" in found["registered:misfit"]["what"]
    assert "torn.json" in found["registered:torn"]["what"]
    assert found[f"volume:{shared_tmp_path}/away"]["level"] == "fail"
    assert found[f"volume:{shared_tmp_path}/volume"]["level"] == "ok"


async def test_parameters_that_no_server_takes_are_found(keys: Path, shared_tmp_path: Path) -> None:
    file = applier_file(
        keys,
        shared_tmp_path,
        postgres__installations=[str(postgres_dir(17))],
        instances__main__settings={"work_memm": "1MB"},
    )
    outcome = await run("applier", "check", "--config", file, "--json")
    assert outcome.code == 3 and troubles(outcome) == {"accepted:main": "fail"}, outcome
    (told,) = [each for each in outcome.document["checks"] if each["name"] == "accepted:main"]
    assert 'unrecognized configuration parameter "work_memm"' in told["what"]


async def test_what_the_first_instance_will_join_by_is_looked_at_before_it_is_there(
    keys: Path, shared_tmp_path: Path
) -> None:
    file = applier_file(keys, shared_tmp_path)
    lines = [line for line in file.read_text().splitlines() if not line.startswith("instances")]
    file.write_text("\n".join(lines))
    outcome = await run("applier", "check", "--config", file, "--json")
    assert outcome.code == 0, outcome
    assert troubles(outcome) == {"instances": "warn"}
    found = levels(outcome)
    assert found["secret-key"] == found["link-port"] == "ok"


async def test_everything_wrong_with_a_recovery_server_is_found_at_once(
    keys: Path, shared_tmp_path: Path
) -> None:
    (shared_tmp_path / "data").write_text("not a directory")
    (keys / "main.pub").unlink()
    (keys / "applier.key").chmod(0o640)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        file = applier_file(
            keys,
            shared_tmp_path,
            link__listen=f"tcp://127.0.0.1:{taken.getsockname()[1]}",
            api__socket=str(shared_tmp_path / ("x" * 100)),
            api__group="nobody-at-all",
            postgres__installations=[str(shared_tmp_path / "none")],
            store__keep_free_mb=1 << 40,
        )
        outcome = await run("applier", "check", "--config", file, "--json")
    assert outcome.code == 3
    found = troubles(outcome)
    for name in (
        "directory",
        "free-space",
        "api-group",
        "api-socket",
        "secret-key",
        "public-key:main",
        "installation-directory",
        "link-port",
    ):
        assert found[name] == "fail", name
    assert all(each["hint"] for each in outcome.document["checks"] if each["level"] != "ok")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs standbys as another user")
async def test_a_directory_that_the_standbys_user_can_not_enter_is_found(
    keys: Path, shared_tmp_path: Path
) -> None:
    closed = shared_tmp_path / "closed"
    closed.mkdir(mode=0o700)
    file = applier_file(keys, shared_tmp_path, directory=str(closed / "data"))
    outcome = await run("applier", "check", "--config", file, "--json")
    assert troubles(outcome) == {"run-as": "fail"}
    assert f"can't enter {closed}" in outcome.out


async def test_a_port_of_a_standby_that_others_use_is_found(
    keys: Path, shared_tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        file = applier_file(
            keys,
            shared_tmp_path,
            instances__main__port=taken.getsockname()[1],
            instances__main__listen_addresses="*",
        )
        outcome = await run("applier", "check", "--config", file, "--json")
    assert troubles(outcome) == {"port:main": "fail"}


async def test_an_applier_that_runs_is_no_trouble(keys: Path, shared_tmp_path: Path) -> None:
    server = ApiServer(Operations(), shared_tmp_path / "api.sock")
    await server.start()
    try:
        outcome = await run(
            "applier", "check", "--config", applier_file(keys, shared_tmp_path), "--json"
        )
    finally:
        await server.stop()
    assert outcome.code == 0, outcome
    assert levels(outcome)["applier"] == "ok"
    assert "link-port" not in levels(outcome)


async def test_a_shippers_key_must_not_be_the_appliers(keys: Path, shared_tmp_path: Path) -> None:
    file = applier_file(keys, shared_tmp_path, instances__main__public_key_file="applier.pub")
    outcome = await run("applier", "check", "--config", file, "--json")
    assert troubles(outcome) == {"public-key:main": "fail"}


async def test_a_standby_that_no_client_could_reach_is_warned_of(
    keys: Path, shared_tmp_path: Path
) -> None:
    file = applier_file(keys, shared_tmp_path, instances__main__listen_addresses="")
    outcome = await run("applier", "check", "--config", file, "--json")
    assert outcome.code == 0, outcome
    assert troubles(outcome) == {"port:main": "warn"}
