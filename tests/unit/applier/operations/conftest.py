"""An applier's instance on a real disk, without a standby and without any road to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from applier.operations.instance import Instance
from applier.operations.record import Heard, Promotion
from applier.receivers import FencedError
from applier.service import Service
from applier.settings import ApplierSettings, load_applier_settings
from logship.lsn import Position
from logship.postgres.installations import Installation
from tests.support.fake_intake import new_keys
from tests.support.waiting import free_port

HEARD = Heard(timeline=1, lsn=0x3000060, at=1700000000.0)

SETTINGS = """
directory = "{directory}/applier"
store.keep_free_mb = 1
wal_server.socket_directory = "{directory}/run/wal"
{more}
[instances.orders]
public_key = "{key}"
port = {port}
run_standby = false
"""


class Listener:
    """What an instance tells the receiver that feeds it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def positions_changed(self) -> None:
        self.told.append(("positions", None))

    def applied_changed(self) -> None:
        self.told.append(("applied", None))

    def seed_requested(self, why: str) -> None:
        self.told.append(("seed", why))

    def resume(self, position: Position, why: str) -> None:
        self.told.append(("resume", position))

    def fenced(self, error: FencedError) -> None:
        self.told.append(("fenced", error))

    def failed(self, error: Exception) -> None:
        self.told.append(("failed", error))


def change_settings(instance: Instance, **changes: object) -> None:
    """As if an operator had changed the instance's settings."""
    host = instance.host
    own = msgspec.structs.replace(instance.settings, **changes)
    instances = {**host.settings.instances, instance.name: own}
    host.settings = msgspec.structs.replace(host.settings, instances=instances)


def picky_installation(directory: Path, major: int, *unknown: str) -> Installation:
    """Its server knows all parameters but some, and complains as PostgreSQL does."""
    bin_dir = directory / f"picky-{major}"
    bin_dir.mkdir()
    script = bin_dir / "postgres"
    cases = "".join(
        f"""*{name}=*) echo 'FATAL:  unrecognized configuration parameter "{name}"' >&2; exit 1;;"""
        for name in unknown
    )
    script.write_text(f'#!/bin/sh\ncase "$*" in {cases} esac\n')
    script.chmod(0o755)
    return Installation(bin_dir, major * 10000, "configured")


@pytest.fixture
def more_settings() -> str:
    """What a module of tests wants besides."""
    return ""


@pytest.fixture
def settings(shared_tmp_path: Path, more_settings: str) -> ApplierSettings:
    (shared_tmp_path / "run").mkdir(mode=0o711)
    file = shared_tmp_path / "applier.toml"
    key = new_keys().public
    file.write_text(
        SETTINGS.format(directory=shared_tmp_path, key=key, port=free_port(), more=more_settings)
    )
    return load_applier_settings(file)


@pytest.fixture
async def service(settings: ApplierSettings) -> AsyncIterator[Service]:
    made = Service(settings)
    await made.open(["orders"])
    yield made
    await made.close()


@pytest.fixture
def instance(service: Service) -> Instance:
    return service.open_instances["orders"]


@pytest.fixture
def listener() -> Listener:
    return Listener()


def promotion(**changes: Any) -> Promotion:
    """The record of one, with `changes`."""
    fields: dict[str, Any] = {
        "at": 1700000009.0,
        "offline": False,
        "opened_timeline": 2,
        "opened_lsn": 0x3000028,
        "durable_timeline": 1,
        "durable_lsn": 0x3000060,
        "heard": HEARD,
        "lost_bytes": 0,
        "unreplayed_bytes": 0,
        "promote_seconds": 1.0,
        "first_write_seconds": 2.0,
        "port": 5433,
    }
    return Promotion(**{**fields, **changes})
