"""Receiver `bucket` over a bucket in a directory: the contract, and how it reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from applier.receivers.bucket.receiver import BucketReceiver
from logship.bucket.keys import Place
from logship.bucket.wal_objects import Marker
from logship.errors import LogshipError
from logship.frames import GapFound
from logship.lsn import Lsn, Position
from logship.objects.directory import DirectoryStore
from logship.seal import Sealed
from shipper.destinations import Accepted, Acked, DestinationEvent, Facts, Lost
from tests.integration.receiver_contract import ReceiverContract
from tests.support.bucket_writer import BucketWriter
from tests.support.fake_intake import FakeBucketIntake
from tests.support.link_frames import SEGMENT_BYTES, at, wal_bytes
from tests.support.stores import WatchedStore
from tests.support.waiting import until

pytestmark = pytest.mark.integration

S = SEGMENT_BYTES
POLL_SECONDS = 0.1


class BucketRig:
    """A bucket that holds the WAL just before `at(1, S)`, once something was shipped to it."""

    window_bytes = 400_000
    silence_seconds = 3 * POLL_SECONDS

    def __init__(self, directory: Path) -> None:
        self.intake = FakeBucketIntake(at(1, S), S)
        self.store = WatchedStore(DirectoryStore(directory))
        self.receiver = BucketReceiver(
            {"orders": self.intake},
            self.store,
            poll_seconds=POLL_SECONDS,
            prefetch_bytes=4 << 20,
        )
        self.receiver.start()

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
    made = BucketRig(tmp_path / "bucket")
    yield made
    await made.stop()


class TestBucketReceiver(ReceiverContract):
    pass
