"""Spans leave in the order in which they came, whole, and a failure is not swallowed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from logship.seal import INLINE_BYTES, Sealed
from shipper.agent import pipeline as pipeline_module
from shipper.agent.pipeline import SealPipeline, split
from shipper.compression import Effort
from shipper.sources import WalBytes
from tests.support.fakes import FakeDestination, FakeSource
from tests.support.link_frames import SEGMENT_BYTES, at, wal_bytes
from tests.support.waiting import until

S = SEGMENT_BYTES


def span(start: int, size: int, timeline: int = 1) -> WalBytes:
    data = wal_bytes(timeline, start, size)
    return WalBytes(timeline, Lsn(start), [data[: size // 2], data[size // 2 :]], size)


@pytest.fixture
def destination() -> FakeDestination:
    return FakeDestination()


@pytest.fixture
async def pipeline(destination: FakeDestination) -> AsyncIterator[SealPipeline]:
    made = SealPipeline(FakeSource(start_lsn=S), destination, compress=True)
    yield made
    await made.close()


async def test_large_and_small_spans_keep_their_order_and_bytes(
    pipeline: SealPipeline, destination: FakeDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pipeline_module._seal_span

    def slower_for_larger(chunks: object, effort: Effort) -> Sealed:
        sealed = real(chunks, effort)  # type: ignore[arg-type]
        time.sleep(0.02 if sealed.raw_bytes > 2 * INLINE_BYTES else 0)
        return sealed

    monkeypatch.setattr(pipeline_module, "_seal_span", slower_for_larger)
    place = S
    for size in (3 * INLINE_BYTES, 10, 2 * INLINE_BYTES, 3 * INLINE_BYTES, 1, INLINE_BYTES, 5):
        await pipeline.put(span(place, size))
        place += size
    await pipeline.drain()
    assert destination.wal_from(S) == wal_bytes(1, S, place - S)
    starts = [start for _, start, _ in destination.spans]
    assert starts == sorted(starts)
    assert pipeline.sent == at(1, place)


async def test_a_small_span_that_meets_an_idle_pipeline_is_sent_in_the_same_step(
    pipeline: SealPipeline, destination: FakeDestination
) -> None:
    await pipeline.put(span(S, 100))
    assert len(destination.spans) == 1


async def test_a_small_span_is_put_at_once_only_where_nothing_has_to_wait(
    pipeline: SealPipeline, destination: FakeDestination
) -> None:
    assert pipeline.put_at_once(span(S, 100))
    assert destination.wal_from(S) == wal_bytes(1, S, 100)
    assert pipeline.sent == at(1, S + 100)
    assert not pipeline.put_at_once(span(S + 100, INLINE_BYTES + 1))
    destination.free(0)
    assert not pipeline.put_at_once(span(S + 100, 10))
    assert len(destination.spans) == 1
    await pipeline.put(span(S + 100, INLINE_BYTES + 1))
    destination.free(INLINE_BYTES)
    assert not pipeline.put_at_once(span(S + 101 + INLINE_BYTES, 10)), "one before it waits"
    destination.free(None)
    await pipeline.drain()
    assert pipeline.put_at_once(span(S + 101 + INLINE_BYTES, 10))
    assert destination.wal_from(S) == wal_bytes(1, S, 111 + INLINE_BYTES)
    destination.cut()
    assert not pipeline.put_at_once(span(S + 111 + INLINE_BYTES, 10))


async def test_reading_ahead_is_bounded_while_there_is_no_room(
    pipeline: SealPipeline, destination: FakeDestination
) -> None:
    destination.free(0)
    size = INLINE_BYTES + 1
    taken = 0

    async def feed() -> None:
        nonlocal taken
        for number in range(50):
            await pipeline.put(span(S + number * size, size))
            taken += 1

    feeding = asyncio.create_task(feed())
    await until(lambda: taken >= pipeline_module.MAX_SEALING_SPANS, "the pipeline is full")
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert taken <= pipeline_module.MAX_SEALING_SPANS + 2
    destination.free(None)
    await feeding
    await pipeline.drain()
    assert len(destination.spans) == 50


async def test_a_lost_link_is_raised_by_put_and_by_drain(
    pipeline: SealPipeline, destination: FakeDestination
) -> None:
    destination.free(0)
    await pipeline.put(span(S, INLINE_BYTES + 1))
    destination.cut()
    with pytest.raises(LogshipError) as caught:
        await pipeline.drain()
    assert caught.value.code is Code.LINK_LOST
    with pytest.raises(LogshipError) as caught:
        await pipeline.put(span(S + INLINE_BYTES + 1, 10))
    assert caught.value.code is Code.LINK_LOST
    assert pipeline.sent is None


async def test_a_put_that_waits_for_a_full_queue_learns_of_the_lost_link(
    pipeline: SealPipeline, destination: FakeDestination
) -> None:
    destination.free(0)
    size = INLINE_BYTES + 1

    async def feed() -> None:
        for number in range(50):
            await pipeline.put(span(S + number * size, size))

    feeding = asyncio.create_task(feed())
    await asyncio.sleep(0.01)
    assert not feeding.done()
    destination.cut()
    with pytest.raises(LogshipError):
        await feeding


async def test_close_tells_a_failure_that_nobody_had_asked_for(
    destination: FakeDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    was_put = threading.Event()

    def fail(*_: object, **__: object) -> None:
        was_put.wait(10)
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline_module, "_seal_span", fail)
    pipeline = SealPipeline(FakeSource(start_lsn=S), destination, compress=True)
    await pipeline.put(span(S, INLINE_BYTES + 1))
    was_put.set()
    await asyncio.wait({pipeline.sender}, timeout=10)
    assert [type(error) for error in await pipeline.close()] == [ZeroDivisionError]


async def test_what_was_not_sent_before_close_is_dropped_not_sent_later(
    destination: FakeDestination,
) -> None:
    pipeline = SealPipeline(FakeSource(start_lsn=S), destination, compress=True)
    destination.free(0)
    await pipeline.put(span(S, INLINE_BYTES + 1))
    await pipeline.put(span(S + INLINE_BYTES + 1, 10))
    await pipeline.close()
    destination.free(None)
    await asyncio.sleep(0.01)
    assert destination.spans == []
    assert pipeline.sent is None


async def test_drain_of_an_empty_pipeline_returns_at_once(pipeline: SealPipeline) -> None:
    await asyncio.wait_for(pipeline.drain(), 1)
    assert pipeline.sent is None


@given(
    size=st.integers(1, 5000),
    max_bytes=st.integers(1, 6000),
    cuts=st.lists(st.integers(0, 5000), max_size=5),
)
def test_split_gives_the_same_bytes_in_pieces_that_are_allowed(
    size: int, max_bytes: int, cuts: list[int]
) -> None:
    data = wal_bytes(2, S, size)
    places = [0, *sorted(min(cut, size) for cut in cuts), size]
    chunks = [data[a:b] for a, b in pairwise(places)]
    pieces = list(split(WalBytes(2, Lsn(S), chunks, size), max_bytes))
    assert all(0 < piece.size_bytes <= max_bytes for piece in pieces)
    assert b"".join(bytes(chunk) for piece in pieces for chunk in piece.chunks) == data
    where = Position(2, Lsn(S))
    for piece in pieces:
        assert (piece.timeline, piece.start_lsn) == where
        assert piece.size_bytes == sum(len(chunk) for chunk in piece.chunks)
        where = Position(2, piece.end_lsn)
