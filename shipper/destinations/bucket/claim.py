"""Whether a primary can have written a bucket's log.  Asked before the epoch is taken."""

from __future__ import annotations

from logship.bucket.epoch import Epoch
from logship.bucket.epoch_record import EpochRecord, describe_holder
from logship.bucket.keys import Keys, Place
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

    facts: those of a primary that is away may be old, so they prove no more than that it has got
    as far.  One of which it `is_known` is not refused again.  Blocking.  Raises LogshipError:
    EPOCH_HELD, PRIMARY_UNREACHABLE (retryable: it has to be asked first), and as `Epoch.look`
    and `find_end`.
    """
    holder = epoch.look()
    end = find_end(store, keys, segment_bytes, hint) if holder is not None else None
    primary = Position(facts.timeline, facts.flush_lsn)
    if holder is None or end is None or not is_before(primary, end):
        return
    if is_known(epoch, hint, end):
        return
    if not facts.reachable:
        raise LogshipError(
            Code.PRIMARY_UNREACHABLE,
            f"the log of {keys.instance} in {store.name} ends at {end.timeline}:{end.lsn}, and it "
            "is not known whether the primary, which does not answer, wrote it",
            "nothing is added to it before the primary answers, or has archived more",
            retryable=True,
        )
    if primary.timeline == end.timeline:
        epoch.renounce()
    raise no_writer(store, keys, holder, end, primary)


def is_before(primary: Position, end: Place) -> bool:
    """Whether the primary has not got as far as the log's end.  No I/O."""
    return primary < Position(end.timeline, end.lsn)


def is_known(epoch: Epoch, hint: Remembered | None, end: Place) -> bool:
    """Whether the holder, which this is, knows that its primary did not write the log up to
    `end`: an operator said that it stands in for the one that did, or it was found while it
    shipped.  Neither says anything of a log that has gone on since.  Raises LogshipError."""
    parted = hint.parted if hint is not None else None
    return epoch.stands_in(end) or (parted is not None and end <= parted.place)


def no_writer(
    store: ObjectStore, keys: Keys, holder: EpochRecord, end: Place, primary: Position
) -> LogshipError:
    """What is said to a primary that `is_before` the end."""
    return LogshipError(
        Code.EPOCH_HELD,
        f"the log of {keys.instance} in {store.name} ends at {end.timeline}:{end.lsn}, and this "
        f"primary is at {primary}: it is a copy of the one that wrote it, or was restored from "
        f"older data; the log is held by {describe_holder(holder)}",
        "if the primary that wrote it still runs, stop shipping here; if this one stands in for "
        "it, start once with `shipper run --take-over`, and run `shipper seed` once it is past "
        "that place",
    )
