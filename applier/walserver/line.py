"""One line of descent: which timelines a standby may follow, and where their bytes are.

The line is the descent of the newest timeline that has WAL here.  A timeline on it other
than the newest ended where the next one forked off.  A history file without WAL of its
timeline changes nothing: it may be of a branch that this cluster never followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from applier.walserver.source import WalSource
from logship.lsn import Lsn
from logship.wal import History, segment_start


class Fork(NamedTuple):
    """Where a timeline ended on the line, and the timeline that follows it."""

    end_lsn: Lsn
    next_timeline: int


class Line:
    """The line of `source` as it is at each call; empty before there is any WAL."""

    def __init__(self, source: WalSource) -> None:
        self._source = source

    def has(self, timeline: int) -> bool:
        history = self._history()
        return history is not None and history.contains(timeline)

    def fork_of(self, timeline: int) -> Fork | None:
        """None for the newest timeline and for one that is not on the line."""
        history = self._history()
        if history is None:
            return None
        end, successor = history.end_of(timeline), history.successor_of(timeline)
        return None if end is None or successor is None else Fork(end, successor)

    def forks(self) -> Iterator[tuple[int, Fork]]:
        """Each timeline that ended and where, oldest first."""
        history = self._history()
        for entry in history.ancestors if history is not None else ():
            fork = self.fork_of(entry.timeline)
            if fork is not None:
                yield entry.timeline, fork

    def locate(self, timeline: int, lsn: Lsn) -> tuple[int, Lsn] | None:
        """Which timeline's files have `timeline`'s byte at `lsn`, and up to where.

        A timeline's last, incomplete segment lives on in its successor's first one, which
        begins as its copy; bytes that arrived only there are read from there, as walsender's
        `WalSndSegmentOpen` does.  None: the byte is not here, or past the fork.
        """
        limit: Lsn | None = None
        while True:
            fork = self.fork_of(timeline)
            if fork is not None:
                limit = fork.end_lsn if limit is None else min(limit, fork.end_lsn)
            if limit is not None and lsn >= limit:
                return None
            end = self._source.end_of(timeline)
            if end is not None and end > lsn:
                return timeline, end if limit is None else min(end, limit)
            if fork is None:
                return None
            if lsn < segment_start(fork.end_lsn, self._source.line.segment_bytes):
                return None
            timeline = fork.next_timeline

    def _history(self) -> History | None:
        written = self._source.written
        if written is None:
            return None
        history = self._source.histories().get(written.timeline)
        return history if history is not None else History(written.timeline, ())
