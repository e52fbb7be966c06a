"""Which clusters may come in under an instance's name.  No I/O."""

from __future__ import annotations

from logship.errors import Code, RefusedError
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


def mismatch(known: Incarnation, found: Incarnation) -> RefusedError:
    """Why another cluster's WAL is not taken under this instance's name."""
    if known.system_identifier != found.system_identifier:
        return RefusedError(
            Code.SYSTEM_IDENTIFIER_MISMATCH,
            f"the primary is cluster {found.system_identifier}, "
            f"this instance is {known.system_identifier}",
            "check the shipper's conninfo; a different cluster needs its own instance name",
        )
    return RefusedError(
        Code.MAJOR_MISMATCH,
        f"the primary is PostgreSQL {found.major}, this instance is {known.major}",
        "a cluster after pg_upgrade needs its own instance name",
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
