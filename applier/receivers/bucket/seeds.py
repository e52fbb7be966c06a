"""Seeds in a bucket: which one can be recovered.  Blocking."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from applier.receivers.bucket.contents import Contents
from applier.receivers.bucket.inventory import has_whole
from logship.bucket.listing import Item
from logship.bucket.seed_archive import SeedInfo, list_seeds
from logship.identity import Profile
from logship.lsn import Position
from logship.wal import segment_start

Holds = Callable[[Position], bool]
"""Whether a store has all WAL from a position on, up to where it is."""


def newest_usable(
    contents: Contents,
    profile: Profile,
    holds: Holds,
    *,
    seed_id: str = "",
    avoid: Collection[str] = (),
) -> SeedInfo | None:
    """The newest complete seed that can be recovered; None: there is none.

    seed_id: this one and no other.  avoid: ids that were tried and failed; one of them is taken
    where there is no other.
    """
    seeds = [
        seed
        for seed in list_seeds(contents.store, contents.keys, contents.identities)
        if not seed_id or seed.begin.seed_id == seed_id
    ]
    if not seeds:
        return None
    segment_bytes = profile.wal_segment_size
    items = contents.all_items(segment_bytes)
    usable = [seed for seed in seeds if is_usable(contents, items, seed, segment_bytes, holds)]
    fresh = [seed for seed in usable if seed.begin.seed_id not in avoid]
    best = fresh or usable
    return best[-1] if best else None


def is_usable(
    contents: Contents, items: Sequence[Item], seed: SeedInfo, segment_bytes: int, holds: Holds
) -> bool:
    """Whether the WAL that makes the seed consistent is in the bucket, or in the store."""
    start = segment_start(seed.start_lsn, segment_bytes)
    if holds(Position(seed.timeline, start)):
        return True
    if not has_whole(items, seed.timeline, start, seed.end_lsn, segment_bytes):
        return False
    return not any(
        _is_gap(contents, item)
        for item in items
        if item.place.timeline == seed.timeline
        and start < item.place.lsn < seed.end_lsn
        and not item.size_bytes
    )


def _is_gap(contents: Contents, item: Item) -> bool:
    head = contents.head(item)
    return head is not None and head.marker is not None and head.marker.kind == "gap"
