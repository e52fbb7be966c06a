"""Which files an outbox holds, sorted, in memory.  No I/O.

An outbox may hold 200,000 segments: nothing here looks at all of them but `replace`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from logship.lsn import Lsn
from shipper.sources.archive.names import (
    BackupMarker,
    Partial,
    Segment,
    TimelineHistory,
    is_passing,
    parse,
)


class Starts:
    """Start positions by timeline, each timeline's in order."""

    def __init__(self) -> None:
        self._by_timeline: dict[int, list[Lsn]] = {}

    def add(self, timeline: int, start: Lsn) -> None:
        starts = self._by_timeline.setdefault(timeline, [])
        place = bisect_left(starts, start)
        if place == len(starts) or starts[place] != start:
            starts.insert(place, start)

    def extend(self, places: Iterable[tuple[int, Lsn]]) -> None:
        """Many at once, in any order, into an empty one."""
        found: dict[int, set[Lsn]] = {}
        for timeline, start in places:
            found.setdefault(timeline, set()).add(start)
        self._by_timeline = {timeline: sorted(starts) for timeline, starts in found.items()}

    def discard(self, timeline: int, start: Lsn) -> None:
        starts = self._by_timeline.get(timeline, [])
        place = bisect_left(starts, start)
        if place < len(starts) and starts[place] == start:
            del starts[place]
            if not starts:
                del self._by_timeline[timeline]

    def __contains__(self, place: tuple[int, Lsn]) -> bool:
        timeline, start = place
        starts = self._by_timeline.get(timeline, [])
        index = bisect_left(starts, start)
        return index < len(starts) and starts[index] == start

    def __len__(self) -> int:
        return sum(map(len, self._by_timeline.values()))

    def timelines(self) -> Iterator[int]:
        yield from self._by_timeline

    def up_to(self, timeline: int, last_start: int) -> list[Lsn]:
        """Those of `timeline` that start at `last_start` or below, in order."""
        starts = self._by_timeline.get(timeline, [])
        return starts[: bisect_right(starts, last_start)]

    def beyond(self, timeline: int, last_start: int) -> list[Lsn]:
        """Those of `timeline` that start above `last_start`, in order."""
        starts = self._by_timeline.get(timeline, [])
        return starts[bisect_right(starts, last_start) :]

    def last(self, timeline: int) -> Lsn | None:
        starts = self._by_timeline.get(timeline)
        return starts[-1] if starts else None


class Index:
    """What is known to be in the outbox.  A name may be there and its file not whole yet."""

    def __init__(self, segment_bytes: int) -> None:
        self.segment_bytes = segment_bytes
        self.segments = Starts()
        self.partials = Starts()
        self.histories: set[int] = set()
        self.backups: dict[str, BackupMarker] = {}
        self.strangers: set[str] = set()
        """Names that no archiver gives; left alone."""

    def add(self, name: str) -> bool:
        """Note `name`.  False: it is none that means anything."""
        match parse(name, self.segment_bytes):
            case Segment(timeline, start):
                self.segments.add(timeline, start)
            case Partial(timeline, start):
                self.partials.add(timeline, start)
            case TimelineHistory(timeline):
                self.histories.add(timeline)
            case BackupMarker() as marker:
                self.backups[name] = marker
            case None:
                if not is_passing(name):
                    self.strangers.add(name)
                return False
        return True

    def discard(self, name: str) -> None:
        match parse(name, self.segment_bytes):
            case Segment(timeline, start):
                self.segments.discard(timeline, start)
            case Partial(timeline, start):
                self.partials.discard(timeline, start)
            case TimelineHistory(timeline):
                self.histories.discard(timeline)
            case BackupMarker():
                self.backups.pop(name, None)
            case None:
                self.strangers.discard(name)

    def replace(self, names: Iterable[str]) -> None:
        """`names` are all that is there."""
        self.segments, self.partials = Starts(), Starts()
        self.histories, self.backups, self.strangers = set(), {}, set()
        segments: list[Segment] = []
        for name in names:
            file = parse(name, self.segment_bytes)
            if isinstance(file, Segment):
                segments.append(file)
            else:
                self.add(name)
        self.segments.extend(segments)

    def __contains__(self, name: str) -> bool:
        match parse(name, self.segment_bytes):
            case Segment() as place:
                return place in self.segments
            case Partial() as place:
                return place in self.partials
            case TimelineHistory(timeline):
                return timeline in self.histories
            case BackupMarker():
                return name in self.backups
            case None:
                return name in self.strangers

    def __len__(self) -> int:
        return len(self.segments) + len(self.partials) + len(self.histories) + len(self.backups)

    def newest_timeline(self) -> int:
        """The highest timeline that any file speaks of; 0 for none."""
        seen = {*self.segments.timelines(), *self.partials.timelines(), *self.histories}
        return max(seen, default=0)

    def end_of(self, timeline: int) -> Lsn | None:
        """Where the newest segment of `timeline` ends."""
        last = self.segments.last(timeline)
        return None if last is None else Lsn(last + self.segment_bytes)
