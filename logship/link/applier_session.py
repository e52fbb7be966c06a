"""The applier's end of one connection, without the connection.

One session per peer of the Router.  The caller feeds it what arrives (`receive`), the time
(`timer`, not later than `deadline`) and what its store has done (`ack`, `span_failed`, …),
and carries out what comes back (`events`).  Order and windows are checked here, by `WalInbox`
and `SeedInbox`; bytes are unsealed, compared and stored by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from logship.errors import Code, LogshipError
from logship.frames import (
    OLDEST_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    ApplierHeartbeat,
    Bye,
    Fenced,
    Frame,
    GapFound,
    Hello,
    Payload,
    ProfileChanged,
    ResumeAt,
    SeedAborted,
    SeedAck,
    SeedBegin,
    SeedChunk,
    SeedDone,
    SeedEnd,
    SeedRequest,
    ShipperFrame,
    ShipperHeartbeat,
    Span,
    TimelineHistory,
    Welcome,
    decode_from_shipper,
    peek_versions,
)
from logship.link.acks import Acks
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
    SeedStopped,
    Send,
    SpanReceived,
)
from logship.link.refusals import MAX_REASON_CHARACTERS, bad_frame, refusal, version_mismatch
from logship.link.seed_inbox import SeedInbox
from logship.link.shipper_session import LOST_AFTER_HEARTBEATS
from logship.link.states import (
    APPLIER_TRANSITIONS,
    ApplierState,
    ApplierTrigger,
    IllegalTransition,
    next_state,
)
from logship.link.wal_inbox import WalInbox, history_of
from logship.lsn import Lsn, Position
from logship.wal import check_segment_size

HELLO_TIMEOUT_SECONDS: Final = 10.0
DECIDING_HEARTBEAT_SECONDS: Final = 2.0
"""While the caller decides on a hello (opens a store, waits for a lock)."""
MAX_WAITING_FRAMES: Final = 64
"""Frames without a window that may wait to be handled, behind a store that waits for room."""
_COUNTED: Final = (HistoryReceived, ProfileReceived, GapReported, SeedBegun, SeedStopped)


class ApplierSession:
    """Sans-I/O protocol of the applier's end.

    Sending methods raise IllegalTransition when the session is not open (except `refuse` and
    `fence`, which answer a hello too, and `ack`, `seed_ack` and the `…_failed` reports, which
    do nothing once closed: a store may finish work after its peer has gone).
    """

    def __init__(
        self,
        *,
        now: float,
        versions: tuple[int, int] = (OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION),
    ) -> None:
        self.state = ApplierState.AWAITING_HELLO
        self.hello: Hello | None = None
        self.version = 0
        self._versions = versions
        self._welcome: Welcome | None = None
        self._segment_bytes = 0
        self._heard_at = now
        self._heartbeat_at = now
        self._frames = 0
        """Handed up and not yet handled: they stay in memory whatever is acknowledged."""
        self._wal = WalInbox()
        self._acks = Acks()
        self._seed = SeedInbox()

    # --- what is known ----------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self.state is ApplierState.CLOSED

    @property
    def expected(self) -> Position | None:
        """End of the WAL handed up: where the next span must start."""
        return self._wal.expected

    @property
    def epoch(self) -> int:
        """Of the WAL stream: rises whenever what was handed up before is void."""
        return self._wal.epoch

    @property
    def seed_epoch(self) -> int:
        """As `epoch`, of the seed's chunks."""
        return self._seed.epoch

    @property
    def in_flight_bytes(self) -> int:
        """Raw WAL bytes handed up and not yet reported as received."""
        return self._wal.flight.wal_bytes

    @property
    def deadline(self) -> float | None:
        """When to call `timer`.  Any call may move it, closer too (a welcome, a delayed ack):
        look at it after each.  Calling `timer` early does nothing; `alarm.Alarm` knows all this.
        """
        match self.state:
            case ApplierState.AWAITING_HELLO:
                return self._heard_at + HELLO_TIMEOUT_SECONDS
            case ApplierState.DECIDING:
                return self._heartbeat_at
            case ApplierState.OPEN:
                at = min(self._heartbeat_at, self._heard_at + self._patience_seconds)
                return at if self._acks.at is None else min(at, self._acks.at)
            case ApplierState.CLOSED:
                return None

    @property
    def _heartbeat_seconds(self) -> float:
        return self._welcome.heartbeat_seconds if self._welcome else DECIDING_HEARTBEAT_SECONDS

    @property
    def _patience_seconds(self) -> float:
        return LOST_AFTER_HEARTBEATS * self._heartbeat_seconds

    # --- answers to a hello -----------------------------------------------------------------

    def welcome(self, welcome: Welcome, now: float) -> list[ApplierOutput]:
        """Accept the hello.  `welcome.version` is overwritten with the negotiated one.

        resume_lsn must be the durable position, 0 if a seed must come first; seed_id and
        seed_sequence continue the hello's seed after a cut.
        """
        self._move(ApplierTrigger.SEND_WELCOME)
        self._welcome = welcome = _with_version(welcome, self.version)
        self._acks.reset(self._wal.open(welcome, self._segment_bytes))
        self._seed.open(welcome)
        self._heard_at = now
        self._heartbeat_at = now + welcome.heartbeat_seconds
        return [Send(welcome)]

    def refuse(self, error: LogshipError) -> list[ApplierOutput]:
        """End the session with a reason.  Send what is returned, then drop the peer."""
        if self.closed:
            return []
        self._move(ApplierTrigger.SEND_REFUSE)
        return [Send(refusal(error))]

    def fence(self, at: float, timeline: int, lsn: int) -> list[ApplierOutput]:
        """This instance was promoted: answers a hello, or ends an open session."""
        if self.closed:
            return []
        self._move(ApplierTrigger.SEND_FENCED)
        return [Send(Fenced(at=at, timeline=timeline, lsn=lsn))]

    # --- what the store has done ------------------------------------------------------------

    def ack(
        self,
        received: Position | None,
        durable: Position | None,
        applied_lsn: int,
        now: float,
    ) -> list[ApplierOutput]:
        """The store's positions (None: no chain yet) and the standby's.

        Sends at once when `durable` rose or much of the window is free again, else within
        `acks.ACK_DELAY_SECONDS`.  Positions are clamped to what this connection has delivered (the
        store may hold more, from a connection before) and never fall.
        """
        if self.state is not ApplierState.OPEN or self._welcome is None:
            return []
        expected = self._wal.expected
        if self._seed.chain_begins_for or expected is None:
            return []
        if received is not None:
            received = min(received, expected)
            self._wal.flight.settle(received)
        if durable is not None:
            durable = min(durable, expected)
        acks = self._acks.news(received, durable, applied_lsn, now, self._welcome.window_bytes)
        return [self._send(ack, now) for ack in acks]

    def ack_soon(self, now: float) -> bool:
        """Something moved that nobody waits for: it is to be acknowledged within
        `acks.ACK_DELAY_SECONDS`.  Call `ack` with the positions at `deadline`, if not before.
        Returns whether that moved."""
        return self.state is ApplierState.OPEN and self._acks.tell_soon(now)

    def handled(self, output: ApplierOutput) -> None:
        """The caller is done with `output`, which this session handed up: used, failed or
        dropped, it takes no memory any more.

        To be called once for each SpanReceived, HistoryReceived, ProfileReceived, GapReported,
        SeedBegun and SeedStopped; for others it does nothing.  Repeated spans and frames
        without a window are counted from when they are handed up until then, and a shipper that
        sends too many meanwhile is refused.
        """
        if isinstance(output, SpanReceived):
            self._wal.handled(output)
        elif isinstance(output, _COUNTED):
            self._frames -= 1

    def span_failed(
        self, received: SpanReceived, error: LogshipError, now: float
    ) -> list[ApplierOutput]:
        """A span that was handed up can't be used.

        `epoch` rises, also once closed: drop what was handed up after it.  A retryable error
        (a checksum) asks for the stream again from the span's start; any other refuses the
        peer.  Does nothing if the span was void already.  For a full disk keep the span, try
        the store again and ack nothing meanwhile: the window then holds the shipper back.
        """
        if received.epoch != self._wal.epoch:
            return []
        if self.state is ApplierState.OPEN and error.retryable:
            span = received.span
            return self.resume_at(Position(span.timeline, Lsn(span.start_lsn)), error.what, now)
        self._wal.epoch += 1
        return self._throw_out(error) if self.state is ApplierState.OPEN else []

    def resume_at(
        self, position: Position, why: str, now: float, *, beyond: bool = False
    ) -> list[ApplierOutput]:
        """Have the stream again from `position`.

        beyond: what the peer reported to be missing came by another road, so it may go on behind
        it.  Else raises ValueError if `position` lies beyond `expected`.
        """
        if self.state is not ApplierState.OPEN:
            return []
        frame = self._wal.resume_at(position, why, now, beyond=beyond)
        self._acks.set_back(position)
        return [self._send(frame, now)]

    # --- the seed ---------------------------------------------------------------------------

    def seed_request(self, why: str, now: float) -> list[ApplierOutput]:
        return [self._send(SeedRequest(why=why), now)]

    def seed_ack(self, seed_id: str, next_sequence: int, now: float) -> list[ApplierOutput]:
        """Chunks below `next_sequence` are done with (written, and survive a cut of the link);
        0 answers SeedBegun.  Acks of WAL flow again after it.

        A chain that can't be begun has no such answer: `refuse` the peer then."""
        if self.state is not ApplierState.OPEN:
            return []
        if seed_id == self._seed.chain_begins_for:
            self._seed.chain_begins_for = ""
        elif seed_id != self._seed.seed_id:
            return []
        if seed_id == self._seed.seed_id:
            self._seed.settle(next_sequence)
        return [self._send(SeedAck(seed_id=seed_id, next_sequence=next_sequence), now)]

    def chunk_failed(
        self, received: SeedChunkReceived, error: LogshipError, now: float
    ) -> list[ApplierOutput]:
        """A chunk that was handed up can't be used: asked for again if `error.retryable`, else
        the peer is refused.  `seed_epoch` rises, also once closed: drop the chunks after it.
        Does nothing if the chunk was void already."""
        if received.epoch != self._seed.epoch:
            return []
        if self.state is ApplierState.OPEN and error.retryable:
            return self._out(self._seed.set_back(received.chunk.sequence, now), now)
        self._seed.epoch += 1
        return self._throw_out(error) if self.state is ApplierState.OPEN else []

    def seed_done(self, seed_id: str, now: float) -> list[ApplierOutput]:
        """Verified and in place; also said again after a welcome whose hello still held it."""
        self._seed.forget(seed_id)
        return [self._send(SeedDone(seed_id=seed_id), now)]

    def seed_abort(self, seed_id: str, error: LogshipError, now: float) -> list[ApplierOutput]:
        self._seed.forget(seed_id)
        what = error.what[:MAX_REASON_CHARACTERS]
        return [self._send(SeedAborted(seed_id=seed_id, code=str(error.code), what=what), now)]

    def heartbeat(self, sent_at: float, now: float) -> list[ApplierOutput]:
        """When asked by HeartbeatDue.  Repeats the last ack, in case it was lost; that we live
        is said in so many words only where there is nothing to repeat."""
        outputs: list[ApplierOutput] = []
        if self.state is ApplierState.OPEN:
            if not self._seed.chain_begins_for and self._acks.told.timeline:
                acks = self._acks.tell() or [self._acks.told]
                outputs += [self._send(ack, now) for ack in acks]
            if self._seed.seed_id and not self._seed.chain_begins_for:
                frame = SeedAck(seed_id=self._seed.seed_id, next_sequence=self._seed.acked)
                outputs.append(self._send(frame, now))
        self._move(ApplierTrigger.SEND_HEARTBEAT)
        self._heartbeat_at = now + self._heartbeat_seconds
        # Any frame is a sign of life, and frames are what idle links cost.
        return outputs or [Send(ApplierHeartbeat(sent_at=sent_at))]

    # --- what happens -----------------------------------------------------------------------

    def receive(self, parts: Sequence[Payload], now: float) -> list[ApplierOutput]:
        """One message from the peer.  Nothing after the session has closed."""
        if self.closed:
            return []
        try:
            frame, payload = decode_from_shipper(parts)
            outputs = self._hear(frame, payload, now)
            self._count_frames(outputs)
        except LogshipError as error:
            better = None
            if self.state is ApplierState.AWAITING_HELLO and parts:
                better = self._version_error(peek_versions(parts[0]))
            return self._throw_out(better or error)
        except IllegalTransition as error:
            return self._throw_out(bad_frame(f"{type(frame).__name__}: {error}"))
        self._heard_at = now
        return outputs

    def _count_frames(self, outputs: list[ApplierOutput]) -> None:
        for output in outputs:
            if isinstance(output, _COUNTED):
                self._frames += 1
        if self._frames > MAX_WAITING_FRAMES:
            raise LogshipError(
                Code.BAD_FRAME,
                f"{self._frames} frames without a window wait to be handled, "
                f"{MAX_WAITING_FRAMES} are allowed",
                "the store may be waiting for room; the shipper connects again by itself",
                retryable=True,
            )

    def timer(self, now: float) -> list[ApplierOutput]:
        """The time has come (or not: then nothing)."""
        deadline = self.deadline
        if deadline is None or now < deadline:
            return []
        silent_seconds = now - self._heard_at
        patience_seconds = {
            ApplierState.AWAITING_HELLO: HELLO_TIMEOUT_SECONDS,
            ApplierState.OPEN: self._patience_seconds,
        }.get(self.state)
        # The same sum as in `deadline`: the difference may round to just below.
        if patience_seconds is not None and now >= self._heard_at + patience_seconds:
            return self.lost(
                LogshipError(
                    Code.LINK_LOST,
                    f"nothing was heard from the shipper for {silent_seconds:.1f} s",
                    "it will connect again by itself once it can",
                    retryable=True,
                )
            )
        outputs: list[ApplierOutput] = []
        if self._acks.is_late(now):
            outputs += [self._send(ack, now) for ack in self._acks.tell()]
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + self._heartbeat_seconds
            outputs.append(HeartbeatDue())
        return outputs

    def lost(self, error: LogshipError) -> list[ApplierOutput]:
        """The peer is gone, for `error` (the transport says so).  Returns LinkLost, once."""
        if self.closed:
            return []
        self._move(ApplierTrigger.LOSE)
        return [LinkLost(error)]

    def _throw_out(self, error: LogshipError) -> list[ApplierOutput]:
        return [*self.refuse(error), PeerRefused(error)]

    def _hear(self, frame: ShipperFrame, payload: Payload, now: float) -> list[ApplierOutput]:
        match frame:
            case Hello():
                return self._on_hello(frame, now)
            case Bye():
                self._move(ApplierTrigger.HEAR_BYE)
                return [PeerLeft(frame.reason)]
        self._move(ApplierTrigger.HEAR_FRAME)
        match frame:
            case Span():
                return self._out(self._wal.take(frame, payload, now), now)
            case ShipperHeartbeat():
                return self._on_heartbeat(frame, now)
            case TimelineHistory():
                return [history_of(frame, payload)]
            case ProfileChanged():
                return [ProfileReceived(frame.profile)]
            case GapFound():
                return [GapReported(frame)]
            case SeedBegin():
                return self._on_seed_begin(frame)
            case SeedChunk() | SeedEnd():
                return self._out(self._seed.take(frame, payload, now), now)
            case SeedAborted():
                self._seed.forget(frame.seed_id)
                return [SeedStopped(frame.seed_id, frame.code, frame.what)]

    def _on_hello(self, hello: Hello, now: float) -> list[ApplierOutput]:
        self._move(ApplierTrigger.HEAR_HELLO)
        mismatch = self._version_error((hello.version_min, hello.version_max))
        if mismatch is not None:
            raise mismatch
        try:
            self._segment_bytes = check_segment_size(hello.profile.wal_segment_size)
        except ValueError as error:
            raise bad_frame(str(error)) from error
        self.hello = hello
        self.version = min(self._versions[1], hello.version_max)
        self._heartbeat_at = now + DECIDING_HEARTBEAT_SECONDS
        return [Greeted(hello, self.version)]

    def _version_error(self, theirs: tuple[int, int] | None) -> LogshipError | None:
        return None if theirs is None else version_mismatch(theirs, self._versions)

    def _on_heartbeat(self, frame: ShipperHeartbeat, now: float) -> list[ApplierOutput]:
        outputs: list[ApplierOutput] = [PrimaryHeard(frame)]
        if frame.sent_timeline:
            sent = Position(frame.sent_timeline, Lsn(frame.sent_lsn))
            outputs += self._out(self._wal.sent(sent, now), now)
        outputs += self._out(self._seed.sent(frame.seed_id, frame.seed_sequence, now), now)
        return outputs

    def _on_seed_begin(self, begin: SeedBegin) -> list[ApplierOutput]:
        if begin.timeline < 1:
            raise bad_frame(f"a seed on timeline {begin.timeline}")
        if not begin.seed_id:
            raise bad_frame("a seed without a name")
        if begin.seed_id in (self._seed.seed_id, self._seed.forgotten_id):
            return []  # repeated; its chain must not begin twice
        self._wal.begin_chain(begin.timeline, begin.start_lsn)
        self._acks.reset(None)
        self._seed.begin(begin.seed_id)
        return [SeedBegun(begin)]

    def _out(
        self, found: ApplierOutput | ResumeAt | SeedAck | None, now: float
    ) -> list[ApplierOutput]:
        """What an inbox made of something: to be handed up, or to be sent."""
        if found is None:
            return []
        if isinstance(found, (ResumeAt, SeedAck)):
            return [self._send(found, now)]
        return [found]

    def _send(self, frame: Frame, now: float) -> Send:
        self._move(ApplierTrigger.SEND_FRAME)
        self._heartbeat_at = now + self._heartbeat_seconds
        return Send(frame)

    def _move(self, trigger: ApplierTrigger) -> None:
        self.state = next_state(APPLIER_TRANSITIONS, self.state, trigger)


def _with_version(welcome: Welcome, version: int) -> Welcome:
    fields = {name: getattr(welcome, name) for name in welcome.__struct_fields__}
    return Welcome(**{**fields, "version": version})
