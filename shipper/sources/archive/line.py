"""What to read next from an outbox, and what may be removed from it.  No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from logship.lsn import Lsn, Position
from logship.wal import History, segment_end, segment_name, segment_start
from shipper.sources.archive.index import Index
from shipper.sources.archive.names import (
    Partial,
    Segment,
    name_of,
    partial_name,
)
from shipper.sources.plan import plan_successor

Histories = Mapping[int, History]


class Piece(NamedTuple):
    """WAL to be shipped as `timeline`'s: from `start_lsn` up to `end_lsn`, in one segment.

    `names`: the files that have it, the one to be tried first, first.  Only what stands below
    `end_lsn` in them is meant.
    """

    timeline: int
    start_lsn: Lsn
    end_lsn: Lsn
    names: tuple[str, ...]


def choose_line(timeline: int, histories: Histories, preferred: int) -> History | None:
    """The line of descent that goes through `timeline`; None on timeline 1 while it goes on.

    `preferred`: the timeline that the primary is on, if that is known (0: not).  Nothing else
    is followed then: a clone that was promoted for a trial may archive into the same outbox.
    Until the history of the primary's timeline is there, `timeline` goes on.  With no primary
    it is the newest line.
    """
    if preferred:
        history = histories.get(preferred)
        if history is not None and history.contains(timeline):
            return history
        return histories.get(timeline)
    for newest in sorted(histories, reverse=True):
        if histories[newest].contains(timeline):
            return histories[newest]
    return None


def next_piece(position: Position, line: History | None, segment_bytes: int) -> Piece:
    """What comes after `position` on `line`.

    Where a timeline ended inside a segment, its last bytes are in its `.partial`, in a whole
    segment if the old server went on, and in the first segment of each timeline that began in
    that segment: all have the same bytes up to the switch point.
    """
    position = _over_switches(position, line, segment_bytes)
    timeline, start = position
    whole_end = segment_end(start, segment_bytes)
    own = segment_name(timeline, start, segment_bytes)
    end = line.end_of(timeline) if line is not None else None
    if line is None or end is None or end >= whole_end:
        return Piece(timeline, start, whole_end, (own,))
    names = [own, partial_name(timeline, start, segment_bytes)]
    began = segment_start(start, segment_bytes)
    successor = line.successor_of(timeline)
    while successor is not None:
        names.append(segment_name(successor, start, segment_bytes))
        ended = line.end_of(successor)
        if ended is None or segment_start(ended, segment_bytes) != began:
            break
        names.append(partial_name(successor, start, segment_bytes))
        successor = line.successor_of(successor)
    return Piece(timeline, start, end, tuple(names))


def _over_switches(position: Position, line: History | None, segment_bytes: int) -> Position:
    """`position`, or where the line goes on if its timeline has ended there."""
    while line is not None:
        end = line.end_of(position.timeline)
        if end is None or position.lsn < end:
            break
        following = plan_successor(position.timeline, line, segment_bytes)
        position = Position(following.timeline, following.lsn)
    return position


def is_later_there(piece: Piece, line: History | None, index: Index) -> bool:
    """Whether the outbox has WAL that comes after `piece` on its line."""
    last = index.segments.last(piece.timeline)
    end = line.end_of(piece.timeline) if line is not None else None
    if last is not None and last > piece.start_lsn and (end is None or last < end):
        return True
    if line is None:
        return False
    return any(
        timeline > piece.timeline and line.contains(timeline)
        for timeline in index.segments.timelines()
    )


def covered_to(durable: Position, timeline: int, histories: Histories) -> Lsn:
    """Up to where WAL of `timeline` is durable, if `durable` is.  0: not at all.

    Of an ancestor that is up to the switch point: a new timeline's WAL is taken only after it.
    What an old server wrote past that is not on the line, and nobody has it.
    """
    if timeline == durable.timeline:
        return durable.lsn
    history = histories.get(durable.timeline)
    end = history.end_of(timeline) if history is not None else None
    return Lsn(0) if end is None else end


def removable(
    index: Index, durable: Position, histories: Histories, stops: Mapping[str, Lsn]
) -> Iterator[str]:
    """Names of the files all of whose meaning is durable, oldest WAL first.

    `stops`: where the base backups ended that the `.backup` files mark; one that is not known
    stays.  Histories stay: who comes to the far end anew needs them before any WAL.
    """
    size = index.segment_bytes
    for timeline in sorted(index.segments.timelines()):
        covered = covered_to(durable, timeline, histories)
        for start in index.segments.up_to(timeline, covered - size):
            yield name_of(Segment(timeline, start), size)
    for timeline in sorted(index.partials.timelines()):
        if timeline < durable.timeline:
            covered = covered_to(durable, timeline, histories)
            for start in index.partials.up_to(timeline, covered):
                yield name_of(Partial(timeline, start), size)
    for name, marker in sorted(index.backups.items()):
        stop = stops.get(name)
        if stop is not None and stop <= covered_to(durable, marker.timeline, histories):
            yield name


def past_the_switch(index: Index, durable: Position, histories: Histories) -> Iterator[str]:
    """Names of segments that hold, or should, what comes after their timeline's end.

    Only of timelines that `durable`'s descends from: of others nobody knows where they end.
    """
    size = index.segment_bytes
    history = histories.get(durable.timeline)
    if history is None:
        return
    for timeline in sorted(index.segments.timelines()):
        end = history.end_of(timeline)
        if end is not None:
            for start in index.segments.beyond(timeline, end - size):
                yield name_of(Segment(timeline, start), size)
