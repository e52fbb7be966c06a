"""An instance between its receivers, its store and an operator who promotes it."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import msgspec
import pytest

from applier.operations import instance as instance_module
from applier.operations.instance import Instance
from applier.operations.record import InstanceRecord, load_record, save_record
from applier.receivers import FencedError
from applier.service import Service
from applier.settings import ApplierSettings
from logship.errors import Code, LogshipError, RefusedError
from logship.frames import SeedBegin
from tests.support.link_frames import SEGMENT_BYTES, hello, profile
from tests.support.waiting import until
from tests.support.wal_factory import WalFactory, wal_line
from tests.unit.applier.operations.conftest import Listener

S = SEGMENT_BYTES
FACTORY = WalFactory(wal_line(17, S))
SEED = SeedBegin(seed_id="s1", timeline=1, start_lsn=4 * S + 40, estimated_bytes=0)


async def ship(instance: Instance, size_bytes: int = 50_000) -> None:
    assert instance.store is not None and instance.store.written is not None
    place = instance.store.written.lsn
    await instance.wal(1, place, FACTORY.wal(1, place, place + size_bytes))
    await until(
        lambda: instance.store and instance.store.durable == (1, place + size_bytes), "durable"
    )


# --- the record -----------------------------------------------------------------------------


async def test_two_changes_at_once_lose_neither(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is lost may be the fence."""
    await instance.hello(hello(flush_lsn=9 * S), listener)
    first = threading.Event()

    def slow_first_save(directory: Path, record: InstanceRecord) -> None:
        if not first.is_set():
            first.set()
            time.sleep(0.1)
        save_record(directory, record)

    monkeypatch.setattr(instance_module, "save_record", slow_first_save)
    saving = asyncio.create_task(instance.remember(heard=instance.heard))
    await asyncio.to_thread(first.wait)
    await instance.fence("promotion")
    await saving
    assert instance.record.fence is not None
    on_disk = load_record(instance.directory, "orders")
    assert on_disk.fence is not None
    assert on_disk.heard == instance.heard


async def test_a_fence_stands_over_a_restart(
    service: Service, instance: Instance, listener: Listener, settings: ApplierSettings
) -> None:
    await instance.hello(hello(), listener)
    await instance.fence("promotion")
    (told,) = [what for name, what in listener.told if name == "fenced"]
    assert isinstance(told, FencedError)
    await service.close()
    again = Service(settings)
    await again.open(["orders"])
    try:
        with pytest.raises(FencedError):
            await again.open_instances["orders"].hello(hello(), listener)
    finally:
        await again.close()


async def test_a_fence_that_comes_during_a_hello_is_not_missed(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    await instance.hello(hello(), Listener())
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(_: object) -> None:
        entered.set()
        await leave.wait()

    monkeypatch.setattr(instance.following, "primary_changed", slow)
    greeting = asyncio.create_task(instance.hello(hello(), listener))
    await entered.wait()
    await instance.fence("promotion")
    leave.set()
    with pytest.raises(FencedError):
        await greeting


async def test_a_hello_that_is_cut_off_leaves_no_listener_behind(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = asyncio.Event()

    async def never(_: object) -> None:
        entered.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(instance.following, "primary_changed", never)
    greeting = asyncio.create_task(instance.hello(hello(), listener))
    await entered.wait()
    greeting.cancel()
    await asyncio.gather(greeting, return_exceptions=True)
    assert instance.link.state != "connected"
    assert not instance.is_connected
    monkeypatch.undo()
    await instance.hello(hello(), listener)
    assert instance.link.state == "connected"


async def test_a_seed_that_is_asked_for_while_nobody_is_there_is_wanted_of_who_comes(
    instance: Instance, listener: Listener
) -> None:
    instance.settings = msgspec.structs.replace(instance.settings, seed="manual")
    assert not (await instance.hello(hello(), listener)).seed_wanted
    instance.lost(listener, "its WAL was refused")
    instance.request_seed("an operator asked")
    assert (await instance.hello(hello(), listener)).seed_wanted
    await instance.seed_begin(SEED)
    assert not (await instance.hello(hello(seed_id="s1"), listener)).seed_wanted


async def test_a_store_that_fails_is_opened_again_whatever_it_failed_at(
    instance: Instance, listener: Listener
) -> None:
    """A new timeline's WAL does not come before its history: waiting for WAL would be for ever."""
    await instance.hello(hello(), listener)
    failed = instance.store
    assert failed is not None
    failed._core.segments.fail(OSError(5, "Input/output error"), failed.directory)
    with pytest.raises(LogshipError) as caught:
        await instance.history(2, b"1\t0/400000\tx\n")
    assert caught.value.code == Code.STORE_FAILED
    await until(lambda: instance.store not in (None, failed), "the store is opened again")
    await instance.history(2, b"1\t0/400000\tx\n")


# --- whose WAL ------------------------------------------------------------------------------


async def test_another_cluster_is_taken_only_while_nothing_came_of_the_first(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(profile=profile(system_identifier=42)), listener)
    await instance.hello(hello(), listener)
    assert instance.record.incarnation == profile().incarnation
    assert instance.store is not None
    await instance.store.begin_chain(1, 4 * S)
    with pytest.raises(RefusedError) as caught:
        await instance.hello(hello(profile=profile(system_identifier=42)), listener)
    assert caught.value.code is Code.SYSTEM_IDENTIFIER_MISMATCH


async def test_a_segment_size_that_changes_under_way_is_refused(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(), listener)
    with pytest.raises(RefusedError) as caught:
        await instance.profile(profile(wal_segment_size=2 * S))
    assert caught.value.code is Code.SEGMENT_SIZE_MISMATCH
    assert instance.record.profile == profile()


# --- seeds ----------------------------------------------------------------------------------


async def test_a_seed_whose_chain_could_not_begin_does_not_go_on(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed without its chain it would end with a standby that no WAL ever reaches."""
    await instance.hello(hello(), listener)
    assert instance.store is not None

    async def full(*_: object, **__: object) -> None:
        raise LogshipError(Code.DISK_FULL, "no room", retryable=True)

    monkeypatch.setattr(instance.store, "begin_chain", full)
    with pytest.raises(LogshipError):
        await instance.seed_begin(SEED)
    monkeypatch.undo()
    resume = await instance.hello(hello(seed_id="s1"), listener)
    assert resume.seed_id == ""
    assert resume.seed_wanted
    await instance.seed_begin(SEED)
    resume = await instance.hello(hello(seed_id="s1"), listener)
    assert (resume.seed_id, resume.seed_sequence, resume.position) == ("s1", 0, (1, 4 * S))
    assert not resume.seed_wanted


async def test_a_shipper_that_started_anew_gives_the_old_seed_up(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(), listener)
    await instance.seed_begin(SEED)
    resume = await instance.hello(hello(), listener)
    assert resume.seed_id == ""
    assert resume.seed_wanted
    assert instance.arrival.seeder is None


async def test_wal_goes_on_after_a_seed_is_given_up(instance: Instance, listener: Listener) -> None:
    await instance.hello(hello(), listener)
    await instance.seed_begin(SEED)
    await ship(instance)
    await instance.seed_stopped("s1", "primary-unreachable", "it went away")
    await ship(instance)
    assert [alarm["code"] for alarm in instance.alarms.as_list() if "primary" in alarm["code"]]
    await instance.seed_begin(SEED)
    assert not [
        alarm["code"] for alarm in instance.alarms.as_list() if "primary" in alarm["code"]
    ], "a new seed is under way"
