"""Keeps shipping: opens the source, reaches the destination, ships, and starts over.

A refusal that somebody must mend first (wrong key, wrong cluster, fenced) is said loudly
and tried again rarely, so that mending it needs no restart here.  Being superseded ends the
process: two shippers that take turns would never ship.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from logship.errors import Code, LogshipError, RefusedError
from logship.frames import SeedAborted, SeedBegin, SeedChunk, SeedEnd
from logship.lsn import Lsn
from shipper.agent.backoff import Backoff, Reminder
from shipper.agent.shipping import Shipping
from shipper.destinations import Accepted, Destination, Facts, SeedFinished
from shipper.sources import Source, SourceIdentity

log = structlog.get_logger(__name__)

REFUSED_RETRY_SECONDS = 15.0
FIRST_SEED_PAUSE_SECONDS = 5.0
MAX_SEED_TRIES = 5
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
    ) -> None:
        self._source = source
        self._destination = destination
        self._take_seed = take_seed
        self._compress = compress
        self._seed_task: asyncio.Task[None] | None = None
        self._seed_failures = 0
        self._system_identifier = 0

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

    async def _run_forever(self) -> None:
        while True:
            identity, accepted = await self._connect(await self._open_source())
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
            try:
                ended = await shipping.run()
            except LogshipError as error:
                ended = error
            await self._destination.close(ended.what)
            if ended.code == Code.LINK_LOST:
                log.warning("lost the link", why=ended.what)
            else:
                await self._after_refusal(ended)

    async def _open_source(self) -> SourceIdentity:
        backoff, reminder = Backoff(), Reminder()
        while True:
            try:
                identity = await self._source.open()
            except LogshipError as error:
                if reminder.due(error.what):
                    said = log.warning if error.retryable else log.error
                    said("can't reach the primary", **error.as_dict())
                await asyncio.sleep(backoff.next_seconds())
                continue
            log.info(
                "reached the primary",
                cluster=str(identity.profile.incarnation),
                timeline=identity.timeline,
                flush_lsn=str(identity.flush_lsn),
            )
            return identity

    async def _connect(self, identity: SourceIdentity) -> tuple[SourceIdentity, Accepted]:
        """Until the applier accepts.  Returns what was said to it: meanwhile the primary may
        have changed."""
        backoff, reminder = Backoff(), Reminder()
        while True:
            # The hello says where the primary is now, also after minutes of trying.
            flush_lsn = Lsn(max(identity.flush_lsn, self._source.flush_lsn))
            facts = Facts(identity.profile, identity.timeline, flush_lsn, True, "", "")
            try:
                accepted = await self._destination.connect(facts)
            except LogshipError as error:
                if error.retryable:
                    if reminder.due(error.what):
                        log.warning("can't reach the applier", **error.as_dict())
                    await asyncio.sleep(backoff.next_seconds())
                else:
                    await self._after_refusal(error)
                with contextlib.suppress(LogshipError):
                    identity = await self._source.open()
                continue
            resume = str(accepted.position) if accepted.position else "needs a seed"
            log.info("the applier accepts", resume=resume)
            return identity, accepted

    async def _after_refusal(self, error: LogshipError) -> None:
        if error.code in FATAL_CODES:
            raise RefusedError(error.code, error.what, error.hint) from error
        if error.code == Code.FENCED:
            log.error(
                "FENCED: the applier accepts nothing more of this instance", **error.as_dict()
            )
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
        log.error("the applier gave up the seed", seed_id=event.seed_id, why=event.error)
        if self._seed_task is None or self._seed_task.done():
            self._seed_again()

    async def _seed(self, pause_seconds: float) -> None:
        await asyncio.sleep(pause_seconds)
        try:
            await self._source.reserve()
            await self._take_seed(self._destination.send_seed, self._system_identifier)
        except LogshipError as error:
            log.error("the seed failed", **error.as_dict())
            self._seed_again()

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
