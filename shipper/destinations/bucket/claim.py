"""Whether a primary can have written a bucket's log.  Blocking; asked before the epoch is taken."""

from __future__ import annotations

from logship.bucket.epoch import Epoch
from logship.bucket.epoch_record import describe_holder
from logship.bucket.keys import Keys
from logship.errors import Code, LogshipError
from logship.lsn import Position
from logship.objects import ObjectStore
from shipper.destinations import Facts
from shipper.destinations.bucket.chain import find_end
from shipper.destinations.bucket.remembered import Remembered


def check_claim(
    store: ObjectStore,
    keys: Keys,
    segment_bytes: int,
    epoch: Epoch,
    hint: Remembered | None,
    facts: Facts,
) -> None:
    """All that is in the log was on its primary's disk first, so one that has not got that far
    is a copy of it, or was restored.  It gives up its claim, for good: once it has written as
    much of its own it could not be told apart any more.  One on an older timeline stays there,
    and may be a server that is asked by mistake.

    facts: of a primary that was asked.  Raises LogshipError: EPOCH_HELD, and as `Epoch.look`
    and `find_end`.
    """
    holder = epoch.look()
    end = find_end(store, keys, segment_bytes, hint) if holder is not None else None
    primary = Position(facts.timeline, facts.flush_lsn)
    if holder is None or end is None or primary >= Position(end.timeline, end.lsn):
        return
    if primary.timeline == end.timeline:
        epoch.renounce()
    raise LogshipError(
        Code.EPOCH_HELD,
        f"the log of {keys.instance} in {store.name} ends at {end.timeline}:{end.lsn}, and this "
        f"primary is at {primary}: it is a copy of the one that wrote it, or was restored from "
        f"older data; the log is held by {describe_holder(holder)}",
        "if the primary that wrote it still runs, stop shipping here; if this one stands in for "
        "it, start once with `shipper run --take-over`, and run `shipper seed` once it is past "
        "that place",
    )
