"""Which clusters may come in under an instance's name.  No I/O."""

from __future__ import annotations

from enum import Enum, auto

from applier.operations.record import InstanceRecord, kept_of
from logship.errors import Code, LogshipError, RefusedError
from logship.identity import Incarnation, Profile
from logship.wal import PAGE_MAGIC, WAL_PAGE_BYTES, check_segment_size


def check_profile(profile: Profile) -> None:
    """Refuse a cluster that could not be stored.  Raises RefusedError."""
    if profile.major not in PAGE_MAGIC:
        known = ", ".join(map(str, PAGE_MAGIC))
        raise RefusedError(
            Code.MAJOR_MISMATCH,
            f"PostgreSQL {profile.major} is not supported",
            f"supported majors: {known}",
        )
    if profile.wal_block_size != WAL_PAGE_BYTES:
        raise RefusedError(
            Code.COMPATIBILITY,
            f"WAL pages of {profile.wal_block_size} bytes are not supported",
            f"packaged PostgreSQL has {WAL_PAGE_BYTES}",
        )
    try:
        check_segment_size(profile.wal_segment_size)
    except ValueError as error:
        raise RefusedError(Code.SEGMENT_SIZE_MISMATCH, str(error)) from error


class Standing(Enum):
    """What a cluster that comes is to an instance."""

    SAME = auto()
    """The one that it is, or its first."""
    IN_PLACE_OF_NOTHING = auto()
    """Nothing was ever received of the one that it is: that was a first try gone wrong."""
    SUCCESSOR = auto()
    """It takes the place of the one that it is, which is kept."""


def standing_of(
    found: Incarnation, record: InstanceRecord, *, is_empty: bool, has_standby: bool
) -> Standing:
    """Judge the cluster `found`, whose sender has the instance's key and reaches it.

    is_empty: nothing was received of the recorded cluster.  has_standby: a seed of it is in place.

    pg_upgrade makes a cluster of a higher major with another system identifier; nothing in it
    tells from which one.  A clone, a restored copy and the wrong server have the same major or a
    lower one, as a rule: they are let in only after an operator has named them (`accept`).

    Raises RefusedError, or LogshipError (retryable) while files of `found` are being removed.
    """
    known = record.incarnation
    if known is None or known == found:
        return Standing.SAME
    kept = kept_of(record, found)
    if kept is not None and kept.is_removed:
        raise LogshipError(
            Code.STORE_FAILED,
            f"what was kept of cluster {found} is just being removed",
            "it begins anew when that is done",
            retryable=True,
        )
    if found.system_identifier == known.system_identifier:
        raise mismatch(record.name, known, found)  # pg_upgrade gives another one
    # What was set aside for a promotion that came to nothing (there is no fence) goes on.
    if found == record.accepted or (kept is not None and kept.for_promotion):
        return Standing.SUCCESSOR
    # Until its standby is there a successor is on trial: another one, or the one before, may come.
    before = [each.incarnation for each in record.previous if not each.is_removed]
    if not has_standby and before:
        if kept is not None or found.major > before[-1].major:
            return Standing.SUCCESSOR
    elif is_empty:
        return Standing.IN_PLACE_OF_NOTHING
    elif found.major > known.major:
        return Standing.SUCCESSOR
    raise mismatch(record.name, known, found)


def mismatch(name: str, known: Incarnation, found: Incarnation) -> RefusedError:
    """Why another cluster's WAL is not taken under this instance's name."""
    hint = (
        "check the shipper's conninfo; a different cluster needs its own instance name. If it is "
        f"to take this one's place, on the recovery server: applier accept {name} {found}"
    )
    if known.system_identifier != found.system_identifier:
        return RefusedError(
            Code.SYSTEM_IDENTIFIER_MISMATCH,
            f"the primary is cluster {found.system_identifier} (PostgreSQL {found.major}), this "
            f"instance is {known.system_identifier} (PostgreSQL {known.major})",
            hint,
        )
    return RefusedError(
        Code.MAJOR_MISMATCH,
        f"the primary is PostgreSQL {found.major}, this instance is {known.major}",
        hint,
    )


def check_same_segments(stored: Profile | None, found: Profile) -> None:
    """A store keeps one segment size for ever.  Raises RefusedError(SEGMENT_SIZE_MISMATCH)."""
    if stored is not None and stored.wal_segment_size != found.wal_segment_size:
        raise RefusedError(
            Code.SEGMENT_SIZE_MISMATCH,
            f"the primary has WAL segments of {found.wal_segment_size} bytes, "
            f"the store has {stored.wal_segment_size}",
            "a changed segment size needs a new seed under a new instance name",
        )
