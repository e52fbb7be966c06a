"""The WAL in a bucket: what a listing says is there, and fetching it.

Built from keys and sizes alone, as far as they tell: an object goes to where the next begins if
that is in the same segment or at its end, and a marker has no bytes.  Of the others the head is
asked for.  What an object really holds is checked when it is fetched.  All of it blocks.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

import structlog

from applier.restore.intervals import Interval, union
from logship.bucket.keys import Place
from logship.bucket.listing import Item, items_in
from logship.bucket.reading import Bucket
from logship.bucket.wal_objects import Head, damaged, read_head, unpack
from logship.lsn import Lsn
from logship.wal import (
    History,
    WalLine,
    parse_history,
    segment_end,
    segment_start,
)

_HEADS_AT_A_TIME: Final = 8
_log = structlog.get_logger(__name__)


class WalObject(NamedTuple):
    """A span of WAL that the bucket holds, in one segment."""

    timeline: int
    start: int
    end: int
    key: str
    modified_at: float
    """By the bucket's clock: all that is in it was written before, give or take the clocks."""


class BucketWal:
    """What one listing of one incarnation found.  Made by `look`."""

    def __init__(self, bucket: Bucket, line: WalLine) -> None:
        self.bucket = bucket
        self.line = line
        self.objects: dict[int, list[WalObject]] = {}
        """By timeline, by where they begin; finished segments in one object come first."""
        self.histories: dict[int, History] = {}
        self.history_contents: dict[int, bytes] = {}
        self.complete_until: float | None = None
        """The shipper's clock when it made the newest object of which it said that it held all
        that the primary had flushed; None: none said so."""
        self.complete_to = (0, 0)
        """(timeline, LSN): the end of that object."""

    @classmethod
    def look(cls, bucket: Bucket, line: WalLine) -> BucketWal:
        """List what is there.  Raises LogshipError: of the store, OBJECT_DAMAGED."""
        found = cls(bucket, line)
        found._take_histories()
        spans = found._list(bucket.keys.all_wal)
        segments = found._list(bucket.keys.all_segments)
        for timeline in sorted(spans.keys() | segments.keys()):
            objects = [found._segment(one) for one in segments.get(timeline, [])]
            objects += found._spans(spans.get(timeline, []))
            found.objects[timeline] = sorted(objects, key=lambda one: (one.start, -one.end))
        return found

    def intervals(self, timeline: int) -> list[Interval]:
        return union(Interval(one.start, one.end) for one in self.objects.get(timeline, []))

    def covering(self, timeline: int, lsn: int) -> WalObject | None:
        """The object to read `lsn` from: the one that goes furthest."""
        objects = self.objects.get(timeline, [])
        segment: int = segment_start(lsn, self.line.segment_bytes)
        first = bisect_left(objects, int(segment), key=lambda one: one.start)
        past = bisect_right(objects, lsn, key=lambda one: one.start)
        fitting = (one for one in objects[first:past] if lsn < one.end)
        return max(fitting, key=lambda one: one.end, default=None)

    def fetch(self, one: WalObject) -> bytes:
        """Its bytes.  An object that was joined into its segment's since the listing is taken
        from there.  Raises LogshipError: of the store, IDENTITY_MISSING, OBJECT_DAMAGED."""
        raw = self._get(one)
        if raw is None:
            segment = segment_start(one.start, self.line.segment_bytes)
            end = segment_end(one.start, self.line.segment_bytes)
            key = self.bucket.keys.segment(one.timeline, segment, self.line.segment_bytes)
            joined = self._get(WalObject(one.timeline, segment, end, key, one.modified_at))
            if joined is None:
                raise damaged(
                    self.bucket.where(one.key), "it was there a while ago, and is not any more"
                )
            raw = joined[one.start - segment : one.end - segment]
        return raw

    def _get(self, one: WalObject) -> bytes | None:
        where = self.bucket.where(one.key)
        fetched = self.bucket.store.get(one.key)
        if fetched is None:
            return None
        head = read_head(fetched.metadata, Place(one.timeline, Lsn(one.start)), where)
        body = self.bucket.identities.open(fetched.data, where)
        raw = unpack(body, head, self.line.segment_bytes, where)
        if len(raw) < one.end - one.start:
            missing = Lsn(one.start + len(raw))
            raise damaged(where, f"it ends at {missing}; WAL is missing up to {Lsn(one.end)}")
        return raw

    # --- looking --------------------------------------------------------------------------

    def _take_histories(self) -> None:
        store, keys = self.bucket.store, self.bucket.keys
        for info in store.listing(keys.all_histories):
            try:
                timeline = keys.timeline_of_history(info.key)
            except ValueError:
                _log.warning("not a history's key", key=info.key)
                continue
            content = self.bucket.history(timeline)
            self.histories[timeline] = parse_history(timeline, content)
            self.history_contents[timeline] = content

    def _list(self, prefix: str) -> dict[int, list[Item]]:
        """By timeline."""
        found: dict[int, list[Item]] = defaultdict(list)
        listed = self.bucket.store.listing(prefix)
        for each in items_in(listed, self.bucket.keys, self.line.segment_bytes):
            found[each.place.timeline].append(each)
        return found

    def _segment(self, one: Item) -> WalObject:
        place, end = one.place, segment_end(one.place.lsn, self.line.segment_bytes)
        return WalObject(place.timeline, place.lsn, end, one.key, one.modified_at)

    def _spans(self, listed: list[Item]) -> Iterator[WalObject]:
        """Objects of one timeline, with their ends.  Markers have no bytes."""
        listed.sort(key=lambda one: one.place)
        unknown = [
            one
            for number, one in enumerate(listed)
            if one.size_bytes and self._end_by_next(listed, number) is None
        ]
        heads = self._heads(unknown)
        for number, one in enumerate(listed):
            if not one.size_bytes:
                continue
            end = self._end_by_next(listed, number)
            if end is None:
                head = heads.get(one.key)
                if head is None:
                    continue  # removed since the listing
                end = head.end_lsn
                self._note_completeness(head)
            yield WalObject(one.place.timeline, one.place.lsn, end, one.key, one.modified_at)

    def _end_by_next(self, listed: list[Item], number: int) -> int | None:
        """Where an object ends, by what stands behind it; None where that does not tell."""
        if number + 1 == len(listed):
            return None
        start, following = listed[number].place.lsn, listed[number + 1].place.lsn
        return (
            following if start < following <= segment_end(start, self.line.segment_bytes) else None
        )

    def _heads(self, wanted: list[Item]) -> dict[str, Head]:
        if not wanted:
            return {}
        with ThreadPoolExecutor(_HEADS_AT_A_TIME, thread_name_prefix="heads") as pool:
            heads = pool.map(self._head, wanted)
            return {one.key: head for one, head in zip(wanted, heads, strict=True) if head}

    def _head(self, one: Item) -> Head | None:
        described = self.bucket.store.describe(one.key)
        if described is None:
            return None
        where = self.bucket.where(one.key)
        return read_head(described.metadata, one.place, where)

    def _note_completeness(self, head: Head) -> None:
        end = (head.timeline, int(head.end_lsn))
        said = head.sent_at and (head.flush_timeline, head.flush_lsn) <= end
        if said and end > self.complete_to:
            self.complete_until, self.complete_to = head.sent_at, end
