"""Retention of one incarnation's part of a bucket.  Blocks; lists the bucket."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

from applier.retention.plan import Group, Need, Piece, Seed, needs_of_seeds, plan_wal
from applier.retention.report import Part
from applier.retention.seeds import retain_seeds
from logship.bucket.keys import Keys
from logship.bucket.listing import Item, items_in
from logship.bucket.seed_archive import PLAIN, Opens
from logship.objects import NotDeleted, ObjectStore
from logship.wal import segment_end, segment_start

_DELETE_KEYS: Final = 1000


class Rules(NamedTuple):
    """What is wanted of a bucket."""

    keep_seeds: int
    window_start: float
    now: float


class BucketParts(NamedTuple):
    seeds: Part
    wal: Part


def retain_bucket(
    store: ObjectStore,
    keys: Keys,
    segment_bytes: int,
    rules: Rules,
    *,
    needs: Sequence[Need] = (),
    in_use: Collection[str] = (),
    identities: Opens = PLAIN,
    dry_run: bool,
) -> BucketParts:
    """Remove what neither the window, nor a seed that stays, nor `needs` needs.

    needs: of those who read the bucket, as far as they are known.  in_use: as `plan_seeds` has
    it.  Seeds go first, so that what
    the store does not let go of them keeps its WAL.  Without a seed, and without `needs`, no WAL
    goes.  Profiles stay: they are small, and it is not known which WAL names them.  Raises
    LogshipError: of the store, IDENTITY_MISSING.
    """
    seeds_part, seeds = retain_seeds(
        store,
        keys,
        identities,
        keep=rules.keep_seeds,
        window_start=rules.window_start,
        now=rules.now,
        in_use=in_use,
        dry_run=dry_run,
    )
    plan = plan_wal(
        _pieces(store, keys, segment_bytes),
        [*needs_of_seeds(seeds), *needs],
        window_start=rules.window_start,
        now=rules.now,
    )
    going = [piece.name for piece in plan.remove]
    histories = _histories_to_go(store, keys, plan.kept, seeds, needs)
    refused: list[NotDeleted] = []
    if not dry_run:
        refused = _deleted(store, [*going, *histories])
    removed = list(plan.removed)
    if histories:
        why = "no WAL of its timeline is left"
        removed.append(Group(histories[0], histories[-1], len(histories), 0, why))
    return BucketParts(seeds_part, Part(removed, plan.kept, tuple(refused)))


def _pieces(store: ObjectStore, keys: Keys, segment_bytes: int) -> list[Piece]:
    segments = list(items_in(store.listing(keys.all_segments), keys, segment_bytes))
    whole = {(each.place.timeline, each.place.lsn) for each in segments}
    pieces = [_piece(each, segment_bytes) for each in segments]
    for each in items_in(store.listing(keys.all_wal), keys, segment_bytes):
        segment = (each.place.timeline, segment_start(each.place.lsn, segment_bytes))
        # A marker is in no segment: it stays for as long as the WAL around it.
        is_compacted = segment in whole and each.size_bytes > 0
        pieces.append(_piece(each, segment_bytes)._replace(is_compacted=is_compacted))
    return pieces


def _piece(each: Item, segment_bytes: int) -> Piece:
    timeline, lsn = each.place.timeline, int(each.place.lsn)
    # Where an object ends is not in its key: at the end of its segment at most.
    end = segment_end(lsn, segment_bytes)
    return Piece(each.key, timeline, lsn, end, each.size_bytes, each.modified_at)


def _histories_to_go(
    store: ObjectStore,
    keys: Keys,
    kept: Sequence[Group],
    seeds: Sequence[Seed],
    needs: Sequence[Need],
) -> list[str]:
    """A timeline's history goes when nothing that stays is of it or of an older timeline."""
    users = [int(_timeline_text(group.first), 16) for group in kept]
    users += [seed.timeline for seed in seeds] + [need.timeline for need in needs]
    if not users:
        return []
    going = []
    for each in store.listing(keys.all_histories):
        try:
            timeline = keys.timeline_of_history(each.key)
        except ValueError:
            continue  # not ours: left alone
        if timeline < min(users):
            going.append(each.key)
    return going


def _timeline_text(key: str) -> str:
    return key.split("/")[-2]


def _deleted(store: ObjectStore, names: Iterable[str]) -> list[NotDeleted]:
    refused: list[NotDeleted] = []
    remaining = iter(names)
    while batch := list(itertools.islice(remaining, _DELETE_KEYS)):
        refused += store.delete(batch)
    return refused
