"""What an instance may take, at its door: where it waits, and what it is told."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from applier.budgets.memory import MemoryRule
from applier.fleet.places import Volumes
from applier.operations import budget as budget_module
from applier.operations import instance as instance_module
from applier.operations import turns as turns_module
from applier.operations.budget import CATCH_UP_BYTES, Budget, disk_bytes
from applier.operations.instance import Instance
from applier.operations.record import KeptIncarnation
from applier.operations.state import instance_status
from applier.receivers import FencedError
from applier.receivers.seed.placement import SeedPlaced
from applier.service import Service
from applier.settings import ApplierSettings, load_applier_settings
from applier.standby.cgroups import Cgroups
from logship.errors import Code, LogshipError
from logship.frames import SeedBegin, SeedChunk
from logship.seal import seal
from tests.support.fake_intake import new_keys
from tests.support.link_frames import SEGMENT_BYTES, hello, profile
from tests.support.waiting import free_port, until
from tests.support.wal_factory import WalFactory, wal_line
from tests.unit.applier.operations.conftest import Listener, change_settings

S = SEGMENT_BYTES
FACTORY = WalFactory(wal_line(17, S))
NAMES = ("orders", "stock", "users")
INSTANCE = """
[instances.{name}]
public_key = "{key}"
port = {port}
run_standby = false
"""


@pytest.fixture
def settings(shared_tmp_path: Path) -> ApplierSettings:
    (shared_tmp_path / "run").mkdir(mode=0o711)
    text = f"""
