"""What the instances of one recovery server share by the settings' [budgets]."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from applier.budgets.memory import MemoryRule, Shares, shares
from applier.operations.turns import TurnQueue
from applier.settings import InstanceSettings
from applier.settings_budgets import BudgetsSettings
from applier.standby.cgroups import Cgroups

log = structlog.get_logger(__name__)


class Sharing:
    """Memory, by who there is and who is promoted; turns; the kernel's limits."""

    def __init__(
        self, settings: BudgetsSettings, instances: Callable[[], Mapping[str, InstanceSettings]]
    ) -> None:
        """instances: all that there are now, open or not, so that each finds the same shares."""
        self.rule = (
            MemoryRule(settings.memory_mb, settings.standby_floor_mb, settings.promoted_share)
            if settings.memory_mb
            else None
        )
        self.turns = TurnQueue(settings.catch_ups)
        wanted = self.rule is not None and settings.cgroups == "auto"
        self.cgroups = Cgroups.find() if wanted else Cgroups(None, "they are not wanted")
        if wanted and self.cgroups.parent is None:
            log.info("the kernel holds no server to its share of memory", why=self.cgroups.why)
        self._instances = instances
        self._tell: dict[str, Callable[[], None]] = {}
        """The promoted ones, and how they hear of another."""

    def promoted(self, name: str, shares_changed: Callable[[], None]) -> None:
        """It is promoted.  The other promoted ones are told now, and it from now on, that there
        is one more to share with.  Said again only who is told of the next is another."""
        if name not in self._tell:
            for tell in self._tell.values():
                tell()
        self._tell[name] = shares_changed

    def left(self, name: str) -> None:
        """The instance is not here any more.  Who is added under its name is another one."""
        self._tell.pop(name, None)

    def shares(self, name: str, *, promoted: bool) -> Shares | None:
        """What each has, with `name` among the promoted ones or not; None: there is no rule."""
        if self.rule is None:
            return None
        running = {each for each, own in self._instances().items() if own.run_standby}
        others = running.intersection(self._tell) - {name}
        return shares(self.rule, instances=len(running | {name}), promoted=len(others) + promoted)
