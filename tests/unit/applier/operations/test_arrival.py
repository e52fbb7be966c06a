"""Seeds one after the other: none works on the files of another."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from applier.operations import following as following_module
from applier.operations.instance import Instance
from applier.operations.record import Fence
from applier.receivers import FencedError
from applier.receivers.seed import placement
from applier.receivers.seed.placement import SeedPlaced
from applier.receivers.seed.receiver import SeedReceiver
from logship.errors import Code, RefusedError
from logship.frames import SeedBegin, SeedChunk, SeedEnd
from logship.lsn import Lsn, Position
from tests.support.link_frames import SEGMENT_BYTES, hello, profile
from tests.support.waiting import until
from tests.unit.applier.operations.conftest import Listener
from tests.unit.applier.receivers.seed.archives import (
    SYSTEM_IDENTIFIER,
    SeedFrames,
    entry,
    manifest,
    seed,
)

FIRST = SeedBegin(seed_id="first", timeline=1, start_lsn=4 * SEGMENT_BYTES, estimated_bytes=0)
SECOND = SeedBegin(seed_id="second", timeline=1, start_lsn=8 * SEGMENT_BYTES, estimated_bytes=0)
PATIENCE_SECONDS = 0.3
"""How long one that should be waited for gives the other to come in between."""


class Overlap:
    """One piece of work takes until another one begins beside it, or long enough to show that
    none does."""

    def __init__(self) -> None:
        self.entered, self.is_disturbed = threading.Event(), False
        self._other = threading.Event()

    def slow(self, work: Callable[..., Any], *arguments: Any) -> Any:
        self.entered.set()
        self.is_disturbed = self._other.wait(PATIENCE_SECONDS) or self.is_disturbed
        return work(*arguments)

    def disturbing(self, work: Callable[..., Any], *arguments: Any) -> Any:
        self._other.set()
        return work(*arguments)


async def give_up_in_background(instance: Instance, listener: Listener) -> None:
    """An operator wants a seed from elsewhere, as its shipper died."""
    await instance.seed_begin(FIRST)
    instance.lost(listener, "its host died")
    instance.check_seed_possible()


async def lose_the_hello(instance: Instance, listener: Listener) -> None:
    """A shipper that was started anew gives it up, and its connection is lost at once."""
    await instance.seed_begin(FIRST)
    greeting = asyncio.create_task(instance.hello(hello(), listener))
    await until(lambda: instance.arrival.seeder is None, "it is given up")
    greeting.cancel()
    await asyncio.wait([greeting], timeout=PATIENCE_SECONDS / 3)


async def lose_the_begin(instance: Instance, _: Listener) -> None:
    """The connection is lost before the seed's chain has begun."""
    waiting = asyncio.Event()

    async def never(*_: object, **__: object) -> None:
        waiting.set()
        await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instance.opened_store, "begin_chain", never)
        beginning = asyncio.create_task(instance.seed_begin(FIRST))
        await waiting.wait()
    beginning.cancel()
    await asyncio.wait([beginning], timeout=PATIENCE_SECONDS / 3)


@pytest.mark.parametrize("leave", [give_up_in_background, lose_the_hello, lose_the_begin])
async def test_a_seed_waits_until_what_was_given_up_before_it_is_removed(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch, leave: Any
) -> None:
    await instance.hello(hello(), listener)
    overlap = Overlap()
    discard, prepare = placement.discard_arriving, SeedReceiver._prepare
    monkeypatch.setattr(placement, "discard_arriving", partial(overlap.slow, discard))
    await leave(instance, listener)
    await asyncio.to_thread(overlap.entered.wait, 10)
    monkeypatch.setattr(
        SeedReceiver, "_prepare", lambda *arguments: overlap.disturbing(prepare, *arguments)
    )
    await instance.arrival.begin(SECOND)
    await instance.arrival.removed()
    assert not overlap.is_disturbed
    assert (instance.incarnation_directory / "data.seeding").is_dir()
    assert (instance.incarnation_directory / "tablespaces.seeding").is_dir()


