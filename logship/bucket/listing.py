"""What a listing says of an instance's WAL.  No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from logship.bucket.keys import Keys, Place
from logship.objects import ObjectInfo
from logship.wal import parse_segment_name


class Item(NamedTuple):
    """An object of WAL, by its key alone: its end is not known before it is opened."""

    place: Place
    """Of a finished segment: its start."""
    is_segment: bool
    size_bytes: int
    """As stored; 0: a marker."""
    key: str
    modified_at: float = 0.0
    """By the store's clock."""

    @property
    def order(self) -> tuple[int, int, bool, int]:
        """As the WAL is; a finished segment before the small objects of the same place."""
        return (self.place.timeline, self.place.lsn, not self.is_segment, self.place.step)


def items_in(infos: Iterable[ObjectInfo], keys: Keys, segment_bytes: int) -> Iterator[Item]:
    """The WAL among listed objects, as it comes.  What is no WAL is left out: others may put
    what they like beside it."""
    for info in infos:
        try:
            place, is_segment = _place_of(info.key, keys, segment_bytes)
        except ValueError:
            continue
        yield Item(place, is_segment, info.size_bytes, info.key, info.modified_at)


def items_of(infos: Iterable[ObjectInfo], keys: Keys, segment_bytes: int) -> list[Item]:
    """The same, in order."""
    return sorted(items_in(infos, keys, segment_bytes), key=lambda item: item.order)


def _place_of(key: str, keys: Keys, segment_bytes: int) -> tuple[Place, bool]:
    if key.startswith(keys.all_wal):
        return Place.parse(key.removeprefix(keys.all_wal)), False
    timeline, lsn = parse_segment_name(key.rpartition("/")[2], segment_bytes)
    if key != keys.segment(timeline, lsn, segment_bytes):
        raise ValueError(f"not a segment's key: {key!r}")
    return Place(timeline, lsn), True