directory = "{shared_tmp_path}/applier"
store.keep_free_mb = 1
wal_server.socket_directory = "{shared_tmp_path}/run/wal"
budgets.catch_ups = 1
"""
    for name in NAMES:
        text += INSTANCE.format(name=name, key=new_keys().public, port=free_port())
    text += INSTANCE.format(name="bounded", key=new_keys().public, port=free_port())
    text += "intake_mb_per_second = 1\npriority = 9\n"
    text += INSTANCE.format(name="small", key=new_keys().public, port=free_port())
    text += "disk_mb = 6\n"
    file = shared_tmp_path / "applier.toml"
    file.write_text(text)
    return load_applier_settings(file)


@pytest.fixture
async def service(settings: ApplierSettings) -> AsyncIterator[Service]:
    made = Service(settings)
    await made.open(sorted(settings.instances))
    yield made
    await made.close()


def seed(instance: Instance, estimated_bytes: int = 0) -> SeedBegin:
    return SeedBegin(
        seed_id=f"seed-{instance.name}",
        timeline=1,
        start_lsn=4 * S + 40,
        estimated_bytes=estimated_bytes,
    )


async def greet(instance: Instance, flush_lsn: int = 9 * S) -> tuple[Listener, bool]:
    """Returns who is told, and whether a seed was wanted at once."""
    listener = Listener()
    resume = await instance.hello(hello(instance=instance.name, flush_lsn=flush_lsn), listener)
    return listener, resume.seed_wanted


async def started(instance: Instance) -> None:
    """Its chain of WAL has begun, and it wants no seed any more."""
    listener, _ = await greet(instance)
    await instance.seed_begin(seed(instance))
    instance.following.placed = SeedPlaced(
        seed_id=f"seed-{instance.name}",
        timeline=1,
        start_lsn=4 * S,
        end_lsn=4 * S,
        bytes=0,
        files=0,
    )
    await instance.arrival.give_up("the test has no more of it")
    instance.lost(listener, "the test begins")


async def write(instance: Instance, size_bytes: int) -> None:
    assert instance.store is not None
    assert instance.store.written is not None
    place = instance.store.written.lsn
    await instance.wal(1, place, FACTORY.wal(1, place, place + size_bytes))


async def write_many(instance: Instance, size_bytes: int) -> None:
    for _ in range(0, size_bytes, S // 2):
        await write(instance, S // 2)


def turn(instance: Instance) -> str | None:
    return instance_status(instance)["budget"]["turn"]


def used_bytes(instance: Instance) -> int:
    disk = instance_status(instance)["budget"]["disk"]
    assert disk is not None
    return disk["used_bytes"] or 0


def told_of_a_seed(listener: Listener) -> bool:
    return any(name == "seed" for name, _ in listener.told)


# --- turns ----------------------------------------------------------------------------------


async def test_of_many_that_want_a_seed_one_is_seeded_and_the_next_is_asked_when_it_ends(
    service: Service,
) -> None:
    orders, stock, bounded = (service.open_instances[n] for n in ("orders", "stock", "bounded"))
    assert (await greet(orders))[1]
    stocks_listener, wanted = await greet(stock)
    assert not wanted
    greater_listener, wanted = await greet(bounded)
    assert not wanted
    assert [turn(each) for each in (orders, stock, bounded)] == ["running", "waiting", "waiting"]
    await orders.seed_begin(seed(orders))
    await orders.seed_stopped("seed-orders", "seed-failed", "it broke")
    assert told_of_a_seed(greater_listener), "the greater priority comes first"
    assert not told_of_a_seed(stocks_listener)
    bounded.lost(greater_listener, "its link broke before it began")
    assert told_of_a_seed(stocks_listener)
    assert turn(stock) == "running"


async def test_a_seed_that_an_operator_asks_for_waits_for_its_turn(service: Service) -> None:
    orders, stock = service.open_instances["orders"], service.open_instances["stock"]
    orders_listener, _ = await greet(orders)
    stocks_listener, _ = await greet(stock)
    stock.request_seed("an operator asked")
    assert not told_of_a_seed(stocks_listener)
    orders.lost(orders_listener, "gone")
    assert told_of_a_seed(stocks_listener)


async def test_who_catches_up_waits_for_a_turn_and_who_is_live_does_not(service: Service) -> None:
    orders, stock, users = (service.open_instances[n] for n in NAMES)
    await started(stock)
    await started(users)
    orders_listener, _ = await greet(orders)
    await greet(users)
    assert [turn(orders), turn(users)] == ["running", None]

    far = 4 * S + CATCH_UP_BYTES
    stocks_listener, _ = await greet(stock, flush_lsn=far)
    assert stock.link_listener is stocks_listener
    held = asyncio.create_task(write(stock, 50_000))
    await write(users, 50_000)
    assert not held.done()
    assert turn(stock) == "waiting"
    orders.lost(orders_listener, "gone")
    await asyncio.wait_for(held, 30)
    assert turn(stock) == "running"

    # Where its primary was when it came it is as good as live.
    stock.budget.came(0, stock.store.written._replace(lsn=far))  # type: ignore[union-attr,arg-type]
    assert turn(stock) is None


async def test_a_seed_from_a_bucket_waits_and_loses_its_place_when_it_is_given_up(
    service: Service,
) -> None:
    orders, stock, users = (service.open_instances[n] for n in NAMES)
    orders_listener, _ = await greet(orders)
    begins = []
    for each in (stock, users):
        await each.bucket.hello(hello(instance=each.name), Listener())
        begins.append(asyncio.create_task(each.bucket.seed_begin(seed(each))))
        await until(lambda each=each: turn(each) == "waiting", "it waits")
    begins[0].cancel()
    await asyncio.gather(begins[0], return_exceptions=True)
    assert turn(stock) is None
    assert users.arrival.seeder is None
    orders.lost(orders_listener, "gone")
    await asyncio.wait_for(begins[1], 30)
    assert users.arrival.seeder is not None
    assert turn(users) == "running"


async def test_who_waits_for_a_turn_learns_that_its_instance_was_promoted(service: Service) -> None:
    orders, stock = service.open_instances["orders"], service.open_instances["stock"]
    await greet(orders)
    await stock.bucket.hello(hello(instance="stock"), Listener())
    begins = asyncio.create_task(stock.bucket.seed_begin(seed(stock)))
    await until(lambda: turn(stock) == "waiting", "it waits")
    await stock.fence("promotion")
    with pytest.raises(FencedError):
        await asyncio.wait_for(begins, 30)
    assert turn(stock) is None


async def test_a_bucket_with_much_to_bring_takes_a_turn_until_its_end_is_reached(
    service: Service,
) -> None:
    orders, stock = service.open_instances["orders"], service.open_instances["stock"]
    await started(stock)
    orders_listener, _ = await greet(orders)
    await stock.bucket.hello(hello(instance="stock"), Listener())
    place = 4 * S
    await stock.bucket.wal(1, place, FACTORY.wal(1, place, place + 8192))
    assert turn(stock) is None, "so little needs none"
    stock.budget.comes_from_bucket(CATCH_UP_BYTES)
    place += 8192
    more = FACTORY.wal(1, place, place + 8192)
    held = asyncio.create_task(stock.bucket.wal(1, place, more))
    await until(lambda: turn(stock) == "waiting", "it waits")
    assert not stock.bucket.wal_at_once(1, place, more)
    orders.lost(orders_listener, "gone")
    await asyncio.wait_for(held, 30)
    assert turn(stock) == "running"
    stock.bucket.bucket_dry()
    assert turn(stock) is None


async def test_a_turn_that_comes_to_who_can_not_use_it_is_passed_on_and_harms_nobody(
    service: Service,
) -> None:
    orders, stock, users = (service.open_instances[n] for n in NAMES)
    orders_listener, _ = await greet(orders)
    stocks_listener, _ = await greet(stock)
    change_settings(stock, seed="manual")
    users_listener, _ = await greet(users)
    orders.lost(orders_listener, "gone")
    assert not told_of_a_seed(stocks_listener)
    assert told_of_a_seed(users_listener)
    assert [turn(each) for each in (orders, stock, users)] == [None, None, "running"]

    change_settings(stock, seed="auto")
    await started(stock)
    stock.arrival.asked_of_link = True
    await greet(stock)
    stock.arrival.asked_of_link = False
    assert turn(stock) == "waiting"
    store, stock.keeping.store = stock.store, None  # it is just being opened again
    users.lost(users_listener, "gone")
    stock.keeping.store = store
    assert turn(users) is None
    assert users.link.state == "lost"


async def test_a_seed_from_a_bucket_that_can_not_begin_gives_its_turn_back(
    service: Service,
) -> None:
    orders, stock = service.open_instances["orders"], service.open_instances["stock"]
    await stock.bucket.hello(hello(instance="stock"), Listener())
    store, stock.keeping.store = stock.store, None  # it is just being opened again
    with pytest.raises(LogshipError):
        await stock.bucket.seed_begin(seed(stock))
    stock.keeping.store = store
    assert turn(stock) is None
    assert (await greet(orders))[1]


async def test_what_comes_of_a_seed_that_is_not_arriving_takes_no_turn(service: Service) -> None:
    orders, stock = service.open_instances["orders"], service.open_instances["stock"]
    await greet(stock)
    await stock.seed_begin(seed(stock))
    await stock.seed_stopped("seed-stock", "seed-failed", "it broke")
    sealed = seal(bytes(1024))
    late = SeedChunk(
        seed_id="seed-stock",
        sequence=0,
        kind="data",
        raw_bytes=1024,
        crc32c=sealed.crc32c,
        codec=sealed.codec,
    )
    with pytest.raises(LogshipError, match="not known"):
        await stock.seed_chunk(late, sealed.payload)
    assert turn(stock) is None
    assert (await greet(orders))[1]


async def test_a_promotion_waits_for_no_turn(service: Service) -> None:
    orders, stock = service.open_instances["orders"], service.open_instances["stock"]
    await started(stock)
    await greet(orders)
    await greet(stock, flush_lsn=4 * S + CATCH_UP_BYTES)
    held = asyncio.create_task(write(stock, 50_000))
    await until(lambda: turn(stock) == "waiting", "it waits")
    stock.budget.lift()
    await asyncio.wait_for(held, 30)


async def test_a_turn_that_nobody_uses_goes_to_who_waits(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns_module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr("applier.budgets.turns.IDLE_SECONDS", 0.05)
    orders, stock = service.open_instances["orders"], service.open_instances["stock"]
    await greet(orders)  # asked for a seed, and never begins it
    stocks_listener, _ = await greet(stock)
    await until(lambda: told_of_a_seed(stocks_listener), "the other is asked")


# --- memory ---------------------------------------------------------------------------------


async def test_the_kernel_leaves_a_server_the_buffers_that_its_operator_gave_it(
    service: Service, tmp_path: Path
) -> None:
    orders, sharing = service.open_instances["orders"], service.host.sharing
    (tmp_path / "cgroup.subtree_control").write_text("memory")
    sharing.rule, sharing.cgroups = MemoryRule(1000, 64, 0.5), Cgroups(tmp_path)
    high = tmp_path / "logship-standby-orders" / "memory.high"
    orders.budget.contain(os.getpid())
    assert high.read_text() == str(500 << 20)
    change_settings(orders, shared_buffers_mb=2048)
    orders.budget.contain(os.getpid())
    assert int(high.read_text()) > 4096 << 20
    assert orders.budget.is_contained


async def test_a_server_that_was_stopped_is_held_to_nothing(
    service: Service, tmp_path: Path
) -> None:
    orders = service.open_instances["orders"]
    service.host.sharing.cgroups = Cgroups(tmp_path)
    (tmp_path / "logship-standby-orders").mkdir()
    orders.budget.is_contained = True
    orders.budget.release()
    assert list(tmp_path.iterdir()) == []
    assert not orders.budget.is_contained


# --- the disk -------------------------------------------------------------------------------


async def test_past_its_quota_one_instance_is_held_back_and_goes_on_by_itself(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance_module, "FULL_DISK_RETRY_SECONDS", 0.01)
    monkeypatch.setattr("applier.budgets.disk.MEASURE_FULL_SECONDS", 0.01)
    small, users = service.open_instances["small"], service.open_instances["users"]
    ballast = small.directory / "ballast"
    ballast.write_bytes(bytes(3 << 20))
    await started(small)
    await started(users)
    await greet(small)
    held = asyncio.create_task(write_many(small, 7 << 19))
    await until(lambda: small.alarms.has(Code.DISK_QUOTA), "the alarm")
    (alarm,) = (each for each in small.alarms.as_list() if each["code"] == "disk-quota")
    assert "6 MB are its limit" in alarm["what"]
    assert "instances.small.disk_mb" in alarm["hint"]
    assert not held.done()
    assert used_bytes(small) <= (6 << 20) + 2 * S, "its segment, and a spare"
    await write(users, 50_000)
    assert not users.alarms.has(Code.DISK_QUOTA)

    ballast.unlink()
    await asyncio.wait_for(held, 30)
    assert not small.alarms.has(Code.DISK_QUOTA)
    assert 0 < used_bytes(small) <= 6 << 20


async def test_the_room_that_is_shown_is_no_more_than_the_quota_leaves(service: Service) -> None:
    small = service.open_instances["small"]
    room = instance_status(small)["room"]
    assert room["bytes"] is None, "what it takes was never measured"
    assert room["free_bytes"] is not None
    await started(small)
    await greet(small)
    await write(small, 50_000)
    room = instance_status(small)["room"]
    assert room["bytes"] == (6 << 20) - used_bytes(small)
    small.budget.came(2 << 20, None)
    change_settings(small, disk_mb=1)
    assert instance_status(small)["room"]["bytes"] == 0
    change_settings(small, disk_mb=0)
    room = instance_status(small)["room"]
    assert room["bytes"] == (room["free_bytes"] or 0) - (1 << 20), "what the disk has is all"


async def test_what_is_kept_of_a_cluster_of_before_counts_on_whatever_volume_it_is(
    service: Service, shared_tmp_path: Path
) -> None:
    small, profiles = service.open_instances["small"], (profile(), profile(system_identifier=18))
    await greet(small)
    volumes = Volumes(store=f"{shared_tmp_path}/wal", standby=f"{shared_tmp_path}/data")
    kept = KeptIncarnation(
        incarnation=profiles[1].incarnation, profile=profiles[1], at=1.0, volumes=volumes
    )
    for place in small.places_of(kept.incarnation, volumes):
        place.mkdir(parents=True)
        (place / "file").write_bytes(bytes(2 << 20))
    await small.budget.check_room(1)
    before = used_bytes(small)
    await small.remember(previous=(kept,))
    small.budget = Budget(small)
    await small.budget.check_room(1)
    assert used_bytes(small) - before >= 4 << 20


async def test_a_seed_that_would_not_fit_is_refused_and_one_that_grows_too_large_is_ended(
    service: Service,
) -> None:
    small = service.open_instances["small"]
    await greet(small)
    with pytest.raises(LogshipError) as caught:
        await small.seed_begin(seed(small, estimated_bytes=7 << 20))
    assert caught.value.code is Code.DISK_QUOTA
    assert caught.value.retryable
    assert small.alarms.has(Code.DISK_QUOTA)
    assert turn(small) is None, "its turn is given back"

    await small.seed_begin(seed(small, estimated_bytes=1 << 20))
    assert not small.alarms.has(Code.DISK_QUOTA)
    sealed = seal(bytes(1024))
    chunk = SeedChunk(
        seed_id="seed-small",
        sequence=0,
        kind="data",
        raw_bytes=8 << 20,
        crc32c=sealed.crc32c,
        codec=sealed.codec,
    )
    with pytest.raises(LogshipError) as caught:
        await small.seed_chunk(chunk, sealed.payload)
    assert caught.value.code is Code.DISK_QUOTA


async def test_a_quota_that_is_raised_while_the_disk_is_measured_counts_at_once(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, measuring, gate = service.open_instances["small"], threading.Event(), threading.Event()

    def slowly(_: object) -> int:
        measuring.set()
        assert gate.wait(30)
        return 1 << 20

    monkeypatch.setattr(budget_module, "disk_bytes", slowly)
    first = asyncio.create_task(small.budget.check_room(2 << 20))
    await until(measuring.is_set, "it is measured")
    change_settings(small, disk_mb=12)
    second = asyncio.create_task(small.budget.check_room(7 << 20))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, second)


def test_what_is_on_the_disk_counts_once_and_links_do_not(tmp_path: Path) -> None:
    (tmp_path / "wal").mkdir()
    file = tmp_path / "wal" / "segment"
    file.write_bytes(bytes(64 << 10))
    alone = disk_bytes([tmp_path])
    assert alone >= 64 << 10
    (tmp_path / "same").hardlink_to(file)
    (tmp_path / "link").symlink_to("/usr")
    assert disk_bytes([tmp_path, tmp_path / "wal"]) <= alone + 4096
    assert disk_bytes([tmp_path / "missing"]) == 0


# --- the rate -------------------------------------------------------------------------------


async def test_wal_above_the_rate_waits_and_is_never_written_at_once(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    # It stands still: half a second is soon over where others work too.
    monkeypatch.setattr(budget_module, "time", SimpleNamespace(monotonic=lambda: now))
    bounded, users = service.open_instances["bounded"], service.open_instances["users"]
    await started(bounded)
    await started(users)
    await greet(bounded)
    await write(bounded, 1 << 20)
    assert bounded.store is not None
    assert bounded.store.written is not None
    place = bounded.store.written.lsn
    assert bounded.budget.is_free(1), "a second's worth at once"
    await bounded.wal(1, place, FACTORY.wal(1, place, place + 500_000))
    assert not bounded.budget.is_free(1)
    assert not bounded.wal_at_once(1, place + 500_000, FACTORY.wal(1, place, place + 8))
    waits = asyncio.create_task(write(bounded, 8192))
    await write(users, 50_000)
    assert not waits.done()
    now += 1
    await asyncio.wait_for(waits, 30)
