"""The version check of one instance, for an operator who asks: with any installation here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from applier.operations.instance import Instance
from logship.errors import Code, RefusedError, UsageError
from logship.postgres.installations import Installation, version_text


async def compat_report(instance: Instance, against: str = "") -> dict[str, Any]:
    """What the rules say of it now.  Nothing is changed by asking.

    against: which of the installations here to compare the primary with, by version (17, 17.10)
    or directory; "": the one that the standby runs on or would.

    Raises UsageError: no such installation; RefusedError(COMPATIBILITY): nothing is known of
    the primary yet; LogshipError: nothing installed fits, or it can't be read.
    """
    record = instance.record
    if record.profile is None:
        raise RefusedError(
            Code.COMPATIBILITY,
            f"nothing is known of the primary of {instance.name} yet",
            "start its shipper: the first that it sends is what its primary is",
        )
    chosen = _installation(instance.host.installations, against) if against else None
    installation, verdict = await instance.following.compare(chosen)
    return {
        "name": instance.name,
        "primary": version_text(record.profile.server_version_num),
        "installation": {
            "version": installation.version,
            "directory": str(installation.bin_dir),
        },
        **verdict.as_dict(),
    }


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
