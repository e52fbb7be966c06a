"""An instance whose cluster is replaced: what is kept, taken up again, and removed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest

from applier.budgets.memory import MemoryRule
from applier.compat import Verdict
from applier.fleet.places import Volumes
from applier.operations import former as former_module
from applier.operations import incarnations as incarnations_module
from applier.operations.instance import Instance
from applier.operations.record import load_record
from applier.operations.state import instance_status
from applier.receivers.seed.placement import read_placement
from applier.retention.leases import HeldLease
from applier.service import Service
from applier.service import service as service_module
from applier.settings import ApplierSettings
from applier.walserver.status import StandbyState, StandbyStatus
from logship import durable
from logship.bucket.keys import Keys
from logship.errors import Code, LogshipError, RefusedError
from logship.frames import Hello
from logship.identity import Incarnation, Profile
from logship.lsn import Lsn
from logship.postgres.installations import Installation
from tests.support.link_frames import SEGMENT_BYTES, hello, profile
from tests.support.waiting import until
from tests.support.wal_factory import WalFactory, wal_line
from tests.unit.applier.operations.conftest import Listener
from tests.unit.applier.operations.test_retention import archive_of, frames, give

S = SEGMENT_BYTES
OLD = profile()
NEW = profile(system_identifier=18, server_version_num=180004)


@pytest.fixture
def more_settings() -> str:
    return "seeds.keep = 2"


def hello_of(primary: Profile, **changes: Any) -> Hello:
    return hello(profile=primary, **changes)


async def protect(instance: Instance, listener: Listener) -> None:
    """The old cluster, with a seed in place and WAL behind it."""
    await instance.hello(hello_of(OLD, protection="sync", flush_lsn=9 * S), listener)
    await give(instance, frames("aa"))
    await until(lambda: not instance.arrival.seeder, "the seed is in place")
    factory, store = WalFactory(wal_line(17, S)), instance.opened_store
    assert store.written is not None
    start = int(store.written.lsn)
    await instance.wal(1, start, factory.wal(1, start, start + 1000))
    await store.flush()


def directory_of(instance: Instance, incarnation: Incarnation) -> Path:
    return instance.places_of(incarnation, Volumes()).standby


def previous(instance: Instance) -> list[Incarnation]:
    return [each.incarnation for each in instance.record.previous]


async def test_the_upgraded_cluster_begins_anew_and_the_old_one_is_kept(
    instance: Instance, listener: Listener, service: Service, settings: ApplierSettings
) -> None:
    await protect(instance, listener)
    durable_before = str(instance.opened_store.durable)
    resume = await instance.hello(hello_of(NEW, protection="async", flush_lsn=2 * S), Listener())
    assert resume.position is None and resume.seed_wanted
    assert instance.record.incarnation == NEW.incarnation
    used = instance.following.installation
    assert used is not None and used.version == "18.99", "found when it came, not at the start"
    assert instance.heard is not None and instance.heard.lsn == 2 * S, "not what the old one wrote"
    (failed,) = [what for name, what in listener.told if name == "failed"]
    assert isinstance(failed, LogshipError) and failed.retryable

    document = instance_status(instance)
    assert document["phase"] == "waiting"
    (kept,) = document["previous"]
    assert (kept["major"], kept["durable"]) == (17, durable_before)
    assert kept["replaced_at"] is kept["removed_at"] is None
    with pytest.raises(RefusedError) as caught:
        instance.following.refuse_promotion_unless_ready()
    assert caught.value.hint.endswith(f"promote orders --incarnation {OLD.incarnation}")

    await service.close()
    again = Service(settings)
    await again.open(["orders"])
    try:
        assert previous(again.open_instances["orders"]) == [OLD.incarnation]
    finally:
        await again.close()


async def test_the_old_one_comes_back_as_it_was_before_the_new_one_is_seeded(
    instance: Instance, listener: Listener
) -> None:
    await protect(instance, listener)
    position = instance.opened_store.durable
    await instance.hello(hello_of(NEW), Listener())
    place = instance.incarnation_directory
    resume = await instance.hello(hello_of(OLD, protection="sync", flush_lsn=9 * S), Listener())
    assert resume.position == position and not resume.seed_wanted
    assert instance.following.placed is not None
    assert instance.following.placed.seed_id == "aa"
    await until(lambda: not previous(instance), "what was never seeded is removed")
    assert not place.exists()


async def test_what_was_kept_comes_back_with_the_primary_that_wrote_it(
    instance: Instance, listener: Listener
) -> None:
    """Its standby was checked against that one; who comes may be one that was left behind."""
    await protect(instance, listener)
    await instance.hello(hello_of(NEW), Listener())
    older = msgspec.structs.replace(OLD, server_version_num=170001)
    cut = msgspec.structs.replace(OLD, wal_segment_size=2 * S)
    with pytest.raises(RefusedError) as caught:
        await instance.hello(hello_of(cut), Listener())
    assert caught.value.code is Code.SEGMENT_SIZE_MISMATCH
    assert instance.record.incarnation == NEW.incarnation
    await instance.hello(hello_of(older, timeline=0), Listener())
    assert instance.record.profile == OLD
    await instance.hello(hello_of(older), Listener())
    assert instance.record.profile == older


async def test_what_a_first_try_gone_wrong_was_heard_to_have_is_nobodys(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello_of(OLD, flush_lsn=9 * S), listener)
    await instance.hello(hello_of(NEW, primary_reachable=False), listener)
    assert instance.record.incarnation == NEW.incarnation
    assert instance.heard is instance.record.heard is None


async def test_who_does_not_reach_its_primary_takes_nobodys_place(
    instance: Instance, listener: Listener
) -> None:
    await protect(instance, listener)
    with pytest.raises(LogshipError) as caught:
        await instance.hello(hello_of(NEW, primary_reachable=False), Listener())
    assert caught.value.retryable
    assert instance.record.incarnation == OLD.incarnation
    async with instance.promotion_turn:
        with pytest.raises(LogshipError) as caught:
            await instance.hello(hello_of(NEW), Listener())
    assert caught.value.code is Code.INSTANCE_BUSY
    assert instance.record.incarnation == OLD.incarnation


async def test_a_wrong_cluster_is_an_alarm_until_it_is_accepted_by_name(
    service: Service, instance: Instance, listener: Listener
) -> None:
    await protect(instance, listener)
    wrong = profile(system_identifier=42)
    with pytest.raises(RefusedError):
        await instance.hello(hello_of(wrong), Listener())
    (alarm,) = [a for a in instance.alarms.as_list() if a["code"] == "system-identifier-mismatch"]
    assert f"applier accept orders {wrong.incarnation}" in alarm["hint"]
    await instance.hello(hello_of(OLD), listener)
    assert not instance.alarms.has(Code.SYSTEM_IDENTIFIER_MISMATCH), "the right one is here"

    with pytest.raises(RefusedError):
        await service.accept("orders", OLD.incarnation)
    await service.accept("orders", wrong.incarnation)
    await instance.hello(hello_of(wrong), Listener())
    assert instance.record.incarnation == wrong.incarnation
    assert previous(instance) == [OLD.incarnation]
    assert load_record(instance.directory, "orders").accepted is None, "once"
    await instance.fence("promotion")
    with pytest.raises(RefusedError) as caught:
        await service.accept("orders", NEW.incarnation)
    assert caught.value.code is Code.FENCED


async def test_a_record_that_cant_be_written_leaves_all_as_it_was(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    await protect(instance, listener)
    heard, position = instance.heard, instance.opened_store.durable

    def full(*_: object) -> None:
        raise LogshipError(Code.DISK_FULL, "no room", retryable=True)

    with monkeypatch.context() as patch:
        patch.setattr("applier.operations.instance.save_record", full)
        with pytest.raises(LogshipError):
            await instance.hello(hello_of(NEW), Listener())
    assert (instance.record.incarnation, instance.heard) == (OLD.incarnation, heard)
    assert instance.opened_store.durable == position
    assert instance.following.placed is not None
    await instance.hello(hello_of(NEW), Listener())
    assert previous(instance) == [OLD.incarnation]


async def test_one_that_cant_be_taken_up_takes_nothing_in_until_it_can(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its standby's record it would be seeded anew, over the data that is there."""
    monkeypatch.setattr(incarnations_module, "TAKE_UP_AGAIN_SECONDS", 0.02)
    await protect(instance, listener)
    file = instance.incarnation_directory / "seed.json"
    await instance.hello(hello_of(NEW), Listener())
    content = file.read_bytes()
    file.write_bytes(b"damaged")
    with pytest.raises(LogshipError) as caught:
        await instance.hello(hello_of(OLD), Listener())
    assert caught.value.code is Code.SEED_FAILED
    assert instance.record.incarnation == OLD.incarnation
    with pytest.raises(LogshipError):
        await instance.hello(hello_of(OLD), Listener())
    assert instance.alarms.has(Code.SEED_FAILED)
    file.write_bytes(content)
    await until(lambda: instance.failure is None, "it is tried again")
    assert not instance.alarms.has(Code.SEED_FAILED)
    assert not (await instance.hello(hello_of(OLD), Listener())).seed_wanted


