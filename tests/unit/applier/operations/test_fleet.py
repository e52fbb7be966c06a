"""Instances added, changed and removed while an applier runs: real files, and crashes."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest

from applier.fleet.registry import Registration, Registry, Removal
from applier.operations.instance import Instance
from applier.operations.promotion import promote
from applier.operations.record import Fence
from applier.retention.leases import HeldLease
from applier.service import Service, promote_offline
from applier.settings import ApplierSettings
from applier.standby.cgroups import Cgroups
from logship import durable
from logship.errors import Code, LogshipError, RefusedError, UsageError
from logship.frames import SeedBegin
from logship.link.keys import generate, load_pair
from tests.support.fake_intake import new_keys
from tests.support.link_frames import SEGMENT_BYTES, hello
from tests.support.waiting import free_port, until
from tests.support.wal_factory import WalFactory, wal_line
from tests.unit.applier.operations.conftest import Listener, picky_installation, promotion

NAME = "billing"
SEED = SeedBegin(seed_id="s1", timeline=1, start_lsn=SEGMENT_BYTES, estimated_bytes=0)


@pytest.fixture
def more_settings(shared_tmp_path: Path) -> str:
    generate(shared_tmp_path / "keys", "applier")
    (shared_tmp_path / "wal").mkdir()
    (shared_tmp_path / "data").mkdir()
    return f"""
budgets.memory_mb = 1000
link.secret_key_file = "{shared_tmp_path}/keys/applier.key"
link.listen = "tcp://127.0.0.1:{free_port()}"
store.volumes = ["{shared_tmp_path}/wal"]
standby.volumes = ["{shared_tmp_path}/data"]
bucket.url = "file://{shared_tmp_path}/bucket"
"""


async def add(service: Service, **more: object) -> dict[str, object]:
    said = {"public_key": new_keys().public, "run_standby": False, **more}
    return await service.add_instance(NAME, said)


async def fill(instance: Instance, listener: Listener) -> None:
    """Have WAL in its store, and the seed's beginning beside it."""
    await instance.hello(hello(instance=instance.name), listener)
    await instance.seed_begin(SEED)
    wal = WalFactory(wal_line()).wal(1, SEGMENT_BYTES, SEGMENT_BYTES + 1000)
    await instance.wal(1, SEGMENT_BYTES, wal)


def files_of(directory: Path) -> list[str]:
    """What there is of the instance, anywhere below the test's directory."""
    return sorted(
        str(Path(where) / each)
        for where, directories, files in os.walk(directory)
        for each in [*directories, *files]
        if NAME in str(Path(where) / each)
    )


def cgroup(service: Service, directory: Path) -> Path:
    """A directory in place of the one that the kernel would limit its server by."""
    service.host.sharing.cgroups = Cgroups(directory / "cgroup")
    group = directory / "cgroup" / f"logship-standby-{NAME}"
    group.mkdir(parents=True)
    return group


@contextmanager
def held_at(name: str) -> Iterator[tuple[threading.Event, threading.Event]]:
    """(one is there, all may go on): whoever comes to that function waits."""
    is_there, may_go_on = threading.Event(), threading.Event()
    module, _, function = name.rpartition(".")
    real = getattr(importlib.import_module(module), function)

    def slow(*args: Any) -> object:
        is_there.set()
        may_go_on.wait(60)
        return real(*args)

    with mock.patch(name, slow):
        try:
            yield is_there, may_go_on
        finally:
            may_go_on.set()


def promoted() -> dict[str, object]:
    return {
        "fence": Fence(at=1.0, reason="promotion"),
        "promotion": promotion(port=6543),
    }


async def test_what_is_added_is_there_after_a_restart(
    settings: ApplierSettings, service: Service, listener: Listener
) -> None:
    added = await add(service)
    assert added["origin"] == "registered" and added["error"] is None
    assert added["port"] in range(5433, 5500) and added["store"] is None
    billing = service.open_instances[NAME]
    await fill(billing, listener)
    (where,) = [each for each in await service.fleet() if each["name"] == NAME]
    assert str(where["store"]).startswith(str(settings.store.volumes[0]))
    assert str(where["standby"]).startswith(str(settings.standby.volumes[0]))
    await service.close()
    again = Service(settings)
    await again.open()
    assert sorted(again.open_instances) == [NAME, "orders"]
    assert again.open_instances[NAME].record.incarnation == billing.record.incarnation
    assert str(again.open_instances[NAME].places.wal) == where["store"]
    await again.close()


