"""What becomes of the record when a cluster takes another one's place.  No I/O.

`now` is in seconds since the epoch, as all times of the record are.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import msgspec

from applier.fleet.places import Volumes
from applier.operations.record import InstanceRecord, KeptIncarnation, kept_of
from logship.identity import Incarnation, Profile


def replaced(
    record: InstanceRecord,
    profile: Profile,
    *,
    volumes: Volumes,
    now: float,
    durable: str,
    has_standby: bool,
    for_promotion: bool = False,
    left: str = "",
) -> dict[str, Any]:
    """The changes that make the cluster of `profile` the instance's, and keep the one that it
    is.  What was kept of the cluster before is taken up again.

    volumes: where the new one's files go, unless there are some already.  durable: up to where
    WAL of the one that it is can be replayed.  has_standby: without one it is worth nothing, and
    is to be removed.  left: what a promotion of the cluster of `profile` leaves out, in words.
    """
    assert record.incarnation is not None and record.profile is not None
    found = profile.incarnation
    before = kept_of(record, found)
    aside = KeptIncarnation(
        incarnation=record.incarnation,
        profile=record.profile,
        protection=record.protection,
        heard=record.heard,
        bucket_seed_id=record.bucket_seed_id,
        held_lsn=record.held_lsn,
        lacking=record.lacking,
        installation=record.installation,
        volumes=record.volumes,
        at=now,
        durable=durable,
        for_promotion=for_promotion,
        left=left,
        is_removed=not has_standby,
    )
    others = tuple(each for each in record.previous if each.incarnation != found)
    return {
        "incarnation": found,
        "profile": profile,
        "protection": before.protection if before else record.protection,
        "heard": before.heard if before else None,
        "bucket_seed_id": before.bucket_seed_id if before else "",
        "held_lsn": before.held_lsn if before else None,
        "lacking": before.lacking if before else (),
        "installation": before.installation if before else "",
        "volumes": before.volumes if before else volumes,
        "previous": (*others, aside),
        "accepted": None if record.accepted == found else record.accepted,
    }


def as_before(before: InstanceRecord) -> dict[str, Any]:
    """The changes that take `replaced` back, and the fence that came with it.  before: the record
    of then."""
    return {
        "incarnation": before.incarnation,
        "profile": before.profile,
        "protection": before.protection,
        "heard": before.heard,
        "bucket_seed_id": before.bucket_seed_id,
        "held_lsn": before.held_lsn,
        "lacking": before.lacking,
        "installation": before.installation,
        "volumes": before.volumes,
        "previous": before.previous,
        "accepted": before.accepted,
        "fence": before.fence,
    }


def left_out(record: InstanceRecord) -> str:
    """What a promotion of the cluster that the instance is leaves out, in words; "": nothing."""
    return next((each.left for each in reversed(record.previous) if each.for_promotion), "")


def left_behind(newer: Incarnation, since: float) -> str:
    """What a promotion of the cluster before `newer` leaves out, in words."""
    when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(since))
    return f"nothing of what {newer} wrote is in it, which came in its place at {when}"


def streams_now(record: InstanceRecord, incarnation: Incarnation, now: float) -> dict[str, Any]:
    """The change, now that the standby of `incarnation` streams, the kept ones' successor; none
    if another cluster has come since."""
    if record.incarnation != incarnation:
        return {}
    previous = tuple(
        each
        if each.for_promotion or each.replaced_at is not None
        else msgspec.structs.replace(each, replaced_at=now)
        for each in record.previous
    )
    return {"previous": previous}


def expired(record: InstanceRecord, now: float, grace_seconds: float) -> list[Incarnation]:
    """Whose successor's standby has been streaming for so long that nobody needs them."""
    return [
        each.incarnation
        for each in record.previous
        if not each.is_removed
        and each.replaced_at is not None
        and now - each.replaced_at >= grace_seconds
    ]


def marked_for_removal(record: InstanceRecord, chosen: Iterable[Incarnation]) -> dict[str, Any]:
    """The change that has the chosen ones removed."""
    wanted = frozenset(chosen)
    previous = tuple(
        msgspec.structs.replace(each, is_removed=True) if each.incarnation in wanted else each
        for each in record.previous
    )
    return {"previous": previous}


def removed(record: InstanceRecord, incarnation: Incarnation) -> dict[str, Any]:
    """The change when nothing is left of a marked one."""
    others = (each for each in record.previous if each.incarnation != incarnation)
    return {"previous": tuple(others)}
