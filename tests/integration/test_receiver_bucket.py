"""Receiver `bucket` over a bucket in a directory: the contract, and how it reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from applier.receivers import FencedError
from applier.receivers.bucket.receiver import BucketReceiver
from logship.bucket.documents import document_metadata, encode_profile, pack_document
from logship.bucket.epoch_record import read_epoch
from logship.bucket.keys import Place
from logship.bucket.wal_objects import Marker
from logship.errors import Code, LogshipError
from logship.frames import GapFound
from logship.lsn import Lsn, Position
from logship.objects import ObjectStore
from logship.objects.directory import DirectoryStore
from logship.seal import Sealed
from shipper.destinations import Accepted, Acked, DestinationEvent, Facts, Lost
from tests.integration.receiver_contract import ReceiverContract
from tests.support.bucket_writer import BucketWriter
from tests.support.fake_intake import FakeBucketIntake
from tests.support.link_frames import SEGMENT_BYTES, at, profile, wal_bytes
from tests.support.s3_server import S3Bucket
from tests.support.stores import WatchedStore
from tests.support.waiting import until

pytestmark = pytest.mark.integration

S = SEGMENT_BYTES
POLL_SECONDS = 0.1


class BucketRig:
    """A bucket that holds the WAL just before `at(1, S)`, once something was shipped to it."""

    window_bytes = 400_000
    silence_seconds = 3 * POLL_SECONDS

    def __init__(self, store: ObjectStore) -> None:
        self.intake = FakeBucketIntake(at(1, S), S)
        self.store = WatchedStore(store)
        self.receiver = BucketReceiver(
            {"orders": self.intake},
            self.store,
            poll_seconds=POLL_SECONDS,
            prefetch_bytes=4 << 20,
        )
        self.receiver.start(["orders"])

    @property
    def failure(self) -> LogshipError | None:
        return self.receiver.readers["orders"].failure

    def make_destination(self) -> BucketEnd:
        return BucketEnd(self)

    def cut(self) -> None:
        """The bucket answers nobody, until the receiver has noticed."""
        self.store.away = True

        async def come_back() -> None:
            await until(lambda: self.failure is not None, "it is noticed")
            self.store.away = False

        self._coming_back = asyncio.create_task(come_back())

    async def stop(self) -> None:
        await self.receiver.stop()


class BucketEnd:
    """A sender that writes into the rig's bucket, and looks what the receiver does with it."""

    far_end = "the bucket"

    def __init__(self, rig: BucketRig) -> None:
        self.rig = rig
        self._writer: BucketWriter | None = None
        self._acked: Position | None = None
        self._told: LogshipError | None = None
        self._is_connected = False

    async def connect(self, facts: Facts) -> Accepted:
        if self._writer is None:
            self._writer = BucketWriter(self.rig.store.inner, "orders", facts.profile)
            self._writer.write_wal(
                1, S - 100, wal_bytes(1, S - 100, 100), flush_lsn=int(facts.flush_lsn)
            )
        reader = self.rig.receiver.readers["orders"]
        await until(lambda: reader.is_attached or self._failure() is not None, "it reads that")
        self._told = self._failure()
        if self._told is not None:
            raise self._told
        self._is_connected = True
        assert self.rig.intake.written is not None
        return Accepted(self.rig.intake.written, frozenset(), False, 100_000)

    def tell(self, facts: Facts) -> None:
        assert self._writer is not None
        self._writer.write_profile(facts.profile)

    async def room(self, size_bytes: int) -> None:
        pass

    def resume(self, position: Position) -> None:
        self._acked = position

    def send_span(self, timeline: int, start_lsn: int, sealed: Sealed, flush_lsn: int) -> None:
        assert self._writer is not None
        self._writer.write_span(timeline, start_lsn, sealed, flush_lsn=flush_lsn)

    def send_gap(self, gap: GapFound) -> None:
        assert self._writer is not None
        marker = Marker(kind="gap", lsn=gap.available_lsn, code=gap.code, what=gap.what)
        self._writer.write_marker(Place(gap.timeline, Lsn(gap.from_lsn)), marker)

    async def next_event(self) -> DestinationEvent:
        await until(lambda: self._news() is not None, "something happens", 300)
        news = self._news()
        assert news is not None
        if isinstance(news, Lost):
            self._told = news.error
            self._is_connected = False
        else:
            self._acked = news.received
        return news

    def _news(self) -> Acked | Lost | None:
        if not self._is_connected:
            return None
        failure, written = self._failure(), self.rig.intake.written
        if written is not None and written != self._acked:
            return Acked(written, written, Lsn(0))
        return Lost(failure) if failure is not None else None

    def _failure(self) -> LogshipError | None:
        """What it has not been told yet."""
        failure = self.rig.failure
        return failure if failure is not self._told else None

    async def close(self, reason: str) -> None:
        pass


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[BucketRig]:
    made = BucketRig(DirectoryStore(tmp_path / "bucket"))
    yield made
    await made.stop()