async def test_a_volume_that_is_away_keeps_its_instance_closed(
    settings: ApplierSettings, service: Service, listener: Listener
) -> None:
    await add(service)
    await fill(service.open_instances[NAME], listener)
    await service.close()
    volume = settings.store.volumes[0]
    volume.rename(volume.with_name("unmounted"))
    volume.mkdir()
    again = Service(settings)
    await again.open()
    failure = again.open_instances[NAME].failure
    assert failure is not None and f"mount {volume}" in failure.hint
    with pytest.raises(LogshipError, match="is not there"):
        await again.open_instances[NAME].hello(hello(instance=NAME), listener)
    assert again.open_instances["orders"].failure is None
    await again.close()
    assert list(volume.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "said", "code"),
    [
        ("orders", {}, Code.INSTANCE_EXISTS),
        ("Big One", {}, Code.USAGE),
        (NAME, {"prot": 1}, Code.SETTINGS),
        (NAME, {"port": 0}, Code.SETTINGS),
        (NAME, {"bucket": False, "public_key": ""}, Code.SETTINGS),
    ],
)
async def test_what_is_refused_leaves_nothing(
    service: Service, settings: ApplierSettings, name: str, said: dict[str, object], code: Code
) -> None:
    service.make_roads()
    with pytest.raises(LogshipError) as caught:
        await service.add_instance(name, {"public_key": new_keys().public, **said})
    assert caught.value.code is code
    assert list(service.open_instances) == ["orders"]
    assert list(service.host.settings.instances) == ["orders"]
    assert not Registry(settings.directory).directory.exists()
    await service.close_roads()


async def test_a_port_in_use_and_a_key_in_use_are_refused(service: Service) -> None:
    service.make_roads()
    taken = service.host.settings.link.listen.rpartition(":")[2]
    with pytest.raises(LogshipError, match="listens"):
        await add(service, port=int(taken))
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(RefusedError) as caught:
        await add(service, port=port)
    assert caught.value.code is Code.PORT_TAKEN
    server.close()
    await server.wait_closed()
    ours = load_pair(service.host.settings.link.secret_key_file).public
    with pytest.raises(RefusedError, match="the applier's own"):
        await add(service, public_key=ours)
    with pytest.raises(UsageError, match="same public key"):
        await add(service, public_key=service.host.settings.instances["orders"].public_key)
    await service.close_roads()


async def test_of_two_that_add_one_name_at_once_one_is_refused(service: Service) -> None:
    first, second = await asyncio.gather(add(service), add(service), return_exceptions=True)
    assert isinstance(first, dict) and isinstance(second, RefusedError)
    assert second.code is Code.INSTANCE_EXISTS


async def test_a_parameter_that_no_server_knows_is_refused(
    service: Service, shared_tmp_path: Path
) -> None:
    service.host.installations = [picky_installation(shared_tmp_path, 17, "work_memm")]
    with pytest.raises(UsageError, match=r"settings.work_memm: PostgreSQL 17.0 says: "):
        await add(service, run_standby=True, settings={"work_memm": "1MB"})
    assert NAME not in service.open_instances
    # No server is started with it here.
    await add(service, settings={"work_memm": "1MB"})
    instance = service.open_instances[NAME]
    service.host.installations = []
    await service.change_instance(NAME, {"run_standby": True}, [])
    service.host.installations = [picky_installation(shared_tmp_path, 18, "work_memm", "jitt")]
    with pytest.raises(UsageError, match=r"settings.jitt: PostgreSQL 18.0 says: "):
        await service.change_instance(NAME, {"settings.jitt": "on"}, [])
    # What is wrong already is in nobody's way.
    await service.change_instance(NAME, {"seed": "manual"}, [])
    assert instance.settings.settings == {"work_memm": "1MB"}
    await service.change_instance(NAME, {}, ["settings.work_memm"])
    assert instance.settings.settings == {}
    # Of another major than its primary's nobody asks.
    assert hello().profile.major != 18
    await instance.hello(hello(instance=NAME), Listener())
    await service.change_instance(NAME, {"settings.jitt": "on"}, [])


