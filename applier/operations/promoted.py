"""The server of a promoted cluster: whom it lets in, and the memory it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from applier.operations.standby_making import standby_settings
from logship.errors import Code, LogshipError

if TYPE_CHECKING:
    from applier.operations.following import Following
    from applier.operations.instance import Instance


class Promoted:
    """It is `following`'s server, once that is open; it serves clients, whatever fails here."""

    def __init__(self, instance: Instance, following: Following) -> None:
        self._instance = instance
        self._following = following

    async def admit_clients(self) -> tuple[str, ...]:
        """Let in whom the primary let in.  Returns what can't be; says it and never raises, as
        the server is open in any case."""
        instance = self._instance
        if self._following.standby is None:
            return ()
        try:
            complaints = await self._following.standby.admit_clients()
        except (LogshipError, OSError) as error:
            instance.alarms.standby_files(error)
            return (f"clients are not admitted yet: {error}",)
        instance.alarms.clear(Code.STANDBY_FAILED)
        return complaints

    async def admit_in_background(self) -> None:
        await self.admit_clients()

    def share(self) -> None:
        """From now on it is told when there is one more promoted server to share with."""
        self._instance.host.sharing.promoted(self._instance.name, self._share_changed)

    async def take_memory(self) -> dict[str, Any] | None:
        """Give the opened server what it has as a promoted one, and from now on what it has when
        others share that with it.  Returns what that is; None: there is no rule for it.  Never
        raises: the server is open in any case."""
        instance = self._instance
        self.share()
        memory = instance.budget.memory(promoted=True)
        if self._following.standby is None or memory.share_mb is None:
            return None
        in_force = None
        try:
            settings = standby_settings(instance, promoted=True)
            in_force = await self._following.standby.change_settings(settings)
        except (LogshipError, OSError) as error:
            instance.alarms.standby_files(error)
        return {
            "share_mb": memory.share_mb,
            "parameters": memory.shown(),
            "shared_buffers_in_force": in_force,
        }

    def _share_changed(self) -> None:
        self._instance.spawn(self._share_anew())

    async def _share_anew(self) -> None:
        await self.take_memory()
