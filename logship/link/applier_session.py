"""The applier's end of one connection, without the connection.

One session per peer of the Router.  The caller feeds it what arrives (`receive`), the time
(`timer`, not later than `deadline`) and what its store has done (`ack`, `span_failed`, …),
and carries out what comes back (`events`).  Order and windows are checked here; bytes are
unsealed, compared and stored by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import crc32c

from logship.errors import Code, LogshipError
from logship.frames import (
    MAX_SPAN_BYTES,
    OLDEST_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    Ack,
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
    SeedEnded,
    SeedStopped,
    Send,
    SpanReceived,
)
from logship.link.refusals import MAX_REASON_CHARACTERS, refusal, version_mismatch
from logship.link.shipper_session import LOST_AFTER_HEARTBEATS
from logship.link.states import (
    APPLIER_TRANSITIONS,
    ApplierState,
    ApplierTrigger,
    IllegalTransition,
    next_state,
)
from logship.link.windows import SPAN_COST_BYTES, Flight, SeedInbox
from logship.lsn import Lsn, Position
from logship.wal import MAX_HISTORY_BYTES, check_segment_size, segment_start

HELLO_TIMEOUT_SECONDS: Final = 10.0
DECIDING_HEARTBEAT_SECONDS: Final = 2.0
"""While the caller decides on a hello (opens a store, waits for a lock)."""
ACK_DELAY_SECONDS: Final = 0.05
"""How long news that frees nobody (received or applied moved, durable did not) may wait for
an ack that must be sent anyway."""
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
        self.epoch = 0
        """Of the WAL stream: rises whenever what was handed up before is void."""
        self._versions = versions
        self._welcome: Welcome | None = None
        self._segment_bytes = 0
        self._heard_at = now
        self._heartbeat_at = now
        # WAL: what comes next, what was handed up and not yet reported as received
        self._expected: Position | None = None
        self._flight = Flight()
        # What was handed up and not yet handled: it stays in memory whatever is acknowledged
        self._repeated_bytes = 0
        self._frames = 0
        self._resume: ResumeAt | None = None
        self._resume_sent_at = now
        self._acks = Acks()
        self._ack_at: float | None = None
        self._seed = SeedInbox()
        self._seed_resend_sent_at: float | None = None

    # --- what is known ----------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self.state is ApplierState.CLOSED

    @property
    def expected(self) -> Position | None:
        """End of the WAL handed up: where the next span must start."""
        return self._expected

    @property
    def seed_epoch(self) -> int:
        """As `epoch`, of the seed's chunks."""
        return self._seed.epoch

    @property
    def in_flight_bytes(self) -> int:
        """Raw WAL bytes handed up and not yet reported as received."""
        return self._flight.wal_bytes

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
                return at if self._ack_at is None else min(at, self._ack_at)
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
        if welcome.resume_lsn:
            resume = Position(welcome.resume_timeline, Lsn(welcome.resume_lsn))
            self._expected = resume
            self._acks.reset(resume)
        self._seed.resume(welcome.seed_id, welcome.seed_sequence)
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
        ACK_DELAY_SECONDS.  Positions are clamped to what this connection has delivered (the
        store may hold more, from a connection before) and never fall.
        """
        if self.state is not ApplierState.OPEN or self._welcome is None:
            return []
        if self._seed.chain_begins_for or self._expected is None:
            return []
        if received is not None:
            received = min(received, self._expected)
            self._flight.settle(received)
        if durable is not None:
            durable = min(durable, self._expected)
        self._acks.update(received, durable, applied_lsn)
        acks = self._acks.due()
        if not acks:
            self._ack_at = None
            return []
        late = self._ack_at is not None and now >= self._ack_at
        if late or self._acks.is_urgent(acks[-1], self._welcome.window_bytes):
            return self._send_acks(acks, now)
        if self._ack_at is None:
            self._ack_at = now + ACK_DELAY_SECONDS
        return []

    def ack_soon(self, now: float) -> bool:
        """Something moved that nobody waits for: it is to be acknowledged within
        ACK_DELAY_SECONDS.  Call `ack` with the positions at `deadline`, if not before.  Returns
        whether that moved."""
        if self._ack_at is not None or self.state is not ApplierState.OPEN:
            return False
        self._ack_at = now + ACK_DELAY_SECONDS
        return True

    def _send_acks(self, acks: list[Ack], now: float) -> list[ApplierOutput]:
        self._ack_at = None
        if acks:
            self._acks.told = acks[-1]
        return [self._send(ack, now) for ack in acks]

    def handled(self, output: ApplierOutput) -> None:
        """The caller is done with `output`, which this session handed up: used, failed or
        dropped, it takes no memory any more.

        To be called once for each SpanReceived, HistoryReceived, ProfileReceived, GapReported,
        SeedBegun and SeedStopped; for others it does nothing.  Repeated spans and frames
        without a window are counted from when they are handed up until then, and a shipper that
        sends too many meanwhile is refused.
        """
        if isinstance(output, SpanReceived):
            if output.repeats:
                self._repeated_bytes -= output.span.raw_bytes + SPAN_COST_BYTES
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
        if received.epoch != self.epoch:
            return []
        if self.state is ApplierState.OPEN and error.retryable:
            span = received.span
            return self.resume_at(Position(span.timeline, Lsn(span.start_lsn)), error.what, now)
        self.epoch += 1
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
        if self._expected is None or (position > self._expected and not beyond):
            raise ValueError(f"{position} was never reached, {self._expected} is next")
        self.epoch += 1
        self._flight.cut(position)
        self._expected = position
        self._acks.set_back(position)
        why = why[:MAX_REASON_CHARACTERS]
        self._resume = ResumeAt(timeline=position.timeline, lsn=position.lsn, why=why)
        self._resume_sent_at = now
        return [self._send(self._resume, now)]

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
            if not self._seed.set_back(received.chunk.sequence):
                return []  # done with already
            self._seed_resend_sent_at = None
            return self._ask_for_chunk(now)
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
                outputs += self._send_acks(self._acks.due() or [self._acks.told], now)
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
            return self._throw_out(_bad_frame(f"{type(frame).__name__}: {error}"))
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
        if self._ack_at is not None and now >= self._ack_at:
            outputs += self._send_acks(self._acks.due(), now)
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
                return self._on_span(frame, payload, now)
            case ShipperHeartbeat():
                return self._on_heartbeat(frame, now)
            case TimelineHistory():
                return [_history(frame, payload)]
            case ProfileChanged():
                return [ProfileReceived(frame.profile)]
            case GapFound():
                return [GapReported(frame)]
            case SeedBegin():
                return self._on_seed_begin(frame)
            case SeedChunk() | SeedEnd():
                return self._on_seed_item(frame, payload, now)
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
            raise _bad_frame(str(error)) from error
        self.hello = hello
        self.version = min(self._versions[1], hello.version_max)
        self._heartbeat_at = now + DECIDING_HEARTBEAT_SECONDS
        return [Greeted(hello, self.version)]

    def _version_error(self, theirs: tuple[int, int] | None) -> LogshipError | None:
        return None if theirs is None else version_mismatch(theirs, self._versions)

    # --- WAL --------------------------------------------------------------------------------

    def _on_span(self, span: Span, payload: Payload, now: float) -> list[ApplierOutput]:
        if self._welcome is None or self._expected is None:
            raise _bad_frame("WAL before a seed has begun")
        start, end = span.start_lsn, span.start_lsn + span.raw_bytes
        self._check_span(span, len(payload))
        here = Position(span.timeline, Lsn(start))
        expected = self._expected
        opens_timeline = (
            span.timeline > expected.timeline
            and start % self._segment_bytes == 0
            and start <= expected.lsn
        )
        if here == expected or opens_timeline:
            self._resume = None
            return self._hand_up(span, payload, repeats=False)
        if here > expected:
            return self._ask_again(f"{here} came, {expected} is next", now)
        if self._resume is not None:
            return []  # sent before the shipper heard that it must start again
        self._repeated_bytes += span.raw_bytes + SPAN_COST_BYTES
        if self._repeated_bytes > self._welcome.window_bytes:
            raise _bad_frame("the same WAL over and over")
        if span.timeline == expected.timeline and end > expected.lsn:
            return self._hand_up(span, payload, repeats=True)
        return [SpanReceived(span, payload, repeats=True, epoch=self.epoch)]

    def _check_span(self, span: Span, payload_bytes: int) -> None:
        limit = min(MAX_SPAN_BYTES, self._welcome.max_span_bytes if self._welcome else 0)
        if not 1 <= span.raw_bytes <= limit or payload_bytes == 0:
            raise _bad_frame(f"a span of {span.raw_bytes} bytes, 1 to {limit} are allowed")
        if payload_bytes > span.raw_bytes:
            raise _bad_frame(f"{payload_bytes} bytes for a span of {span.raw_bytes}")
        if span.timeline < 1:
            raise _bad_frame(f"WAL of timeline {span.timeline}")
        last = span.start_lsn + span.raw_bytes - 1
        if segment_start(last, self._segment_bytes) > span.start_lsn:
            raise _bad_frame(f"span {Lsn(span.start_lsn)} to {Lsn(last)} crosses a segment's end")

    def _hand_up(self, span: Span, payload: Payload, *, repeats: bool) -> list[ApplierOutput]:
        window_bytes = self._welcome.window_bytes if self._welcome else 0
        end = Lsn(span.start_lsn + span.raw_bytes)
        # Of a repeat only the part beyond what is expected is new.
        start = (
            max(span.start_lsn, self._expected.lsn)
            if repeats and self._expected
            else (span.start_lsn)
        )
        ahead_bytes = self._flight.size_bytes + end - start + SPAN_COST_BYTES
        if ahead_bytes > window_bytes:
            raise _bad_frame(f"{ahead_bytes} bytes sent ahead, {window_bytes} are allowed")
        self._flight.add(span.timeline, start, end)
        self._expected = Position(span.timeline, end)
        return [SpanReceived(span, payload, repeats=repeats, epoch=self.epoch)]

    def _ask_again(self, why: str, now: float) -> list[ApplierOutput]:
        """Something is missing before what came.  Said once, and again each heartbeat's time
        while it goes unheeded."""
        if self._expected is None:
            return []
        asked = self._resume is not None
        if asked and now < self._resume_sent_at + self._heartbeat_seconds:
            return []
        if self._resume is not None:
            self._resume_sent_at = now
            return [self._send(self._resume, now)]
        self._resume = ResumeAt(timeline=self._expected.timeline, lsn=self._expected.lsn, why=why)
        self._resume_sent_at = now
        return [self._send(self._resume, now)]

    def _on_heartbeat(self, frame: ShipperHeartbeat, now: float) -> list[ApplierOutput]:
        outputs: list[ApplierOutput] = [PrimaryHeard(frame)]
        if self._expected is not None and frame.sent_timeline:
            sent = Position(frame.sent_timeline, Lsn(frame.sent_lsn))
            if sent > self._expected:
                outputs += self._ask_again(f"{sent} was sent, {self._expected} is next", now)
        seeding = self._seed.seed_id and frame.seed_id == self._seed.seed_id
        if seeding and frame.seed_sequence > self._seed.expected:
            outputs += self._ask_for_chunk(now)
        return outputs

    # --- seed, receiving --------------------------------------------------------------------

    def _on_seed_begin(self, begin: SeedBegin) -> list[ApplierOutput]:
        if begin.timeline < 1:
            raise _bad_frame(f"a seed on timeline {begin.timeline}")
        if not begin.seed_id:
            raise _bad_frame("a seed without a name")
        if begin.seed_id in (self._seed.seed_id, self._seed.forgotten_id):
            return []  # repeated; its chain must not begin twice
        start = segment_start(begin.start_lsn, self._segment_bytes)
        self.epoch += 1
        self._expected = Position(begin.timeline, start)
        self._resume = None
        self._acks.reset(None)
        self._ack_at = None
        self._flight.clear()
        self._seed.begin(begin.seed_id)
        self._seed_resend_sent_at = None
        return [SeedBegun(begin)]

    def _on_seed_item(
        self, item: SeedChunk | SeedEnd, payload: Payload, now: float
    ) -> list[ApplierOutput]:
        if not item.seed_id or item.seed_id != self._seed.seed_id:
            if item.seed_id and item.seed_id == self._seed.forgotten_id:
                return []  # sent before the shipper heard that the seed was given up
            raise LogshipError(
                Code.BAD_FRAME,
                f"a chunk of seed {item.seed_id}, which never began here",
                "the seed goes on, or starts anew, on a new connection",
                retryable=True,
            )
        if item.sequence < self._seed.expected:
            return []  # already here; the manifest vouches for the bytes
        if item.sequence > self._seed.expected:
            return self._ask_for_chunk(now)
        self._seed_resend_sent_at = None
        if not self._seed.add(payload):
            raise _bad_frame("more of a seed sent ahead than its window allows")
        if isinstance(item, SeedEnd):
            return [SeedEnded(item, self.seed_epoch)]
        return [SeedChunkReceived(item, payload, self.seed_epoch)]

    def _ask_for_chunk(self, now: float) -> list[ApplierOutput]:
        asked_at = self._seed_resend_sent_at
        if asked_at is not None and now < asked_at + self._heartbeat_seconds:
            return []
        self._seed_resend_sent_at = now
        frame = SeedAck(seed_id=self._seed.seed_id, next_sequence=self._seed.expected, resend=True)
        return [self._send(frame, now)]

    def _send(self, frame: Frame, now: float) -> Send:
        self._move(ApplierTrigger.SEND_FRAME)
        self._heartbeat_at = now + self._heartbeat_seconds
        return Send(frame)

    def _move(self, trigger: ApplierTrigger) -> None:
        self.state = next_state(APPLIER_TRANSITIONS, self.state, trigger)


def _history(frame: TimelineHistory, payload: Payload) -> HistoryReceived:
    if len(payload) > MAX_HISTORY_BYTES:
        raise _bad_frame(f"a history of {len(payload)} bytes, {MAX_HISTORY_BYTES} at most")
    if crc32c.crc32c(payload) != frame.crc32c:
        raise LogshipError(
            Code.CHECKSUM_MISMATCH,
            f"the history of timeline {frame.timeline} does not match its CRC-32C",
            "nothing of it was stored, it will be sent again on a new connection",
            retryable=True,
        )
    return HistoryReceived(frame.timeline, bytes(payload))


def _with_version(welcome: Welcome, version: int) -> Welcome:
    fields = {name: getattr(welcome, name) for name in welcome.__struct_fields__}
    return Welcome(**{**fields, "version": version})


def _bad_frame(why: str) -> LogshipError:
    return LogshipError(
        Code.BAD_FRAME,
        f"the shipper sent what the protocol does not allow: {why}",
        "check that both sides run versions of Logship that may talk",
    )
