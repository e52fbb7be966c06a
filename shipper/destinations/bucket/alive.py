"""The shipper's sign of life: put so often, whether or not there is WAL.

`heard_after` and `sign_of` have no I/O.  `SignsOfLife` puts signs while the epoch is held and what
the primary writes is put too: neither before the epoch is taken, nor for a primary that is no
continuation of the log.  That the shipper stops, or was told to, is said by no sign: nothing is
shipped then, whatever the reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog

from logship import durable
from logship.bucket.epoch import Epoch
from logship.bucket.sign_of_life import SignOfLife, put_sign, read_sign
from logship.errors import LogshipError
from logship.objects import ObjectStore
from shipper.backoff import Reminder
from shipper.destinations import Facts

log = structlog.get_logger(__name__)

NOTE_NAME = "alive"
"""File in the state directory: signs were put, and not said to be over."""
RETIRE_RETRY_SECONDS = 60.0


class Threads(NamedTuple):
    """What runs a blocking call beside the loop, and what writes to the state directory."""

    ask: Callable[[Callable[[], None]], asyncio.Future[None]]
    write: Callable[[Callable[[], None]], asyncio.Future[None]]


class Heard(NamedTuple):
    """What a primary said last, and when."""

    cluster: str = ""
    timeline: int = 0
    flush_lsn: int = 0
    at: float = 0.0


def heard_after(before: Heard, facts: Facts, now: float) -> Heard:
    """What is known with `facts`.  Of a primary that is away they may tell what it wrote at
    least, and nothing that is newer."""
    cluster = str(facts.profile.incarnation)
    if before.cluster != cluster:
        before = Heard(cluster, facts.timeline)
    if facts.reachable:
        return Heard(cluster, facts.timeline, int(facts.flush_lsn), now)
    is_more = (facts.timeline, facts.flush_lsn) > (before.timeline, before.flush_lsn)
    if before.at and facts.flush_lsn and is_more:
        return before._replace(timeline=facts.timeline, flush_lsn=int(facts.flush_lsn))
    return before


def sign_of(
    heard: Heard, reachable: bool, now: float, *, epoch: int, every_seconds: float
) -> SignOfLife:
    return SignOfLife(
        epoch=epoch,
        sent_at=now,
        every_seconds=every_seconds,
        cluster=heard.cluster,
        reachable=reachable,
        timeline=heard.timeline,
        flush_lsn=heard.flush_lsn,
        heard_at=heard.at,
    )


class SignsOfLife:
    """From `go_on` to `pause`, and again; `tell` what is known of the primary.

    every_seconds: 0: none, and an earlier process's are said to be over.  took_over: that may
    have been on another host.  is_parted: whether the primary is no continuation of the log.
    on_over: called when the epoch turns out to be lost, or fenced; whatever else fails is tried
    again when the next one is due.
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
        took_over: bool,
        is_parted: Callable[[], bool],
        on_over: Callable[[LogshipError], None],
    ) -> None:
        self._store = store
        self._instance = instance
        self._epoch = epoch
        self._note = state_directory / NOTE_NAME
        self._threads = threads
        self._every_seconds = every_seconds
        self._took_over = took_over
        self._is_parted = is_parted
        self._on_over = on_over
        self._heard = Heard()
        self._reachable = False
        self._is_noted = False
        self._due_at = 0.0
        """By the loop's clock; kept over connections."""
        self._task: asyncio.Task[None] | None = None
        self._reminder = Reminder()

    def tell(self, facts: Facts) -> None:
        """They are of now."""
        self._heard = heard_after(self._heard, facts, time.time())
        self._reachable = facts.reachable

    def go_on(self) -> None:
        """A connection is there.  One that says that the primary is away may hold no epoch."""
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
            except Exception:
                log.exception("a bug while putting a sign of life")

    async def _put_next(self) -> None:
        if not self._is_noted:
            # Before the first one: else nobody would know that there is something to take back.
            await self._threads.write(lambda: durable.write_file(self._note, b""))
            self._is_noted = True
        sign = self._sign(self._every_seconds)
        await self._threads.ask(lambda: self._put(sign))

    def _sign(self, every_seconds: float) -> SignOfLife:
        return sign_of(
            self._heard,
            self._reachable,
            time.time(),
            epoch=self._epoch.number,
            every_seconds=every_seconds,
        )

    def _put(self, sign: SignOfLife) -> None:
        self._epoch.confirm()
        put_sign(self._store, self._instance, sign)

    async def _retire(self) -> None:
        """Signs were wanted before, and are not now: say that none is to be expected."""
        while True:
            sign = self._sign(0.0)
            try:
                await self._threads.ask(partial(self._take_back, sign))
            except (LogshipError, OSError) as error:
                if self._reminder.due(str(error)):
                    log.warning("that no sign of life comes any more was not put", why=str(error))
                if self._epoch.over is None:
                    await asyncio.sleep(RETIRE_RETRY_SECONDS)
                    continue
            return

    def _take_back(self, sign: SignOfLife) -> None:
        """Put `sign` in place of the last one, if there may be one.  Blocking."""
        if self._note.exists() or (self._took_over and self._is_expected()):
            self._put(sign)
            self._note.unlink(missing_ok=True)

    def _is_expected(self) -> bool:
        last = read_sign(self._store, self._instance)
        return last is not None and last.every_seconds > 0
