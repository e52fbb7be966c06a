"""Turns at seeding and catching up, under asyncio.  Who comes next: `applier.budgets.turns`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Literal

import structlog

from applier.budgets.turns import Turns

log = structlog.get_logger(__name__)

Purpose = Literal["seed", "catch-up"]

LOOK_SECONDS = 5.0
"""How often it is looked for idle turns, while somebody waits for one."""


class TurnQueue:
    """The turns of one recovery server.  limit 0: everybody has one whenever he wants."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._turns = Turns(limit)
        self._members: dict[str, Turn] = {}
        self._timer: asyncio.TimerHandle | None = None

    def turn_of(self, name: str, priority: Callable[[], int]) -> Turn:
        """The one of an instance, which asks for it."""
        turn = self._members[name] = Turn(name, priority, self)
        return turn

    def has(self, name: str) -> bool:
        return not self.limit or self._turns.has(name)

    def is_waiting(self, name: str) -> bool:
        return self._turns.is_waiting(name)

    def ask(self, name: str, priority: int) -> bool:
        if not self.limit:
            return True
        has = self._turns.ask(name, priority, self._now())
        self._look_later()
        return has

    def take(self, name: str) -> None:
        if self.limit:
            self._turns.take(name, self._now())

    def use(self, name: str) -> None:
        if self.limit:
            self._turns.use(name, self._now())

    def give_back(self, name: str) -> None:
        if self.limit:
            self._given(self._turns.give_back(name, self._now()))

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _given(self, names: Iterable[str]) -> None:
        for name in names:
            self._members[name].came()

    def _look_later(self) -> None:
        if self._timer is None and self._turns.somebody_waits:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        self._given(self._turns.lapse(self._now()))
        self._look_later()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


class Turn:
    """One instance's: it has it, or waits for it, for as long as there is a purpose."""

    def __init__(self, name: str, priority: Callable[[], int], queue: TurnQueue) -> None:
        self._name = name
        self._priority = priority
        self._queue = queue
        self._purposes: set[Purpose] = set()
        self._came = asyncio.Event()
        self.on_came: Callable[[], None] = lambda: None
        """Called when it has the turn that it waited for."""

    @property
    def state(self) -> Literal["waiting", "running"] | None:
        """None: it wants none, or there is no limit."""
        if not self._queue.limit or not self._purposes:
            return None
        return "running" if self._queue.has(self._name) else "waiting"

    def wants(self, purpose: Purpose) -> bool:
        return purpose in self._purposes

    def ask(self, purpose: Purpose) -> bool:
        """Have a turn for this, or wait for one: `on_came` tells.  Returns whether it has it."""
        was_waiting = self._queue.is_waiting(self._name)
        self._purposes.add(purpose)
        has = self._queue.ask(self._name, self._priority())
        if not has and not was_waiting:
            log.info("waits for its turn", instance=self._name, purpose=purpose)
        return has

    async def wait(self, purpose: Purpose) -> None:
        """Return once it has a turn, or somebody says `done`.  A caller who is cancelled says that
        himself."""
        self._purposes.add(purpose)
        while purpose in self._purposes and not self.ask(purpose):
            self._came.clear()
            await self._came.wait()

    def take(self, purpose: Purpose) -> None:
        """Have one at once: it is under way already."""
        if self._queue.limit:
            self._purposes.add(purpose)
            self._queue.take(self._name)
            self._came.set()

    def use(self) -> None:
        """Something is done with it: an idle one goes to others."""
        self._queue.use(self._name)

    def done(self, purpose: Purpose) -> None:
        """Nothing more is to be done of that."""
        if purpose in self._purposes:
            self._purposes.discard(purpose)
            self._came.set()
            if not self._purposes:
                self._queue.give_back(self._name)

    def came(self) -> None:
        log.info("has its turn", instance=self._name, purposes=sorted(self._purposes))
        self._came.set()
        self.on_came()