async def test_a_change_that_a_promotion_overtakes_is_refused(
    service: Service, shared_tmp_path: Path
) -> None:
    await add(service, run_standby=True)
    instance = service.open_instances[NAME]
    asked = picky_installation(shared_tmp_path, 16)
    asked.bin_dir.chmod(0o777)  # for whichever account asks
    (asked.bin_dir / "postgres").write_text(
        "#!/bin/sh\ntouch asked\nuntil [ -e answer ]; do sleep 0.01; done\n"
    )
    service.host.installations = [asked]
    changing = asyncio.create_task(service.change_instance(NAME, {"settings.jit": "off"}, []))
    await until((asked.bin_dir / "asked").exists, "the server is asked")
    async with instance.promotion_turn:
        (asked.bin_dir / "answer").touch()
        with pytest.raises(RefusedError) as caught:
            await changing
    assert caught.value.code is Code.PROMOTE_REFUSED
    assert instance.settings.settings == {}


async def test_a_change_is_in_force_at_once_and_after_a_restart(
    settings: ApplierSettings, service: Service
) -> None:
    await add(service)
    instance = service.open_instances[NAME]
    port = instance.settings.port
    changed = await service.change_instance(
        NAME, {"seed": "manual", "settings.work_mem": "8MB"}, []
    )
    assert changed["settings"]["seed"] == "manual"
    assert instance.settings.seed == "manual"
    assert service.host.settings.parameters_of(NAME) == {"work_mem": "8MB"}
    await service.change_instance(NAME, {}, ["seed"])
    assert instance.settings.seed == "auto" and instance.settings.port == port
    with pytest.raises(UsageError, match="the same port"):
        await service.change_instance(
            NAME, {"port": service.host.settings.instances["orders"].port}, []
        )
    with pytest.raises(RefusedError) as caught:
        await service.change_instance("orders", {"seed": "manual"}, [])
    assert caught.value.code is Code.INSTANCE_DECLARED
    await service.close()
    again = Service(settings)
    await again.open()
    assert again.host.settings.parameters_of(NAME) == {"work_mem": "8MB"}
    await again.close()


async def test_the_bucket_is_let_go_of_and_taken_up_with_the_settings(service: Service) -> None:
    roads = service.make_roads()
    await add(service)
    road = service.open_instances[NAME].bucket
    assert road.is_open and road.status() is not None
    await service.change_instance(NAME, {"bucket": False}, [])
    assert not road.is_open and NAME not in roads.buckets._receiver.readers
    await service.change_instance(NAME, {}, ["bucket"])
    assert road.is_open
    key = service.open_instances[NAME].settings.public_key
    assert roads.key_owners[key] == NAME
    await service.change_instance(NAME, {"public_key": ""}, [])
    assert key not in roads.key_owners
    await service.remove_instance(NAME, keep_data=False, promoted=False)
    assert NAME not in roads.buckets._receiver.readers
    await service.close_roads()


async def test_what_is_removed_is_gone_everywhere(
    shared_tmp_path: Path, service: Service, listener: Listener
) -> None:
    await add(service)
    await fill(service.open_instances[NAME], listener)
    kept = service.settings.seeds_directory / NAME / "1-17" / "seeds"
    kept.mkdir(parents=True)
    drills = service.settings.directory / "drills"
    for left in (f"{NAME}/data", f".{NAME}.wal", "orders/data"):
        (drills / left).mkdir(parents=True)
    group = cgroup(service, shared_tmp_path)
    assert files_of(shared_tmp_path)
    removed = await service.remove_instance(NAME, keep_data=False, promoted=False)
    assert removed == {"name": NAME, "removed": True, "keep_data": False, "keep_server": False}
    assert files_of(shared_tmp_path) == []
    assert [each.name for each in drills.iterdir()] == ["orders"]
    assert not group.exists() and group.parent.is_dir()
    assert list(service.open_instances) == list(service.host.settings.instances) == ["orders"]
    await add(service)
    assert service.open_instances[NAME].record.incarnation is None


async def test_instances_are_listed_while_another_one_is_added(service: Service) -> None:
    await add(service)
    with held_at("applier.fleet.report.check_together") as (is_there, may_go_on):
        listing = asyncio.create_task(service.fleet())
        await until(is_there.is_set, "the list is being made")
        said = {"public_key": new_keys().public, "run_standby": False}
        adding = asyncio.create_task(service.add_instance("another", said))
        await until(lambda: "another" in service._fleet.registered.entries, "it is added")
        may_go_on.set()
        assert [each["name"] for each in await listing] == [NAME, "orders"]
        assert (await adding)["name"] == "another"


