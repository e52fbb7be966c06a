"""One seed after the other on the way into a bucket that is slow to answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from logship.frames import Payload, SeedBegin, SeedChunk
from shipper.destinations.bucket.seeds import BucketSeeds, SeedFrame
from tests.support.waiting import until


class Taker:
    """Takes a seed's beginning at once, and the rest when `goes_on` is set."""

    def __init__(self) -> None:
        self.frames: list[SeedFrame] = []
        self.aborts = 0
        self.goes_on = threading.Event()

    def take(self, frame: SeedFrame, payload: Payload = b"") -> None:
        self.frames.append(frame)
        if not isinstance(frame, SeedBegin):
            assert self.goes_on.wait(60)

    def abort(self) -> None:
        self.aborts += 1


@pytest.mark.parametrize("turns", [0, 1, 5])
async def test_each_seed_that_a_newer_one_replaces_is_aborted_however_soon_that_comes(
    turns: int,
) -> None:
    async def run_blocking(action: Callable[[], None]) -> None:
        await asyncio.to_thread(action)

    seeds = BucketSeeds(run_blocking, lambda seed_id, error: None)
    first, second, third = takers = [Taker(), Taker(), Taker()]

    def begin(number: int) -> None:
        frame = SeedBegin(seed_id=str(number), timeline=1, start_lsn=0, estimated_bytes=0)
        seeds.begin(frame, takers[number], lambda: None)

    begin(0)
    await seeds.add(SeedChunk(seed_id="0", sequence=0, kind="archive"), b"")
    await until(lambda: len(first.frames) == 2, "the first one hangs")
    begin(1)
    for _ in range(turns):  # it waits for the first one
        await asyncio.sleep(0)
    begin(2)
    assert not first.aborts
    first.goes_on.set()
    await until(lambda: third.frames, "the third one begins")
    assert first.aborts
    assert second.aborts or not second.frames
