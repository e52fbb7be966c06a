"""One accepted connection: read from the source, ship, pass acknowledgements back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from logship.errors import Code, LogshipError
from logship.frames import GapFound
from logship.lsn import Lsn, Position
from shipper.agent.pipeline import SealPipeline, split
from shipper.backoff import Backoff, Reminder
from shipper.destinations import (
    Accepted,
    Acked,
    Destination,
    Facts,
    Lost,
    PushesAcks,
    Rewind,
    SeedFinished,
    SeedWanted,
)
from shipper.sources import HistoryFile, PushesWal, Source, SourceIdentity, WalBytes

log = structlog.get_logger(__name__)

BATCH_BYTES = 1 << 20
"""Raw WAL of one span under load: large messages are what CURVE and zstd are fast at."""

OBSERVE_SECONDS = 2.0
OBSERVE_TIMEOUT_SECONDS = 10.0
LAST_WORD_SECONDS = 0.2
REFUSED_RETRY_SECONDS = 15.0
"""Between two looks at what somebody has to mend by hand."""

GAP_CODES = frozenset(
    {
        Code.WAL_REMOVED,
        Code.SLOT_LOST,
        Code.TIMELINE_DIVERGED,
        Code.NOT_IN_HISTORY,
        Code.PRIMARY_BEHIND,
    }
)
"""Errors that mean: the WAL that the store needs next can't be had from this source.  It is
gone, or the primary is no continuation of what the store has."""


class Shipping:
    """Runs until the connection is lost or somebody must act.

    `want_seed(why)` is called when the far end asks for a seed; `seed_finished` when it has
    one or gave it up.
    """

    def __init__(
        self,
        source: Source,
        destination: Destination,
        identity: SourceIdentity,
        accepted: Accepted,
        *,
        compress: bool,
        want_seed: Callable[[str], None],
        seed_finished: Callable[[SeedFinished], None],
    ) -> None:
        self._source = source
        self._destination = destination
        self._identity = identity
        self._known_timelines = accepted.known_timelines
        self._max_span_bytes = min(BATCH_BYTES, accepted.max_span_bytes)
        self._compress = compress
        self._want_seed = want_seed
        self._seed_finished = seed_finished
        self._position = accepted.position
        self._acked: Acked | None = None
        """What the far end holds; a new stream from the primary has to be told again."""
        if accepted.durable is not None:
            self._acked = Acked(accepted.durable, accepted.durable, Lsn(0))
        self._turn = asyncio.Event()
        """Set when `_position` was changed from outside: read from there instead."""
        self._facts = Facts(identity.profile, identity.timeline, identity.flush_lsn, True, "", "")
        """`ships`: whether the source gives WAL.  `reachable` is asked when it is told."""
        self._answers = True
        """Whether the primary did when it was asked last."""
        self._greeted_away = not source.reachable
        self._reminder = Reminder()
        if accepted.seed_wanted:
            want_seed(f"{destination.far_end} has no seed")

    async def run(self) -> LogshipError:
        """Ship until the connection ends; returns why.

        Raises LogshipError that only the source can mend, and any other exception (a bug).
        """
        if isinstance(self._destination, PushesAcks):
            self._destination.on_acked = self._acknowledge
        events = asyncio.create_task(self._follow_events())
        tasks = (
            events,
            asyncio.create_task(self._pump()),
            asyncio.create_task(self._observe()),
        )
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # Several notice a lost link; what the far end said about it is the better word.
            await asyncio.wait({events}, timeout=LAST_WORD_SECONDS)
        finally:
            if isinstance(self._destination, PushesAcks):
                self._destination.on_acked = None
            for task in tasks:
                task.cancel()
            said, *failed = await asyncio.gather(*tasks, return_exceptions=True)
        _raise_bug([said, *failed])
        if isinstance(said, LogshipError):
            return said
        for failure in failed:
            if isinstance(failure, LogshipError):
                raise failure
        raise AssertionError("shipping ended without a reason")

    # --- what the far end says ------------------------------------------------------------

    async def _follow_events(self) -> LogshipError:
        while True:
            event = await self._destination.next_event()
            match event:
                case Acked():
                    self._acknowledge(event)
                case Rewind(position, why):
                    log.info("reading again from another place", position=str(position), why=why)
                    self._position = position
                    self._turn.set()
                case SeedWanted(why):
                    self._want_seed(why)
                case SeedFinished():
                    self._seed_finished(event)
                case Lost(error):
                    return error

    def _acknowledge(self, acked: Acked) -> None:
        self._acked = acked
        self._source.acknowledge(*acked)

    # --- what the primary says ------------------------------------------------------------

    async def _observe(self) -> None:
        while True:
            try:
                async with asyncio.timeout(OBSERVE_TIMEOUT_SECONDS):
                    seen = await self._source.observe()
            except (LogshipError, TimeoutError) as error:
                log.debug("the primary can't be asked", error=str(error) or "no answer")
                self._answers = False
                # What was true once must not be told as if it were.
                self._facts = self._facts._replace(
                    sync_state="", slot_wal_status="", slot_restart_lsn=None
                )
            else:
                self._answers = True
                self._facts = self._facts._replace(
                    profile=seen.profile,
                    # A stream that was lost may live on in the primary's view for a while.
                    sync_state=seen.sync_state if self._facts.ships else "",
                    slot_wal_status=seen.slot_wal_status,
                    slot_restart_lsn=seen.slot_restart_lsn or Lsn(0),
                )
            self._tell()
            await asyncio.sleep(OBSERVE_SECONDS)

    def _tell(self) -> None:
        self._facts = self._facts._replace(
            timeline=self._identity.timeline, flush_lsn=self._source.flush_lsn
        )
        reachable = self._facts.ships and self._source.reachable
        if self._position is None:
            # Nothing streams that could be lost.
            reachable = reachable and self._answers
        self._destination.tell(self._facts._replace(reachable=reachable))

    # --- WAL ------------------------------------------------------------------------------

    async def _pump(self) -> None:
        backoff = Backoff()
        while True:
            if self._position is None:
                await self._turn.wait()
                self._turn.clear()
                continue
            self._turn.clear()
            started_at = time.monotonic()
            try:
                await self._ship_from(self._position)
            except LogshipError as error:
                if error.code == Code.LINK_LOST:
                    raise
                if error.code in GAP_CODES or error.code == Code.WAL_CONFLICT:
                    missing = self._position
                    await self._report_gap(error)
                    if error.retryable:
                        await self._look_again(missing)
                elif error.code == Code.SLOT_MISSING and not error.retryable:
                    if self._reminder.due(error.what):
                        log.error("nothing can be shipped", **error.as_dict())
                    await asyncio.sleep(REFUSED_RETRY_SECONDS)
                elif error.retryable or error.code == Code.PRIMARY_REFUSED:
                    if time.monotonic() - started_at > 10:
                        backoff = Backoff()
                    await self._reopen(error, backoff)
                else:
                    raise

    async def _ship_from(self, position: Position) -> None:
        """Ship until `_turn`.  `_position` is then where the next reading starts."""
        self._destination.resume(position)
        pipeline = SealPipeline(self._source, self._destination, compress=self._compress)
        turning = asyncio.create_task(self._turn.wait())
        reading = asyncio.create_task(self._read_into(pipeline, position))
        # The sender too: if it fails while nothing is read, nobody else would notice.
        ending = {turning, reading, pipeline.sender}
        try:
            await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if isinstance(self._source, PushesWal):
                self._source.on_wal = None
            turning.cancel()
            reading.cancel()
            outcomes = [*await asyncio.gather(reading, return_exceptions=True)]
            outcomes += await pipeline.close()
            if not self._turn.is_set():
                self._position = pipeline.sent or position
            _raise_bug(outcomes)
        # After a turn it is of no matter what became of the old reading.
        if not self._turn.is_set():
            for outcome in outcomes:
                if isinstance(outcome, LogshipError):
                    raise outcome

    async def _read_into(self, pipeline: SealPipeline, position: Position) -> None:
        await self._source.start(position, self._known_timelines)
        if isinstance(self._source, PushesWal):
            self._source.on_wal = partial(self._push, pipeline)
        if self._acked is not None:
            # The last ack may have been lost with the connection, or have come while nothing
            # streamed.  With nothing new to ship no other comes: the slot would stay, and a
            # synchronous commit would wait for ever.
            self._source.acknowledge(*self._acked)
        self._facts = self._facts._replace(ships=True)
        self._tell()
        while True:
            events = await self._source.read(self._max_span_bytes)
            for event in events:
                if isinstance(event, HistoryFile):
                    await pipeline.drain()
                    self._destination.send_history(event.timeline, event.content)
                    self._known_timelines |= {event.timeline}
                    self._identity = self._identity._replace(
                        timeline=max(event.timeline, self._identity.timeline)
                    )
                else:
                    for span in split(event, self._max_span_bytes):
                        await pipeline.put(span)
            if not events:
                self._tell()

    def _push(self, pipeline: SealPipeline, span: WalBytes) -> bool:
        return span.size_bytes <= self._max_span_bytes and pipeline.put_at_once(span)

    async def _report_gap(self, error: LogshipError) -> None:
        # Before any wait: a rewind that comes meanwhile says where to go on.
        missing, self._position = self._position, None
        assert missing is not None
        available = Lsn(0)
        with contextlib.suppress(LogshipError):
            available = (await self._source.observe()).slot_restart_lsn or Lsn(0)
        if self._reminder.due(error.what):
            log.error(
                "the source can't go on from where the store is",
                code=str(error.code),
                what=error.what,
                missing_from=str(missing),
                available_from=str(available),
                hint=error.hint
                or "if it lies nowhere else either, a new seed goes on: "
                "on the recovery server, applier seed NAME",
            )
        self._destination.send_gap(
            GapFound(
                timeline=missing.timeline,
                from_lsn=missing.lsn,
                available_lsn=available,
                code=str(error.code),
                what=error.what,
            )
        )

    async def _look_again(self, missing: Position | None) -> None:
        """After a gap that somebody may close by hand: try once more from there, later."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REFUSED_RETRY_SECONDS):
                await self._turn.wait()
        if not self._turn.is_set():
            self._position = missing

    async def _reopen(self, error: LogshipError, backoff: Backoff) -> None:
        """The primary went away: say so, and come back to it when it is there again."""
        self._facts = self._facts._replace(
            ships=False, sync_state="", slot_wal_status="", slot_restart_lsn=None
        )
        self._tell()
        if self._reminder.due(error.what):
            log.warning("lost the primary", code=str(error.code), what=error.what)
        while True:
            await asyncio.sleep(backoff.next_seconds())
            try:
                identity = await self._source.open()
            except LogshipError as again:
                if self._reminder.due(again.what):
                    log.info("the primary is not back yet", code=str(again.code), what=again.what)
                self._tell()
                continue
            break
        if self._greeted_away and self._source.reachable:
            raise LogshipError(
                Code.PRIMARY_NOT_READY,
                "the primary is back, and a new hello says what it is",
                retryable=True,
            )
        if identity.profile.major > self._identity.profile.major:
            raise LogshipError(
                Code.PRIMARY_NOT_READY,
                f"the primary was upgraded to PostgreSQL {identity.profile.major}: it is cluster "
                f"{identity.profile.incarnation} now, and a new hello says so",
                retryable=True,
            )
        if identity.profile.incarnation != self._identity.profile.incarnation:
            raise LogshipError(
                Code.SYSTEM_IDENTIFIER_MISMATCH,
                f"conninfo now leads to another cluster ({identity.profile.incarnation}, "
                f"was {self._identity.profile.incarnation})",
                "check which server runs there",
            )
        self._identity = identity
        self._facts = self._facts._replace(profile=identity.profile, ships=True)
        # Before any WAL that the changed server wrote: the applier checks it first.
        self._tell()


def _raise_bug(outcomes: Sequence[object]) -> None:
    """Raise the first that is neither a LogshipError nor a cancellation: nobody expects it."""
    for outcome in outcomes:
        if isinstance(outcome, Exception) and not isinstance(outcome, LogshipError):
            raise outcome
