"""Which timeline comes next and from where: without holes, and only on the primary's line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from logship.wal import History, HistoryEntry, segment_start
from shipper.sources.plan import StreamFrom, plan_start, plan_successor, reportable
from tests.support.link_frames import at

SEGMENT = 1 << 20


def history(timeline: int, *ancestors: tuple[int, int]) -> History:
    return History(timeline, tuple(HistoryEntry(old, Lsn(end)) for old, end in ancestors))


LINE = history(5, (1, 3 * SEGMENT + 100), (3, 7 * SEGMENT), (4, 9 * SEGMENT + 1))


@st.composite
def lines(draw: st.DrawFn) -> History:
    """Any line of descent that PostgreSQL could make."""
    count = draw(st.integers(1, 5))
    timelines = sorted(draw(st.sets(st.integers(1, 40), min_size=count, max_size=count)))
    steps = draw(st.lists(st.integers(1, 4 * SEGMENT), min_size=count, max_size=count))
    entries: list[tuple[int, int]] = []
    end = SEGMENT
    for timeline, step in zip(timelines, steps, strict=True):
        end += step
        entries.append((timeline, end))
    return history(draw(st.integers(timelines[-1] + 1, 50)), *entries)


# --- plan_start -----------------------------------------------------------------------------


@pytest.mark.parametrize("known", [None, LINE])
def test_on_the_servers_own_timeline_it_goes_on_exactly_there(known: History | None) -> None:
    timeline = 5 if known else 1
    where = at(timeline, 10 * SEGMENT + 7)
    assert plan_start(where, timeline, known, SEGMENT) == StreamFrom(timeline, where.lsn)


def test_an_ancestor_is_read_to_its_end_first() -> None:
    assert plan_start(at(1, 2 * SEGMENT + 9), 5, LINE, SEGMENT) == (1, 2 * SEGMENT + 9)
    assert plan_start(at(1, 3 * SEGMENT + 99), 5, LINE, SEGMENT) == (1, 3 * SEGMENT + 99)


def test_after_an_ancestors_end_its_successor_starts_at_that_segments_start() -> None:
    assert plan_start(at(1, 3 * SEGMENT + 100), 5, LINE, SEGMENT) == (3, 3 * SEGMENT)
    assert plan_start(at(4, 9 * SEGMENT + 1), 5, LINE, SEGMENT) == (5, 9 * SEGMENT)


def test_a_switch_at_a_segments_start_repeats_nothing() -> None:
    assert plan_start(at(3, 7 * SEGMENT), 5, LINE, SEGMENT) == (4, 7 * SEGMENT)


def test_bytes_that_the_store_has_beyond_the_fork_are_left_behind() -> None:
    assert plan_start(at(1, 5 * SEGMENT), 5, LINE, SEGMENT) == (3, 3 * SEGMENT)


@pytest.mark.parametrize(
    ("resume", "server_timeline", "known"),
    [
        (at(2, 4 * SEGMENT), 5, LINE),  # a sibling that the line skipped
        (at(6, 10 * SEGMENT), 5, LINE),  # the store is on a newer one
        (at(2, 4 * SEGMENT), 1, None),  # ... and the server never switched
    ],
)
def test_a_store_that_is_not_on_the_servers_line_is_told_apart(
    resume: Position, server_timeline: int, known: History | None
) -> None:
    with pytest.raises(LogshipError) as caught:
        plan_start(resume, server_timeline, known, SEGMENT)
    assert caught.value.code is Code.TIMELINE_DIVERGED
    assert not caught.value.retryable
    assert f"timeline {resume.timeline}" in caught.value.what
    assert f"timeline {server_timeline}" in caught.value.what
    assert "seed" in caught.value.hint


@given(line=lines(), data=st.data())
def test_reading_as_planned_covers_the_line_without_a_hole(
    line: History, data: st.DataObject
) -> None:
    entry = data.draw(st.sampled_from(line.ancestors))
    lsn = data.draw(st.integers(SEGMENT, entry.end_lsn + SEGMENT))
    plan = plan_start(Position(entry.timeline, Lsn(lsn)), line.timeline, line, SEGMENT)
    assert plan.lsn <= lsn, "a hole"
    if plan.timeline == entry.timeline:
        assert plan.lsn == lsn < entry.end_lsn
    covered = lsn
    while plan.timeline != line.timeline:
        end = line.end_of(plan.timeline)
        assert end is not None
        assert plan.lsn <= min(covered, end)
        covered = end
        successor = plan_successor(plan.timeline, line, SEGMENT)
        assert successor.timeline == line.successor_of(plan.timeline)
        assert successor.lsn == segment_start(end, SEGMENT) <= end
        plan = successor
    assert plan.lsn <= covered


# --- plan_successor -------------------------------------------------------------------------


@pytest.mark.parametrize("timeline", [2, 5, 6])
def test_what_has_no_successor_on_the_line_is_a_bug_to_ask_for(timeline: int) -> None:
    with pytest.raises(ValueError, match=f"timeline {timeline}"):
        plan_successor(timeline, LINE, SEGMENT)


# --- reportable -----------------------------------------------------------------------------


def test_on_the_servers_timeline_all_of_it_may_be_told() -> None:
    assert reportable(at(1, 77), 1, None) == 77
    assert reportable(at(5, 77), 5, LINE) == 77


def test_of_an_ancestor_only_what_is_on_the_line_may_be_told() -> None:
    assert reportable(at(1, 2 * SEGMENT), 5, LINE) == 2 * SEGMENT
    assert reportable(at(1, 6 * SEGMENT), 5, LINE) == 3 * SEGMENT + 100


def test_of_a_stranger_nothing_may_be_told() -> None:
    assert reportable(at(2, 2 * SEGMENT), 5, LINE) is None
    assert reportable(at(2, 2 * SEGMENT), 1, None) is None


@given(line=lines(), timeline=st.integers(1, 50), lsn=st.integers(0, 30 * SEGMENT))
def test_what_is_told_never_exceeds_what_is_held_nor_the_fork(
    line: History, timeline: int, lsn: int
) -> None:
    told = reportable(Position(timeline, Lsn(lsn)), line.timeline, line)
    if told is None:
        assert not line.contains(timeline)
        return
    assert told <= lsn
    fork = line.end_of(timeline)
    assert fork is None or told <= fork