async def test_what_was_added_is_shown_though_it_is_removed_at_once(service: Service) -> None:
    with held_at("applier.operations.fleet.known_places") as (is_there, may_go_on):
        adding = asyncio.create_task(add(service))
        await until(is_there.is_set, "it is added, and about to be shown")
        await service.remove_instance(NAME, keep_data=False, promoted=False)
        may_go_on.set()
        assert (await adding)["name"] == NAME


async def test_one_whose_volume_is_away_is_removed_when_that_is_back(
    shared_tmp_path: Path, service: Service, listener: Listener
) -> None:
    await add(service)
    await fill(service.open_instances[NAME], listener)
    mounted, away = shared_tmp_path / "wal/instances", shared_tmp_path / "away"
    mounted.rename(away)
    with pytest.raises(LogshipError, match="not mounted"):
        await service.remove_instance(NAME, keep_data=False, promoted=False)
    assert NAME in service._fleet.registered.entries
    away.rename(mounted)
    await service.remove_instance(NAME, keep_data=False, promoted=False)
    assert files_of(shared_tmp_path) == []


async def test_what_was_kept_is_taken_up_again(
    shared_tmp_path: Path, service: Service, listener: Listener
) -> None:
    await add(service)
    await fill(service.open_instances[NAME], listener)
    before = service.open_instances[NAME].record
    await service.remove_instance(NAME, keep_data=True, promoted=False)
    with pytest.raises(UsageError):
        service.instance(NAME)
    await add(service)
    again = service.open_instances[NAME]
    assert again.record.incarnation == before.incarnation and again.store is not None
    assert again.store.durable is not None


async def test_a_promoted_one_is_not_removed_by_a_slip(
    service: Service, shared_tmp_path: Path, listener: Listener
) -> None:
    await add(service)
    instance = service.open_instances[NAME]
    await fill(instance, listener)
    await instance.remember(**promoted())
    with pytest.raises(RefusedError) as caught:
        await service.remove_instance(NAME, keep_data=False, promoted=False)
    assert caught.value.code is Code.ALREADY_PROMOTED
    assert service.open_instances[NAME] is instance and instance.failure is None
    sharing, told = service.host.sharing, [""]
    sharing.promoted(NAME, lambda: told.append("a server that nobody here keeps any more"))
    group = cgroup(service, shared_tmp_path)
    kept = await service.remove_instance(NAME, keep_data=True, promoted=False)
    assert kept["keep_server"]
    assert (group / "memory.max").read_text() == "max", "it is held to nothing any more"
    shutil.rmtree(group)
    sharing.promoted("orders", lambda: None)
    assert told == [""]
    assert (await add(service))["port"] == 6543, "where its clients are"
    await service.remove_instance(NAME, keep_data=False, promoted=True)
    assert files_of(shared_tmp_path) == []


async def test_a_record_that_can_not_be_read_may_hide_a_promotion(
    service: Service, settings: ApplierSettings
) -> None:
    await add(service)
    await service.open_instances[NAME].remember(**promoted())
    await service.close()
    (settings.directory / "instances" / NAME / "instance.json").write_text("{")
    again = Service(settings)
    await again.open()
    with pytest.raises(RefusedError, match="may have been promoted"):
        await again.remove_instance(NAME, keep_data=False, promoted=False)
    await again.remove_instance(NAME, keep_data=False, promoted=True)
    await again.close()


async def test_clients_keep_their_port_also_if_the_record_can_not_be_read(
    service: Service, settings: ApplierSettings
) -> None:
    port = (await add(service))["port"]
    await service.open_instances[NAME].remember(**promoted())
    await service.close()
    (settings.directory / "instances" / NAME / "instance.json").write_text("{")
    again = Service(settings)
    await again.open()
    with pytest.raises(RefusedError, match="may have been promoted"):
        await again.change_instance(NAME, {"port": free_port()}, [])
    assert again.open_instances[NAME].settings.port == port
    await again.close()