class TestBucketReceiver(ReceiverContract):
    pass


class TestBucketReceiverOnS3(ReceiverContract):
    """Of a real S3 server."""

    @pytest.fixture
    async def rig(self, s3_bucket: S3Bucket) -> AsyncIterator[BucketRig]:
        store = s3_bucket.store()
        made = BucketRig(store)
        yield made
        await made.stop()
        store.close()


# --- how it reads ---------------------------------------------------------------------------------


@pytest.fixture
def writer(rig: BucketRig) -> BucketWriter:
    return BucketWriter(rig.store.inner, "orders", profile())


async def test_up_to_date_it_makes_one_request_a_poll_and_lists_nothing(
    rig: BucketRig, writer: BucketWriter
) -> None:
    writer.write_many(1, S, S + 3000, 1000)
    await until(lambda: rig.intake.of_kind("bucket_dry"), "all of it is read")
    rig.store.forget()
    await until(lambda: len(rig.store.keys) >= 5, "it polls")
    place = Place(1, Lsn(S + 3000))
    assert set(rig.store.keys) == {("get", writer.keys.wal(place))}
    rig.store.forget()
    writer.write_many(1, S + 3000, S + 9000, 1000)
    await until(lambda: rig.intake.written == at(1, S + 9000), "what came is handed on")
    await until(lambda: rig.store.requests["get"] >= 8, "and then it polls on")
    assert set(rig.store.requests) == {"get"}


async def test_a_bucket_that_is_not_wanted_is_not_asked_for_anything(
    rig: BucketRig, writer: BucketWriter
) -> None:
    writer.write_many(1, S, S + 1000, 1000)
    await until(lambda: rig.intake.of_kind("bucket_dry"), "all of it is read")
    rig.intake.wanted = False
    rig.receiver.wake("orders")
    await until(lambda: rig.intake.gone, "it is let go of")
    rig.store.forget()
    writer.write_many(1, S + 1000, S + 2000, 1000)
    await asyncio.sleep(5 * POLL_SECONDS)
    assert rig.store.keys == []
    rig.intake.wanted = True
    rig.receiver.wake("orders")
    await until(lambda: rig.intake.written == at(1, S + 2000), "it is read on")


async def test_a_catch_up_is_fetched_in_parallel_from_segments_and_small_objects(
    rig: BucketRig, writer: BucketWriter
) -> None:
    rig.store.away = True
    writer.write_many(1, S, 3 * S + 50_000, 200_000)
    writer.compact(1, S)
    writer.compact(1, 2 * S, remove=False)
    rig.store.away = False
    await until(lambda: rig.intake.written == at(1, 3 * S + 50_000), "all of it is here")
    assert rig.intake.wal_of(1) == wal_bytes(1, S, 2 * S + 50_000)
    got = [key for operation, key in rig.store.keys if operation == "get"]
    wal = [key for key in got if key.startswith((writer.keys.all_wal, writer.keys.all_segments))]
    small_of_finished = [key for key in wal if f"/{2 * S:016X}" in key]
    assert small_of_finished == []


async def test_a_restart_in_mid_catch_up_goes_on_where_the_intake_is(
    rig: BucketRig, writer: BucketWriter
) -> None:
    writer.write_many(1, S, 4 * S, 300_000)
    await until(lambda: rig.intake.written > at(1, S + 500_000), "some of it is here")
    await rig.stop()
    assert rig.intake.listener is None
    again = BucketReceiver(
        {"orders": rig.intake}, rig.store, poll_seconds=POLL_SECONDS, prefetch_bytes=1 << 20
    )
    again.start(["orders"])
    await until(lambda: rig.intake.written == at(1, 4 * S), "all of it is here")
    assert rig.intake.wal_of(1) == wal_bytes(1, S, 3 * S)
    await again.stop()


