"""What an instance gives up, and the copies of seeds that it keeps."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec
import pytest

from applier.operations.instance import Instance
from applier.retention.leases import HeldLease, Lease
from applier.service import Service
from logship.bucket.keys import Keys
from logship.bucket.seed_archive import list_seeds, read_seed
from logship.errors import Code
from logship.frames import SeedBegin, SeedChunk, SeedEnd
from logship.identity import Incarnation
from logship.objects.directory import DirectoryStore
from tests.support.link_frames import SEGMENT_BYTES, hello
from tests.support.waiting import until
from tests.support.wal_factory import WalFactory, wal_line
from tests.unit.applier.operations.conftest import Listener
from tests.unit.applier.receivers.seed.archives import (
    END_LSN,
    START_LSN,
    SYSTEM_IDENTIFIER,
    SeedFrames,
    entry,
    manifest,
    seed,
)

S = SEGMENT_BYTES
FACTORY = WalFactory(wal_line(17, S))
KEYS = Keys("orders", Incarnation(SYSTEM_IDENTIFIER, 17))
FILES = {"backup_label": b"START", "base/1/1259": b"x" * 30_000}
ARCHIVE = entry("backup_label", FILES["backup_label"]) + entry("base/") + entry("base/1/")


@pytest.fixture
def more_settings() -> str:
    return "seeds.keep = 2\nretention.window_hours = 0"


def frames(seed_id: str) -> SeedFrames:
    archive = ARCHIVE + entry("base/1/1259", FILES["base/1/1259"])
    return seed([("", archive)], manifest(FILES), seed_id=seed_id)


async def give(instance: Instance, some: SeedFrames) -> None:
    for frame, payload in some:
        if isinstance(frame, SeedBegin):
            await instance.arrival.begin(frame)
        elif isinstance(frame, SeedChunk):
            await instance.arrival.chunk(frame, payload)
        else:
            assert isinstance(frame, SeedEnd)
            if instance.following.placed is not None:
                await ship(instance, END_LSN)
            await instance.arrival.end(frame)


async def ship(instance: Instance, end: int) -> None:
    """WAL from where the store is up to `end`."""
    store = instance.opened_store
    assert store.written is not None
    start = int(store.written.lsn)
    while start < end:
        stop = min(end, start - start % S + S)
        await instance.wal(1, start, FACTORY.wal(1, start, stop))
        start = stop
    await store.flush()


def archive_of(instance: Instance) -> DirectoryStore:
    return DirectoryStore(instance.host.settings.seeds_directory)


def kept(instance: Instance) -> list[str]:
    return [info.name.seed_id for info in list_seeds(archive_of(instance), KEYS)]


async def test_a_seed_that_arrives_is_kept_as_well_and_old_ones_go(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(), listener)
    for seed_id in ("aa", "bb", "cc"):
        await give(instance, frames(seed_id))
        await until(lambda: seed_id in kept(instance), f"{seed_id} is kept")  # noqa: B023
    await until(lambda: kept(instance) == ["bb", "cc"], "the oldest is gone")
    (info, _) = list_seeds(archive_of(instance), KEYS)
    assert info.profile == instance.record.profile
    last = [frame for frame, _ in read_seed(archive_of(instance), KEYS, info)][-1]
    assert isinstance(last, SeedEnd) and last.end_lsn == END_LSN
    assert instance.following.placed is not None
    assert instance.following.placed.seed_id == "cc"


async def test_a_seed_that_is_given_up_leaves_no_copy(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(), listener)
    await give(instance, frames("aa")[:-1])
    await instance.arrival.give_up("no more of it")
    assert list(archive_of(instance).listing("")) == []
    await give(instance, frames("bb"))
    await until(lambda: kept(instance) == ["bb"], "kept")


async def test_chunks_that_come_again_are_kept_once(instance: Instance, listener: Listener) -> None:
    await instance.hello(hello(), listener)
    some = frames("aa")
    await give(instance, some[:9])
    await give(instance, some[1:20])
    await give(instance, some[15:])
    await until(lambda: kept(instance) == ["aa"], "kept")
    assert not has_alarm(instance, Code.SEED_NOT_KEPT)


async def test_a_full_disk_there_harms_only_the_copy(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(), listener)
    place = instance.host.settings.seeds_directory
    place.parent.mkdir(exist_ok=True)
    place.write_text("something that is no directory")
    await give(instance, frames("aa"))
    assert instance.following.placed is not None
    await until(lambda: has_alarm(instance, Code.SEED_NOT_KEPT), "the alarm")
    place.unlink()
    await give(instance, frames("bb"))
    await until(lambda: kept(instance) == ["bb"], "kept")
    await until(lambda: not has_alarm(instance, Code.SEED_NOT_KEPT), "the alarm is over")


def has_alarm(instance: Instance, code: Code) -> bool:
    return code in [alarm["code"] for alarm in instance.alarms.as_list()]


def wal_files(instance: Instance) -> list[str]:
    names = os.listdir(instance.opened_store.directory)
    return sorted(name for name in names if len(name.split(".")[0]) == 24)


def age(instance: Instance, hours: float) -> None:
    long_ago = time.time() - hours * 3600
    for name in wal_files(instance):
        os.utime(instance.opened_store.directory / name, (long_ago, long_ago))


async def test_a_copy_never_takes_the_room_of_its_seed(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(), listener)
    begin = frames("aa")[0][0]
    assert isinstance(begin, SeedBegin)
    await instance.arrival.kept.begin(msgspec.structs.replace(begin, estimated_bytes=1 << 60))
    await until(lambda: has_alarm(instance, Code.SEED_NOT_KEPT), "the alarm")
    assert list(archive_of(instance).listing("")) == []
    for frame, payload in frames("aa")[1:]:
        if isinstance(frame, SeedChunk):
            await instance.arrival.kept.chunk(frame, payload)  # waits for nobody any more
    await instance.arrival.kept.give_up()


async def test_wal_stays_for_a_seed_that_is_on_its_way_and_for_kept_ones(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(), listener)
    await give(instance, frames("aa"))
    await until(lambda: kept(instance) == ["aa"], "kept")
    await ship(instance, START_LSN + 5 * S)
    age(instance, 1)
    before = wal_files(instance)
    answer = await instance.retention.run(dry_run=False)
    assert answer["parts"]["store"]["removed"] == [] and wal_files(instance) == before
    (standby,) = {group["why"] for group in answer["parts"]["store"]["kept"]}
    assert standby == "the standby begins with it"


async def test_wal_that_nothing_needs_goes(instance: Instance, listener: Listener) -> None:
    await instance.hello(hello(), listener)
    await give(instance, frames("aa"))
    await ship(instance, START_LSN + 6 * S)
    later = START_LSN + 4 * S
    begin = SeedBegin(seed_id="bb", timeline=1, start_lsn=later, estimated_bytes=0)
    await instance.arrival.begin(begin)
    await instance.arrival.give_up("only its chain matters")
    instance.following.placed = None
    await until(lambda: kept(instance) == ["aa"], "kept")
    age(instance, 1)
    dry = await instance.retention.run(dry_run=True)
    assert dry["parts"]["store"]["removed"] == []  # the kept seed needs it
    for info in list_seeds(archive_of(instance), KEYS):
        archive_of(instance).delete([f"{KEYS.all_seeds}{info.name}/end"])
    before = wal_files(instance)
    dry = await instance.retention.run(dry_run=True)
    (group,) = dry["parts"]["store"]["removed"]
    assert group["pieces"] == 4 and wal_files(instance) == before
    done = await instance.retention.run(dry_run=False)
    assert done["parts"]["store"]["removed"] == [group]
    assert len(wal_files(instance)) == len(before) - 4
    assert instance.opened_store.start == (1, later - later % S)


async def test_without_a_server_the_standby_before_the_last_seed_goes_at_once(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(), listener)
    for seed_id in ("aa", "bb"):
        await give(instance, frames(seed_id))
    old = instance.incarnation_directory / "data.old"
    await until(lambda: not old.exists(), "the old one is gone")
    answer = await instance.retention.run(dry_run=True)
    assert answer["parts"]["store"]["held"] is None


async def test_a_running_restore_keeps_its_seed_and_its_wal(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(), listener)
    for seed_id in ("aa", "bb"):
        await give(instance, frames(seed_id))
        await until(lambda: seed_id in kept(instance), f"{seed_id} is kept")  # noqa: B023
    restore = HeldLease.take(instance.directory)
    assert restore is not None
    for seed_id in ("cc", "dd"):
        await give(instance, frames(seed_id))
        await until(lambda: seed_id in kept(instance), f"{seed_id} is kept")  # noqa: B023
    old = instance.incarnation_directory / "data.old"
    await until(lambda: not old.exists(), "the standby of before is gone")
    await instance.retention.run(dry_run=False)
    assert kept(instance) == ["aa", "bb", "cc", "dd"]
    restore.narrow(Lease(1, START_LSN, "bb"))
    await instance.retention.run(dry_run=False)
    assert kept(instance) == ["bb", "cc", "dd"]
    # Nothing else needs WAL from before a seed that is to come.
    await ship(instance, START_LSN + 6 * S)
    later = START_LSN + 4 * S
    begin = SeedBegin(seed_id="ee", timeline=1, start_lsn=later, estimated_bytes=0)
    await instance.arrival.begin(begin)
    await instance.arrival.give_up("only its chain matters")
    instance.following.placed = None
    for info in list_seeds(archive_of(instance), KEYS):
        archive_of(instance).delete([f"{KEYS.all_seeds}{info.name}/end"])
    age(instance, 1)
    before = wal_files(instance)
    answer = await instance.retention.run(dry_run=False)
    assert wal_files(instance) == before
    assert answer["parts"]["store"]["kept"][0]["why"] == "a restore reads it"
    restore.release()
    await instance.retention.run(dry_run=False)
    assert len(wal_files(instance)) == len(before) - 4


async def test_a_promoted_instance_keeps_everything(instance: Instance, listener: Listener) -> None:
    await instance.hello(hello(), listener)
    await instance.fence("promotion")
    answer: dict[str, Any] = await instance.retention.run(dry_run=False)
    assert "promoted" in answer["parts"]["store"]["held"]


async def test_what_fails_is_alarmed_until_it_works(instance: Instance, listener: Listener) -> None:
    await instance.hello(hello(), listener)
    await give(instance, frames("aa"))
    data = instance.incarnation_directory / "data"
    (data / "backup_label").unlink()
    await instance.retention.run_quietly()
    assert has_alarm(instance, Code.RETENTION_FAILED)
    (data / "backup_label").write_text("back again")
    await instance.retention.run_quietly()
    assert not has_alarm(instance, Code.RETENTION_FAILED)


async def test_the_service_answers_for_an_instance(service: Service, listener: Listener) -> None:
    answer = await service.retention("orders", dry_run=True)
    assert answer["parts"]["store"]["held"] == "its store is not open"