async def test_nothing_of_a_volume_that_is_away_counts_as_removed(
    settings: ApplierSettings, shared_tmp_path: Path, service: Service, listener: Listener
) -> None:
    await add(service)
    await fill(service.open_instances[NAME], listener)
    volume = settings.store.volumes[0]
    away = volume.rename(volume.with_name("unmounted"))
    volume.mkdir()
    with pytest.raises(LogshipError) as caught:
        await service.remove_instance(NAME, keep_data=False, promoted=False)
    assert caught.value.retryable and f"mount {volume}" in caught.value.hint
    (listed,) = [each for each in await service.fleet() if each["name"] == NAME]
    assert listed["removing"]
    volume.rmdir()
    away.rename(volume)
    await service.remove_instance(NAME, keep_data=False, promoted=False)
    assert files_of(shared_tmp_path) == []


async def test_one_that_could_be_opened_while_it_goes_lets_nobody_in(
    service: Service, listener: Listener
) -> None:
    await add(service)
    instance = service.open_instances[NAME]
    save = Registry.save
    seen: list[str] = []

    def save_and_open(registry: Registry, registration: Registration) -> None:
        save(registry, registration)
        # As an attempt to open it does that was under way.
        instance.failure = None
        with pytest.raises(LogshipError, match="being removed") as caught:
            asyncio.run(promote(instance, lambda *_: None))
        seen.append(caught.value.what)

    with mock.patch.object(Registry, "save", save_and_open):
        await service.remove_instance(NAME, keep_data=False, promoted=False)
    assert len(seen) == 1


async def test_what_a_restore_reads_stays(service: Service, listener: Listener) -> None:
    await add(service)
    instance = service.open_instances[NAME]
    await fill(instance, listener)
    lease = HeldLease.take(instance.directory)
    assert lease is not None
    with pytest.raises(RefusedError) as caught:
        await service.remove_instance(NAME, keep_data=False, promoted=False)
    assert caught.value.code is Code.REMOVE_REFUSED
    lease.release()
    await service.remove_instance(NAME, keep_data=False, promoted=False)


async def test_neither_declared_nor_unknown_ones_are_removed(service: Service) -> None:
    for name, code in (("orders", Code.INSTANCE_DECLARED), ("none", Code.UNKNOWN_INSTANCE)):
        with pytest.raises(LogshipError) as caught:
            await service.remove_instance(name, keep_data=False, promoted=True)
        assert caught.value.code is code


class Died(OSError):
    """As if the process had ended there."""


