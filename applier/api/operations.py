"""What the API asks of the applier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from logship.identity import Incarnation, Profile
from logship.status import InstanceStatus

Report = Callable[[str, dict[str, Any]], None]
"""Called with (step, details) as each step of an operation is made: the step in a few words
for a person, the details as JSON values by name."""


class Operations(Protocol):
    """What operators may ask for.  Every method raises LogshipError, as
    UsageError(UNKNOWN_INSTANCE) for a name that there is not, RefusedError where a check says
    no and nothing was changed."""

    async def instances(self) -> list[InstanceStatus]:
        """All instances, by name, each as it is when its turn comes.  Waits for nothing, but
        lets others go on between two."""
        ...

    def instance(self, name: str) -> InstanceStatus:
        """One instance.  Does not wait for anything."""
        ...

    async def promote(
        self, name: str, report: Report, incarnation: Incarnation | None
    ) -> dict[str, Any]:
        """Promote its standby; returns the promotion's record when a write has succeeded.

        incarnation: one of the clusters that are kept; None: the one that it is.
        Is never cancelled because the one who asked went away.
        """
        ...

    async def switch_installation(
        self, name: str, version: str, within_seconds: float
    ) -> dict[str, Any]:
        """Run its standby on that version ("17.10", or "auto") from now on; returns when it
        streams there.  One that does not within the time is back on what it ran on before."""
        ...

    async def accept(self, name: str, incarnation: Incarnation) -> dict[str, Any]:
        """Let that cluster take the instance's place when it comes."""
        ...

    async def forget(self, name: str, incarnation: Incarnation | None) -> dict[str, Any]:
        """Remove what is kept of a cluster of before; None: of all that are not needed."""
        ...

    async def retention(self, name: str, *, dry_run: bool) -> dict[str, Any]:
        """Remove what retention lets go (dry_run: nothing); returns what went and what stays."""
        ...

    async def enroll(self, name: str, address: str, hours: float) -> dict[str, Any]:
        """A one-time token by which a new instance of that name joins.

        address: how its shipper reaches the applier; "": by this host's name.
        """
        ...

    async def compat(
        self, name: str, against: str, primary: Profile | None = None
    ) -> dict[str, Any]:
        """What the version check says now, with the installation `against` (a version or a
        directory) or, if that is "", with the one that the standby runs on or would.

        primary: what its primary would be; None: what it was last heard to be.
        """
        ...

    async def request_seed(self, name: str, why: str, source: str) -> dict[str, Any]:
        """Have a new seed come; returns when that is asked for, not when done.

        source: "link" (its shipper sends one), "bucket" or the path of a directory (the newest
        one there that can be recovered), or "": the link if its shipper is connected, else the
        bucket.
        """
        ...

    async def fleet(self) -> list[dict[str, Any]]:
        """Every instance by name, as `applier.fleet.report.describe` has it."""
        ...

    async def add_instance(self, name: str, said: Mapping[str, Any]) -> dict[str, Any]:
        """Register an instance and take it up; returns it as `fleet` has it.

        said: by the names of the settings file; an entry of the table `settings` as
        `settings.NAME`.  Without `port` one of `fleet.ports` is allotted.  Data that an earlier
        instance of this name left is taken up.  Raises RefusedError (INSTANCE_EXISTS, PORT_TAKEN,
        KEY_NOT_ALLOWED), UsageError(SETTINGS), LogshipError; nothing was changed then.
        """
        ...

    async def change_instance(
        self, name: str, changes: Mapping[str, Any], unset: Sequence[str]
    ) -> dict[str, Any]:
        """Change what is registered of an instance, at once; returns it as `fleet` has it.

        A standby is started anew if it has to be; a promoted server is not.  Raises as
        `add_instance`, and RefusedError(INSTANCE_DECLARED); LogshipError(STANDBY_FAILED): its
        server does not stop, and the change is in force with its next start.
        """
        ...

    async def remove_instance(
        self, name: str, *, keep_data: bool, promoted: bool
    ) -> dict[str, Any]:
        """Remove a registered instance: its shipper is refused, its standby stopped, its data
        removed; returns {"name", "removed", "keep_data", "keep_server"}.

        keep_data: only the registration goes, and the server of a promoted one runs on.
        promoted: also if it was promoted.  Raises RefusedError (INSTANCE_DECLARED,
        ALREADY_PROMOTED, PROMOTE_REFUSED, REMOVE_REFUSED) with nothing changed, else LogshipError:
        call it again, or start the applier again, to go on.
        """
        ...
