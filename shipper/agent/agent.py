"""Keeps shipping: opens the source, reaches the destination, ships, and starts over.

While the primary can't be reached the destination is told that, by what was last known of it.

A refusal that somebody must mend first (wrong key, wrong cluster, fenced) is said loudly
and tried again rarely, so that mending it needs no restart here.  Being superseded ends the
process: two shippers that take turns would never ship.  A bug costs the connection, not the
process: it is logged with its details, and shipping starts over.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from logship.errors import Code, LogshipError, RefusedError
from logship.frames import SeedAborted, SeedBegin, SeedChunk, SeedEnd
from logship.identity import Incarnation
from logship.lsn import Lsn
from shipper.agent.last_primary import LastPrimary
from shipper.agent.shipping import REFUSED_RETRY_SECONDS, Shipping
from shipper.backoff import Backoff, Reminder
from shipper.destinations import (
    Accepted,
    Destination,
    Facts,
    HasMembers,
    Lost,
    MayStand,
    SeedFinished,
)
from shipper.health import Health, State
from shipper.sources import Source, SourceIdentity

log = structlog.get_logger(__name__)

STEADY_SECONDS = 10.0
"""A connection that held for so long was a good one: the next pause is short again."""
FIRST_SEED_PAUSE_SECONDS = 5.0
MAX_SEED_TRIES = 5
BUSY_RETRY_SECONDS = 60.0
FATAL_CODES = frozenset({Code.SUPERSEDED})

SeedFrame = SeedBegin | SeedChunk | SeedEnd | SeedAborted
SendSeed = Callable[[SeedFrame, bytes | memoryview], Awaitable[None]]
TakeSeed = Callable[[SendSeed, int], Awaitable[None]]
"""(send, system identifier): make one base backup of that cluster and send it."""


class Agent:
    """One instance's shipper.  `take_seed` makes and sends one base backup."""

    def __init__(
        self,
        source: Source,
        destination: Destination,
        take_seed: TakeSeed,
        *,
        compress: bool = True,
        last_primary: LastPrimary | None = None,
        remember: Callable[[LastPrimary], None] = lambda last: None,
    ) -> None:
        """last_primary: what an earlier process was last given to `remember`, which may block."""
        self._source = source
        self._destination = destination
        self._take_seed = take_seed
        self._compress = compress
        self._seed_task: asyncio.Task[None] | None = None
        self._seed_failures = 0
        self._seed_id = ""
        """The seed that the destination was last given the beginning of."""
        self._system_identifier = 0
        self._last_primary = last_primary
        self._remember = remember
        self._reached: tuple[Incarnation, int] | None = None
        self._reminder = Reminder()
        self._health = Health()

    async def run(self, stop: asyncio.Event) -> None:
        """Ship until `stop` is set.  Raises LogshipError when going on makes no sense."""
        shipping = asyncio.create_task(self._run_forever())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({shipping, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if shipping.done():
                shipping.result()
        finally:
            for task in (shipping, stopping, self._seed_task):
                if task is not None:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError, Exception):
                        await task
            await self._destination.close("the shipper stops")
            await self._source.close()

    def health_report(self, instance: str) -> dict[str, Any]:
        """How it is, as `shipper health` shows it."""
        destination = self._destination
        away = destination.away() if isinstance(destination, HasMembers) else {}
        standing = destination.standing() if isinstance(destination, MayStand) else None
        reachable = self._source.reachable
        return self._health.as_dict(
            instance, primary_reachable=reachable, away=away, standing=standing
        )

    async def _run_forever(self) -> None:
        backoff = Backoff()
        while True:
            began_at = asyncio.get_running_loop().time()
            try:
                await self._ship_once()
            except RefusedError:
                raise
            except Exception as error:
                self._health.is_now(State.CONNECTING)
                if self._reminder.due(repr(error)):
                    log.exception("a bug ended the connection; shipping starts over")
                with contextlib.suppress(Exception):
                    await self._destination.close(f"internal error: {type(error).__name__}")
            if asyncio.get_running_loop().time() - began_at > STEADY_SECONDS:
                backoff = Backoff()
            await asyncio.sleep(backoff.next_seconds())

    async def _ship_once(self) -> None:
        """Connect, and ship until the connection ends.  Raises RefusedError."""
        identity, accepted = await self._connect()
        self._system_identifier = identity.profile.system_identifier
        shipping = Shipping(
            self._source,
            self._destination,
            identity,
            accepted,
            compress=self._compress,
            want_seed=self._want_seed,
            seed_finished=self._seed_finished,
        )
        self._health.is_now(State.SHIPPING)
        try:
            ended = await shipping.run()
        except LogshipError as error:
            ended = error
        self._health.is_now(State.CONNECTING, ended)
        await self._destination.close(ended.what)
        if ended.code == Code.LINK_LOST:
            if self._reminder.due(ended.what):
                log.warning(
                    "lost the connection", destination=self._destination.far_end, why=ended.what
                )
        elif ended.code == Code.PRIMARY_NOT_READY and ended.retryable:
            log.info("connecting anew", why=ended.what)
        else:
            await self._after_refusal(ended)

    async def _connect(self) -> tuple[SourceIdentity, Accepted]:
        """Until the far end accepts.  Returns what was said to it: the hello tells of a
        primary that was asked just before, also after minutes of trying."""
        backoff = Backoff()
        while True:
            identity = await self._open_source()
            if self._health.state is not State.CONNECTING:
                self._health.is_now(State.CONNECTING)
            reachable = self._source.reachable
            facts = Facts(
                identity.profile, identity.timeline, identity.flush_lsn, reachable, "", ""
            )
            try:
                accepted = await self._destination.connect(facts)
            except LogshipError as error:
                self._health.is_now(State.CONNECTING, error)
                if error.retryable:
                    if self._reminder.due(error.what):
                        log.warning(
                            "can't reach the destination",
                            destination=self._destination.far_end,
                            **error.as_dict(),
                        )
                    await asyncio.sleep(backoff.next_seconds())
                else:
                    await self._after_refusal(error)
                continue
            resume = str(accepted.position) if accepted.position else "nowhere yet"
            log.info(
                "the destination accepts", destination=self._destination.far_end, resume=resume
            )
            return identity, accepted

    async def _open_source(self) -> SourceIdentity:
        """Until the primary is reached; meanwhile the destination is told that it is not."""
        backoff, reminder = Backoff(), Reminder()
        telling: asyncio.Task[None] | None = None
        try:
            while True:
                try:
                    identity = await self._source.open()
                    break
                except LogshipError as error:
                    self._reached = None
                    self._health.is_now(State.NO_PRIMARY, error)
                    if reminder.due(error.what):
                        said = log.warning if error.retryable else log.error
                        said("can't reach the primary", **error.as_dict())
                if telling is None and self._last_primary is not None:
                    telling = asyncio.create_task(self._tell_of_absence(self._last_primary))
                if telling is None:
                    await asyncio.sleep(backoff.next_seconds())
                else:
                    await asyncio.wait({telling}, timeout=backoff.next_seconds())
                    if telling.done():
                        telling.result()
        finally:
            if telling is not None:
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)
                await self._destination.close("what it said of its primary is over")
        if self._source.reachable:
            await self._note_reached(identity)
        return identity

    async def _note_reached(self, identity: SourceIdentity) -> None:
        reached = (identity.profile.incarnation, identity.timeline)
        if reached != self._reached:
            self._reached = reached
            log.info(
                "reached the primary",
                cluster=str(identity.profile.incarnation),
                timeline=identity.timeline,
                flush_lsn=str(identity.flush_lsn),
            )
        last = LastPrimary(identity.profile, identity.timeline)
        if last != self._last_primary:
            self._last_primary = last
            await asyncio.to_thread(self._remember, last)

    async def _tell_of_absence(self, last: LastPrimary) -> None:
        """Hold a connection that says that the primary is away.  Raises RefusedError.

        Nothing is shipped on it, and it ends when the primary is back: a new hello then says
        what that is, before any of its WAL.
        """
        facts = Facts(last.profile, last.timeline, Lsn(0), False, "", "", ships=False)
        backoff = Backoff()
        while True:
            try:
                await self._destination.connect(facts)
                log.info(
                    "connected, and waits for the primary", destination=self._destination.far_end
                )
                backoff = Backoff()
                error = await self._until_lost()
            except LogshipError as caught:
                error = caught
            if not error.retryable:
                await self._after_refusal(error)
                continue
            if self._reminder.due(error.what):
                log.warning(
                    "can't reach the destination, and the primary is away",
                    destination=self._destination.far_end,
                    **error.as_dict(),
                )
            if error.code == Code.INSTANCE_BUSY:
                # Another shipper has a primary: it is for long, and each try is a line there.
                await asyncio.sleep(BUSY_RETRY_SECONDS)
            else:
                await asyncio.sleep(backoff.next_seconds())

    async def _until_lost(self) -> LogshipError:
        while True:
            match await self._destination.next_event():
                case SeedFinished() as event:
                    self._seed_finished(event)
                case Lost(error):
                    return error
                # All else is said again in answer to the next hello.

    async def _after_refusal(self, error: LogshipError) -> None:
        if error.code in FATAL_CODES:
            raise RefusedError(error.code, error.what, error.hint) from error
        if error.code == Code.FENCED:
            await self._give_up_seed(error)
        # By its code: what else it says may hold a number that is another one each time.
        if self._reminder.due(error.code):
            if error.code == Code.FENCED:
                log.error("FENCED: nothing more of this instance is accepted", **error.as_dict())
            else:
                log.error("refused", **error.as_dict())
        await asyncio.sleep(1.0 if error.retryable else REFUSED_RETRY_SECONDS)

    # --- seeds ----------------------------------------------------------------------------

    def _want_seed(self, why: str) -> None:
        if self._seed_task is not None and not self._seed_task.done():
            log.debug("a seed is already on its way", why=why)
            return
        log.info("starting a seed", why=why)
        self._seed_failures = 0
        self._seed_task = asyncio.create_task(self._seed(0.0))

    def _seed_finished(self, event: SeedFinished) -> None:
        if not event.error:
            log.info("the seed is in place", seed_id=event.seed_id)
            return
        log.error(
            "the seed was given up",
            destination=self._destination.far_end,
            seed_id=event.seed_id,
            why=event.error,
        )
        if self._seed_task is None or self._seed_task.done():
            self._seed_again()

    async def _seed(self, pause_seconds: float) -> None:
        await asyncio.sleep(pause_seconds)
        self._seed_id = ""
        try:
            await self._reserve()
            await self._take_seed(self._send_seed, self._system_identifier)
        except LogshipError as error:
            log.error("the seed failed", **error.as_dict())
            self._seed_again()
        except Exception as error:
            log.exception("a bug ended the seed")
            await self._abort_seed(
                LogshipError(Code.INTERNAL, f"the shipper failed: {type(error).__name__}")
            )
            self._seed_again()

    async def _reserve(self) -> None:
        """Until the primary keeps its WAL for a seed: that may need the operator, or the primary
        to come back, and asking costs it nothing."""
        backoff, reminder = Backoff(), Reminder()
        while True:
            try:
                await self._source.reserve()
            except LogshipError as error:
                if reminder.due(error.what):
                    said = log.warning if error.retryable else log.error
                    said("a seed can't begin yet", **error.as_dict())
                await asyncio.sleep(
                    backoff.next_seconds() if error.retryable else REFUSED_RETRY_SECONDS
                )
                continue
            return

    async def _send_seed(self, frame: SeedFrame, payload: bytes | memoryview) -> None:
        if isinstance(frame, SeedBegin):
            self._seed_id = frame.seed_id
        await self._destination.send_seed(frame, payload)

    async def _abort_seed(self, error: LogshipError) -> None:
        """Have the destination forget a seed that nobody makes any more."""
        if self._seed_id:
            with contextlib.suppress(LogshipError):
                await self._destination.send_seed(
                    SeedAborted(seed_id=self._seed_id, code=str(error.code), what=error.what), b""
                )

    async def _give_up_seed(self, error: LogshipError) -> None:
        """It would hold a walsender and wait for room that never comes."""
        # A try that ends just now may have begun the next one.
        while (task := self._seed_task) is not None:
            self._seed_task = None
            if not task.done():
                log.info("the seed is given up", why=error.what)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await self._abort_seed(error)

    def _seed_again(self) -> None:
        """Try again, more and more rarely, and not for ever: each try costs the primary."""
        self._seed_failures += 1
        if self._seed_failures >= MAX_SEED_TRIES:
            log.error(
                "no more tries to seed",
                tries=self._seed_failures,
                hint="mend what the errors above say, then: applier seed NAME",
            )
            return
        pause_seconds = FIRST_SEED_PAUSE_SECONDS * 2 ** (self._seed_failures - 1)
        log.info("another try to seed follows", in_seconds=pause_seconds)
        self._seed_task = asyncio.create_task(self._seed(pause_seconds))
