from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logship.frames import SeedBegin, SeedChunk, SeedEnd
from logship.link.windows import SEED_ITEM_COST_BYTES, SPAN_COST_BYTES, Flight, SeedOutbox
from tests.support.link_frames import at

BEGIN = SeedBegin(seed_id="s1", timeline=1, start_lsn=0, estimated_bytes=0)


def chunk(sequence: int, seed_id: str = "s1") -> SeedChunk:
    return SeedChunk(seed_id=seed_id, sequence=sequence, kind="data")


def test_a_position_on_a_newer_timeline_settles_all_older_ones() -> None:
    flight = Flight()
    flight.add(1, 0, 100)
    flight.add(2, 50, 150)
    flight.settle(at(2, 60))
    assert flight.wal_bytes == 90
    assert flight.size_bytes == 90 + SPAN_COST_BYTES  # in part on its way: its cost stays


def test_a_cut_keeps_what_lies_before_it() -> None:
    flight = Flight()
    flight.add(1, 0, 100)
    flight.add(2, 50, 150)
    flight.cut(at(1, 70))
    assert flight.wal_bytes == 70
    assert flight.size_bytes == 70 + SPAN_COST_BYTES


steps = st.lists(
    st.tuples(st.sampled_from(["add", "settle", "cut"]), st.integers(1, 40)), max_size=60
)


@given(steps)
def test_the_account_equals_a_plain_set_of_bytes(plan: list[tuple[str, int]]) -> None:
    flight = Flight()
    flying: set[int] = set()
    spans: list[range] = []
    end = 0
    for step, size in plan:
        if step == "add":
            flight.add(1, end, end + size)
            flying |= set(range(end, end + size))
            spans.append(range(end, end + size))
            end += size
        elif step == "settle":
            flight.settle(at(1, size))
            spans = [range(max(span.start, size), span.stop) for span in spans]
            flying = {byte for byte in flying if byte >= size}
        else:
            end = min(end, size)
            flight.cut(at(1, end))
            spans = [range(span.start, min(span.stop, end)) for span in spans]
            flying = {byte for byte in flying if byte < end}
        spans = [span for span in spans if span]
        assert flight.wal_bytes == len(flying)
        assert flight.size_bytes == len(flying) + len(spans) * SPAN_COST_BYTES


def test_an_outbox_keeps_chunks_until_they_are_acked() -> None:
    outbox = SeedOutbox(BEGIN, window_bytes=1000)
    for sequence in range(3):
        outbox.add(chunk(sequence), bytes(100))
    assert outbox.room_bytes == 1000 - 3 * (100 + SEED_ITEM_COST_BYTES)
    outbox.acked(2)
    outbox.acked(1)
    assert outbox.room_bytes == 1000 - (100 + SEED_ITEM_COST_BYTES)
    assert [item.sequence for item, _ in outbox.pending_from(2)] == [2]
    assert outbox.pending_from(3) == []
    with pytest.raises(ValueError, match="wanted"):
        outbox.pending_from(1)
    with pytest.raises(ValueError, match="before it was sent"):
        outbox.acked(4)


@pytest.mark.parametrize("wrong", [chunk(1), chunk(0, seed_id="other")])
def test_an_outbox_takes_chunks_of_its_seed_in_order_only(wrong: SeedChunk) -> None:
    with pytest.raises(ValueError, match="is next"):
        SeedOutbox(BEGIN).add(wrong)


def test_a_seed_goes_on_after_a_cut_if_the_applier_still_knows_it() -> None:
    outbox = SeedOutbox(BEGIN)
    outbox.add(chunk(0), b"a")
    outbox.add(chunk(1), b"b")
    end = SeedEnd(seed_id="s1", sequence=2, timeline=1, end_lsn=1)
    outbox.add(end)
    outbox.acked(1)
    assert outbox.resume("s1", 1) == [(chunk(1), b"b"), (end, None)]
    assert outbox.resume("s1", 0) is None
    assert outbox.resume("s1", 4) is None
    assert outbox.resume("", 0) is None
    assert outbox.resume("other", 1) is None


def test_a_seed_that_the_applier_never_heard_of_starts_again_from_its_begin() -> None:
    outbox = SeedOutbox(BEGIN)
    outbox.add(chunk(0), b"a")
    assert outbox.resume("", 0) == [(BEGIN, None), (chunk(0), b"a")]
