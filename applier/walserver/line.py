"""One line of descent: which timelines a standby may follow, and where their bytes are.

The line is the descent of the newest timeline of one run of WAL.  A timeline on it other than
the newest ended where the next one forked off.  A history file without WAL of its timeline
changes nothing: it may be of a branch that this cluster never followed.

There is one run as a rule.  Another one is what an earlier seed's chain had when WAL got lost
between it and the next seed's: its standby streams to its end and no further, along its own
line, whatever timelines came after the gap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from applier.walserver.source import Run, WalSource
from logship.lsn import Lsn
from logship.wal import History, segment_start


class Fork(NamedTuple):
    """Where a timeline ended on the line, and the timeline that follows it."""

    end_lsn: Lsn
    next_timeline: int


class Line:
    """The line of `run` as it is now."""

    def __init__(
        self, run: Run, histories: Mapping[int, History], segment_bytes: int, *, grows: bool
    ) -> None:
        self.end = run.end
        """End of the run, on the line's newest timeline."""
        self.grows = grows
        """Whether more may be written at `end`."""
        self._run = run
        self._segment_bytes = segment_bytes
        timeline = self.end.timeline
        self._history = histories.get(timeline, History(timeline, ()))

    def has(self, timeline: int) -> bool:
        return self._history.contains(timeline)

    def fork_of(self, timeline: int) -> Fork | None:
        """None for the newest timeline and for one that is not on the line."""
        end = self._history.end_of(timeline)
        if end is None:
            return None
        successor = self._history.successor_of(timeline)
        return None if successor is None else Fork(end, successor)

    def forks(self) -> Iterator[tuple[int, Fork]]:
        """Each timeline that ended and where, oldest first."""
        for entry in self._history.ancestors:
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
            extent = self._run.extent_of(timeline)
            if extent is not None and extent[0] <= lsn < extent[1]:
                return timeline, extent[1] if limit is None else min(extent[1], limit)
            if fork is None:
                return None
            if lsn < segment_start(fork.end_lsn, self._segment_bytes):
                return None
            timeline = fork.next_timeline

    def reaches(self, timeline: int, lsn: Lsn) -> bool:
        """Whether the run's own bytes of `timeline` hold `lsn`, end there, or will get there."""
        extent = self._run.extent_of(timeline)
        if extent is None or lsn < extent[0]:
            return False
        return lsn <= extent[1] or (self.grows and timeline == self.end.timeline)

    def serves(self, timeline: int, lsn: Lsn) -> bool:
        """Whether a standby that has `timeline` up to `lsn` gets what it needs next, now or
        once it is written; the next may be a newer timeline."""
        if not self.has(timeline):
            return False
        fork = self.fork_of(timeline)
        if fork is not None and lsn >= fork.end_lsn:
            return True
        return self.reaches(timeline, lsn) or self.locate(timeline, lsn) is not None


class Lines:
    """The lines of a source, made anew only when its WAL has changed: whoever serves a standby
    asks several times for every message."""

    def __init__(self, source: WalSource) -> None:
        self._source = source
        self._shape: object = None
        self._lines: list[Line] = []

    def newest(self) -> Line | None:
        """The line that grows; None before there is any WAL."""
        lines = self._now()
        return lines[0] if lines else None

    def at(self, timeline: int, lsn: Lsn) -> Line | None:
        """The line that a standby at `lsn` of `timeline` follows; None: no WAL here is for it.

        A run that holds the place itself comes before a newer one that only descends from it.
        """
        lines = self._now()
        for line in lines:
            if line.has(timeline) and line.reaches(timeline, lsn):
                return line
        return next((line for line in lines if line.serves(timeline, lsn)), None)

    def _now(self) -> list[Line]:
        source = self._source
        shape = source.shape()
        if shape != self._shape:
            histories, segment_bytes = source.histories(), source.line.segment_bytes
            self._lines = [
                Line(run, histories, segment_bytes, grows=number == 0)
                for number, run in enumerate(source.runs())
            ]
            self._shape = shape
        return self._lines