# --- until it goes ----------------------------------------------------------------------------


def streaming(apply_lsn: int, state: StandbyState = StandbyState.STREAMING) -> StandbyStatus:
    lsn = Lsn(apply_lsn)
    return StandbyStatus("orders", 1, state, 1, lsn, lsn, lsn, lsn, 0.0, 0.0)


async def replaced(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> list[StandbyStatus]:
    """The new cluster is in the old one's place; what its standby says is to be appended."""
    await protect(instance, listener)
    await instance.hello(hello_of(NEW), Listener())
    said: list[StandbyStatus] = []
    instance.following.placed = msgspec.structs.replace(
        read_placement(directory_of(instance, OLD.incarnation)), seed_id="new", end_lsn=5 * S
    )
    serving = instance.following.serving
    monkeypatch.setattr(serving, "standby_status", lambda: said[-1] if said else None)
    return said


async def test_it_goes_when_its_successor_has_streamed_for_the_grace_time(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = await replaced(instance, listener, monkeypatch)
    for status in (
        streaming(5 * S - 1),  # it could not be opened yet
        streaming(6 * S, StandbyState.DISCONNECTED),
        streaming(6 * S, StandbyState.REFUSED),
    ):
        said.append(status)
        instance.former.standby_reported()
    assert instance.record.previous[0].replaced_at is None
    said.append(streaming(5 * S))
    instance.former.standby_reported()
    await until(lambda: instance.record.previous[0].replaced_at, "it is noted")
    (kept,) = instance_status(instance)["previous"]
    assert kept["removed_at"] == pytest.approx(time.time() + 72 * 3600, abs=60)

    await instance.former.remove_expired()
    assert previous(instance) == [OLD.incarnation], "not yet"
    later = time.time() + 72 * 3600 + 1
    monkeypatch.setattr(former_module.time, "time", lambda: later)
    await instance.former.remove_expired()
    await until(lambda: not previous(instance), "it is removed")
    assert not directory_of(instance, OLD.incarnation).exists()
    assert list(archive_of(instance).listing(Keys("orders", OLD.incarnation).root)) == []
    assert instance.incarnation_directory.exists()


async def test_one_that_cant_be_removed_is_alarmed_and_ends_retention_for_nobody(
    instance: Instance, listener: Listener, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = await replaced(instance, listener, monkeypatch)
    said.append(streaming(5 * S))
    instance.former.standby_reported()
    await until(lambda: instance.record.previous[0].replaced_at, "it is noted")
    later = time.time() + 72 * 3600 + 1
    monkeypatch.setattr(former_module.time, "time", lambda: later)

    def full(path: Path, data: bytes, mode: int = 0o644) -> None:
        raise OSError(28, "No space left on device")

    turns = []
    real = instance.retention.run_quietly

    async def run_quietly(*, with_bucket: bool = True) -> None:
        await real(with_bucket=with_bucket)
        turns.append(with_bucket)

    monkeypatch.setattr(durable, "write_file", full)
    monkeypatch.setattr(instance.retention, "run_quietly", run_quietly)
    monkeypatch.setattr(service_module, "RETENTION_SECONDS", 0.01)
    service.keep_retention()
    await until(lambda: len(turns) > 2, "the turns go on")
    monkeypatch.undo()
    assert previous(instance) == [OLD.incarnation]
    alarms = {each["code"]: each for each in instance_status(instance)["alarms"]}
    assert "can't be removed" in alarms[Code.RETENTION_FAILED]["what"]


async def test_it_is_forgotten_on_request_but_unneeded_only_if_it_is_named(
    service: Service, instance: Instance, listener: Listener
) -> None:
    await protect(instance, listener)
    await instance.hello(hello_of(NEW), Listener())
    with pytest.raises(RefusedError) as caught:
        await service.forget("orders", None)
    assert str(OLD.incarnation) in caught.value.hint
    with pytest.raises(RefusedError):
        await service.forget("orders", NEW.incarnation)

    lease = HeldLease.take(instance.directory)
    assert lease is not None
    with pytest.raises(RefusedError, match="restore"):
        await service.forget("orders", OLD.incarnation)
    lease.release()
    answer = await service.forget("orders", OLD.incarnation)
    assert answer == {"name": "orders", "forgotten": [str(OLD.incarnation)]}
    await until(lambda: not directory_of(instance, OLD.incarnation).exists(), "its files are gone")
    assert instance_status(instance)["previous"] == []


async def test_what_is_just_taken_up_is_not_forgotten(
    service: Service, instance: Instance, listener: Listener
) -> None:
    await protect(instance, listener)
    await instance.hello(hello_of(NEW), Listener())
    async with instance.incarnations.turn:
        forgetting = asyncio.create_task(service.forget("orders", OLD.incarnation))
        done, _ = await asyncio.wait({forgetting}, timeout=0.1)
        assert not done
        await instance.remember(previous=())
    with pytest.raises(RefusedError):
        await forgetting
    assert directory_of(instance, OLD.incarnation).exists()


async def test_a_removal_that_a_crash_cut_off_is_finished_at_the_next_start(
    service: Service,
    instance: Instance,
    listener: Listener,
    settings: ApplierSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await protect(instance, listener)
    await instance.hello(hello_of(NEW), Listener())
    place = directory_of(instance, OLD.incarnation)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "remove_tree", lambda _: (_ for _ in ()).throw(OSError(5, "I/O")))
        await service.forget("orders", OLD.incarnation)
        await until(lambda: not instance.former.is_removing, "it fails")
        await service.close()
    assert (place / "data").exists()
    again = Service(settings)
    await again.open(["orders"])
    try:
        taken_up = again.open_instances["orders"]
        await until(lambda: not previous(taken_up), "it is finished")
        assert not place.exists()
    finally:
        await again.close()


async def test_files_on_a_volume_that_is_away_are_not_taken_for_removed(
    instance: Instance, listener: Listener, tmp_path: Path
) -> None:
    await protect(instance, listener)
    await instance.hello(hello_of(NEW), Listener())
    (kept,) = instance.record.previous
    away = msgspec.structs.replace(kept, volumes=Volumes(standby=str(tmp_path)), is_removed=True)
    other = msgspec.structs.replace(
        kept, incarnation=Incarnation(16, 16), volumes=Volumes(), is_removed=True
    )
    await instance.remember(previous=(away, other))
    instance.former.go_on_removing()
    await until(lambda: not instance.former.is_removing, "what can be removed is")
    assert previous(instance) == [OLD.incarnation]

    (tmp_path / "instances").mkdir()
    instance.former.go_on_removing()
    await until(lambda: not previous(instance), "it is back")


async def test_what_is_not_kept_cant_be_promoted_and_nothing_is_changed(
    service: Service, instance: Instance, listener: Listener
) -> None:
    await protect(instance, listener)
    with pytest.raises(RefusedError) as caught:
        await service.promote("orders", lambda *_: None, Incarnation(1, 16))
    assert caught.value.code is Code.PROMOTE_REFUSED
    assert instance.record.fence is None
    assert instance.record.incarnation == OLD.incarnation


# --- back to what was before ------------------------------------------------------------------


@pytest.fixture(autouse=True)
def an_old_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough to be counted on."""
    found = [
        Installation(Path("/nowhere"), 170009, "configured"),
        Installation(Path("/nowhere"), 180099, "configured"),
    ]
    monkeypatch.setattr("applier.operations.host.discover", lambda *_, **__: found)


async def go_back(instance: Instance) -> None:
    async with instance.promotion_turn:
        await instance.incarnations.go_back(OLD.incarnation)


@pytest.fixture
async def not_opened(
    service: Service, instance: Instance, listener: Listener, settings: ApplierSettings
) -> AsyncIterator[Instance]:
    """The new cluster is in the old one's place, and could not be opened at the last start."""
    await protect(instance, listener)
    await instance.hello(hello_of(NEW), Listener())
    (instance.incarnation_directory / "seed.json").write_text("damaged")
    await service.close()
    again = Service(settings)
    await again.open(["orders"])
    yield again.open_instances["orders"]
    await again.close()


async def test_what_could_not_be_opened_is_stopped_and_kept_when_an_older_one_is_promoted(
    not_opened: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not_opened.failure is not None
    place = not_opened.incarnation_directory
    stopped: list[Path] = []
    monkeypatch.setattr(incarnations_module, "stop_server", lambda data, _: stopped.append(data))
    await go_back(not_opened)
    assert not_opened.failure is None
    assert stopped == [place / "data"], "its server may run, with the port"
    (kept,) = not_opened.record.previous
    assert (kept.incarnation, kept.is_removed) == (NEW.incarnation, False)
    assert (place / "seed.json").exists()


async def test_what_cant_be_taken_up_is_not_gone_back_to(
    instance: Instance, listener: Listener
) -> None:
    """The cluster that is protected now goes on, whatever became of the older one's files."""
    await protect(instance, listener)
    file = instance.incarnation_directory / "seed.json"
    await instance.hello(hello_of(NEW, flush_lsn=2 * S), Listener())
    before = instance.record
    content = file.read_bytes()
    file.write_bytes(b"damaged")
    with pytest.raises(LogshipError) as caught:
        await go_back(instance)
    assert caught.value.code is Code.SEED_FAILED
    assert instance.record == load_record(instance.directory, "orders") == before
    assert instance.failure is None
    assert instance.heard is not None and instance.heard.lsn == 2 * S
    await instance.hello(hello_of(NEW, flush_lsn=3 * S), Listener())

    file.write_bytes(content)
    (kept,) = before.previous
    aside = msgspec.structs.replace(kept, volumes=Volumes(store="/not/mounted"))
    await instance.remember(previous=(aside,))
    with pytest.raises(RefusedError, match="/not/mounted"):
        await go_back(instance)
    assert instance.record.fence is None


async def test_the_memory_that_an_older_cluster_will_have_is_told_before_it_is_opened(
    service: Service, instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    await protect(instance, listener)
    service.host.sharing.rule = MemoryRule(1000, 64, 0.5)
    expected = instance.budget.memory(promoted=True).shown()
    newer = profile(system_identifier=18, server_version_num=180004, max_connections=5000)
    await instance.hello(hello_of(newer), Listener())
    assert instance.budget.memory(promoted=True).shown() != expected, "it has more connections"
    told: list[tuple[str, dict[str, Any]]] = []
    error = RefusedError(Code.PROMOTE_REFUSED, "it is as far as it should come")
    monkeypatch.setattr(
        type(instance.following), "refuse_promotion_unless_ready", mock.Mock(side_effect=error)
    )
    with pytest.raises(RefusedError, match="as far as it should"):
        await service.promote("orders", lambda *step: told.append(step), OLD.incarnation)
    assert told == [
        ("go back", {"to": str(OLD.incarnation)}),
        ("budget", {"memory": "1000MB", **expected}),
    ]


async def test_a_promotion_that_is_tried_again_says_too_what_it_leaves_out(
    instance: Instance, listener: Listener
) -> None:
    await protect(instance, listener)
    await instance.hello(hello_of(NEW), Listener())
    await go_back(instance)
    assert instance.record.fence is not None
    left = instance.record.fence.left
    assert str(NEW.incarnation) in left
    await instance.unfence()
    await instance.fence("promotion")
    assert instance.record.fence.left == left


async def test_what_is_taken_up_is_left_alone_by_those_who_tried_before(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incarnations_module, "TAKE_UP_AGAIN_SECONDS", 0.02)
    await protect(instance, listener)
    store = instance.store
    await instance.incarnations._take_up_again()
    assert instance.store is store


async def test_a_full_disk_does_not_end_the_removal_of_what_is_not_needed(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    await protect(instance, listener)
    await instance.hello(hello_of(NEW), Listener())
    (kept,) = instance.record.previous
    await instance.remember(previous=(msgspec.structs.replace(kept, replaced_at=1.0),))

    def full(*_: object) -> None:
        raise LogshipError(Code.DISK_FULL, "no room", retryable=True)

    with monkeypatch.context() as patch:
        patch.setattr("applier.operations.instance.save_record", full)
        await instance.former.remove_expired()
    assert instance.alarms.has(Code.RETENTION_FAILED)
    await instance.former.remove_expired()
    await until(lambda: not previous(instance), "it is removed")


async def test_what_could_not_be_opened_is_not_checked_either(
    not_opened: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows its standby: without that nothing that is held is let go."""

    async def passes(*_: object, **__: object) -> Verdict:
        return Verdict(())

    monkeypatch.setattr("applier.operations.version_check.VersionCheck.compare", passes)
    await not_opened.remember(held_lsn=7)
    await not_opened.following.check_again(start=True)
    assert not_opened.record.held_lsn == 7


async def test_one_that_was_left_neither_checks_nor_starts_anything_again(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def passes(*_: object, **__: object) -> Verdict:
        return Verdict(())

    await protect(instance, listener)
    left = instance.following
    stop, placed = left.stop, []

    async def stopped() -> None:
        await stop()
        placed.append(left.placed)

    monkeypatch.setattr(left, "stop", stopped)
    await instance.hello(hello_of(NEW), Listener())
    assert placed == [None]
    monkeypatch.setattr("applier.operations.version_check.VersionCheck.compare", passes)
    await instance.remember(held_lsn=7)
    await left.check_again(start=True)
    assert instance.record.held_lsn == 7
