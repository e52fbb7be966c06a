"""What a listing says of an instance's WAL.  No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from logship.bucket.keys import Keys, Place
from logship.lsn import Lsn, Position
from logship.objects import ObjectInfo
from logship.wal import parse_segment_name, segment_start


class Item(NamedTuple):
    """An object of WAL, by its key alone: its end is not known before it is opened."""

    place: Place
    """Of a finished segment: its start."""
    is_segment: bool
    size_bytes: int
    """As stored; 0: a marker."""
    key: str

    @property
    def order(self) -> tuple[int, int, bool, int]:
        """As the WAL is; a finished segment before the small objects of the same place."""
        return (self.place.timeline, self.place.lsn, not self.is_segment, self.place.step)


def items_of(infos: Iterable[ObjectInfo], keys: Keys, segment_bytes: int) -> list[Item]:
    """The WAL among listed objects, in order.  What is no WAL is left out."""
    found = []
    for info in infos:
        item = _item(info, keys, segment_bytes)
        if item is not None:
            found.append(item)
    return sorted(found, key=lambda item: item.order)


def _item(info: ObjectInfo, keys: Keys, segment_bytes: int) -> Item | None:
    try:
        if info.key.startswith(keys.all_wal):
            place = Place.parse(info.key.removeprefix(keys.all_wal))
            return Item(place, False, info.size_bytes, info.key)
        if info.key.startswith(keys.all_segments):
            name = info.key.removeprefix(keys.all_segments).rpartition("/")[2]
            timeline, lsn = parse_segment_name(name, segment_bytes)
            return Item(Place(timeline, lsn), True, info.size_bytes, info.key)
    except ValueError:
        return None
    return None


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
