"""What the instances of one recovery server share by the settings' [budgets]."""

from __future__ import annotations

from collections.abc import Callable

from applier.budgets.memory import MemoryRule, Shares, shares
from applier.operations.turns import TurnQueue
from applier.settings import BudgetsSettings
from applier.standby.cgroups import Cgroups


class Sharing:
    """Memory, by who there is and who is promoted; turns; the kernel's limits.

    Who runs a standby joins before any is started, so that all of them find the same shares.
    """

    def __init__(self, settings: BudgetsSettings) -> None:
        self.rule = (
            MemoryRule(settings.memory_mb, settings.standby_floor_mb, settings.promoted_share)
            if settings.memory_mb
            else None
        )
        self.turns = TurnQueue(settings.catch_ups)
        wanted = self.rule is not None and settings.cgroups == "auto"
        self.cgroups = Cgroups.find() if wanted else Cgroups(None, "they are not wanted")
        self._promoted: dict[str, bool] = {}
        self._tell: dict[str, Callable[[], None]] = {}

    def join(self, name: str) -> None:
        """An instance that runs a server here."""
        self._promoted.setdefault(name, False)

    def leave(self, name: str) -> None:
        """It runs none any more; the others' shares grow, as each is started anew."""
        self._promoted.pop(name, None)
        self._tell.pop(name, None)

    def promoted(self, name: str, shares_changed: Callable[[], None]) -> None:
        """It is promoted.  The other promoted ones are told now, and it from now on, that there
        is one more to share with.  Said again it changes nothing."""
        if self._promoted.get(name) is not False:
            return
        self._promoted[name] = True
        for tell in self._tell.values():
            tell()
        self._tell[name] = shares_changed

    def shares(self, name: str, *, promoted: bool) -> Shares | None:
        """What each has, with `name` among the promoted ones or not; None: there is no rule."""
        if self.rule is None:
            return None
        now = {**self._promoted, name: promoted}
        return shares(self.rule, instances=len(now), promoted=sum(now.values()))
