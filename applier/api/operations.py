"""What the API asks of the applier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from logship.status import InstanceStatus

Report = Callable[[str, dict[str, Any]], None]
"""Called with (step, details) as each step of an operation is made: the step in a few words
for a person, the details as JSON values by name."""


class Operations(Protocol):
    """What operators may ask for.  Every method raises LogshipError, as
    UsageError(UNKNOWN_INSTANCE) for a name that there is not, RefusedError where a check says
    no and nothing was changed."""

    def instances(self) -> list[InstanceStatus]:
        """All instances, by name.  Does not wait for anything."""
        ...

    def instance(self, name: str) -> InstanceStatus:
        """One instance.  Does not wait for anything."""
        ...

    async def promote(self, name: str, report: Report) -> dict[str, Any]:
        """Promote its standby; returns the promotion's record when a write has succeeded.

        Is never cancelled because the one who asked went away.
        """
        ...

    async def retention(self, name: str, *, dry_run: bool) -> dict[str, Any]:
        """Remove what retention lets go (dry_run: nothing); returns what went and what stays."""
        ...

    async def compat(self, name: str, against: str) -> dict[str, Any]:
        """What the version check says now, with the installation `against` (a version or a
        directory) or, if that is "", with the one that the standby runs on or would."""
        ...

    async def request_seed(self, name: str, why: str, source: str) -> dict[str, Any]:
        """Have a new seed come; returns when that is asked for, not when done.

        source: "link" (its shipper sends one), "bucket" or the path of a directory (the newest
        one there that can be recovered), or "": the link if its shipper is connected, else the
        bucket.
        """
        ...
