"""All WAL that is kept of one incarnation, in the store and in the bucket, along one line of
descent.

On a line an LSN has one timeline only, so what is held along it is a set of LSN ranges.  A
timeline's first segment begins as a copy of its parent's last one, and stands in for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from applier.restore.bucket_wal import BucketWal, WalObject
from applier.restore.intervals import Interval, clip, holding, union
from applier.restore.spool import Spool
from applier.store import Store
from applier.store.commit_times import LastCommit, Segment, Times, last_commit
from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from logship.wal import History, WalLine, segment_end, segment_start


class Part(NamedTuple):
    """Bytes of one timeline's files that stand on the line, in one segment."""

    timeline: int
    start: int
    end: int
    fetched: WalObject | None
    """The object that has them; None: the store does."""


class Kept:
    """Reads it as one.  Its methods block; any thread may call them."""

    def __init__(
        self,
        line: WalLine,
        store: Store | None,
        bucket: BucketWal | None,
        spool: Spool | None,
        times: Times,
    ) -> None:
        """bucket and spool: both or none.  times: what is indexed already of the store."""
        self.line = line
        self.store = store
        self.bucket = bucket
        self._spool = spool
        self._times = dict(times)
        self.histories: dict[int, History] = {}
        self._contents: dict[int, bytes] = {}
        if bucket is not None:
            self.histories |= bucket.histories
            self._contents |= bucket.history_contents
        if store is not None:
            for timeline, history in store.histories().items():
                self.histories[timeline] = history
                content = store.history_content(timeline)
                assert content is not None
                self._contents[timeline] = content
        self._in_store = _held_by(store)
        self._held = {
            timeline: union(
                [
                    *self._in_store.get(timeline, []),
                    *(bucket.intervals(timeline) if bucket is not None else []),
                ]
            )
            for timeline in self._timelines()
        }

    def _timelines(self) -> list[int]:
        in_bucket = self.bucket.objects.keys() if self.bucket is not None else set()
        return sorted(self._in_store.keys() | in_bucket)

    @property
    def newest_timeline(self) -> int | None:
        """Of which there is WAL; None: there is none at all."""
        return max((tli for tli, held in self._held.items() if held), default=None)

    def history_of(self, timeline: int) -> History:
        """How `timeline` descends.  Raises LogshipError(HISTORY_MISSING)."""
        history = self.histories.get(timeline)
        if history is not None:
            return history
        if timeline == 1:
            return History(1, ())
        raise LogshipError(
            Code.HISTORY_MISSING,
            f"the history of timeline {timeline} is neither in the store nor in the bucket",
            "copy its .history file from where the primary has it, or take an older --timeline",
        )

    def history_content(self, timeline: int) -> bytes | None:
        return self._contents.get(timeline)

    def along(self, history: History) -> list[Interval]:
        """The LSNs of which the bytes on this line are held."""
        return union(
            each
            for timeline, begin, end in _stretches(history, self.line.segment_bytes)
            for each in clip(self._held.get(timeline, []), begin, end)
        )

    def parts(self, history: History, start: int, end: int) -> Iterator[Part]:
        """Where the line's bytes [start, end) are, in order, those of the store first.

        A part's timeline is that of the file: its own where that is held, else a successor's.
        Raises LogshipError(WAL_GAP) where a byte is not held.
        """
        stretches = list(_stretches(history, self.line.segment_bytes))
        while start < end:
            part = self._part_at(stretches, start, end)
            if part is None:
                raise LogshipError(Code.WAL_GAP, f"WAL from {Lsn(start)} on is not held")
            yield part
            start = part.end

    def served_parts(self, history: History, start: int, end: int) -> Iterator[Part]:
        """As `parts`; and where the line goes on in a newer timeline's files, these from the
        start of their first segment on, from where a standby asks for them."""
        stretches = {each[0]: each for each in _stretches(history, self.line.segment_bytes)}
        timeline = 0
        for part in self.parts(history, start, end):
            if timeline and part.timeline != timeline:
                stretch = stretches[part.timeline]
                lsn = stretch[1]
                while lsn < part.start:
                    copy = self._part_at([stretch], lsn, part.start)
                    if copy is None:
                        raise LogshipError(
                            Code.WAL_GAP, f"timeline {part.timeline} from {Lsn(lsn)} on is not held"
                        )
                    yield copy
                    lsn = copy.end
            timeline = part.timeline
            yield part

    def _part_at(self, stretches: list[tuple[int, int, int]], lsn: int, end: int) -> Part | None:
        stop = min(end, segment_end(lsn, self.line.segment_bytes))
        fitting = [(tli, limit) for tli, begin, limit in stretches if begin <= lsn < limit]
        # The own timeline's file first, then those that begin as its copy.
        for timeline, limit in fitting:
            for each in self._in_store.get(timeline, []):
                if each.start <= lsn < each.end:
                    return Part(timeline, lsn, min(stop, limit, each.end), None)
        for timeline, limit in fitting:
            one = self.bucket.covering(timeline, lsn) if self.bucket is not None else None
            if one is not None:
                return Part(timeline, lsn, min(stop, limit, one.end), one)
        return None

    def read(self, part: Part, lsn: int, max_bytes: int) -> bytes:
        """Bytes of a part from `lsn` on; an object is fetched first.

        Raises LogshipError: of the store, of the bucket, IDENTITY_MISSING, OBJECT_DAMAGED.
        """
        size_bytes = min(max_bytes, part.end - lsn)
        if part.fetched is None:
            assert self.store is not None
            return self.store.read(part.timeline, lsn, size_bytes)
        assert self._spool is not None
        return self._spool.read(part.fetched, lsn, size_bytes)

    def pieces(self, history: History, start: int, end: int) -> Iterator[bytes]:
        """The line's bytes [start, end).  Raises as `parts` and `read`."""
        for part in self.parts(history, start, end):
            lsn = part.start
            while lsn < part.end:
                piece = self.read(part, lsn, part.end - lsn)
                if not piece:
                    raise LogshipError(
                        Code.WAL_GAP, f"the WAL at {Lsn(lsn)} went away while it was read"
                    )
                yield piece
                lsn += len(piece)

    def last_commit_in(self, history: History, start: int, limit: int) -> LastCommit | None:
        """The last transaction's end in the segment that begins at `start`, below `limit`."""
        segment = self._indexed_segment(history, start, limit)
        if segment is not None and segment in self._times:
            return self._times[segment]

        def read(_timeline: int, lsn: int, max_bytes: int) -> bytes:
            return b"".join(self.pieces(history, lsn, min(limit, lsn + max_bytes)))

        found = last_commit(read, self.line, 0, start)
        if segment is not None:
            self._times[segment] = found
        return found

    def _indexed_segment(self, history: History, start: int, limit: int) -> Segment | None:
        """The index's name for it, if the line has all of that segment from one timeline."""
        end = segment_end(start, self.line.segment_bytes)
        timeline = history.timeline_at(end - 1)
        if limit < end or timeline != history.timeline_at(start):
            return None
        return timeline, start

    def holds(self, history: History, start: int, end: int) -> bool:
        return holding(self.along(history), start, end) is not None


def _held_by(store: Store | None) -> dict[int, list[Interval]]:
    found: dict[int, list[Interval]] = {}
    for run in store.runs() if store is not None else ():
        for timeline, extent in run.extents.items():
            found.setdefault(timeline, []).append(Interval(extent.start, extent.end))
    return {timeline: union(intervals) for timeline, intervals in found.items()}


def _stretches(history: History, segment_bytes: int) -> Iterator[tuple[int, int, int]]:
    """(timeline, start, end) of what each timeline's files have of the line, oldest first: from
    the start of the segment in which it forked off."""
    start = 0
    for timeline, end in history.ancestors:
        yield timeline, start, end
        start = segment_start(end, segment_bytes)
    yield history.timeline, start, 1 << 64
