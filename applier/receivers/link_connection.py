"""One connection of the link: its session, its worker, and what its intake tells it.

A connection's frames are handled in order by its worker; large spans are unsealed in threads
as soon as they arrive, so that the next is ready when the one before is written.  A small span
that finds the worker idle is written in the step that received it, which is the commit latency
of an idle system.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import structlog

from applier.receivers import FencedError, Intake
from applier.receivers.seed.receiver import SeedOutOfOrderError
from applier.receivers.unsealing import Unsealing, UnsealingAhead, unsealed
from logship.errors import Code, LogshipError
from logship.frames import MAX_SPAN_BYTES, Payload, SeedEnd, Welcome
from logship.link.alarm import Alarm
from logship.link.applier_session import ApplierSession
from logship.link.events import (
    ApplierOutput,
    GapReported,
    Greeted,
    HeartbeatDue,
    HistoryReceived,
    LinkLost,
    PeerLeft,
    PeerRefused,
    PrimaryHeard,
    ProfileReceived,
    SeedBegun,
    SeedChunkReceived,
    SeedEnded,
    SeedStopped,
    Send,
    SpanReceived,
)
from logship.link.instances import why_replaced
from logship.link.transport import Peer
from logship.lsn import Position
from logship.seal import INLINE_BYTES

if TYPE_CHECKING:
    from applier.receivers.link import LinkReceiver

log = structlog.get_logger(__name__)

MAX_CORRUPT_SPANS = 16
"""One after the other: then the connection ends.  Its shipper pauses before it comes again, so that
a road that corrupts everything does not keep us busy with nothing else."""
_ACK_RECEIVED_PART = 8
"""Of the window: how much may be written before it is looked whether to say so."""


class Connection:
    """Is the intake's `IntakeListener`."""

    def __init__(self, receiver: LinkReceiver, peer: Peer) -> None:
        self._receiver = receiver
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._session = ApplierSession(now=self._loop.time())
        self._intake: Intake | None = None
        self._work: asyncio.Queue[tuple[ApplierOutput, Unsealing | None]] = asyncio.Queue()
        self._unsealing = UnsealingAhead()
        self._worker = asyncio.create_task(self._handle_in_order())
        self._working = False
        self._unacked_bytes = 0
        self._corrupt_spans = 0
        self._seed_ending: asyncio.Task[None] | None = None
        self._alarm = Alarm(self._on_timer)
        self._alarm.set(self._session.deadline)

    # --- in: the transport and the clock ----------------------------------------------------

    def received(self, parts: list[Payload]) -> None:
        """A message of this connection."""
        self._take(self._session.receive(parts, self._loop.time()))

    def transport_lost(self, why: str) -> None:
        error = LogshipError(Code.LINK_LOST, why, retryable=True)
        self._take(self._session.lost(error))

    def _on_timer(self) -> None:
        self.positions_changed()
        self._take(self._session.timer(self._loop.time()))

    def _take(self, outputs: list[ApplierOutput]) -> None:
        """Carry out what the session returns: send at once, queue the rest in order."""
        for output in outputs:
            match output:
                case Send():
                    self._receiver.router.send(self._peer, output.parts())
                case HeartbeatDue():
                    self._take(self._session.heartbeat(time.time(), self._loop.time()))
                case PeerRefused(error):
                    log.warning("refused a shipper", address=self._peer.address, **error.as_dict())
                    self._finish(error.what)
                case LinkLost(error):
                    self._finish(error.what)
                case PeerLeft(reason):
                    self._finish(reason)
                case PrimaryHeard(heartbeat):
                    self._primary_seen(heartbeat.timeline, reachable=heartbeat.primary_reachable)
                    # Not behind a store that waits for room: the exposure must stay true.
                    if self._intake is not None:
                        self._intake.heartbeat(heartbeat)
                case SpanReceived():
                    self._span_came(output)
                case _:
                    self._work.put_nowait((output, None))
        if not self._session.closed:
            self._alarm.set(self._session.deadline)

    def _primary_seen(self, timeline: int, *, reachable: bool) -> None:
        """A primary that a failover left behind is as good as none: its shipper must not keep
        the instance from the one whose primary writes what is held."""
        positions = self._intake.positions() if self._intake is not None else None
        left_behind = positions is not None and timeline < positions.received.timeline
        self._receiver.instances.primary_seen(
            self._peer.routing_id, reachable=reachable and not left_behind
        )

    def _span_came(self, received: SpanReceived) -> None:
        span = received.span
        written = self._write_at_once(received)
        if span.flush_lsn and self._intake is not None:
            self._intake.heard_with_span(span.timeline, span.flush_lsn)
        if not written:
            self._work.put_nowait((received, self._unsealing.add(received)))

    def _write_at_once(self, received: SpanReceived) -> bool:
        """Write a span without the worker.  False: the worker must, nothing was done."""
        intake, span = self._intake, received.span
        if intake is None or span.raw_bytes > INLINE_BYTES:
            return False
        if self._working or not self._work.empty():
            return False
        try:
            if not intake.wal_at_once(span.timeline, span.start_lsn, unsealed(received)):
                return False
        except Exception as error:
            self._span_failed(intake, received, error)
        else:
            self._span_written(span.raw_bytes)
        self._session.handled(received)
        return True

    # --- the worker -------------------------------------------------------------------------

    async def _handle_in_order(self) -> None:
        while True:
            output, unsealing = await self._work.get()
            self._working = True
            try:
                await self._handle(output, unsealing)
            except Exception as error:
                self._failed(output, error)
            finally:
                self._working = False
                self._session.handled(output)
                if unsealing is not None:
                    self._unsealing.handled()
                del output, unsealing  # not to be held until more comes

    def _failed(self, output: ApplierOutput, error: Exception) -> None:
        if isinstance(error, FencedError):
            self.fenced(error)
        elif isinstance(error, LogshipError):
            self._refuse(error)
        else:
            self._refuse(_bug(error, type(output).__name__))

    async def _handle(self, output: ApplierOutput, unsealing: Unsealing | None) -> None:
        if isinstance(output, Greeted):
            await self._greet(output)
            return
        intake = self._intake
        if intake is None or self._session.closed:
            return
        match output:
            case SpanReceived():
                await self._span(intake, output, unsealing)
            case SeedChunkReceived():
                await self._seed_chunk(intake, output)
            case HistoryReceived(timeline, content):
                await intake.history(timeline, content)
            case ProfileReceived(profile):
                await intake.profile(profile)
            case GapReported(gap):
                intake.gap_found(gap)
            case SeedBegun():
                await self._seed_begin(intake, output)
            case SeedEnded():
                self._seed_end(intake, output)
            case SeedStopped(seed_id, code, what):
                await intake.seed_stopped(seed_id, code, what)

    async def _greet(self, greeted: Greeted) -> None:
        hello = greeted.hello
        receiver = self._receiver
        replaced = receiver.instances.claim(
            self._peer.routing_id, self._peer.public_key, hello, address=self._peer.address
        )
        old = receiver.connection(replaced.peer) if replaced is not None else None
        if replaced is not None and old is not None:
            why = why_replaced(replaced, hello)
            if why is None:
                old.transport_lost("the shipper connected again")
            else:
                old.refuse(why)
        intake = receiver.intakes[hello.instance]
        resume = await intake.hello(hello, self)
        if self._session.closed:
            intake.lost(self, "the connection ended while it was being accepted")
            return
        self._intake = intake
        self._primary_seen(hello.timeline, reachable=hello.primary_reachable)
        position = resume.position
        welcome = Welcome(
            version=greeted.version,
            window_bytes=receiver.window_bytes,
            max_span_bytes=min(MAX_SPAN_BYTES, receiver.window_bytes // 4),
            heartbeat_seconds=receiver.heartbeat_seconds,
            resume_timeline=position.timeline if position else 0,
            resume_lsn=position.lsn if position else 0,
            known_timelines=list(resume.known_timelines),
            seed_wanted=resume.seed_wanted,
            seed_id=resume.seed_id,
            seed_sequence=resume.seed_sequence,
            seed_done=resume.seed_done,
        )
        self._take(self._session.welcome(welcome, self._loop.time()))
        log.info(
            "a shipper is connected",
            instance=hello.instance,
            address=self._peer.address,
            resume=str(position) if position else "needs a seed",
        )

    async def _span(
        self, intake: Intake, received: SpanReceived, unsealing: Unsealing | None
    ) -> None:
        if received.epoch != self._session.epoch:
            return
        span = received.span
        try:
            raw = unsealed(received) if unsealing is None else await unsealing.done
            await intake.wal(span.timeline, span.start_lsn, raw)
        except LogshipError as error:
            self._span_failed(intake, received, error)
        else:
            self._span_written(span.raw_bytes)

    def _span_written(self, raw_bytes: int) -> None:
        """Acknowledged with what becomes durable next: nobody waits for "received", unless the
        window is about to close."""
        self._corrupt_spans = 0
        self._unacked_bytes += raw_bytes
        if self._unacked_bytes * _ACK_RECEIVED_PART >= self._receiver.window_bytes:
            self.positions_changed()
        else:
            self.applied_changed()

    def _span_failed(self, intake: Intake, received: SpanReceived, error: Exception) -> None:
        now = self._loop.time()
        code = error.code if isinstance(error, LogshipError) else None
        # A seed that began meanwhile has voided it: the stream is not to be set back to it.
        if code is Code.WAL_GAP and received.epoch == self._session.epoch:
            positions = intake.positions()
            if positions is not None and not self._session.closed:
                assert isinstance(error, LogshipError)
                self._take(self._session.resume_at(positions.received, error.what, now))
                return
        if isinstance(error, LogshipError) and code in (Code.CHECKSUM_MISMATCH, Code.WAL_GAP):
            log.warning("a span can't be used", **error.as_dict())
            self._corrupt_spans += code is Code.CHECKSUM_MISMATCH
            if self._corrupt_spans < MAX_CORRUPT_SPANS:
                self._take(self._session.span_failed(received, error, now))
                return
        self._failed(received, error)

    async def _seed_begin(self, intake: Intake, begun: SeedBegun) -> None:
        await intake.seed_begin(begun.begin)
        self._take(self._session.seed_ack(begun.begin.seed_id, 0, self._loop.time()))

    async def _seed_chunk(self, intake: Intake, received: SeedChunkReceived) -> None:
        if received.epoch != self._session.seed_epoch:
            return
        chunk = received.chunk
        now = self._loop.time()
        try:
            await intake.seed_chunk(chunk, received.payload)
        except FencedError:
            raise
        except LogshipError as error:
            if error.code == Code.CHECKSUM_MISMATCH or isinstance(error, SeedOutOfOrderError):
                self._take(self._session.chunk_failed(received, error, now))
            else:
                self._take(self._session.seed_abort(chunk.seed_id, error, now))
                await intake.seed_stopped(chunk.seed_id, str(error.code), error.what)
            return
        self._take(self._session.seed_ack(chunk.seed_id, chunk.sequence + 1, now))

    def _seed_end(self, intake: Intake, ended: SeedEnded) -> None:
        """Not in the worker: it takes long, and WAL must flow meanwhile."""
        if ended.epoch != self._session.seed_epoch:
            return
        self._seed_ending = asyncio.create_task(self._end_seed(intake, ended.end))

    async def _end_seed(self, intake: Intake, end: SeedEnd) -> None:
        try:
            await intake.seed_end(end)
        except FencedError as error:
            self.fenced(error)
        except LogshipError as error:
            if not self._session.closed:
                now = self._loop.time()
                self._take(self._session.seed_abort(end.seed_id, error, now))
        except Exception as error:
            self._refuse(_bug(error, "SeedEnd"))
        else:
            if not self._session.closed:
                self._take(self._session.seed_done(end.seed_id, self._loop.time()))

    # --- IntakeListener -----------------------------------------------------------------------

    def applied_changed(self) -> None:
        if self._session.ack_soon(self._loop.time()):
            self._alarm.set(self._session.deadline)

    def positions_changed(self) -> None:
        self._unacked_bytes = 0
        positions = self._intake.positions() if self._intake is not None else None
        if positions is not None and not self._session.closed:
            self._take(self._session.ack(*positions, now=self._loop.time()))

    def seed_requested(self, why: str) -> None:
        if not self._session.closed:
            self._take(self._session.seed_request(why, self._loop.time()))

    def resume(self, position: Position, why: str) -> None:
        if not self._session.closed:
            self._take(self._session.resume_at(position, why, self._loop.time(), beyond=True))

    def fenced(self, error: FencedError) -> None:
        if not self._session.closed:
            log.warning("told the shipper that it is fenced", address=self._peer.address)
            self._take(self._session.fence(error.at, error.timeline, error.lsn))
            self._finish(error.what)

    def failed(self, error: Exception) -> None:
        if isinstance(error, LogshipError):
            self.refuse(error)
        else:
            self.refuse(LogshipError(Code.INTERNAL, str(error), retryable=True))

    # --- the end ------------------------------------------------------------------------------

    def refuse(self, error: LogshipError) -> None:
        """Tell the shipper why, and end the connection."""
        self._refuse(error)

    def _refuse(self, error: LogshipError) -> None:
        if not self._session.closed:
            log.warning("refused a shipper", address=self._peer.address, **error.as_dict())
            self._take(self._session.refuse(error))
            self._finish(error.what)

    async def end(self, why: str) -> None:
        """The applier stops: say nothing, the silence is noticed at once by the transport."""
        self._finish(why)
        with contextlib.suppress(asyncio.CancelledError):
            await self._worker

    def _finish(self, why: str) -> None:
        self._alarm.cancel()
        self._receiver.forget(self._peer)
        if self._intake is not None:
            intake, self._intake = self._intake, None
            intake.lost(self, why)
        self._session.lost(LogshipError(Code.LINK_LOST, why, retryable=True))
        ending = self._seed_ending
        if ending is not None and ending is not asyncio.current_task():
            ending.cancel()
        if self._worker is not asyncio.current_task():
            self._worker.cancel()
        else:
            # The worker itself ends the connection: it stops at its next wait.
            self._loop.call_soon(self._worker.cancel)


def _bug(error: Exception, frame: str) -> LogshipError:
    log.error("a bug while handling a frame", frame=frame, exc_info=error)
    return LogshipError(
        Code.INTERNAL,
        f"the applier failed: {type(error).__name__}",
        "its log has the details; please report them",
        retryable=True,
    )
