"""Destination `several` as one: a link and a bucket, both required."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from logship.errors import Code, LogshipError
from logship.lsn import Position
from shipper.destinations.several import SeveralDestinations, SeveralMember
from shipper.destinations.several_members import Role
from tests.integration.destination_contract import DestinationContract
from tests.integration.test_destination_link import LinkFarEnd
from tests.support.fake_bucket import FakeBucket
from tests.support.link_frames import SEGMENT_BYTES, at

pytestmark = pytest.mark.integration

S = SEGMENT_BYTES


class LinkAndBucketFarEnd(LinkFarEnd):
    """Whatever happens, happens to both."""

    def __init__(self) -> None:
        super().__init__()
        self.bucket = FakeBucket(at(1, S))

    def make_destination(self, **options: Any) -> Any:
        return SeveralDestinations(
            [
                SeveralMember("link", Role.REQUIRED, super().make_destination(**options)),
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
async def rig() -> AsyncIterator[LinkAndBucketFarEnd]:
    made = LinkAndBucketFarEnd()
    async with made.proxy:
        yield made
        await made.receiver.stop()


class TestSeveralDestinations(DestinationContract):
    pass
