"""Waiting until those that get the next span have room for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from logship.errors import LogshipError
from shipper.destinations import Destination
from shipper.destinations.changes import Change
from shipper.destinations.several.commands import Command
from shipper.destinations.several.flow import Flow
from shipper.destinations.several.members import Member

LOOK_SECONDS = 0.5
"""So often it is looked again who has to be waited for."""


class Room:
    """changed: happens when there may be other members to wait for.  do: carries out what `flow`
    decides.  check_open: raises LogshipError when nothing can be sent any more."""

    def __init__(
        self,
        flow: Flow,
        destinations: Mapping[str, Destination],
        changed: Change,
        do: Callable[[Sequence[Command]], None],
        check_open: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._flow = flow
        self._destinations = destinations
        self._changed = changed
        self._do = do
        self._check_open = check_open
        self.found: frozenset[str] = frozenset()
        """Who has room for the next span."""

    async def wait(self, size_bytes: int) -> None:
        """Until all who get a span of that size have room.  Raises what `check_open` raises."""
        while True:
            self._check_open()
            members = self._flow.takers(size_bytes)
            if self._flow.is_void:
                return  # what comes is dropped
            if not members:
                # Nobody has a place for it just now: one is on its way, or a Rewind.
                await _leave_at_once()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._changed.wait()
                continue
            asked: set[str] = set()
            for member in members:
                if not await self._room_at(member, size_bytes):
                    break
                asked.add(member.name)
            else:
                # Others may have come while it waited.
                if all(each.name in asked for each in self._flow.takers(size_bytes)):
                    self.found = frozenset(asked)
                    return

    async def _room_at(self, member: Member, size_bytes: int) -> bool:
        """Whether it has room; False: look again at who has to be waited for."""
        flow, began_at = self._flow, self._loop.time()
        may_be_left = flow.may_be_left(member)
        limit_seconds = LOOK_SECONDS
        if may_be_left:
            limit_seconds = min(limit_seconds, member.patience_seconds(began_at))
        has_room = True
        try:
            if not _ends_at_once(self._destinations[member.name].room(size_bytes)):
                await _leave_at_once()
                async with asyncio.timeout(limit_seconds):
                    await self._destinations[member.name].room(size_bytes)
        except TimeoutError:
            has_room = False
        except LogshipError as error:
            self._do(flow.lost(member.name, error, self._loop.time()))
            return False
        now = self._loop.time()
        if may_be_left and now > began_at:
            self._do(flow.waited(member.name, now - began_at, now))
        return has_room and member.takes


def _ends_at_once(waiting: Coroutine[Any, Any, None]) -> bool:
    """Whether it ends without waiting; else nothing was done.  Raises what it raises."""
    try:
        waiting.send(None)
    except StopIteration:
        return True
    waiting.close()
    return False


async def _leave_at_once() -> None:
    """Where `room` was asked outside of a task, to be told at once whether there is room, it is
    closed here: a time-out is for tasks alone."""
    await asyncio.sleep(0)
