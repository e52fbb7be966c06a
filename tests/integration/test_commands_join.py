"""`shipper join` against a real primary and a real link: what it writes, and what it leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from applier.enrolment.desk import EnrolmentDesk
from applier.receivers.link import LinkReceiver
from logship.errors import Code, LogshipError
from logship.link.keys import load_pair
from logship.settings import load_settings
from shipper.settings import ShipperSettings
from tests.conftest import PrimaryFactory
from tests.integration.command_runner import Outcome, run
from tests.support.enrolments import MemoryInstances
from tests.support.fake_intake import new_keys
from tests.support.waiting import free_port

pytestmark = pytest.mark.integration


class Recovery:
    """A link at which `main` may join, and a directory for the shipper's files."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "etc"
        self.file = self.home / "shipper-main.toml"
        self.keys = new_keys()
        self.instances = MemoryInstances()
        self.desk = EnrolmentDesk(
            directory / "enrolment", self.instances, applier_public_key=lambda: self.keys.public
        )
        self.receiver = LinkReceiver(
            {}, {}, keys=self.keys, window_bytes=1 << 20, heartbeat_seconds=1, registrar=self.desk
        )
        self.endpoint = self.receiver.start("tcp://127.0.0.1:0")

    async def token(self) -> str:
        return (await self.desk.issue("main", self.endpoint, 1))[0].text()

    def options(self, conninfo: str) -> list[str]:
        return [
            *("--conninfo", conninfo, "--config", str(self.file)),
            *("--state-directory", str(self.home.parent / "state"), "--json"),
        ]

    async def join(self, token: str, conninfo: str) -> Outcome:
        return await run("shipper", "join", token, *self.options(conninfo))

    def left(self) -> list[str]:
        return sorted(each.name for each in self.home.iterdir()) if self.home.exists() else []


@pytest.fixture
async def recovery(tmp_path: Path) -> AsyncIterator[Recovery]:
    made = Recovery(tmp_path)
    yield made
    await made.receiver.stop()


def error_of(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code != 0
    error: dict[str, Any] = outcome.document["error"]
    assert error["hint"]
    return error


async def test_joining_makes_all_that_a_shipper_needs(
    recovery: Recovery, primary: PrimaryFactory
) -> None:
    server = primary(18)
    token = await recovery.token()
    recovery.instances.fail.append(LogshipError(Code.DISK_FULL, "no room", "make some"))
    assert error_of(await recovery.join(token, server.dsn()))["code"] == Code.DISK_FULL
    assert recovery.left() == ["main.joining", "main.key", "main.pub"]

    outcome = await run("shipper", "join", "-", *recovery.options(server.dsn()), text=f"{token}\n")
    assert outcome.code == 0, outcome
    pair = load_pair(recovery.home / "main.key")
    assert outcome.document == {
        "instance": "main",
        "settings_file": str(recovery.file),
        "secret_key_file": str(recovery.home / "main.key"),
        "public_key": pair.public,
        "standby_port": 5433,
        "notes": ["main is PostgreSQL 18"],
    }
    assert recovery.instances.keys == {"main": pair.public}
    (told,) = recovery.instances.told
    assert told.environment is not None and told.environment.is_complete
    assert {each.name for each in told.environment.databases} >= {"postgres"}
    assert pair.secret not in outcome.out + outcome.err
    settings = load_settings(recovery.file, ShipperSettings)
    assert (settings.instance, settings.primary.conninfo) == ("main", server.dsn())
    assert settings.state_directory == recovery.home.parent / "state"
    assert settings.link is not None
    assert settings.link.address == recovery.endpoint

    # The link lets the new key in, as soon as the instance's receiver is told of it.
    recovery.receiver.router.allow([pair.public])
    check = await run("shipper", "check", "--config", recovery.file, "--json")
    found = {each["name"]: each["level"] for each in check.document["checks"]}
    assert (found["link"], found["state-directory"], found["primary"]) == ("ok", "ok", "ok")

    again = error_of(await recovery.join(token, server.dsn()))
    assert str(recovery.file) in again["what"]
    assert load_pair(recovery.home / "main.key") == pair


async def test_what_is_wrong_beforehand_leaves_nothing_and_costs_no_token(
    recovery: Recovery,
) -> None:
    token = await recovery.token()
    typo = await recovery.join(token[:-1] + ("A" if token[-1] != "A" else "B"), "host=h")
    assert (typo.code, error_of(typo)["code"]) == (2, Code.BAD_TOKEN)
    assert token[:-1] not in typo.out + typo.err
    conninfo = await recovery.join(token, "host = 'h password=hunter2")
    assert (conninfo.code, error_of(conninfo)["code"]) == (2, Code.USAGE)
    assert "conninfo" in error_of(conninfo)["what"]
    assert "hunter2" not in conninfo.out + conninfo.err
    nobody = await recovery.join(token, f"host=127.0.0.1 port={free_port()}")
    assert error_of(nobody)["code"] == Code.PRIMARY_UNREACHABLE
    assert "by itself" not in error_of(nobody)["hint"], "a command ends"
    assert recovery.instances.registered == []
    assert recovery.left() == []
