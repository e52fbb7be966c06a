"""Seeds in a bucket: which one can be recovered.  Blocking."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from applier.receivers import Held
from applier.receivers.bucket.contents import Contents
from applier.receivers.bucket.inventory import has_whole
from logship.bucket.listing import Item
from logship.bucket.seed_archive import SeedInfo, list_seeds
from logship.bucket.wal_objects import Marker
from logship.identity import Profile
from logship.lsn import Lsn, Position
from logship.wal import segment_start

Leads = Callable[[Position, Position], bool]
"""Whether another store has all WAL from a position, a segment's start, to another."""


class Loss(NamedTuple):
    """A seed that is complete, and whose chain would cut off a standby."""

    seed: SeedInfo
    end: Position
    """Its WAL does not reach this, and so far the standby may have to be recovered."""


class Choice(NamedTuple):
    seed: SeedInfo | None
    """The newest one that can be recovered; None: there is none."""
    refused: Loss | None
    """The newest one that can be recovered, at a loss."""


def newest_usable(
    contents: Contents,
    profile: Profile,
    held: Held | None,
    *,
    elsewhere: Leads | None = None,
    marker: Marker | None = None,
    avoid: Collection[str] = (),
) -> Choice:
    """The newest complete seed that can be recovered.

    held: what the store has.  marker: the one that it names, or else, as that may never be
    complete, one behind it.  avoid: ids that were tried and failed; one of them is taken where
    there is no other.
    """
    seeds = list_seeds(contents.store, contents.keys, contents.identities, skip_sealed=True)
    if marker is not None:
        named = [seed for seed in seeds if seed.begin.seed_id == marker.seed]
        behind = (marker.timeline, marker.lsn)
        later = [seed for seed in seeds if (seed.timeline, seed.start_lsn) >= behind]
        seeds = [seed for seed in later if seed not in named] + named
    if not seeds:
        return Choice(None, None)
    segment_bytes = profile.wal_segment_size
    wal = _Wal(contents, contents.all_items(segment_bytes), segment_bytes, held, elsewhere)
    refused: Loss | None = None
    second: SeedInfo | None = None
    for seed in reversed(seeds):
        if not wal.makes_consistent(seed):
            continue
        loss = wal.loss_by(seed)
        if loss is not None:
            refused = refused or Loss(seed, loss)
        elif seed.begin.seed_id not in avoid:
            return Choice(seed, refused)
        else:
            second = second or seed
    return Choice(second, refused)


class _Wal:
    """Where the WAL of seeds may come from."""

    def __init__(
        self,
        contents: Contents,
        items: Sequence[Item],
        segment_bytes: int,
        held: Held | None,
        elsewhere: Leads | None,
    ) -> None:
        self._contents = contents
        self._items = items
        self._segment_bytes = segment_bytes
        self._held = held
        self._elsewhere = elsewhere

    def makes_consistent(self, seed: SeedInfo) -> bool:
        """Whether the WAL up to the seed's end is in the bucket, or in a store."""
        start = self._start_of(seed)
        if self._held is not None and self._held.has_from(start):
            return True
        if self._has_whole(seed, start):
            return True
        end = Position(seed.timeline, seed.end_lsn)
        return self._elsewhere is not None and self._elsewhere(start, end)

    def _has_whole(self, seed: SeedInfo, start: Position) -> bool:
        items, size = self._items, self._segment_bytes
        return has_whole(items, seed.timeline, start.lsn, seed.end_lsn, size) and not any(
            _is_gap(self._contents, item)
            for item in items
            if item.place.timeline == seed.timeline
            and start.lsn < item.place.lsn < seed.end_lsn
            and not item.size_bytes
        )

    def loss_by(self, seed: SeedInfo) -> Position | None:
        """To where a standby needs WAL that the seed's chain would set aside, and that does not
        come again; None: it comes, or nothing is set aside."""
        start = self._start_of(seed)
        end = self._held.needed_up_to(start) if self._held is not None else None
        if end is None or leads(self._contents, self._items, start, end, self._segment_bytes):
            return None
        return None if self._elsewhere is not None and self._elsewhere(start, end) else end

    def _start_of(self, seed: SeedInfo) -> Position:
        return Position(seed.timeline, segment_start(seed.start_lsn, self._segment_bytes))


def leads(
    contents: Contents, items: Sequence[Item], start: Position, end: Position, segment_bytes: int
) -> bool:
    """Whether all WAL from `start`, where a segment does, to `end` is among `items`.

    A finished segment before the last is taken to be whole; other objects say themselves how far
    they go.
    """
    here = start
    for item in items:
        timeline, lsn, _ = item.place
        behind = Position(timeline, Lsn(segment_start(lsn, segment_bytes) + segment_bytes))
        if here >= end:
            break
        if not item.size_bytes or behind <= here or timeline < here.timeline:
            continue
        if lsn > here.lsn:
            return False
        if item.is_segment and behind <= end:
            here = behind
        else:
            head = contents.head(item)
            reached = head.end_lsn if head is not None else 0
            here = max(here, Position(timeline, Lsn(reached)))
    return here >= end


def _is_gap(contents: Contents, item: Item) -> bool:
    head = contents.head(item)
    return head is not None and head.marker is not None and head.marker.kind == "gap"
