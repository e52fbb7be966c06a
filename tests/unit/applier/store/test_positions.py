"""The rules of what fits, without a disk."""

from __future__ import annotations

import pytest

from applier.store.positions import (
    BelowStart,
    ChainPositions,
    Copied,
    Ended,
    Extent,
    Fits,
    Gap,
    HistoryMissing,
    Malformed,
    Overlaps,
    Repeats,
    Unrelated,
    Verdict,
)
from logship.lsn import Lsn, Position
from logship.wal import History, HistoryEntry

SEGMENT = 1 << 20
START = 16 * SEGMENT


def chain(end: int = START, timeline: int = 1) -> ChainPositions:
    positions = ChainPositions(Position(timeline, Lsn(START)), SEGMENT)
    if end > START:
        positions.advance(timeline, START, end)
    return positions


def history(timeline: int, *ancestors: tuple[int, int]) -> History:
    return History(timeline, tuple(HistoryEntry(tli, Lsn(end)) for tli, end in ancestors))


HALF = START + SEGMENT // 2


@pytest.mark.parametrize(
    ("timeline", "start", "size_bytes", "verdict"),
    [
        (1, HALF, 10, Fits()),
        (1, HALF - 10, 10, Repeats()),
        (1, START, 10, Repeats()),
        (1, HALF - 4, 10, Overlaps(4)),
        (1, HALF + 1, 10, Gap(Position(1, Lsn(HALF)))),
        (1, START + SEGMENT, 10, Gap(Position(1, Lsn(HALF)))),
        (1, START - 10, 10, BelowStart()),
        (2, HALF, 10, HistoryMissing(2)),
        (0, HALF, 10, Malformed("timeline 0")),
        (1, HALF, 0, Malformed("no bytes")),
        (1, 0, 10, Malformed("start 0")),
        (1, -5, 10, Malformed("start -5")),
        (1, 1 << 64, 10, Malformed(f"start {1 << 64}")),
    ],
)
def test_a_span_is_judged_by_where_the_chain_ends(
    timeline: int, start: int, size_bytes: int, verdict: Verdict
) -> None:
    assert chain(HALF).accept(timeline, start, size_bytes, {}) == verdict


def test_a_span_never_crosses_a_segments_end() -> None:
    positions = chain(START + SEGMENT - 5)
    assert isinstance(positions.accept(1, START + SEGMENT - 5, 6, {}), Malformed)
    assert positions.accept(1, START + SEGMENT - 5, 5, {}) == Fits()


FORK = Lsn(START + 2 * SEGMENT + 4000)
FORK_SEGMENT = START + 2 * SEGMENT
CHILD = {2: history(2, (1, FORK))}


@pytest.mark.parametrize("held_to", [FORK_SEGMENT, FORK_SEGMENT + 100, FORK, FORK + 5000])
def test_a_new_timeline_starts_at_the_segment_of_its_switch_point(held_to: int) -> None:
    positions = chain(held_to)
    assert positions.accept(2, FORK_SEGMENT, 10, CHILD) == Fits()
    assert positions.accept(2, FORK, 10, CHILD) == Gap(Position(2, Lsn(FORK_SEGMENT)))
    positions.advance(2, FORK_SEGMENT, FORK_SEGMENT + 10)
    assert positions.written == Position(2, Lsn(FORK_SEGMENT + 10))
    assert positions.end_of(1) == held_to


def test_a_new_timeline_waits_for_its_parents_bytes() -> None:
    positions = chain(FORK_SEGMENT - 1)
    assert positions.accept(2, FORK_SEGMENT, 10, CHILD) == Gap(Position(1, Lsn(FORK_SEGMENT - 1)))


def test_a_timeline_in_between_is_asked_for() -> None:
    histories = {3: history(3, (1, FORK), (2, FORK + 3 * SEGMENT))}
    positions = chain(FORK)
    third = FORK_SEGMENT + 3 * SEGMENT
    assert positions.accept(3, third, 10, histories) == Gap(Position(2, Lsn(FORK_SEGMENT)))


def test_a_timeline_in_between_that_left_in_the_same_segment_is_not_needed() -> None:
    histories = {3: history(3, (1, FORK), (2, FORK + 8))}
    assert chain(FORK).accept(3, FORK_SEGMENT, 10, histories) == Fits()


def test_a_timeline_of_other_descent_is_refused() -> None:
    positions = chain(FORK, timeline=2)
    histories = {2: history(2, (1, START - 5)), 3: history(3, (1, START + 5))}
    assert isinstance(positions.accept(3, START, 10, histories), Unrelated)


