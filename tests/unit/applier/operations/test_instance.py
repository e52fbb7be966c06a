"""An instance between its receivers, its store and an operator who promotes it."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from applier.operations import instance as instance_module
from applier.operations.instance import Instance
from applier.operations.record import InstanceRecord, load_record, save_record
from applier.operations.state import instance_status
from applier.receivers import FencedError
from applier.service import Service
from applier.settings import ApplierSettings
from logship.errors import Code, LogshipError, RefusedError
from logship.frames import SeedBegin, ShipperHeartbeat
from logship.identity import Profile
from logship.lsn import Lsn
from tests.support.link_frames import SEGMENT_BYTES, hello, profile
from tests.support.waiting import until
from tests.support.wal_factory import WalFactory, wal_line
from tests.unit.applier.operations.conftest import Listener, change_settings

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


async def test_what_is_just_written_when_the_applier_stops_is_not_undone_by_what_was_heard(
    service: Service, instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    await instance.hello(hello(flush_lsn=9 * S), listener)
    begun, go_on = threading.Event(), threading.Event()

    def slow_save(directory: Path, record: InstanceRecord) -> None:
        if record.fence is not None and not begun.is_set():
            begun.set()
            assert go_on.wait(30.0)
        save_record(directory, record)

    monkeypatch.setattr(instance_module, "save_record", slow_save)
    fencing = asyncio.create_task(instance.fence("promotion"))
    await until(begun.is_set, "it is written")
    fencing.cancel()  # who asked for it is gone, as when the applier stops
    stopping = asyncio.create_task(service.close())
    done, _ = await asyncio.wait([stopping], timeout=0.05)
    go_on.set()
    await stopping
    assert not done
    on_disk = load_record(instance.directory, "orders")
    assert on_disk.fence is not None
    assert on_disk.heard is not None


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
    change_settings(instance, seed="manual")
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


# --- an old primary beside the new one --------------------------------------------------------

FORK = 4 * S + 50_000


async def fail_over(instance: Instance, listener: Listener) -> None:
    """The store follows a primary from timeline 1 to another one on timeline 2."""
    await instance.hello(hello(flush_lsn=FORK), listener)
    await instance.seed_begin(SEED)
    await ship(instance)
    await instance.history(2, f"1\t{Lsn(FORK)}\tno target\n".encode())
    await instance.hello(
        hello(timeline=2, flush_lsn=9 * S, profile=profile(max_connections=300), seed_id="s1"),
        listener,
    )
    copied = FACTORY.wal(1, 4 * S, FORK)
    await instance.wal(2, 4 * S, copied + FACTORY.wal(2, FORK, FORK + 10_000))


async def test_a_primary_that_was_left_behind_says_nothing_of_the_wal_that_is_held(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its settings would open the gate for WAL that the other primary wrote, and its position
    would hide what is missing of the other's."""
    await fail_over(instance, listener)
    known, heard = instance.record.profile, instance.heard
    checked: list[Profile] = []
    honest = instance.following.primary_changed

    async def primary_changed(changed: Profile) -> None:
        checked.append(changed)
        await honest(changed)

    monkeypatch.setattr(instance.following, "primary_changed", primary_changed)
    resume = await instance.hello(hello(timeline=1, flush_lsn=99 * S, seed_id="s1"), listener)
    assert resume.position is not None and resume.position.timeline == 2
    await instance.profile(profile(max_connections=7))
    instance.heartbeat(ShipperHeartbeat(timeline=1, flush_lsn=100 * S, sent_at=0.0))
    instance.heard_with_span(1, 101 * S)
    assert (instance.record.profile, instance.heard, checked) == (known, heard, [])
    assert instance.link.state == "connected"

    again = SeedBegin(seed_id="s2", timeline=1, start_lsn=90 * S, estimated_bytes=0)
    await instance.seed_begin(again)  # an operator decided for it
    instance.heard_with_span(1, 101 * S)
    assert instance.record.profile == profile(max_connections=7)
    assert checked == [profile(max_connections=7)]
    assert instance.heard is not None
    assert (instance.heard.timeline, instance.heard.lsn) == (1, 101 * S)


async def test_what_a_sender_said_before_it_came_to_the_newest_timeline_counts_from_there(
    instance: Instance, listener: Listener
) -> None:
    """A shipper that follows its primary tells of the new one's settings before its timeline."""
    await fail_over(instance, listener)
    await instance.hello(hello(timeline=1, seed_id="s1"), listener)
    await instance.profile(profile(max_connections=400))
    assert instance.record.profile == profile(max_connections=300)
    end = FORK + 10_000
    await instance.wal(2, end, FACTORY.wal(2, end, end + 1000))
    assert instance.record.profile == profile(max_connections=400)


