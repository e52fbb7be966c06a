"""Destination `several` as one: a link and a bucket, both required."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from shipper.destinations import Accepted, Facts, Lost, Rewind
from shipper.destinations.several import destination
from shipper.destinations.several.destination import SeveralDestinations, SeveralMember
from shipper.destinations.several.members import Role
from shipper.destinations.several.spill import SpillRule
from tests.integration.destination_contract import DestinationContract, Shipping
from tests.integration.test_destination_link import LinkFarEnd
from tests.support.bucket_far_end import BucketFarEnd
from tests.support.fake_bucket import FakeBucket
from tests.support.link_frames import SEGMENT_BYTES, at, wal_bytes
from tests.support.waiting import until

pytestmark = pytest.mark.integration

S = SEGMENT_BYTES


class BucketBeside(FakeBucket):
    """Refuses no sooner than the link, or it would have accepted before that refuses."""

    def __init__(self, start: Position | None) -> None:
        super().__init__(start)
        self.link_has_answered = asyncio.Event()

    async def connect(self, facts: Facts) -> Accepted:
        if self.refusals:
            await self.link_has_answered.wait()
        return await super().connect(facts)


class LinkAndBucketFarEnd(LinkFarEnd):
    """Whatever happens, happens to both."""

    def __init__(self) -> None:
        super().__init__()
        self.bucket = BucketBeside(at(1, S))

    def make_destination(self, **options: Any) -> Any:
        link = super().make_destination(**options)
        connect = link.connect

        async def connect_and_tell(facts: Facts) -> Accepted:
            try:
                return await connect(facts)
            finally:
                self.bucket.link_has_answered.set()

        link.connect = connect_and_tell  # type: ignore[method-assign]
        return SeveralDestinations(
            [
                SeveralMember("link", Role.REQUIRED, link),
                SeveralMember("bucket", Role.REQUIRED, self.bucket),
            ]
        )

    def without_wal(self) -> None:
        super().without_wal()
        self.bucket.__init__(None)  # type: ignore[misc]
        self.bucket.seed_wanted = True

    def hold_durability(self) -> None:
        super().hold_durability()
        self.bucket.auto_durable = False

    def harden(self, position: Position) -> None:
        super().harden(position)
        self.bucket.harden(position)

    def refuse(self, error: LogshipError) -> None:
        super().refuse(error)
        self.bucket.refusals.append(error)

    def refuse_seed(self, error: LogshipError) -> None:
        super().refuse_seed(error)
        self.bucket.seed_refusals.append(error)

    def spoil_seed_chunk(self, error: LogshipError) -> None:
        super().spoil_seed_chunk(error)
        if error.code is not Code.CHECKSUM_MISMATCH:
            self.bucket.chunk_failures.append(error)

    def spoil_seed_end(self, error: LogshipError) -> None:
        super().spoil_seed_end(error)
        self.bucket.end_failures.append(error)

    def forget_seed(self) -> None:
        super().forget_seed()
        self.bucket.forget_seed()

    def cut(self) -> None:
        super().cut()
        self.bucket.cut()

    def cut_when_seed_ends(self) -> None:
        self.intake.when_seeded = self.cut

    def vanish(self) -> None:
        super().vanish()
        self.bucket.vanish()

    def come_back(self) -> None:
        super().come_back()
        self.bucket.away = False


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LinkAndBucketFarEnd]:
    # Both are there from the first, however long the link's handshake takes.
    monkeypatch.setattr(destination, "GRACE_SECONDS", 60.0)
    made = LinkAndBucketFarEnd()
    async with made.proxy:
        yield made
        await made.receiver.stop()


class TestSeveralDestinations(DestinationContract):
    pass


async def test_what_is_spilled_twice_with_a_hole_between_can_be_followed(tmp_path: Path) -> None:
    bucket, link = BucketFarEnd(tmp_path), FakeBucket(at(1, S))
    members = [
        SeveralMember("link", Role.REQUIRED, link),
        SeveralMember("bucket", Role.SPILL, bucket.make_destination()),
    ]
    several = SeveralDestinations(members, spill=SpillRule(100_000, 0.0))
    rig: Any = SimpleNamespace(make_destination=lambda: several)
    shipping = Shipping(rig)
    link.away = True
    await shipping.connect(flush_lsn=Lsn(S + 5000), slot_restart_lsn=Lsn(S))
    await shipping.send(5000)
    await shipping.hear_durable(at(1, S + 5000))
    link.away = False
    (rewind,) = await shipping.hear(Rewind)
    shipping.go_on_at(rewind.position)
    await shipping.send(S)
    await until(lambda: several._flow.spill and not several._flow.spill.active, "it is over")
    await shipping.send(3 * S)
    assert link.end == at(1, 5 * S)

    link.vanish()
    await shipping.hear(Lost)
    accepted = await shipping.connect(flush_lsn=Lsn(5 * S + 9000), slot_restart_lsn=Lsn(5 * S))
    assert accepted.position == at(1, 5 * S)
    await shipping.send(9000)
    await shipping.hear_durable(at(1, 5 * S + 9000))
    await shipping.close()
    followed = list(bucket.objects())
    second = [data for place, _, data in followed if place.lsn >= 5 * S]
    assert b"".join(second) == wal_bytes(1, 5 * S, 9000)
    markers = [head.marker for _, head, _ in followed if head.marker is not None]
    assert [(marker.kind, marker.lsn) for marker in markers] == [
        ("gap", 5 * S),
        ("timeline", 5 * S),
    ]
