"""Records along one line of descent: where they end, and what the last ones tell.

Walks only pieces around a place.  All of it blocks and raises what `Kept.pieces` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from applier.restore.kept import Kept
from logship.bucket.wal_objects import damaged
from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from logship.wal import WAL_PAGE_BYTES, History, segment_start
from logship.wal_records import Kind, Mark, RecordWalk, marks_in

_TAIL_BYTES = 16 * WAL_PAGE_BYTES

XACT_ENDS = (Kind.COMMIT, Kind.ABORT)


class Tail(NamedTuple):
    """What the WAL below a place ends with."""

    end: Lsn
    """Of the last whole record.  The padding after a segment switch is part of the switch."""
    last_xact_time: int | None
    """Of the last commit or abort; None: there is none."""
    last_time: int | None
    """The latest time that any record tells, microseconds since 1970 UTC."""


class Records:
    """Of `kept`, along `history`."""

    def __init__(self, kept: Kept, history: History) -> None:
        self.kept = kept
        self.history = history

    def marks(self, start: int, end: int, *, to_the_end: bool = False) -> Iterator[Mark]:
        """All marks of records that begin in [start, end), `start` a page's start, in order.
        A record that begins before `end` and ends after it is not among them.

        to_the_end: raise LogshipError(STORE_DAMAGED, OBJECT_DAMAGED) where no records follow
        before `end`, rather than end there.
        """
        walk = RecordWalk(self.kept.line, start)
        for piece in self.kept.pieces(self.history, start, end):
            yield from walk.feed(piece)
            if walk.stopped:
                break
        else:
            yield from walk.finish()
        if to_the_end and walk.stopped_at is not None and walk.stopped_at < end:
            raise self._damaged(walk.stopped, walk.stopped_at)

    def _damaged(self, why: str, at: Lsn) -> LogshipError:
        part = next(self.kept.parts(self.history, at, at + 1))
        what = f"the WAL is not whole: {why}, on timeline {part.timeline}"
        if part.fetched is not None:
            assert self.kept.bucket is not None
            return damaged(self.kept.bucket.bucket.where(part.fetched.key), what)
        return LogshipError(
            Code.STORE_DAMAGED,
            f"in the store {what}",
            "check the disk; --to-lsn reaches what lies before, a newer seed what lies after",
        )

    def end_at_or_after(self, position: int, limit: int) -> Lsn | None:
        """Where the first record that reaches to `position` ends; None: none that is whole below
        `limit` does.  `position` itself, where a record ends there."""
        page = position - 1 - (position - 1) % WAL_PAGE_BYTES
        walk = RecordWalk(self.kept.line, page, until=position)
        for piece in self.kept.pieces(self.history, page, limit):
            walk.feed(piece)
            if walk.stopped or (walk.first_start is not None and walk.first_start >= position):
                break
        else:
            walk.finish()
        if walk.first_start is not None and walk.first_start >= position:
            # What the page begins with is the rest of a record that began before `position`.
            return walk.first_start
        end = _end_below(walk, limit)
        return end if end is not None and end >= position else None

    def tail(self, start: int, end: int) -> Tail:
        """Of the WAL [start, end), from its end backwards; `start` a segment's start."""
        first = max(start, segment_start(end - 1, self.kept.line.segment_bytes))
        size_bytes = _TAIL_BYTES
        while True:
            begin = max(first, end - size_bytes)
            begin -= begin % WAL_PAGE_BYTES
            marks, walk = self._walk(begin, end)
            last_time = max((mark.time for mark in marks if mark.time is not None), default=None)
            xacts = [mark for mark in marks if mark.kind in XACT_ENDS and mark.time is not None]
            found_end = _end_below(walk, end)
            if xacts:
                return Tail(found_end or Lsn(end), xacts[-1].time, last_time)
            if begin == first:
                return self._tail_by_segments(start, first, found_end, last_time)
            size_bytes *= 8

    def _tail_by_segments(
        self, start: int, end: int, found_end: Lsn | None, last_time: int | None
    ) -> Tail:
        """From whole segment to whole segment; the index may know of them."""
        segment_bytes = self.kept.line.segment_bytes
        for begin in range(end - segment_bytes, start - 1, -segment_bytes):
            if found_end is None:
                # One record filled all that comes after.
                found_end = self._walk(begin, begin + segment_bytes)[1].end
            found = self.kept.last_commit_in(self.history, begin, begin + segment_bytes)
            if found is not None:
                latest = max(last_time or found.time, found.time)
                return Tail(found_end or found.end_lsn, found.time, latest)
        return Tail(found_end or Lsn(start), None, last_time)

    def _walk(self, start: int, end: int) -> tuple[list[Mark], RecordWalk]:
        return marks_in(self.kept.pieces(self.history, start, end), self.kept.line, start)


def _end_below(walk: RecordWalk, limit: int) -> Lsn | None:
    """End of the last record that is whole below `limit`, up to where WAL was walked."""
    if walk.end is not None and walk.end > limit:
        # A segment switch without all of its padding.
        return walk.last_start
    return walk.end