async def test_a_primary_that_is_away_is_shown_as_that_and_says_nothing_else(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(), listener)
    await instance.opened_store.begin_chain(1, 4 * S)
    heard = instance.heard
    instance.lost(listener, "cut")
    away = profile(max_connections=7)
    resume = await instance.hello(
        hello(profile=away, flush_lsn=0, timeline=9, primary_reachable=False), listener
    )
    assert (instance.record.profile, instance.heard) == (profile(), heard)
    assert instance_status(instance)["link"]["state"] == "connected"
    assert instance_status(instance)["primary"]["reachable"] is False
    assert resume.position == (1, 4 * S)
    with pytest.raises(RefusedError):
        await instance.hello(
            hello(profile=profile(system_identifier=42), primary_reachable=False), listener
        )
    await instance.hello(hello(profile=away), listener)
    assert instance.record.profile == away
    assert instance_status(instance)["primary"]["reachable"] is True


async def test_a_sender_whose_primary_is_away_neither_ends_nor_wants_a_seed(
    instance: Instance, listener: Listener
) -> None:
    """It may be the old primary's, and the seed the new one's."""
    await instance.hello(hello(), listener)
    await instance.seed_begin(SEED)
    for seed_id in ("", "another", "s1"):
        away = hello(flush_lsn=0, primary_reachable=False, seed_id=seed_id)
        assert not (await instance.hello(away, listener)).seed_wanted
    resume = await instance.hello(hello(seed_id="s1"), listener)
    assert (resume.seed_id, resume.seed_wanted) == ("s1", False)


async def test_a_sender_whose_primary_is_away_is_no_reason_to_wait_for_a_seed(
    instance: Instance, listener: Listener
) -> None:
    """A promotion that waited for it would depend on the dead primary's host."""
    await instance.hello(hello(), listener)
    await instance.seed_begin(SEED)
    assert instance.has_primary
    instance.lost(listener, "cut")
    await instance.hello(hello(flush_lsn=0, primary_reachable=False, seed_id="s1"), listener)
    assert instance.is_connected
    assert not instance.has_primary
    assert instance.arrival.give_up_abandoned(connected=instance.has_primary)


async def test_the_first_that_is_heard_of_an_instance_may_be_that_its_primary_is_away(
    instance: Instance, listener: Listener
) -> None:
    resume = await instance.hello(hello(flush_lsn=0, primary_reachable=False), listener)
    assert (resume.position, instance.heard) == (None, None)
    assert instance.following.verdict is None
    resume = await instance.hello(hello(), listener)
    assert resume.seed_wanted and instance.record.profile == profile()


async def test_a_hello_waits_for_what_a_lost_connection_was_still_writing(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it writes may begin a timeline, after which the one before is not taken any more."""
    await instance.hello(hello(flush_lsn=FORK), listener)
    await instance.seed_begin(SEED)
    await ship(instance)
    await instance.history(2, f"1\t{Lsn(FORK)}\tno target\n".encode())
    store = instance.opened_store
    entered, leave = threading.Event(), threading.Event()
    honest = store._core.write

    def slow(*span: Any) -> Any:
        entered.set()
        assert leave.wait(60)
        return honest(*span)

    monkeypatch.setattr(store._core, "write", slow)
    both = FACTORY.wal(1, 4 * S, FORK) + FACTORY.wal(2, FORK, FORK + 100_000)
    writing = asyncio.create_task(instance.wal(2, 4 * S, both))
    await asyncio.to_thread(entered.wait, 60)
    instance.lost(listener, "cut")
    writing.cancel()
    old = profile(max_connections=7)
    greeting = asyncio.create_task(
        instance.hello(hello(timeline=1, profile=old, seed_id="s1"), listener)
    )
    asyncio.get_running_loop().call_later(0.2, leave.set)
    resume = await greeting
    assert resume.position == (2, FORK + 100_000) == store.durable
    assert instance.record.profile == profile()
    await asyncio.gather(writing, return_exceptions=True)


async def test_a_standby_that_is_held_is_held_below_the_fork_of_a_timeline_that_comes(
    instance: Instance, listener: Listener
) -> None:
    """The store may hold WAL of the old timeline from beyond the fork; at the same LSNs the new
    one's is what a changed primary wrote."""
    await instance.hello(hello(flush_lsn=FORK), listener)
    await instance.seed_begin(SEED)
    await ship(instance, 80_000)
    await instance.remember(held_lsn=4 * S + 80_000)
    history = f"1\t{Lsn(FORK)}\tno target\n".encode()
    await instance.history(2, history)
    assert instance.record.held_lsn == FORK
    assert instance.host.wal_server.gate("orders").hold_at_lsn == FORK
    await instance.remember(held_lsn=None)
    await instance.following.primary_changed(profile())
    assert instance.record.held_lsn == FORK, "it was known before the check spoke"


async def test_a_hello_that_a_promotion_overtakes_is_fenced_not_a_bug(
    instance: Instance, listener: Listener
) -> None:
    """A promotion stops to serve WAL while the store is still open."""
    await instance.hello(hello(), listener)
    instance.following.serving.withdraw()
    await instance.following.primary_changed(profile())


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
