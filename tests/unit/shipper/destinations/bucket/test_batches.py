"""What becomes an object: all of the WAL, in order, within its bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logship.bucket.keys import Place
from logship.bucket.wal_objects import Head, opened
from logship.lsn import Lsn
from logship.seal import seal
from shipper.destinations.bucket.batches import Batch, Batches, Context
from tests.support.link_frames import wal_bytes

S = 4096
MAX_OBJECT_BYTES = 1500
DELAY_SECONDS = 1.0
CONTEXT = Context(0, 1, "p1")


def batches(start: int = 10 * S, beyond: dict[int, int] | None = None) -> Batches:
    """beyond: sizes of objects that are there, by their start."""
    return Batches(
        Place(1, Lsn(start)),
        segment_bytes=S,
        max_object_bytes=MAX_OBJECT_BYTES,
        max_delay_seconds=DELAY_SECONDS,
        beyond={
            Place(1, Lsn(lsn)): Head(timeline=1, start_lsn=lsn, raw_bytes=size)
            for lsn, size in (beyond or {}).items()
        },
    )


def add(made: Batches, size: int, *, now: float = 0.0, context: Context = CONTEXT) -> list[Batch]:
    return made.add(seal(wal_bytes(1, made.place.lsn, size)), context, now)


def raw_of(batch: Batch) -> bytes:
    return b"".join(opened(span) for span in batch.spans)


def test_a_batch_is_due_by_its_age_and_not_before() -> None:
    made = batches()
    assert made.deadline is None
    assert add(made, 10, now=5.0) == []
    assert add(made, 10, now=5.9) == []
    assert made.deadline == 6.0
    assert made.due(5.99) == []
    (batch,) = made.due(6.0)
    assert (batch.place, batch.raw_bytes) == (Place(1, Lsn(10 * S)), 20)
    assert made.place == Place(1, Lsn(10 * S + 20))
    assert made.deadline is None
    assert made.due(99.0) == [] == made.cut()


def test_a_batch_ends_before_the_span_that_would_make_it_too_large() -> None:
    made = batches()
    assert add(made, 1000) == []
    (batch,) = add(made, 600)
    assert batch.raw_bytes == 1000
    (batch,) = made.cut()
    assert batch.raw_bytes == 600


def test_a_span_that_is_too_large_alone_is_divided() -> None:
    assert [each.raw_bytes for each in add(batches(), 3100)] == [1500, 1500]


def test_a_segments_end_ends_a_batch_at_once() -> None:
    made = batches(11 * S - 100)
    (batch,) = add(made, 100)
    assert batch.end == Place(1, Lsn(11 * S))
    assert made.cut() == []


def test_what_a_changed_primary_wrote_begins_a_batch() -> None:
    made = batches()
    add(made, 100)
    (batch,) = add(made, 100, context=Context(7, 2, "p2"))
    assert batch.context.profile == "p1"
    (batch,) = made.cut()
    assert batch.context == Context(7, 2, "p2")


def test_the_newest_flush_position_is_told() -> None:
    made = batches()
    add(made, 100, context=Context(7, 1, "p1"))
    add(made, 100, context=Context(9, 1, "p1"))
    assert made.cut()[0].context == Context(9, 1, "p1")


def test_an_object_that_is_there_is_met_with_just_its_bytes() -> None:
    made = batches(beyond={10 * S + 100: 50, 10 * S + 150: 2000})
    first, second = add(made, 200)
    assert (first.raw_bytes, first.existing) == (100, None)
    assert second.raw_bytes == 50
    assert second.existing is not None
    assert made.deadline is None, "it waits for bytes, not for time"
    assert made.due(1e9) == []
    assert add(made, 1949) == []
    (third,) = add(made, 1, context=Context(0, 1, "p2"))
    assert third.raw_bytes == 2000
    assert third.existing is not None


def test_an_object_that_was_passed_over_is_of_no_matter() -> None:
    made = batches(10 * S + 200, beyond={10 * S + 100: 50})
    assert add(made, 900) == []
    assert made.cut()[0].existing is None


@given(data=st.data())
def test_batches_are_all_of_the_wal_in_order_within_their_bounds(data: st.DataObject) -> None:
    start = 10 * S + data.draw(st.integers(0, 3))
    there: dict[int, int] = {}
    at = start
    for skip, size in data.draw(
        st.lists(st.tuples(st.integers(0, 900), st.integers(1, 900)), max_size=4)
    ):
        begin = at + skip
        size = min(size, S - begin % S)
        there[begin] = size
        at = begin + size
    made = batches(start, there)
    found: list[Batch] = []
    now = 0.0
    for size, pause in data.draw(
        st.lists(st.tuples(st.integers(1, 2500), st.sampled_from([0.0, 0.3, 2.0])), max_size=12)
    ):
        now += pause
        found += made.due(now)
        found += add(made, min(size, S - made.place.lsn % S), now=now)
    end = made.place.lsn
    found += made.cut()
    assert b"".join(map(raw_of, found)) == wal_bytes(1, start, end - start)
    place = start
    for batch in found:
        assert (batch.place.lsn, batch.end.lsn) == (place, place + batch.raw_bytes)
        assert (batch.end.lsn - 1) // S == batch.place.lsn // S
        if batch.existing is None:
            assert batch.raw_bytes <= MAX_OBJECT_BYTES
            assert batch.place.lsn not in there
            assert not any(batch.place.lsn < lsn < batch.end.lsn for lsn in there)
        elif batch is not found[-1]:
            assert batch.raw_bytes == there[batch.place.lsn]
        place = batch.end.lsn
    assert place == end


@pytest.mark.parametrize("size", [1, 699, 700])
def test_the_object_at_the_start_is_compared_first(size: int) -> None:
    made = batches(beyond={10 * S: 700})
    whole = add(made, size)
    assert bool(whole) == (size == 700)