@contextlib.asynccontextmanager
async def waiting_seed(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[asyncio.Task[None]]:
    """One that waits to begin, until the block ends, for the removal of one that was given up."""
    await instance.hello(hello(), listener)
    removing, goes_on = threading.Event(), threading.Event()
    discard = placement.discard_arriving

    def discard_slowly(directory: Path) -> None:
        removing.set()
        assert goes_on.wait(60), "the block ends"
        discard(directory)

    monkeypatch.setattr(placement, "discard_arriving", discard_slowly)
    await give_up_in_background(instance, listener)
    try:
        await asyncio.to_thread(removing.wait, 60)
        beginning = asyncio.create_task(instance.seed_begin(SECOND, from_bucket=True))
        await until(lambda: instance.record.bucket_seed_id == "second", "it waits to begin")
        yield beginning
    finally:
        goes_on.set()


async def test_a_seed_that_waited_does_not_begin_on_what_is_fenced_by_then(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with waiting_seed(instance, listener, monkeypatch) as beginning:
        await instance.remember(fence=Fence(at=1.0, reason="promotion"))
    with pytest.raises(FencedError):
        await beginning
    assert instance.arrival.seeder is None
    assert not (instance.incarnation_directory / "data.seeding").exists()


async def test_who_ends_while_a_seed_waits_to_begin_leaves_its_turn(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with waiting_seed(instance, listener, monkeypatch) as beginning:
        beginning.cancel()
        await asyncio.wait([beginning])
        assert not instance.budget.turn.wants("seed")


async def test_of_two_seeds_that_begin_at_once_the_later_one_takes_the_place(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    await instance.hello(hello(), listener)
    overlap, prepare = Overlap(), SeedReceiver._prepare

    def prepared(receiver: SeedReceiver, frame: SeedBegin) -> None:
        step = overlap.slow if frame is FIRST else overlap.disturbing
        step(prepare, receiver, frame)

    monkeypatch.setattr(SeedReceiver, "_prepare", prepared)
    await asyncio.gather(instance.arrival.begin(FIRST), instance.arrival.begin(SECOND))
    assert not overlap.is_disturbed
    assert instance.arrival.seeder is not None
    assert instance.arrival.seeder.seed_id == "second"


# --- what a seed replaced -------------------------------------------------------------------


def small_seed(seed_id: str) -> SeedFrames:
    control = b"control"
    archive = entry("global/") + entry("global/pg_control", control)
    return seed([("", archive)], manifest({"global/pg_control": control}), seed_id=seed_id)


async def give(instance: Instance, frames: SeedFrames) -> None:
    for frame, payload in frames:
        match frame:
            case SeedBegin():
                await instance.arrival.begin(frame)
            case SeedChunk():
                await instance.arrival.chunk(frame, payload)
            case SeedEnd():
                await instance.arrival.end(frame)


async def test_a_swap_waits_until_what_the_last_seed_replaced_is_removed(
    instance: Instance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both remove the same files; a swap that fails in between leaves no standby."""
    await instance.hello(hello(profile=profile(system_identifier=SYSTEM_IDENTIFIER)), listener)

    # No WAL is shipped here.
    durable = Position(1, Lsn(1 << 40))
    monkeypatch.setattr(instance.opened_store, "durable_of", lambda _: durable)
    monkeypatch.setattr(following_module, "prepare", lambda *_: None)
    overlap = Overlap()
    discard, roll = placement.discard_previous, placement._roll_forward
    monkeypatch.setattr(following_module, "discard_previous", partial(overlap.slow, discard))
    await give(instance, small_seed("first"))
    await asyncio.to_thread(overlap.entered.wait, 10)
    monkeypatch.setattr(following_module, "discard_previous", discard)
    monkeypatch.setattr(placement, "_roll_forward", partial(overlap.disturbing, roll))
    await give(instance, small_seed("second"))
    assert not overlap.is_disturbed
    placed = instance.following.placed
    assert placed is not None and placed.seed_id == "second"


async def test_a_standby_whose_seed_is_half_in_place_is_not_promoted(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(), listener)
    halfway = SeedPlaced(seed_id="s1", timeline=1, start_lsn=1, end_lsn=2, bytes=0, files=0)
    instance.following.placed = halfway
    placement._write(instance.incarnation_directory, placement._Record("swapping", halfway))
    with pytest.raises(RefusedError, match="not completely in place") as caught:
        instance.following.refuse_promotion_unless_ready()
    assert caught.value.code is Code.PROMOTE_REFUSED
    instance.following.placed = None
