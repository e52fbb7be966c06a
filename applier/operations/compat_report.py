"""The version check of one instance, for an operator who asks: with any installation here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from applier.compat import Outcome
from applier.operations.admission import check_profile
from applier.operations.instance import Instance
from logship.errors import Code, LogshipError, RefusedError, UsageError
from logship.identity import Profile
from logship.postgres.installations import Installation, version_text


async def compat_report(
    instance: Instance, against: str = "", primary: Profile | None = None
) -> dict[str, Any]:
    """What the rules say of it now.  Nothing is changed by asking.

    against: which of the installations here to compare the primary with, by version (17, 17.10)
    or directory; "": the one that the standby runs on or would.
    primary: what the primary would be; None: what it was last heard to be.  One whose shipper
    would not be let in at all is `refused`, which blocks.

    Raises UsageError: no such installation; RefusedError(COMPATIBILITY): nothing is known of
    the primary yet; LogshipError: nothing installed fits, or it can't be read.
    """
    record = instance.record
    profile = primary or record.profile
    if profile is None:
        raise RefusedError(
            Code.COMPATIBILITY,
            f"nothing is known of the primary of {instance.name} yet",
            "start its shipper: the first that it sends is what its primary is",
        )
    chosen = _installation(instance.host.installations, against) if against else None
    refused = _why_refused(instance, primary) if primary is not None else None
    succeeds = None
    if primary is not None and refused is None and record.incarnation != primary.incarnation:
        succeeds = record.incarnation
    try:
        installation, verdict = await instance.following.compare(
            chosen, primary, anew=succeeds is not None
        )
    except LogshipError as error:
        if refused is None:
            raise
        raise refused from error  # an installation would not help it
    said = verdict.as_dict()
    if refused is not None:
        said |= {"outcome": str(Outcome.BLOCK), "blocked": True}
    return {
        "name": instance.name,
        "primary": version_text(profile.server_version_num),
        "given": primary is not None,
        "refused": None if refused is None else refused.as_dict(),
        "succeeds": None if succeeds is None else str(succeeds),
        "installation": {
            "version": installation.version,
            "directory": str(installation.bin_dir),
        },
        **said,
    }


def _why_refused(instance: Instance, primary: Profile) -> LogshipError | None:
    """What the shipper of such a primary would be turned away with."""
    try:
        check_profile(primary)
    except LogshipError as error:
        return error
    return instance.incarnations.why_refused(primary)


def _installation(installations: list[Installation], wanted: str) -> Installation:
    # Only what was found here: whoever may ask for the check need not be one who may have the
    # applier run a program of his.
    known = [
        one
        for one in installations
        if wanted in (one.version, str(one.major))
        or Path(wanted) in (one.bin_dir, one.bin_dir.parent)
    ]
    if not known:
        listing = ", ".join(f"{one.version} in {one.bin_dir}" for one in installations)
        raise UsageError(
            Code.USAGE,
            f"there is no PostgreSQL {wanted} here",
            f"name one of these by its version or directory: {listing or 'none at all'}",
        )
    return max(known, key=lambda one: one.version_num)