class Crashing:
    """Lets `durable` make so many steps that last, and none after them."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self.died = False

    def __call__(self, step: object) -> object:
        def counted(*arguments: object, **options: object) -> object:
            if self._steps == 0:
                self.died = True
                raise Died(5, "died")
            self._steps -= 1
            return step(*arguments, **options)  # type: ignore[operator]

        return counted


def crashing(steps: int) -> tuple[Crashing, list[mock._patch[object]]]:
    crash = Crashing(steps)
    names = ["write_file", "remove", "remove_tree"]
    return crash, [
        mock.patch.object(durable, name, crash(getattr(durable, name))) for name in names
    ]


async def test_a_removal_that_was_cut_off_anywhere_is_finished_by_the_next_start(
    settings: ApplierSettings, shared_tmp_path: Path, service: Service, listener: Listener
) -> None:
    await service.close()
    for steps in itertools.count():
        first = Service(settings)
        await first.open()
        await add(first)
        await fill(first.open_instances[NAME], listener)
        crash, patches = crashing(steps)
        for patch in patches:
            patch.start()
        try:
            await first.remove_instance(NAME, keep_data=False, promoted=False)
        except LogshipError as error:
            assert crash.died, error
        finally:
            for patch in patches:
                patch.stop()
        begun = Registry(settings.directory).load().entries
        noted = NAME not in begun or begun[NAME].registration.removing is not None
        await first.close()
        second = Service(settings)
        await second.open()
        if noted:
            assert files_of(shared_tmp_path) == [], f"cut off after {steps} steps"
            assert list(second.open_instances) == ["orders"]
        else:
            # It was refused as a whole: the instance is what it was.
            store = second.open_instances[NAME].store
            assert store is not None and store.durable is not None
            await second.remove_instance(NAME, keep_data=False, promoted=False)
        await second.close()
        if not crash.died:
            break
    assert steps > 4


async def test_a_removal_that_failed_goes_on_when_it_is_asked_for_again(
    shared_tmp_path: Path, service: Service, listener: Listener
) -> None:
    await add(service)
    await fill(service.open_instances[NAME], listener)

    def fail(path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    with mock.patch.object(durable, "remove_tree", fail), pytest.raises(LogshipError) as caught:
        await service.remove_instance(NAME, keep_data=False, promoted=False)
    assert caught.value.code is Code.STORE_FAILED and caught.value.retryable
    (listed,) = [each for each in await service.fleet() if each["name"] == NAME]
    assert listed["removing"]
    with pytest.raises(RefusedError, match="is being removed"):
        await add(service)
    with pytest.raises(RefusedError, match="is being removed"):
        await service.change_instance(NAME, {"seed": "manual"}, [])
    await service.remove_instance(NAME, keep_data=False, promoted=False)
    assert files_of(shared_tmp_path) == []


async def test_of_a_half_removed_one_nothing_is_opened_also_if_it_is_declared_now(
    settings: ApplierSettings, service: Service, listener: Listener
) -> None:
    await add(service)
    await fill(service.open_instances[NAME], listener)
    await service.close()
    registry = Registry(settings.directory)
    registration = registry.load().entries[NAME].registration
    removal = Removal(keep_data=False, keep_server=False)
    registry.save(msgspec.structs.replace(registration, removing=removal))
    both = {**settings.instances, NAME: registry.load().entries[NAME].settings}
    declared = msgspec.structs.replace(settings, instances=both)

    def fail(path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    again = Service(declared)
    with mock.patch.object(durable, "remove_tree", fail):
        await again.open()
    assert list(again.open_instances) == ["orders"]
    await again.close()
    again = Service(declared)
    await again.open()
    assert again.open_instances[NAME].record.incarnation is None, "it begins anew"
    await again.close()


async def test_who_feeds_it_while_it_is_removed_brings_nothing_back(
    shared_tmp_path: Path, service: Service, listener: Listener
) -> None:
    await add(service)
    instance = service.open_instances[NAME]
    removal = asyncio.create_task(service.remove_instance(NAME, keep_data=False, promoted=False))
    comes = asyncio.create_task(instance.hello(hello(instance=NAME), listener))
    await asyncio.gather(removal, comes, return_exceptions=True)
    assert removal.exception() is None
    with pytest.raises(LogshipError, match="being removed"):
        await instance.hello(hello(instance=NAME), listener)
    assert files_of(shared_tmp_path) == []


async def test_a_registration_that_is_damaged_stops_no_other(
    settings: ApplierSettings, service: Service
) -> None:
    await add(service)
    await service.close()
    Registry(settings.directory).path(NAME).write_text("{")
    again = Service(settings)
    await again.open()
    assert list(again.open_instances) == ["orders"]
    with pytest.raises(LogshipError) as caught:
        await add(again)
    assert caught.value.code is Code.REGISTRATION_DAMAGED
    with pytest.raises(LogshipError) as caught:
        promote_offline(settings, NAME, lambda *_: None)
    assert caught.value.code is Code.REGISTRATION_DAMAGED
    await again.close()


def test_a_registered_one_is_known_to_a_promotion_offline(settings: ApplierSettings) -> None:
    async def register() -> None:
        made = Service(settings)
        await made.open()
        await add(made)
        await made.close()

    asyncio.run(register())
    with pytest.raises(RefusedError, match="no standby: no seed was ever completed"):
        promote_offline(settings, NAME, lambda *_: None)
    with pytest.raises(UsageError) as caught:
        promote_offline(settings, "none", lambda *_: None)
    assert caught.value.hint == "instances here: billing, orders"


async def test_the_room_that_is_shown_is_that_of_the_volume_with_its_wal(
    settings: ApplierSettings, service: Service, listener: Listener
) -> None:
    await add(service)
    real = shutil.disk_usage
    free_bytes = {settings.store.volumes[0]: 7 << 20, settings.standby.volumes[0]: 5 << 20}

    def disk_usage(path: Path) -> object:
        for volume, free in free_bytes.items():
            if path.is_relative_to(volume):
                return real(path)._replace(free=free)
        return real(path)._replace(free=3 << 20)

    with mock.patch.object(shutil, "disk_usage", disk_usage):
        before = service.instance(NAME)["room"]
        assert before["free_bytes"] is None, "it has no volume yet"
        await fill(service.open_instances[NAME], listener)
        room = service.instance(NAME)["room"]
        assert service.instance("orders")["room"]["free_bytes"] is None
    assert room["free_bytes"] == 7 << 20
    assert room["bytes"] == (7 << 20) - service.host.keep_free_bytes
