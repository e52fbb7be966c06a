"""An instance that two roads lead to: who is listened to, when the bucket is read, holes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from applier.operations import bucket_road
from applier.operations.buckets import Buckets
from applier.operations.instance import Instance
from applier.operations.state import instance_status
from applier.receivers.bucket import succession
from applier.receivers.bucket.reader import BucketReader
from applier.receivers.bucket.receiver import BucketReceiver
from applier.receivers.seed.placement import SeedPlaced
from applier.service import Service
from applier.settings import ApplierSettings
from logship.errors import Code, LogshipError
from logship.frames import GapFound, SeedBegin
from logship.lsn import Lsn
from logship.objects.directory import DirectoryStore
from tests.support.bucket_writer import BucketWriter
from tests.support.link_frames import SEGMENT_BYTES, at, hello, profile
from tests.support.stores import WatchedStore
from tests.support.waiting import until
from tests.support.wal_factory import WalFactory, wal_line
from tests.unit.applier.operations.conftest import Listener, change_settings

S = SEGMENT_BYTES
FACTORY = WalFactory(wal_line(17, S))
SEED = SeedBegin(seed_id="s1", timeline=1, start_lsn=4 * S + 40, estimated_bytes=0)
PATIENCE_SECONDS = 0.2


@pytest.fixture
def store(tmp_path: Path) -> WatchedStore:
    return WatchedStore(DirectoryStore(tmp_path / "bucket"))


@pytest.fixture
def writer(store: WatchedStore) -> BucketWriter:
    return BucketWriter(store.inner, "orders", profile())


@pytest.fixture
async def receiver(
    instance: Instance,
    listener: Listener,
    store: WatchedStore,
    writer: BucketWriter,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[BucketReceiver]:
    """The instance is fed by the link from `4 * S` on, and its bucket is read on demand."""
    monkeypatch.setattr(bucket_road, "LINK_PATIENCE_SECONDS", PATIENCE_SECONDS)
    await instance.hello(hello(), listener)
    await instance.seed_begin(SEED)
    made = BucketReceiver(
        {"orders": instance.bucket}, store, poll_seconds=0.02, prefetch_bytes=4 << 20
    )
    instance.bucket.is_open = True
    instance.bucket.wake = lambda: made.wake("orders")
    instance.bucket.hurry = lambda: made.hurry("orders")
    proved, prove = asyncio.Event(), BucketReader._prove

    async def proving(reader: BucketReader) -> LogshipError | None:
        error = await prove(reader)
        proved.set()
        return error

    monkeypatch.setattr(BucketReader, "_prove", proving)
    made.start(["orders"])
    # One that is away before it was opened once stays alarmed until it is.
    await proved.wait()
    yield made
    await made.stop()


def put(writer: BucketWriter, start: int, end: int, **head: object) -> None:
    writer.write_wal(1, start, FACTORY.wal(1, start, end), **head)


async def ship(instance: Instance, start: int, end: int) -> None:
    await instance.wal(1, start, FACTORY.wal(1, start, end))


async def durable_at(instance: Instance, lsn: int) -> None:
    await until(lambda: instance.store and instance.store.durable == (1, lsn), f"{Lsn(lsn)}")


def told(listener: Listener, what: str) -> list[object]:
    return [value for name, value in listener.told if name == what]


async def test_while_the_link_is_there_the_bucket_is_not_asked_for_anything(
    instance: Instance, receiver: BucketReceiver, store: WatchedStore, writer: BucketWriter
) -> None:
    looked = ("list", writer.keys.all_segments)
    await until(lambda: looked in store.keys, "what is there was looked at")
    put(writer, 4 * S, 4 * S + 1000)
    await ship(instance, 4 * S, 4 * S + 500)
    store.forget()
    await durable_at(instance, 4 * S + 500)
    await until(
        lambda: instance.bucket.status() == {"state": "idle", "error": None, "alive_at": None},
        "it rests",
    )
    assert instance_status(instance)["link"]["state"] == "connected"
    assert not [key for _, key in store.keys if "/wal/" in key]


async def test_a_link_that_is_away_is_stood_in_for_and_the_status_says_so(
    instance: Instance, listener: Listener, receiver: BucketReceiver, writer: BucketWriter
) -> None:
    await ship(instance, 4 * S, 4 * S + 500)
    sent_at = time.time() - 100
    put(writer, 4 * S, 4 * S + 5000, flush_lsn=9 * S, sent_at=sent_at)
    instance.lost(listener, "the network is away")
    assert instance_status(instance)["link"]["state"] == "lost"
    await durable_at(instance, 4 * S + 5000)
    await until(
        lambda: (
            instance.bucket.status() == {"state": "up-to-date", "error": None, "alive_at": None}
        ),
        "dry",
    )
    status = instance_status(instance)
    assert status["link"]["state"] == "bucket"
    assert status["primary"]["heard_at"] == pytest.approx(sent_at)
    assert status["primary"]["flush_lsn"] == str(Lsn(9 * S))
    assert status["primary"]["reachable"] is None
    assert status["protection"]["in_effect"] == "unknown"
    assert status["transfer_gap"]["bytes"] == 5 * S - 5000
    resume = await instance.hello(hello(), listener)
    assert resume.position == at(1, 4 * S + 5000)
    await until(lambda: not instance.bucket.is_attached, "the link is listened to again")
    assert instance_status(instance)["link"]["state"] == "connected"


async def test_a_promotion_lets_the_bucket_bring_what_it_still_has(
    instance: Instance, listener: Listener, receiver: BucketReceiver, writer: BucketWriter
) -> None:
    await ship(instance, 4 * S, 4 * S + 500)
    assert await instance.bucket.read_on(60) == "", "while the link is there nobody asks the bucket"
    instance.lost(listener, "the network is away")
    await until(lambda: instance.bucket.is_attached, "the bucket is read")
    put(writer, 4 * S, 4 * S + 5000)
    put(writer, 4 * S + 5000, 4 * S + 9000)
    assert await instance.bucket.read_on(60) == ""
    assert instance.store is not None and instance.store.written == (1, 4 * S + 9000)


async def test_a_promotion_goes_on_without_a_bucket_and_says_what_that_means(
    instance: Instance, listener: Listener, receiver: BucketReceiver, store: WatchedStore
) -> None:
    await ship(instance, 4 * S, 4 * S + 500)
    instance.lost(listener, "the network is away")
    await until(lambda: instance.bucket.is_attached, "the bucket is read")
    store.away = True
    await until(lambda: (instance.bucket.status() or {}).get("state") == "failed", "it is away")
    said = await instance.bucket.read_on(60)
    assert said.startswith("the bucket may have more, and can't be read: ")


async def test_a_hole_is_filled_from_the_bucket_and_the_link_goes_on_behind_it(
    instance: Instance, listener: Listener, receiver: BucketReceiver, writer: BucketWriter
) -> None:
    await ship(instance, 4 * S, 4 * S + 500)
    hole = GapFound(
        timeline=1,
        from_lsn=4 * S + 500,
        available_lsn=6 * S,
        code=str(Code.WAL_IN_BUCKET),
        what="spilled",
    )
    instance.gap_found(hole)
    gap = instance_status(instance)["gap"]
    assert gap is not None and gap["code"] == "wal-in-bucket"
    assert not instance.alarms.has(Code.WAL_GAP) and not instance.alarms.has(Code.WAL_IN_BUCKET)
    put(writer, 4 * S, 5 * S)
    await durable_at(instance, 5 * S)
    assert told(listener, "resume") == [], "the hole is not filled yet"
    assert instance_status(instance)["gap"] is not None
    put(writer, 5 * S, 6 * S)
    put(writer, 6 * S, 6 * S + 100)
    await until(lambda: told(listener, "resume"), "the link may go on")
    assert told(listener, "resume") == [at(1, 6 * S + 100)]
    assert instance_status(instance)["gap"] is None
    await until(lambda: not instance.bucket.is_attached, "the bucket is let go of")
    assert instance_status(instance)["link"]["state"] == "connected"
    await ship(instance, 6 * S + 100, 6 * S + 200)
    await durable_at(instance, 6 * S + 200)


async def test_wal_that_the_primary_has_no_more_is_looked_for_in_the_bucket_too(
    instance: Instance, listener: Listener, receiver: BucketReceiver, writer: BucketWriter
) -> None:
    instance.gap_found(
        GapFound(
            timeline=1, from_lsn=4 * S, available_lsn=5 * S, code="wal-removed", what="removed"
        )
    )
    assert instance.alarms.has(Code.WAL_GAP)
    put(writer, 4 * S, 5 * S)
    await until(lambda: told(listener, "failed"), "the link's shipper is sent away to come again")
    (error,) = told(listener, "failed")
    assert isinstance(error, LogshipError) and error.retryable
    assert not instance.alarms.has(Code.WAL_GAP)


async def test_a_hole_with_no_bucket_here_is_an_alarm(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(), listener)
    instance.gap_found(
        GapFound(timeline=1, from_lsn=S, available_lsn=0, code="wal-in-bucket", what="spilled")
    )
    (alarm,) = (each for each in instance.alarms.as_list() if each["code"] == "wal-in-bucket")
    assert "[bucket]" in alarm["hint"]


async def test_other_bytes_in_the_bucket_are_refused_and_nothing_is_rewritten(
    instance: Instance, listener: Listener, receiver: BucketReceiver, writer: BucketWriter
) -> None:
    await ship(instance, 4 * S, 4 * S + 50_000)
    other = bytearray(FACTORY.wal(1, 4 * S, 4 * S + 60_000))
    other[45_000] ^= 1
    writer.write_wal(1, 4 * S, bytes(other))
    instance.lost(listener, "the network is away")
    await until(lambda: instance.alarms.has(Code.WAL_CONFLICT), "it is alarmed")
    assert instance.store is not None
    assert instance.store.read(1, 4 * S, 50_000) == FACTORY.wal(1, 4 * S, 4 * S + 50_000)
    assert instance.store.written == at(1, 4 * S + 50_000)
    await until(lambda: instance.bucket.is_attached, "it is tried again")
    assert instance.alarms.has(Code.WAL_CONFLICT), "and stays alarmed"


async def test_a_bucket_that_is_away_is_an_alarm_until_it_answers(
    instance: Instance,
    listener: Listener,
    receiver: BucketReceiver,
    store: WatchedStore,
    writer: BucketWriter,
) -> None:
    put(writer, 4 * S, 4 * S + 100)
    instance.lost(listener, "the network is away")
    await durable_at(instance, 4 * S + 100)
    store.away = True
    await until(lambda: instance.alarms.has(Code.BUCKET_UNREACHABLE), "it is alarmed")
    status = instance_status(instance)
    assert status["bucket"] is not None and status["bucket"]["state"] == "failed"
    assert status["link"]["state"] == "lost"
    store.away = False
    put(writer, 4 * S + 100, 4 * S + 200)
    await durable_at(instance, 4 * S + 200)
    assert not instance.alarms.has(Code.BUCKET_UNREACHABLE)


async def test_a_bucket_that_is_away_is_no_alarm_any_more_when_the_link_is_back(
    instance: Instance, listener: Listener, receiver: BucketReceiver, store: WatchedStore
) -> None:
    await ship(instance, 4 * S, 4 * S + 500)
    store.away = True
    instance.lost(listener, "the network is away")
    await until(lambda: instance.alarms.has(Code.BUCKET_UNREACHABLE), "it is alarmed")
    await instance.hello(hello(), listener)
    await until(
        lambda: instance.bucket.status() == {"state": "idle", "error": None, "alive_at": None},
        "it rests",
    )
    assert not instance.alarms.has(Code.BUCKET_UNREACHABLE)


async def test_whether_a_bucket_can_be_opened_is_looked_up_until_it_answers(
    instance: Instance, listener: Listener, store: WatchedStore, writer: BucketWriter
) -> None:
    await instance.hello(hello(), listener)
    receiver = BucketReceiver(
        {"orders": instance.bucket}, store, poll_seconds=0.02, prefetch_bytes=4 << 20
    )
    instance.bucket.is_open = True
    store.away = True
    receiver.start(["orders"])
    await until(lambda: instance.alarms.has(Code.BUCKET_UNREACHABLE), "it is alarmed")
    await until(lambda: store.requests["list"] > 2, "it is tried again")
    store.away = False
    await until(lambda: not instance.alarms.has(Code.BUCKET_UNREACHABLE), "it answers")
    assert instance.bucket.status() == {"state": "idle", "error": None, "alive_at": None}
    asked = store.requests.total()
    await asyncio.sleep(0.2)
    assert store.requests.total() == asked, "that is known now"
    await receiver.stop()


@pytest.mark.parametrize("when", ["before", "while it is read"])
async def test_a_bucket_that_goes_on_with_another_cluster_says_so(
    when: str,
    instance: Instance,
    listener: Listener,
    receiver: BucketReceiver,
    store: WatchedStore,
    writer: BucketWriter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(succession, "LOOK_SECONDS", 0.1)
    put(writer, 4 * S, 4 * S + 500, sent_at=time.time() - 100)
    if when == "before":
        BucketWriter(store.inner, "orders", profile(server_version_num=180000))
    instance.lost(listener, "the network is away")
    await durable_at(instance, 4 * S + 500)
    if when != "before":
        await until(
            lambda: (
                instance.bucket.status() == {"state": "up-to-date", "error": None, "alive_at": None}
            ),
            "",
        )
        BucketWriter(store.inner, "orders", profile(server_version_num=180000))
    await until(lambda: instance.alarms.has(Code.MAJOR_MISMATCH), "it is alarmed")
    store.forget()
    await until(lambda: store.requests["get"] > 3, "it is read on")
    # WAL of the old one that was only just taken up ends the alarm, until the next look.
    await until(lambda: (instance.bucket.status() or {}).get("state") == "failed", "it is told")
    await until(lambda: instance.alarms.has(Code.MAJOR_MISMATCH), "and alarmed")
    put(writer, 4 * S + 500, 4 * S + 900, sent_at=time.time() + 100)
    await durable_at(instance, 4 * S + 900)
    await until(lambda: not instance.alarms.has(Code.MAJOR_MISMATCH), "the upgrade was undone")


@pytest.mark.parametrize("again", [True, False])
async def test_a_cluster_that_is_accepted_is_read_when_the_bucket_has_it(
    again: bool,
    instance: Instance,
    listener: Listener,
    receiver: BucketReceiver,
    store: WatchedStore,
    writer: BucketWriter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not again:
        monkeypatch.setattr(succession, "LOOK_SECONDS", 0.1)
    upgraded = profile(system_identifier=18, server_version_num=180004)
    put(writer, 4 * S, 4 * S + 500)
    instance.lost(listener, "the network is away")
    await durable_at(instance, 4 * S + 500)
    await instance.incarnations.accept(upgraded.incarnation)
    put(writer, 4 * S + 500, 4 * S + 900)
    await durable_at(instance, 4 * S + 900)
    BucketWriter(store.inner, "orders", upgraded)
    if again:
        await instance.incarnations.accept(upgraded.incarnation)
    await until(lambda: instance.record.incarnation == upgraded.incarnation, "it is read")
    assert instance.record.accepted is None


async def test_a_link_that_comes_does_not_end_a_seed_that_comes_from_the_bucket(
    instance: Instance, listener: Listener
) -> None:
    instance.bucket.is_open = True
    await instance.bucket.hello(hello(), Listener())
    await instance.bucket.seed_begin(SEED)
    resume = await instance.hello(hello(), listener)
    assert instance.arrival.seeder is not None
    assert not resume.seed_wanted
    assert instance.bucket.read_from() == 0.0, "it is read on to the seed's end"


async def test_a_reader_that_comes_does_not_end_a_seed_of_the_link_which_survives_a_cut(
    instance: Instance, listener: Listener
) -> None:
    instance.bucket.is_open = True
    await instance.hello(hello(), listener)
    await instance.seed_begin(SEED)
    instance.lost(listener, "the network is away")
    resume = await instance.bucket.hello(hello(), Listener())
    assert not resume.seed_wanted
    resume = await instance.hello(hello(seed_id="s1"), listener)
    assert resume.seed_id == "s1"


async def test_a_reader_that_comes_again_begins_its_seed_anew(
    instance: Instance, listener: Listener
) -> None:
    instance.bucket.is_open = True
    await instance.bucket.hello(hello(), listener)
    await instance.bucket.seed_begin(SEED)
    assert (await instance.bucket.hello(hello(), listener)).seed_wanted
    assert instance.arrival.seeder is None


def place(instance: Instance, seed_id: str) -> None:
    instance.following.placed = SeedPlaced(
        seed_id=seed_id, timeline=1, start_lsn=4 * S + 40, end_lsn=4 * S + 900, bytes=1, files=1
    )


async def test_a_seed_asked_of_the_link_does_not_come_from_the_bucket(
    instance: Instance, listener: Listener
) -> None:
    instance.bucket.is_open = True
    await instance.hello(hello(), listener)
    await instance.seed_begin(SEED)
    await instance.arrival.give_up("it is in place")
    place(instance, "s1")
    instance.request_seed("an operator asked")
    instance.lost(listener, "the network is away")
    assert not (await instance.bucket.hello(hello(), Listener())).seed_wanted
    assert (await instance.hello(hello(), listener)).seed_wanted


@pytest.mark.parametrize("begun_by", ["link", "bucket"])
async def test_a_seed_that_a_restart_cut_off_comes_again_from_where_it_came(
    begun_by: str, service: Service, listener: Listener
) -> None:
    instance = service.open_instances["orders"]
    instance.bucket.is_open = True
    await instance.hello(hello(), listener)
    await instance.seed_begin(SEED)
    cut_off = msgspec.structs.replace(SEED, seed_id="s2")
    await instance.seed_begin(cut_off, from_bucket=begun_by == "bucket")
    await instance.close()
    await instance.open()
    place(instance, "s1")
    resume = await instance.bucket.hello(hello(), Listener())
    assert resume.seed_wanted == (begun_by == "bucket")


async def test_of_two_orders_at_once_the_second_is_refused(
    settings: ApplierSettings, instance: Instance, tmp_path: Path
) -> None:
    buckets = Buckets(settings, {"orders": instance})

    def order() -> Awaitable[object]:
        return buckets.request_seed("orders", "an operator asked", str(tmp_path))

    first, second = await asyncio.gather(order(), order(), return_exceptions=True)
    assert isinstance(first, LogshipError) and "no complete seed" in first.what
    assert isinstance(second, LogshipError) and "ordered already" in second.what
    with pytest.raises(LogshipError, match="no complete seed"):
        await order()
    await buckets.stop()


async def test_whoever_stops_a_receiver_may_be_cancelled_and_stop_it_again(
    instance: Instance, receiver: BucketReceiver, store: WatchedStore
) -> None:
    ending, end = asyncio.Event(), asyncio.Event()

    async def ends_slowly() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await end.wait()

    receiver._tasks["slow"] = asyncio.create_task(ends_slowly())
    await asyncio.sleep(0)
    stopping = asyncio.create_task(receiver.stop())
    await ending.wait()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    end.set()
    await receiver.stop()


async def test_the_links_word_on_the_primary_counts_while_it_is_there(
    instance: Instance, listener: Listener, receiver: BucketReceiver, writer: BucketWriter
) -> None:
    newer = profile(max_connections=500)
    await instance.profile(newer)
    put(writer, 4 * S, 5 * S)
    instance.gap_found(
        GapFound(timeline=1, from_lsn=4 * S, available_lsn=0, code="wal-in-bucket", what="x")
    )
    await durable_at(instance, 5 * S)
    assert instance.record.profile == newer


async def test_what_a_standby_needs_is_not_set_aside_for_an_older_seed(
    instance: Instance, listener: Listener
) -> None:
    assert instance.bucket.held() is None
    await instance.hello(hello(), listener)
    await instance.seed_begin(SEED)
    for number in range(4, 9):
        await ship(instance, number * S, (number + 1) * S)
    await durable_at(instance, 9 * S)
    assert instance.store is not None
    await instance.store.remove_below({1: 6 * S})
    held = instance.bucket.held()
    assert held is not None
    assert not held.has_from(at(1, 5 * S)) and held.has_from(at(1, 6 * S))
    assert not held.has_from(at(1, 9 * S)), "there is nothing yet"
    assert held.needed_up_to(at(1, 5 * S)) is None, "nobody runs on it"
    place(instance, "s1")
    held = instance.bucket.held()
    assert held is not None
    assert held.needed_up_to(at(1, 5 * S)) == at(1, 9 * S)
    for kept in (at(1, 6 * S), at(1, 9 * S), at(1, 12 * S), at(2, 4 * S)):
        assert held.needed_up_to(kept) is None, kept


def heard(instance: Instance) -> tuple[int, int, float] | None:
    return msgspec.structs.astuple(instance.heard) if instance.heard is not None else None


async def test_old_news_never_hides_newer_ones(instance: Instance, listener: Listener) -> None:
    sender = instance.sender
    sender.heard_then(1, 5 * S, 1000.0)
    assert heard(instance) == (1, 5 * S, 1000.0)
    sender.heard_then(1, 4 * S, 2000.0)
    assert heard(instance) == (1, 5 * S, 1000.0)
    sender.heard_then(1, 5 * S, 1500.0)
    assert heard(instance) == (1, 5 * S, 1500.0)
    sender.heard_then(1, 6 * S, time.time() + 3600)
    known = heard(instance)
    assert known is not None and known[1] == 6 * S
    assert known[2] <= time.time(), "a clock that is ahead makes nothing newer than now"


async def test_an_instance_without_a_link_is_read_at_once_one_with_a_link_after_a_while(
    instance: Instance,
) -> None:
    assert instance.bucket.read_from() is None, "no bucket"
    instance.bucket.is_open = True
    start = instance.bucket.read_from()
    assert start is not None and start > time.monotonic()
    change_settings(instance, public_key="")
    assert instance.bucket.read_from() == 0.0
    await instance.fence("promotion")
    assert instance.bucket.read_from() is None


async def test_an_alarm_of_the_bucket_stays_until_more_of_it_was_read(
    instance: Instance,
    listener: Listener,
    receiver: BucketReceiver,
    store: WatchedStore,
    writer: BucketWriter,
) -> None:
    await ship(instance, 4 * S, 4 * S + 500)
    put(writer, 4 * S + 500, 4 * S + 1000)
    key = next(info.key for info in store.inner.listing("") if "/profiles/" in info.key)
    whole = store.inner.get(key)
    assert whole is not None
    store.inner.put(key, b"damaged", metadata=whole.metadata)
    with capture_logs() as logged:
        instance.lost(listener, "the network is away")
        await until(lambda: instance.alarms.has(Code.OBJECT_DAMAGED), "it is noticed")
        store.forget()
        await until(lambda: sum(each == ("get", key) for each in store.keys) > 2, "tried again")
        status = instance.bucket.status()
        assert status is not None and status["state"] == "failed"
        assert [line["event"] for line in logged if "alarm" in line["event"]] == ["alarm"]
        store.inner.put(key, whole.data, metadata=whole.metadata)
        await durable_at(instance, 4 * S + 1000)
        await until(lambda: not instance.alarms.has(Code.OBJECT_DAMAGED), "it is over")


async def test_a_bucket_without_a_word_of_the_instance_is_asked_not_idle(
    instance: Instance, store: WatchedStore
) -> None:
    change_settings(instance, public_key="")
    instance.bucket.is_open = True
    assert instance.bucket.status() == {"state": "reading", "error": None, "alive_at": None}


def test_what_cannot_be_opened_is_an_alarm_however_much_of_the_rest_is_read(
    instance: Instance,
) -> None:
    road, alarms = instance.bucket, instance.alarms
    sealed = LogshipError(Code.IDENTITY_MISSING, "an old seed is sealed", "remove it")
    road.bucket_sealed(sealed)
    for error in (sealed, LogshipError(Code.BUCKET_UNREACHABLE, "nobody", retryable=True)):
        road.bucket_failed(error)
        assert alarms.has(error.code)
        road.bucket_answers()
        assert [each["code"] for each in alarms.as_list()] == ["identity-missing"]
    road.bucket_sealed(None)
    assert alarms.as_list() == []
    road.bucket_failed(sealed)
    road.bucket_sealed(sealed)
    road.bucket_sealed(None)
    assert alarms.has(sealed.code), "it is in the way of what is read"
    road.bucket_answers()
    assert alarms.as_list() == []
