from __future__ import annotations

from applier.walserver.line import Fork, Line, Lines
from logship.lsn import Lsn
from tests.unit.applier.walserver.memory_source import MemorySource

SEGMENT = 1 << 20
FORK = 3 * SEGMENT + 500


def forked(parent_end: int) -> MemorySource:
    """Timeline 1 from segment 1 up to `parent_end`, timeline 2 forked off at FORK."""
    source = MemorySource(segment_bytes=SEGMENT)
    source.append(1, SEGMENT, b"1" * (parent_end - SEGMENT))
    source.add_history(2, f"1\t{Lsn(FORK)}\tno recovery target specified\n".encode())
    source.append(2, 3 * SEGMENT, b"1" * 500 + b"2" * 500)
    return source


def newest(source: MemorySource) -> Line:
    line = Lines(source).newest()
    assert line is not None
    return line


def test_there_is_no_line_before_there_is_wal() -> None:
    assert Lines(MemorySource()).newest() is None
    assert Lines(MemorySource()).at(1, Lsn(0)) is None


def test_a_history_without_wal_of_its_timeline_changes_nothing() -> None:
    source = MemorySource(segment_bytes=SEGMENT)
    source.append(1, SEGMENT, b"1" * 1000)
    source.add_history(2, f"1\t{Lsn(SEGMENT + 500)}\tx\n".encode())
    line = newest(source)
    assert line.fork_of(1) is None
    assert not line.has(2)
    assert line.locate(1, Lsn(SEGMENT + 600)) == (1, SEGMENT + 1000)


def test_the_parent_ends_at_the_fork_whatever_else_was_written_on_it() -> None:
    line = newest(forked(FORK + 1000))
    assert line.fork_of(1) == Fork(Lsn(FORK), 2)
    assert list(line.forks()) == [(1, Fork(Lsn(FORK), 2))]
    assert line.locate(1, Lsn(3 * SEGMENT)) == (1, FORK)
    assert line.locate(1, Lsn(FORK)) is None
    assert line.locate(2, Lsn(3 * SEGMENT)) == (2, 3 * SEGMENT + 1000)


def test_what_the_parent_lacks_of_its_last_segment_comes_from_the_child_s_copy() -> None:
    line = newest(forked(3 * SEGMENT + 100))
    assert line.locate(1, Lsn(3 * SEGMENT + 50)) == (1, 3 * SEGMENT + 100)
    assert line.locate(1, Lsn(3 * SEGMENT + 100)) == (2, FORK)


def test_before_the_fork_s_segment_the_child_has_nothing_of_the_parent() -> None:
    line = newest(forked(2 * SEGMENT))
    assert line.locate(1, Lsn(2 * SEGMENT)) is None


def test_two_switches_in_one_segment_are_seen_through() -> None:
    source = forked(3 * SEGMENT)
    second = f"1\t{Lsn(FORK)}\tx\n2\t{Lsn(FORK + 100)}\ty\n".encode()
    source.add_history(3, second)
    source.append(3, 3 * SEGMENT, b"3" * 2000)
    line = newest(source)
    # Timeline 2's own bytes serve as long as it has any.
    assert line.locate(1, Lsn(3 * SEGMENT)) == (2, FORK)
    assert line.fork_of(2) == Fork(Lsn(FORK + 100), 3)
    assert line.locate(2, Lsn(FORK + 50)) == (2, FORK + 100)
    assert line.locate(2, Lsn(FORK + 100)) is None


def gapped() -> MemorySource:
    """Timeline 1 up to a little before FORK; then, seeded again, timeline 2 from segment 6 on."""
    source = MemorySource(segment_bytes=SEGMENT)
    source.append(1, SEGMENT, b"1" * (2 * SEGMENT + 400))
    source.add_history(2, f"1\t{Lsn(FORK)}\tno recovery target specified\n".encode())
    source.begin_chain(2, 6 * SEGMENT)
    source.append(2, 6 * SEGMENT, b"2" * 1000)
    return source


def test_what_was_held_before_a_gap_is_a_line_of_its_own() -> None:
    source = gapped()
    old = Lines(source).at(1, Lsn(3 * SEGMENT))
    assert old is not None
    assert not old.grows
    assert (old.fork_of(1), old.has(2)) == (None, False)
    assert old.locate(1, Lsn(3 * SEGMENT)) == (1, 3 * SEGMENT + 400)
    assert Lines(source).at(1, Lsn(3 * SEGMENT + 400)) is not None  # its end
    assert old.locate(1, Lsn(3 * SEGMENT + 400)) is None
    assert newest(source).locate(1, Lsn(3 * SEGMENT)) is None


def test_lines_follow_whatever_comes() -> None:
    source = forked(FORK)
    lines = Lines(source)
    before = lines.newest()
    assert lines.newest() is before
    source.append(2, before.end.lsn if before is not None else 0, b"more")
    after = lines.newest()
    assert before is not None and after is not None
    assert after.end.lsn == before.end.lsn + 4
    source.begin_chain(3, 9 * SEGMENT)
    grown = lines.newest()
    assert grown is not None
    assert not grown.has(2)
    source.add_history(3, f"2\t{Lsn(9 * SEGMENT)}\tx\n".encode())
    told = lines.newest()
    assert told is not None
    assert told.has(2)


def test_nothing_in_the_gap_and_below_all_wal_has_a_line() -> None:
    source = gapped()
    for timeline, lsn in ((1, 3 * SEGMENT + 401), (2, 4 * SEGMENT), (1, SEGMENT - 1), (3, 1)):
        assert Lines(source).at(timeline, Lsn(lsn)) is None
    for lsn in (6 * SEGMENT, 6 * SEGMENT + 1000, 9 * SEGMENT):  # held, next, ahead of it
        line = Lines(source).at(2, Lsn(lsn))
        assert line is not None
        assert line.grows


def test_a_place_that_is_held_itself_comes_before_a_newer_line_that_forked_below_it() -> None:
    source = MemorySource(segment_bytes=SEGMENT)
    source.append(1, SEGMENT, b"1" * (2 * SEGMENT + 900))
    source.add_history(2, f"1\t{Lsn(FORK)}\tx\n".encode())
    source.begin_chain(2, 6 * SEGMENT)
    line = Lines(source).at(1, Lsn(FORK + 100))
    assert line is not None
    assert line.fork_of(1) is None
