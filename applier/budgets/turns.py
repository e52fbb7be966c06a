"""Who may seed or catch up now: so many at once, by priority, and everybody in the end."""

from __future__ import annotations

from typing import NamedTuple

AGING_SECONDS = 300.0
"""Who has waited this long counts as one priority higher: whoever waits comes first at last."""
IDLE_SECONDS = 60.0
"""A turn that nothing was done with for so long goes to another who waits."""


class Waiting(NamedTuple):
    """priority: the greater comes first."""

    priority: int
    since: float


class Turns:
    """`limit` of them.  Each name has one at most."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used_at: dict[str, float] = {}
        """Of those who have a turn."""
        self._waiting: dict[str, Waiting] = {}

    def has(self, name: str) -> bool:
        return name in self._used_at

    def is_waiting(self, name: str) -> bool:
        return name in self._waiting

    @property
    def somebody_waits(self) -> bool:
        return bool(self._waiting)

    def ask(self, name: str, priority: int, now: float) -> bool:
        """Have a turn, or wait for one.  Returns whether it has one."""
        if name in self._used_at:
            return True
        if name not in self._waiting:
            self._waiting[name] = Waiting(priority, now)
        self._give_out(now)
        return name in self._used_at

    def take(self, name: str, now: float) -> None:
        """Have one at once, also where that is one too many: what is under way already."""
        self._waiting.pop(name, None)
        self._used_at[name] = now

    def use(self, name: str, now: float) -> None:
        """Something was done with it."""
        if name in self._used_at:
            self._used_at[name] = now

    def give_back(self, name: str, now: float) -> list[str]:
        """It wants none any more.  Returns who has one because of that."""
        self._waiting.pop(name, None)
        self._used_at.pop(name, None)
        return self._give_out(now)

    def lapse(self, now: float) -> list[str]:
        """Take idle turns away, where somebody waits for one.  Returns who has one by that."""
        idle = sorted(
            (used_at, name)
            for name, used_at in self._used_at.items()
            if now - used_at >= IDLE_SECONDS
        )
        for _, name in idle[: len(self._waiting)]:
            del self._used_at[name]
        return self._give_out(now)

    def _give_out(self, now: float) -> list[str]:
        given = []
        while self._waiting and len(self._used_at) < self.limit:
            name = min(self._waiting, key=lambda each: self._rank(each, now))
            del self._waiting[name]
            self._used_at[name] = now
            given.append(name)
        return given

    def _rank(self, name: str, now: float) -> tuple[float, float]:
        priority, since = self._waiting[name]
        return -(priority + (now - since) // AGING_SECONDS), since
