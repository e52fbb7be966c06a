"""The shipper's sign of life, as an instance takes it that its bucket alone feeds."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from applier.operations import bucket_road
from applier.operations.instance import Instance
from applier.operations.state import instance_status
from applier.receivers import ShipperSign
from applier.receivers.bucket import succession
from applier.receivers.bucket.receiver import BucketReceiver
from logship.bucket.sign_of_life import SignOfLife, put_sign
from logship.errors import Code, LogshipError
from logship.frames import SeedBegin
from logship.lsn import Lsn
from logship.objects.directory import DirectoryStore
from tests.support.bucket_writer import BucketWriter
from tests.support.link_frames import SEGMENT_BYTES, hello, profile
from tests.support.stores import WatchedStore
from tests.support.waiting import until
from tests.support.wal_factory import WalFactory, wal_line
from tests.unit.applier.operations.conftest import Listener

S = SEGMENT_BYTES
END = 4 * S + 500
EVERY = 0.05
CLUSTER = str(profile().incarnation)
KEY = ("get", "orders/alive")
SEED = SeedBegin(seed_id="s1", timeline=1, start_lsn=4 * S + 40, estimated_bytes=0)


@pytest.fixture
def store(tmp_path: Path) -> WatchedStore:
    return WatchedStore(DirectoryStore(tmp_path / "bucket"))


@pytest.fixture
async def receiver(
    instance: Instance, listener: Listener, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[BucketReceiver]:
    """The instance has the WAL up to `END`, as the bucket does, and its link is away."""
    monkeypatch.setattr(bucket_road, "LINK_PATIENCE_SECONDS", 0.0)
    await instance.hello(hello(flush_lsn=END), listener)
    await instance.seed_begin(SEED)
    wal = WalFactory(wal_line(17, S)).wal(1, 4 * S, END)
    await instance.wal(1, 4 * S, wal)
    writer = BucketWriter(store.inner, "orders", profile())
    writer.write_wal(1, 4 * S, wal, flush_lsn=END, sent_at=time.time() - 5000)
    made = BucketReceiver(
        {"orders": instance.bucket}, store, poll_seconds=0.02, prefetch_bytes=4 << 20
    )
    instance.bucket.is_open = True
    instance.bucket.wake = lambda: made.wake("orders")
    made.start(["orders"])
    yield made
    await made.stop()


def sign(sent_at: float, **changes: object) -> SignOfLife:
    made = SignOfLife(
        epoch=1,
        sent_at=sent_at,
        every_seconds=EVERY,
        cluster=CLUSTER,
        reachable=True,
        timeline=1,
        flush_lsn=END,
        heard_at=sent_at,
    )
    return msgspec.structs.replace(made, **changes)


def put(store: WatchedStore, sent_at: float, **changes: object) -> None:
    put_sign(store.inner, "orders", sign(sent_at, **changes))


async def lose(instance: Instance, listener: Listener) -> None:
    instance.lost(listener, "the network is away")
    await until(lambda: (instance.bucket.status() or {}).get("state") == "up-to-date", "dry")


async def alive_at(instance: Instance, sent_at: float) -> None:
    await until(lambda: instance.bucket.sign.sent_at == sent_at, "the sign is read")


async def lose_with_sign(
    instance: Instance,
    listener: Listener,
    store: WatchedStore,
    sent_at: float,
    **changes: object,
) -> None:
    """The link is lost, and a sign of then is in the bucket."""
    put(store, sent_at, **changes)
    await lose(instance, listener)
    await alive_at(instance, sent_at)


def silent(instance: Instance) -> bool:
    return instance.alarms.has(Code.SHIPPER_SILENT)


async def test_a_quiet_primary_is_known_to_be_there_and_to_lack_nothing(
    instance: Instance, listener: Listener, receiver: BucketReceiver, store: WatchedStore
) -> None:
    began = time.time() - 100
    await lose_with_sign(instance, listener, store, began)
    # The first one may be of long ago.
    assert instance_status(instance)["primary"]["reachable"] is None
    again = time.time()
    put(store, again)
    await alive_at(instance, again)
    status = instance_status(instance)
    assert status["primary"]["reachable"] is True
    assert status["primary"]["heard_at"] == again
    assert status["transfer_gap"]["bytes"] == 0
    assert status["bucket"] == {"state": "up-to-date", "error": None, "alive_at": again}
    assert not silent(instance)


async def test_what_the_primary_has_and_the_bucket_has_not_is_seen(
    instance: Instance, listener: Listener, receiver: BucketReceiver, store: WatchedStore
) -> None:
    at = time.time() - 100
    await lose_with_sign(instance, listener, store, at, flush_lsn=END + 3000)
    status = instance_status(instance)
    assert status["transfer_gap"]["bytes"] == 3000
    assert status["transfer_gap"]["seconds"] is not None
    assert status["primary"]["flush_lsn"] == str(Lsn(END + 3000))


async def test_a_primary_that_is_away_is_said_to_be_and_nothing_new_is_heard_of_it(
    instance: Instance, listener: Listener, receiver: BucketReceiver, store: WatchedStore
) -> None:
    began = time.time() - 100
    await lose_with_sign(instance, listener, store, began)
    again = time.time()
    put(store, again, reachable=False, heard_at=began + 50)
    await alive_at(instance, again)
    primary = instance_status(instance)["primary"]
    assert primary["reachable"] is False
    # The link heard of it later than that.
    assert primary["heard_at"] is not None and began + 50 < primary["heard_at"] < again


async def test_a_clock_of_the_shippers_that_is_ahead_makes_no_sign_news_twice(
    instance: Instance, listener: Listener, receiver: BucketReceiver, store: WatchedStore
) -> None:
    ahead = time.time() + 1000
    await lose_with_sign(instance, listener, store, ahead)
    heard_at = instance_status(instance)["primary"]["heard_at"]
    assert heard_at is not None and heard_at < ahead
    await until(lambda: silent(instance), "it does not come again")
    assert instance_status(instance)["primary"]["heard_at"] == heard_at


async def test_another_clusters_primary_says_nothing_of_this_one(
    instance: Instance, listener: Listener, receiver: BucketReceiver, store: WatchedStore
) -> None:
    began = time.time() - 100
    await lose_with_sign(instance, listener, store, began, cluster="99-18", flush_lsn=99 * S)
    put(store, began + 10, cluster="99-18", flush_lsn=99 * S)
    await alive_at(instance, began + 10)
    status = instance_status(instance)
    assert status["primary"]["reachable"] is None
    assert status["transfer_gap"]["bytes"] == 0


async def test_a_shipper_that_falls_silent_is_an_alarm_until_it_is_heard_again(
    instance: Instance, listener: Listener, receiver: BucketReceiver, store: WatchedStore
) -> None:
    began = time.time() - 100
    put(store, began)
    await lose(instance, listener)
    await until(lambda: silent(instance), "the alarm")
    status = instance_status(instance)
    (alarm,) = [each for each in status["alarms"] if each["code"] == "shipper-silent"]
    assert "orders" in alarm["what"] and "shipper health" in alarm["hint"]
    assert status["primary"]["reachable"] is None
    put(store, began + 10)
    await until(lambda: not silent(instance), "it is over")


async def test_the_link_has_the_word_again_when_it_is_back(
    instance: Instance, listener: Listener, receiver: BucketReceiver, store: WatchedStore
) -> None:
    put(store, time.time() - 100)
    await lose(instance, listener)
    await until(lambda: silent(instance), "the alarm")
    await instance.hello(hello(flush_lsn=END), listener)
    assert not silent(instance)
    assert (instance.bucket.status() or {})["alive_at"] is None
    await until(lambda: not instance.bucket.is_attached, "the link is listened to")
    store.forget()
    await until(lambda: (instance.bucket.status() or {})["state"] == "idle", "it rests")
    assert KEY not in store.keys
    await lose(instance, listener)
    await until(lambda: silent(instance), "and is missed again")


async def test_after_a_fence_nobody_is_missed(
    instance: Instance, listener: Listener, receiver: BucketReceiver, store: WatchedStore
) -> None:
    put(store, time.time() - 100)
    await lose(instance, listener)
    await until(lambda: silent(instance), "the alarm")
    await instance.fence("promotion")
    assert not silent(instance)
    await until(lambda: not instance.bucket.is_attached, "it is let go of")
    assert not silent(instance)


@pytest.mark.parametrize("why", ["link", "fence"])
async def test_a_look_that_ends_late_says_nothing_any_more(
    why: str, instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(flush_lsn=END), listener)
    if why == "fence":
        instance.lost(listener, "the network is away")
        await instance.fence("promotion")
    error = LogshipError(Code.SHIPPER_SILENT, "silent")
    instance.bucket.signed(ShipperSign(sign(time.time()), False, EVERY, silent=error))
    assert not silent(instance)
    assert instance.bucket.sign.sent_at is None


async def test_where_there_is_none_the_polls_do_not_look_for_it(
    instance: Instance, listener: Listener, receiver: BucketReceiver, store: WatchedStore
) -> None:
    await lose(instance, listener)
    # When reading begins, and once more as soon as the bucket's end may be followed.
    await until(lambda: store.keys.count(KEY) >= 2, "it was looked for")
    store.forget()
    await until(lambda: store.requests["get"] > 10, "polls")
    assert set(store.requests) == {"get"} and KEY not in store.keys


async def test_where_there_was_none_the_looks_of_an_idle_bucket_find_it(
    instance: Instance,
    listener: Listener,
    receiver: BucketReceiver,
    store: WatchedStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(succession, "LOOK_SECONDS", 0.1)
    await lose(instance, listener)
    await until(lambda: KEY in store.keys, "it was looked for")
    put(store, time.time())
    await until(lambda: silent(instance), "it is found, and misses its next one")
