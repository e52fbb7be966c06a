"""Where to begin in what a listing says of an instance's WAL, and what is ahead.  No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from logship.bucket.keys import Place
from logship.bucket.listing import Item
from logship.lsn import Lsn, Position
from logship.wal import segment_start


def locate(items: Sequence[Item], position: Position, segment_bytes: int) -> Place | None:
    """Where to begin to read for one who holds all up to `position`.

    The place of the object that holds it, or of the last one before it: what is held already
    leads on to what is not.  None: nothing stands there or before.
    """
    wanted = Place(position.timeline, position.lsn)
    before = [item for item in items if item.place._replace(step=0) <= wanted]
    if not before:
        return None
    start = segment_start(position.lsn, segment_bytes)
    for item in before:
        exact = not item.is_segment and item.place == wanted
        finished = item.is_segment and item.place == (position.timeline, start, 0)
        if exact or finished:
            return wanted
    last = before[-1]
    # Markers may stand one behind the other at one place: begin with the first.
    return next(i.place for i in before if i.place[:2] == last.place[:2])


def ahead_of(items: Sequence[Item], place: Place, segment_bytes: int) -> list[Item]:
    """What to fetch from `place` on, in order: finished segments, the markers, and the small
    objects of segments that are not finished."""
    finished = {item.place[:2] for item in items if item.is_segment}

    def segment_of(item: Item) -> tuple[int, int]:
        return item.place.timeline, segment_start(item.place.lsn, segment_bytes)

    here = (place.timeline, segment_start(place.lsn, segment_bytes))
    return [
        item
        for item in items
        if (item.place >= place or (item.is_segment and segment_of(item) == here))
        and (item.is_segment or not item.size_bytes or segment_of(item) not in finished)
    ]


def beyond(items: Iterable[Item], position: Position) -> Item | None:
    """The first object that starts behind `position`; None: there is none."""
    here = Place(position.timeline, position.lsn)
    later = (item for item in items if item.place[:2] > here[:2])
    return next(later, None)


def has_whole(
    items: Iterable[Item], timeline: int, start_lsn: int, end_lsn: int, segment_bytes: int
) -> bool:
    """Whether each segment that has bytes of [start_lsn, end_lsn) begins with an object.

    Objects never cross a segment's end, so one that lacks its first lacks WAL; whether one in
    its middle is missing shows when it is read.
    """
    starts = {item.place.lsn for item in items if item.place.timeline == timeline}
    first = segment_start(start_lsn, segment_bytes)
    return all(Lsn(lsn) in starts for lsn in range(first, max(end_lsn, first + 1), segment_bytes))
