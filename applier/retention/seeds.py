"""Retention of an archive of seeds, in a bucket or a directory.  Blocks."""

from __future__ import annotations

from collections.abc import Collection

from applier.retention.plan import Group, Seed, SeedPlan, is_given_up, plan_seeds
from applier.retention.report import Part
from logship.bucket.keys import Keys, SeedName
from logship.bucket.seed_archive import (
    PLAIN,
    Opens,
    list_seeds,
    remove_seed,
    unfinished_seeds,
)
from logship.objects import NotDeleted, ObjectStore


def retain_seeds(
    store: ObjectStore,
    keys: Keys,
    identities: Opens = PLAIN,
    *,
    keep: int,
    window_start: float | None,
    now: float,
    writing: str = "",
    in_use: Collection[str] = (),
    dry_run: bool,
) -> tuple[Part, list[Seed]]:
    """Remove what `plan_seeds` lets go, and unfinished seeds that nobody works on.

    writing: the id of a seed that is being made, whose parts stay.  in_use: as `plan_seeds` has
    it.  Returns what was decided,
    and the complete seeds that are there afterwards, those included that the store did not let
    go.  Raises LogshipError: of the store, IDENTITY_MISSING.
    """
    plan = plan_seeds(
        seeds_of(store, keys, identities), keep=keep, window_start=window_start, in_use=in_use
    )
    given_up = [
        name
        for name, added_at in unfinished_seeds(store, keys).items()
        if name.seed_id != writing and is_given_up(added_at, now)
    ]
    removed = [*plan.removed, *(_unfinished(name) for name in given_up)]
    if dry_run:
        return Part(removed, plan.kept), plan.keep
    refused, stayed = _remove(store, keys, plan)
    for name in given_up:
        refused += remove_seed(store, keys, name)
    return Part(removed, plan.kept, tuple(refused)), [*stayed, *plan.keep]


def seeds_of(store: ObjectStore, keys: Keys, identities: Opens = PLAIN) -> list[Seed]:
    """The complete seeds as the plan takes them."""
    return [
        Seed(str(info.name), info.timeline, info.start_lsn, info.stored_bytes, info.finished_at)
        for info in list_seeds(store, keys, identities)
    ]


def _unfinished(name: SeedName) -> Group:
    return Group(str(name), str(name), 1, 0, "it is unfinished, and nobody goes on with it")


def _remove(store: ObjectStore, keys: Keys, plan: SeedPlan) -> tuple[list[NotDeleted], list[Seed]]:
    refused: list[NotDeleted] = []
    stayed: list[Seed] = []
    for seed in plan.remove:
        kept = remove_seed(store, keys, SeedName.parse(seed.name))
        refused += kept
        if any(each.key == keys.seed(SeedName.parse(seed.name), "end") for each in kept):
            stayed.append(seed)  # whole, and so is its need of WAL
    return refused, stayed