def spoil(writer: BucketWriter, place: Place, how: str) -> Callable[[], None]:
    """Damage the object at `place`; returns what mends it."""
    key = writer.keys.wal(place)
    good = writer.store.get(key)
    assert good is not None
    data, metadata = good.data, dict(good.metadata)
    match how:
        case "flipped":
            data = data[:200] + bytes([data[200] ^ 1]) + data[201:]
        case "truncated":
            data = data[: len(data) // 2]
        case "longer":
            data += data
        case "empty":
            data = b""
        case "no head":
            metadata = {}
        case "head changed":
            metadata["logship"] = metadata["logship"].replace('"epoch":1', '"epoch":2')
        case "of another place":
            other = writer.store.get(writer.keys.wal(Place(1, Lsn(S))))
            assert other is not None
            data, metadata = other.data, dict(other.metadata)
        case "foreign":
            data, metadata = b"<html>502 Bad Gateway</html>", dict(good.metadata)
    writer.store.put(key, data, metadata)
    return lambda: writer.store.put(key, good.data, good.metadata) and None


@pytest.mark.parametrize(
    "how",
    [
        "flipped",
        "truncated",
        "longer",
        "empty",
        "no head",
        "head changed",
        "of another place",
        "foreign",
    ],
)
async def test_nothing_of_a_damaged_object_is_used_and_it_is_named_and_tried_again(
    rig: BucketRig, writer: BucketWriter, how: str
) -> None:
    rig.intake.wanted = False
    writer.write_many(1, S, S + 100_000, 50_000)
    place = Place(1, Lsn(S + 50_000))
    mend = spoil(writer, place, how)
    rig.intake.wanted = True
    rig.receiver.wake("orders")
    await until(lambda: rig.failure is not None, "it is noticed")
    assert rig.failure is not None
    assert rig.failure.code is Code.OBJECT_DAMAGED
    assert writer.keys.wal(place) in rig.failure.what
    assert rig.failure in rig.intake.of_kind("bucket_failed")
    assert rig.intake.wal_of(1) == wal_bytes(1, S, 50_000)
    mend()
    await until(lambda: rig.intake.written == at(1, S + 100_000), "it is fetched again")
    assert rig.failure is None
    assert rig.intake.wal_of(1) == wal_bytes(1, S, 100_000)


async def test_a_profile_of_another_cluster_is_not_believed(
    rig: BucketRig, writer: BucketWriter
) -> None:
    # The only one: of two that were put at one tick of the file system's clock none is the newest.
    writer.store.delete([writer.keys.profile(writer.digest)])
    digest, content = encode_profile(profile(system_identifier=1))
    writer.store.put(
        writer.keys.profile(digest), pack_document(content), document_metadata(content)
    )
    await until(lambda: rig.failure is not None, "it is noticed")
    assert rig.failure is not None
    assert rig.failure.code is Code.OBJECT_DAMAGED and digest in rig.failure.what
    assert rig.intake.of_kind("hello") == []


async def test_the_primary_is_heard_as_it_was_when_the_object_was_made(
    rig: BucketRig, writer: BucketWriter
) -> None:
    writer.write_wal(1, S, wal_bytes(1, S, 100), flush_lsn=S + 500, sent_at=1234.5)
    await until(lambda: rig.intake.written == at(1, S + 100), "it is here")
    assert (1, S + 500, 1234.5) in rig.intake.heard_at


async def test_a_changed_profile_comes_before_the_wal_that_was_written_under_it(
    rig: BucketRig, writer: BucketWriter
) -> None:
    rig.intake.wanted = False
    writer.write_wal(1, S, wal_bytes(1, S, 100))
    writer.write_profile(profile(max_connections=7))
    writer.write_wal(1, S + 100, wal_bytes(1, S + 100, 100))
    rig.intake.wanted = True
    rig.receiver.wake("orders")
    await until(lambda: rig.intake.written == at(1, S + 200), "it is here")
    log = [(name, what) for name, what in rig.intake.log if name in ("hello", "wal", "profile")]
    assert [name for name, _ in log] == ["hello", "wal", "profile", "wal"]
    assert log[0][1].profile == profile()
    assert log[2][1] == profile(max_connections=7)


async def test_a_new_timelines_history_comes_before_its_wal(
    rig: BucketRig, writer: BucketWriter
) -> None:
    history = b"1\t0/1000C8\tno recovery target specified\n"
    writer.write_wal(1, S, wal_bytes(1, S, 200))
    writer.write_history(2, history)
    writer.write_marker(Place(1, Lsn(S + 200)), Marker(kind="timeline", timeline=2))
    writer.write_wal(2, S, wal_bytes(2, S, 5000))
    await until(lambda: (2, S, wal_bytes(2, S, 5000)) in rig.intake.of_kind("wal"), "its WAL")
    names = [name for name, _ in rig.intake.log if name in ("wal", "history")]
    assert names == ["wal", "history", "wal"]
    assert rig.intake.histories == {2: history}


async def test_a_history_that_is_missing_is_waited_for(
    rig: BucketRig, writer: BucketWriter
) -> None:
    writer.write_wal(1, S, wal_bytes(1, S, 200))
    writer.write_marker(Place(1, Lsn(S + 200)), Marker(kind="timeline", timeline=2))
    writer.write_wal(2, S, wal_bytes(2, S, 5000))
    await until(lambda: rig.failure is not None, "it is noticed")
    assert rig.failure is not None and writer.keys.history(2) in rig.failure.what
    writer.write_history(2, b"1\t0/1000C8\tno recovery target specified\n")
    await until(lambda: rig.intake.histories, "it is here")
    await until(lambda: len(rig.intake.of_kind("wal")) >= 2, "and the WAL")


async def test_after_a_gap_it_goes_on_at_the_next_marker_and_says_it_once(
    rig: BucketRig, writer: BucketWriter
) -> None:
    writer.write_wal(1, S, wal_bytes(1, S, 200))
    gap = Marker(kind="gap", lsn=9 * S, code="slot-lost", what="the slot is gone")
    writer.write_marker(Place(1, Lsn(S + 200)), gap)
    await until(lambda: rig.intake.of_kind("gap"), "it is said")
    (found,) = rig.intake.of_kind("gap")
    assert (found.from_lsn, found.available_lsn) == (S + 200, 9 * S)
    assert (found.code, found.what) == ("slot-lost", "the slot is gone")
    await asyncio.sleep(3 * POLL_SECONDS)
    assert len(rig.intake.of_kind("gap")) == 1
    assert writer.place is not None
    writer.write_wal(1, S + 200, wal_bytes(1, S + 200, 50), step=writer.place.step)
    await until(lambda: rig.intake.written == at(1, S + 250), "the primary had it after all")


async def test_what_the_intake_lost_is_read_again(rig: BucketRig, writer: BucketWriter) -> None:
    rig.intake.auto_durable = False
    writer.write_many(1, S, S + 4000, 1000)
    await until(lambda: rig.intake.written == at(1, S + 4000), "it is written")
    rig.intake.forget_from(at(1, S + 1500))
    writer.write_many(1, S + 4000, S + 5000, 1000)
    await until(lambda: rig.intake.written == at(1, S + 5000), "all of it is here again")
    assert rig.intake.wal_of(1) == wal_bytes(1, S, 4000 + 1000)


async def test_a_promotion_is_written_into_the_epoch_however_long_that_takes(
    rig: BucketRig, writer: BucketWriter
) -> None:
    writer.write_many(1, S, S + 1000, 1000)
    await until(lambda: rig.intake.of_kind("bucket_dry"), "all of it is read")
    rig.store.away = True
    rig.intake.promoted_at = FencedError(1700000000.0, 2, 0x3000028)
    rig.receiver.wake("orders")
    await until(lambda: ("get", "orders/epoch") in rig.store.keys, "it is tried")
    rig.store.away = False
    await until(lambda: read_epoch(rig.store.inner, "orders")[0] is not None, "it is written")
    record, _ = read_epoch(rig.store.inner, "orders")
    assert record is not None and record.fenced is not None
    assert (record.fenced.at, record.fenced.timeline, record.fenced.lsn) == (
        1700000000.0,
        2,
        0x3000028,
    )
    rig.store.forget()
    await asyncio.sleep(3 * POLL_SECONDS)
    assert rig.store.keys == [], "and then it is silent"