def test_a_fork_below_the_chains_start_is_refused() -> None:
    histories = {2: history(2, (1, START - 5))}
    assert isinstance(chain(HALF).accept(2, START - SEGMENT, 10, histories), Unrelated)


def test_a_timeline_that_was_left_takes_only_repeats() -> None:
    positions = chain(FORK)
    positions.advance(2, FORK_SEGMENT, FORK_SEGMENT + 10)
    current = Position(2, Lsn(FORK_SEGMENT + 10))
    assert positions.accept(1, FORK - 10, 10, CHILD) == Repeats()
    assert positions.accept(1, FORK, 10, CHILD) == Ended(current)
    assert positions.accept(1, FORK - 5, 10, CHILD) == Ended(current)


def test_an_old_timelines_span_that_its_copy_holds_is_known() -> None:
    positions = chain(FORK_SEGMENT + 1000)
    positions.advance(2, FORK_SEGMENT, FORK + 500)
    middle = Lsn(FORK_SEGMENT + 1000)
    assert positions.accept(1, FORK_SEGMENT + 900, 200, CHILD) == Copied(
        ((1, Extent(Lsn(middle - 100), middle)), (2, Extent(middle, Lsn(middle + 100))))
    )
    assert positions.accept(1, FORK - 5, 5, CHILD) == Copied(((2, Extent(Lsn(FORK - 5), FORK)),))
    current = Position(2, Lsn(FORK + 500))
    assert positions.accept(1, FORK - 5, 6, CHILD) == Ended(current)
    assert positions.accept(1, FORK - 5, 5, {}) == Ended(current)


def test_an_old_timelines_span_that_nobody_holds_is_not_known() -> None:
    positions = chain(FORK_SEGMENT)
    positions.advance(2, FORK_SEGMENT, FORK - 100)
    assert positions.accept(1, FORK - 150, 50, CHILD) == Copied(
        ((2, Extent(Lsn(FORK - 150), Lsn(FORK - 100))),)
    )
    assert isinstance(positions.accept(1, FORK - 150, 51, CHILD), Ended)


def test_what_is_durable_is_known_by_timeline() -> None:
    positions = chain(FORK)
    positions.hardened(Position(1, Lsn(HALF)))
    positions.advance(2, FORK_SEGMENT, FORK + 10)
    assert positions.durable_extents() == {1: Extent(Lsn(START), Lsn(HALF))}
    positions.hardened(positions.written)
    assert positions.durable_extents() == positions.extents


def test_a_new_timelines_copied_bytes_are_compared_as_far_as_the_parent_goes() -> None:
    positions = chain(FORK - 1000)
    end = FORK_SEGMENT + SEGMENT
    assert positions.copied(2, FORK_SEGMENT, end, CHILD[2]) == [
        (1, Extent(Lsn(FORK_SEGMENT), Lsn(FORK - 1000)))
    ]
    assert positions.copied(2, FORK, end, CHILD[2]) == []
    assert positions.copied(1, START, end, None) == []


def test_copied_bytes_are_compared_with_every_ancestor_that_is_held() -> None:
    """Promoted twice in one segment, and nothing of the timeline between ever came."""
    grandchild = history(3, (1, FORK), (2, Lsn(FORK + 500)))
    positions = chain(FORK)
    end = FORK_SEGMENT + SEGMENT
    assert positions.copied(3, FORK_SEGMENT, end, grandchild) == [
        (1, Extent(Lsn(FORK_SEGMENT), FORK))
    ]


def test_durable_follows_written() -> None:
    positions = chain(HALF)
    assert positions.durable == positions.start
    positions.hardened(Position(1, Lsn(HALF)))
    with pytest.raises(AssertionError):
        positions.hardened(Position(1, Lsn(HALF + 1)))
    with pytest.raises(AssertionError):
        positions.hardened(Position(1, Lsn(HALF - 1)))


def test_a_chain_may_continue_only_inside_what_is_held_on_its_timeline() -> None:
    positions = chain(START + 3 * SEGMENT)
    positions.hardened(positions.written)
    second = Position(1, Lsn(START + SEGMENT))
    assert positions.continues_at(second)
    assert not positions.continues_at(Position(1, Lsn(START - SEGMENT)))
    assert not positions.continues_at(Position(1, Lsn(START + 4 * SEGMENT)))
    assert not positions.continues_at(Position(2, Lsn(START + SEGMENT)))
    shorter = positions.restarted_at(second)
    assert shorter.start == second
    assert shorter.written == shorter.durable == positions.written
