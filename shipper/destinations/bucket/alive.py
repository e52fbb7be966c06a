"""The shipper's sign of life: put so often, whether or not there is WAL.

`sign_of` has no I/O.  `SignsOfLife` puts signs while the epoch is held and what the primary
writes is put too: neither before the epoch is taken, nor for a primary that is no continuation of
the log.  That the shipper stops, or was told to, is said by no sign: nothing is shipped then,
whatever the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog

from logship import durable
from logship.bucket.epoch import Epoch
from logship.bucket.sign_of_life import SignOfLife, put_sign
from logship.errors import LogshipError
from logship.objects import ObjectStore
from shipper.backoff import Reminder
from shipper.destinations import Facts

log = structlog.get_logger(__name__)

NOTE_NAME = "alive"
"""File in the state directory: signs were put, and not said to be over."""


class Threads(NamedTuple):
    """What runs a blocking call beside the loop, and what writes to the state directory."""

    ask: Callable[[Callable[[], None]], asyncio.Future[None]]
    write: Callable[[Callable[[], None]], asyncio.Future[None]]


def sign_of(
    facts: Facts, last: SignOfLife | None, *, epoch: int, every_seconds: float
) -> SignOfLife:
    """What is said of the primary by `facts`, and by the sign before where they don't say it: a
    primary that is away says nothing."""
    cluster = str(facts.profile.incarnation)
    timeline, flush_lsn = facts.timeline, int(facts.flush_lsn)
    if not flush_lsn and last is not None and last.cluster == cluster:
        timeline, flush_lsn = last.timeline, last.flush_lsn
    return SignOfLife(
        epoch=epoch,
        sent_at=time.time(),
        every_seconds=every_seconds,
        cluster=cluster,
        reachable=facts.reachable,
        timeline=timeline,
        flush_lsn=flush_lsn,
    )


class SignsOfLife:
    """From `go_on` to `pause`, and again; `tell` what is known of the primary.

    every_seconds: 0: none, and an earlier process's are said to be over.  is_parted: whether the
    primary is no continuation of the log.  on_over: called when the epoch turns out to be lost,
    or fenced; whatever else fails is tried again when the next one is due.
    """

    def __init__(
        self,
        store: ObjectStore,
        instance: str,
        epoch: Epoch,
        state_directory: Path,
        threads: Threads,
        *,
        every_seconds: float,
        is_parted: Callable[[], bool],
        on_over: Callable[[LogshipError], None],
    ) -> None:
        self._store = store
        self._instance = instance
        self._epoch = epoch
        self._note = state_directory / NOTE_NAME
        self._threads = threads
        self._every_seconds = every_seconds
        self._is_parted = is_parted
        self._on_over = on_over
        self._facts: Facts | None = None
        self._last: SignOfLife | None = None
        self._is_noted = False
        self._due_at = 0.0
        """By the loop's clock; kept over connections."""
        self._task: asyncio.Task[None] | None = None
        self._reminder = Reminder()

    def tell(self, facts: Facts) -> None:
        self._facts = facts

    def go_on(self, facts: Facts) -> None:
        """A connection is there.  One that says that the primary is away may hold no epoch."""
        self._facts = facts
        if self._epoch.number and self._task is None:
            self._task = asyncio.create_task(self._run() if self._every_seconds else self._retire())

    def pause(self) -> None:
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(max(0.0, self._due_at - loop.time()))
            self._due_at = loop.time() + self._every_seconds
            if self._is_parted():
                continue
            try:
                await self._put_next()
            except LogshipError as error:
                if self._epoch.over is not None:
                    self._on_over(self._epoch.over)
                    return
                if self._reminder.due(error.what):
                    log.warning("the sign of life was not put", **error.as_dict())
            except OSError as error:
                if self._reminder.due(str(error)):
                    log.warning("the sign of life was not put", why=str(error))

    async def _put_next(self) -> None:
        if not self._is_noted:
            # Before the first one: else nobody would know that there is something to take back.
            await self._threads.write(lambda: durable.write_file(self._note, b""))
            self._is_noted = True
        facts = self._facts
        assert facts is not None
        sign = sign_of(
            facts, self._last, epoch=self._epoch.number, every_seconds=self._every_seconds
        )
        await self._threads.ask(lambda: self._put(sign))
        self._last = sign

    def _put(self, sign: SignOfLife) -> None:
        self._epoch.confirm()
        put_sign(self._store, self._instance, sign)

    async def _retire(self) -> None:
        """The setting was taken away: say that no sign is to be expected."""
        facts = self._facts
        assert facts is not None
        sign = sign_of(facts, None, epoch=self._epoch.number, every_seconds=0.0)

        def look() -> None:
            noted.append(self._note.exists())

        noted: list[bool] = []
        with contextlib.suppress(LogshipError, OSError):  # with the next connection
            await self._threads.write(look)
            if noted[0]:
                await self._threads.ask(lambda: self._put(sign))
                await self._threads.write(lambda: self._note.unlink(missing_ok=True))
