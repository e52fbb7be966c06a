from __future__ import annotations

from applier.walserver.line import Fork, Line
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


def test_there_is_no_line_before_there_is_wal() -> None:
    line = Line(MemorySource())
    assert not line.has(1)
    assert line.fork_of(1) is None
    assert line.locate(1, Lsn(0)) is None


def test_a_history_without_wal_of_its_timeline_changes_nothing() -> None:
    source = MemorySource(segment_bytes=SEGMENT)
    source.append(1, SEGMENT, b"1" * 1000)
    source.add_history(2, f"1\t{Lsn(SEGMENT + 500)}\tx\n".encode())
    line = Line(source)
    assert line.fork_of(1) is None
    assert not line.has(2)
    assert line.locate(1, Lsn(SEGMENT + 600)) == (1, SEGMENT + 1000)


def test_the_parent_ends_at_the_fork_whatever_else_was_written_on_it() -> None:
    line = Line(forked(FORK + 1000))
    assert line.fork_of(1) == Fork(Lsn(FORK), 2)
    assert list(line.forks()) == [(1, Fork(Lsn(FORK), 2))]
    assert line.locate(1, Lsn(3 * SEGMENT)) == (1, FORK)
    assert line.locate(1, Lsn(FORK)) is None
    assert line.locate(2, Lsn(3 * SEGMENT)) == (2, 3 * SEGMENT + 1000)


def test_what_the_parent_lacks_of_its_last_segment_comes_from_the_child_s_copy() -> None:
    line = Line(forked(3 * SEGMENT + 100))
    assert line.locate(1, Lsn(3 * SEGMENT + 50)) == (1, 3 * SEGMENT + 100)
    assert line.locate(1, Lsn(3 * SEGMENT + 100)) == (2, FORK)


def test_before_the_fork_s_segment_the_child_has_nothing_of_the_parent() -> None:
    line = Line(forked(2 * SEGMENT))
    assert line.locate(1, Lsn(2 * SEGMENT)) is None


def test_two_switches_in_one_segment_are_seen_through() -> None:
    source = forked(3 * SEGMENT)
    second = f"1\t{Lsn(FORK)}\tx\n2\t{Lsn(FORK + 100)}\ty\n".encode()
    source.add_history(3, second)
    source.append(3, 3 * SEGMENT, b"3" * 2000)
    line = Line(source)
    # Timeline 2's own bytes serve as long as it has any.
    assert line.locate(1, Lsn(3 * SEGMENT)) == (2, FORK)
    assert line.fork_of(2) == Fork(Lsn(FORK + 100), 3)
    assert line.locate(2, Lsn(FORK + 50)) == (2, FORK + 100)
    assert line.locate(2, Lsn(FORK + 100)) is None
