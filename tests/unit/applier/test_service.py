"""What one instance of an applier does to the others of it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from applier.operations.record import InstanceRecord, record_path, save_record
from applier.service import Service, looking
from applier.settings import load_applier_settings
from applier.settings_budgets import BudgetsSettings
from tests.support.fake_intake import new_keys
from tests.support.link_frames import profile
from tests.support.waiting import until
from tests.unit.applier.operations.conftest import promotion

_SETTINGS = """
directory = "{directory}/applier"
store.keep_free_mb = 0
wal_server.socket_directory = "{directory}/run/wal"
"""
_INSTANCE = """
[instances.{name}]
public_key = "{key}"
port = {port}
run_standby = false
"""

_PROMOTION = promotion(offline=True, port=6543)


@pytest.fixture
async def make(shared_tmp_path: Path) -> AsyncIterator[Callable[..., Service]]:
    """An applier's service of instances by name, each with a record; not open yet."""
    (shared_tmp_path / "run").mkdir(mode=0o711)
    services: list[Service] = []

    def made(*names: str) -> Service:
        text = _SETTINGS.format(directory=shared_tmp_path)
        for port, name in enumerate(names, start=1):
            text += _INSTANCE.format(name=name, key=new_keys().public, port=port)
            directory = shared_tmp_path / "applier" / "instances" / name
            directory.mkdir(parents=True)
            save_record(directory, _record(name))
        file = shared_tmp_path / "applier.toml"
        file.write_text(text)
        services.append(Service(load_applier_settings(file)))
        return services[-1]

    yield made
    for service in services:
        await service.close()


def _record(name: str) -> InstanceRecord:
    return InstanceRecord(name=name, incarnation=profile().incarnation, profile=profile())


async def test_an_instance_that_is_slow_to_open_does_not_keep_the_others_waiting(
    make: Callable[..., Service],
) -> None:
    service = make("asleep", "awake")
    stuck = record_path(service.settings.directory / "instances" / "asleep")
    stuck.unlink()
    os.mkfifo(stuck)  # a disk that does not answer
    opening = asyncio.create_task(service.open(["asleep", "awake"]))
    await until(
        lambda: "awake" in service.open_instances and service.open_instances["awake"].store,
        "the other is open",
    )
    assert not opening.done()
    assert service.open_instances["asleep"].store is None
    await asyncio.to_thread(stuck.write_bytes, msgspec.json.encode(_record("asleep")))
    await opening
    assert service.open_instances["asleep"].store is not None


async def test_the_status_of_all_instances_lets_others_go_on_in_between(
    make: Callable[..., Service],
) -> None:
    names = ["c", "a", "b"]
    service = make(*names)
    await service.open(names)
    seen: list[int] = []
    asked = asyncio.create_task(service.instances())
    while not asked.done():
        seen.append(len(seen))
        await asyncio.sleep(0)
    assert [document["name"] for document in asked.result()] == ["a", "b", "c"]
    assert len(seen) > len(names)


async def test_who_is_promoted_alone_shares_the_memory_with_those_that_are_not_opened(
    make: Callable[..., Service],
) -> None:
    settings = make("here", "elsewhere", "standby").settings
    save_record(
        settings.directory / "instances" / "elsewhere",
        msgspec.structs.replace(_record("elsewhere"), promotion=_PROMOTION),
    )
    record_path(settings.directory / "instances" / "standby").write_text("damaged")
    instances = {
        name: msgspec.structs.replace(own, run_standby=True)
        for name, own in settings.instances.items()
    }
    budgets = BudgetsSettings(memory_mb=1200, standby_floor_mb=64, cgroups="off")
    service = Service(msgspec.structs.replace(settings, instances=instances, budgets=budgets))
    await service.open(["here"], each_for_itself=False)
    assert service.open_instances["here"].budget.memory(promoted=True).share_mb == 200 + 600 // 2
    await service.close()


@pytest.mark.parametrize(("at_once", "patience_seconds"), [(2, 600.0), (1, 0.01)])
async def test_an_instance_that_is_slow_to_be_checked_again_does_not_keep_the_others_waiting(
    make: Callable[..., Service],
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
    patience_seconds: float,
) -> None:
    monkeypatch.setattr(looking, "CHECK_AT_ONCE", at_once)
    monkeypatch.setattr(looking, "CHECK_AGAIN_SECONDS", patience_seconds)
    service = make("slow", "other")
    await service.open(["slow", "other"])
    gate, checked = asyncio.Event(), []

    def check_of(name: str) -> Callable[..., Coroutine[Any, Any, None]]:
        async def check_again(*, start: bool) -> None:
            assert start
            if name == "slow":
                await gate.wait()
            checked.append(name)

        return check_again

    for name, instance in service.open_instances.items():
        monkeypatch.setattr(instance.following, "check_again", check_of(name))
    changed = asyncio.create_task(service.looking.packages_changed())
    await until(lambda: checked == ["other"], "the other is checked")
    gate.set()
    await asyncio.wait_for(changed, 5)
    await until(lambda: checked == ["other", "slow"], "so is the slow one")


async def test_who_would_run_on_what_did_not_answer_is_checked_again_and_nobody_else(
    make: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make("ours", "other")
    other = msgspec.structs.replace(_record("other"), profile=profile(server_version_num=160010))
    save_record(service.settings.directory / "instances" / "other", other)
    await service.open(["ours", "other"])
    quick = msgspec.structs.replace(service.settings.postgres, look_seconds=0.01)
    service.host.settings = msgspec.structs.replace(service.host.settings, postgres=quick)
    unanswered, checked = [set[int](), {17}, set(), {16, 17}, {18}], list[str]()
    monkeypatch.setattr(
        service.host, "take_unanswered_majors", lambda: unanswered.pop(0) if unanswered else set()
    )

    def check_of(name: str) -> Callable[..., Coroutine[Any, Any, None]]:
        async def check_again(*, start: bool) -> None:
            assert start
            checked.append(name)

        return check_again

    for name, instance in service.open_instances.items():
        monkeypatch.setattr(instance.following, "check_again", check_of(name))
    with capture_logs() as said:
        task = asyncio.create_task(service.looking.keep_looking_at_packages())
        await until(lambda: len(checked) == 3 and not unanswered, "they are checked")
        task.cancel()
        await asyncio.wait({task})
    assert (checked[0], sorted(checked[1:])) == ("ours", ["other", "ours"])
    assert [(each["event"], each["instances"]) for each in said] == [
        ("an installation did not answer: it is asked again", names)
        for names in (["ours"], ["ours", "other"])
    ]


def test_the_limit_of_open_files_is_raised_as_far_as_we_may() -> None:
    code = (
        "import resource as r\n"
        "from applier.service.process import allow_many_files\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (100, 700))\n"
        "allow_many_files()\n"
        "print(*r.getrlimit(r.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["700", "700"]
