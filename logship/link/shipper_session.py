"""The shipper's end of one connection, without the connection.

One session lives exactly as long as one transport.  The caller feeds it what arrives
(`receive`), the time (`timer`, not later than `deadline`) and what it wants sent, and
carries out what comes back (`events`).  WAL is not kept here: after a `Rewind`, or in the
next session, the caller reads it from the primary again.  Seed chunks are kept by
`windows.SeedOutbox`, which outlives sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import crc32c

from logship.errors import Code, LogshipError
from logship.frames import (
    MAX_SPAN_BYTES,
    Ack,
    ApplierFrame,
    ApplierHeartbeat,
    Bye,
    Fenced,
    Frame,
    GapFound,
    Hello,
    Payload,
    ProfileChanged,
    Refuse,
    ResumeAt,
    SeedAborted,
    SeedAck,
    SeedBegin,
    SeedChunk,
    SeedDone,
    SeedEnd,
    SeedRequest,
    ShipperHeartbeat,
    Span,
    TimelineHistory,
    Welcome,
    decode_from_applier,
)
from logship.identity import Profile
from logship.link.events import (
    Acked,
    FencedOff,
    HeartbeatDue,
    LinkLost,
    Refused,
    Rewind,
    SeedAcked,
    SeedFinished,
    SeedRequested,
    SeedStopped,
    Send,
    ShipperOutput,
    Welcomed,
)
from logship.link.refusals import error_of
from logship.link.states import (
    SHIPPER_TRANSITIONS,
    IllegalTransition,
    ShipperState,
    ShipperTrigger,
    next_state,
)
from logship.link.windows import SPAN_COST_BYTES, Flight
from logship.lsn import Lsn, Position
from logship.seal import Sealed
from logship.wal import segment_start

WELCOME_TIMEOUT_SECONDS: Final = 10.0
"""Silence after the hello that is taken as loss; an applier that is still opening its store
sends heartbeats meanwhile."""
LOST_AFTER_HEARTBEATS: Final = 3
_HEARTBEAT_RANGE_SECONDS: Final = (0.01, 3600.0)


class ShipperSession:
    """Sans-I/O protocol of the shipper's end.

    Sending methods raise IllegalTransition when the session is not open, and ValueError for
    what the protocol does not allow (a span out of order, beyond the window, of a timeline
    whose history was not sent): both are bugs of the caller.  Peers' mistakes never raise:
    they come back as LinkLost.
    """

    def __init__(self, hello: Hello, *, now: float) -> None:
        self.state = ShipperState.NEW
        self.welcome: Welcome | None = None
        self.applied_lsn = Lsn(0)
        self._hello = hello
        self._segment_bytes = hello.profile.wal_segment_size
        self._sent: Position | None = None
        self._received: Position | None = None
        self._durable: Position | None = None
        self._flight = Flight()
        self._highest_sent: dict[int, int] = {}  # timeline: LSN; acks may not exceed it
        self._known_timelines: set[int] = set()
        self._seed_id = ""
        self._seed_sequence = 0
        self._seed_unanswered = ""  # the seed whose begin the applier has not answered
        self._filled_from_bucket = False  # a gap was sent that the applier fills by itself
        self._heard_at = now
        self._heartbeat_at = now

    # --- what is known ----------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self.state is ShipperState.CLOSED

    @property
    def sent(self) -> Position | None:
        """Where the next span must start, unless it opens a newer timeline.  None: seed first."""
        return self._sent

    @property
    def received(self) -> Position | None:
        """What the applier has written to its store, durable or not."""
        return self._received

    @property
    def durable(self) -> Position | None:
        """What survives any crash of the applier: never falls back within a chain, never
        passes what was sent.  The slot may follow this, and nothing else.  None after a
        seed has begun, until the new chain's first ack."""
        return self._durable

    @property
    def begins_seed(self) -> bool:
        """A seed's begin was sent and the applier has not answered it yet."""
        return bool(self._seed_unanswered)

    @property
    def window_room_bytes(self) -> int:
        """Raw bytes that the next span may have, its cost already taken off."""
        if self.welcome is None or self.closed:
            return 0
        room_bytes = self.welcome.window_bytes - self._flight.size_bytes - SPAN_COST_BYTES
        return max(0, room_bytes)

    @property
    def max_span_bytes(self) -> int:
        """Raw bytes that one span may carry."""
        return min(MAX_SPAN_BYTES, self.welcome.max_span_bytes) if self.welcome else 0

    @property
    def deadline(self) -> float | None:
        """When to call `timer`.  Any call may move it, closer too (a welcome, a delayed ack):
        look at it after each.  Calling `timer` early does nothing; `alarm.Alarm` knows all this.
        """
        if self.state is ShipperState.GREETING:
            return self._heard_at + WELCOME_TIMEOUT_SECONDS
        if self.state is ShipperState.OPEN and self.welcome is not None:
            return min(self._heartbeat_at, self._heard_at + self._patience_seconds)
        return None

    @property
    def _patience_seconds(self) -> float:
        if self.welcome is None:
            return WELCOME_TIMEOUT_SECONDS
        return LOST_AFTER_HEARTBEATS * self.welcome.heartbeat_seconds

    def knows_history(self, timeline: int) -> bool:
        """Whether the applier has that timeline's history, or was sent it.  The first has none."""
        return timeline == 1 or timeline in self._known_timelines

    # --- what is sent -----------------------------------------------------------------------

    def start(self, now: float) -> list[ShipperOutput]:
        """Say hello.  Call once, when the transport is ready."""
        self._move(ShipperTrigger.SEND_HELLO)
        self._heard_at = now
        return [Send(self._hello)]

    def span(
        self,
        timeline: int,
        start_lsn: int,
        sealed: Sealed,
        now: float,
        *,
        flush_lsn: int = 0,
        sent_at: float = 0.0,
    ) -> Send:
        """WAL [start_lsn, start_lsn + sealed.raw_bytes).  Starts at `sent`, or opens a newer
        timeline at a segment's start at or below `sent`; stays within one segment, the
        window and `max_span_bytes`."""
        end = start_lsn + sealed.raw_bytes
        self._check_span(timeline, start_lsn, end)
        frame = Span(
            timeline=timeline,
            start_lsn=start_lsn,
            raw_bytes=sealed.raw_bytes,
            crc32c=sealed.crc32c,
            codec=sealed.codec,
            flush_lsn=flush_lsn,
            sent_at=sent_at,
        )
        send = self._send(frame, now, sealed.payload)
        self._flight.add(timeline, start_lsn, end)
        self._sent = Position(timeline, Lsn(end))
        self._highest_sent[timeline] = max(end, self._highest_sent.get(timeline, 0))
        return send

    def continues(self, timeline: int, start_lsn: int) -> bool:
        """Whether a span there may come next: at `sent`, or opening a newer timeline."""
        if self._sent is None:
            return False
        opens_timeline = (
            timeline > self._sent.timeline
            and start_lsn % self._segment_bytes == 0
            and start_lsn <= self._sent.lsn
        )
        return opens_timeline or (timeline, start_lsn) == self._sent

    def _check_span(self, timeline: int, start_lsn: int, end: int) -> None:
        if self._sent is None:
            raise ValueError("WAL before a seed has begun")
        where = Position(timeline, Lsn(start_lsn))
        if not self.continues(timeline, start_lsn):
            raise ValueError(f"span at {where}, {self._sent} is next")
        if end <= start_lsn or segment_start(end - 1, self._segment_bytes) > start_lsn:
            raise ValueError(f"span {where} to {Lsn(end)} is empty or crosses a segment's end")
        if end - start_lsn > min(self.window_room_bytes, self.max_span_bytes):
            raise ValueError(f"span of {end - start_lsn} bytes, {self.window_room_bytes} free")
        if not self.knows_history(timeline):
            raise ValueError(f"WAL of timeline {timeline} before its history")

    def history(self, timeline: int, content: bytes, now: float) -> Send:
        """A `.history` file, before any span of its timeline."""
        frame = TimelineHistory(timeline=timeline, crc32c=crc32c.crc32c(content))
        send = self._send(frame, now, content)
        self._known_timelines.add(timeline)
        return send

    def heartbeat(self, frame: ShipperHeartbeat, now: float) -> Send:
        """The primary's state: when asked by HeartbeatDue, and when it changes while idle."""
        if self._sent is not None:
            frame = _replace_heartbeat(frame, self._sent, self._seed_id, self._seed_sequence)
        return self._send(frame, now)

    def profile(self, profile: Profile, now: float) -> Send:
        return self._send(ProfileChanged(profile=profile), now)

    def gap(self, frame: GapFound, now: float) -> Send:
        """WAL that can't be sent.  One in a bucket lets the applier go on beyond what was sent."""
        self._filled_from_bucket = frame.code == Code.WAL_IN_BUCKET
        return self._send(frame, now)

    def seed(
        self,
        frame: SeedBegin | SeedChunk | SeedEnd | SeedAborted,
        now: float,
        payload: Payload | None = None,
    ) -> Send:
        """A seed's frame, after the outbox has it.  A SeedBegin sets `sent` to the start of
        its segment and forgets what is in flight: acks of the old chain no longer count."""
        send = self._send(frame, now, payload)
        if isinstance(frame, SeedBegin):
            start = segment_start(frame.start_lsn, self._segment_bytes)
            self._sent = Position(frame.timeline, start)
            self._received = self._durable = None
            self._highest_sent = {frame.timeline: start}
            self._flight.clear()
            self._seed_id, self._seed_sequence = frame.seed_id, 0
            self._seed_unanswered = frame.seed_id
        elif isinstance(frame, SeedAborted):
            self._end_seed(frame.seed_id)
        else:
            if frame.seed_id != self._seed_id:
                self._seed_id, self._seed_sequence = frame.seed_id, 0
            self._seed_sequence = max(self._seed_sequence, frame.sequence + 1)
        return send

    def bye(self, reason: str) -> list[ShipperOutput]:
        """Part on purpose: send what is returned, then close the transport in an orderly way."""
        if self.state in (ShipperState.NEW, ShipperState.CLOSED):
            self.state = ShipperState.CLOSED
            return []
        self._move(ShipperTrigger.SEND_BYE)
        return [Send(Bye(reason=reason))]

    def _send(self, frame: Frame, now: float, payload: Payload | None = None) -> Send:
        self._move(ShipperTrigger.SEND_FRAME)
        if self.welcome is not None:
            self._heartbeat_at = now + self.welcome.heartbeat_seconds
        return Send(frame, payload)

    def _seed_answered(self, seed_id: str) -> None:
        """The applier spoke of the seed: acks that come after it are of the seed's chain."""
        if seed_id == self._seed_unanswered:
            self._seed_unanswered = ""

    def _end_seed(self, seed_id: str) -> None:
        if seed_id == self._seed_id:
            self._seed_id, self._seed_sequence = "", 0

    # --- what happens -----------------------------------------------------------------------

    def receive(self, parts: Sequence[Payload], now: float) -> list[ShipperOutput]:
        """One message from the applier.  Nothing after the session has closed."""
        if self.closed:
            return []
        try:
            frame, _ = decode_from_applier(parts)
            outputs = self._hear(frame, now)
        except LogshipError as error:
            return self.lost(error)
        except IllegalTransition as error:
            return self.lost(_bad_frame(f"{type(frame).__name__}: {error}"))
        self._heard_at = now
        return outputs

    def timer(self, now: float) -> list[ShipperOutput]:
        """The time has come (or not: then nothing).  Asks for a heartbeat or declares loss."""
        deadline = self.deadline
        if deadline is None or now < deadline:
            return []
        silent_seconds = now - self._heard_at
        # The same sum as in `deadline`: the difference may round to just below.
        if now >= self._heard_at + self._patience_seconds:
            return self.lost(
                LogshipError(
                    Code.LINK_LOST,
                    f"nothing was heard from the applier for {silent_seconds:.1f} s",
                    "it will be tried again; check the network path and the applier",
                    retryable=True,
                )
            )
        if self.welcome is not None:
            self._heartbeat_at = now + self.welcome.heartbeat_seconds
        return [HeartbeatDue()]

    def lost(self, error: LogshipError) -> list[ShipperOutput]:
        """The transport is gone, for `error`.  Returns LinkLost, once."""
        if self.closed:
            return []
        self._move(ShipperTrigger.LOSE)
        return [LinkLost(error)]

    def _hear(self, frame: ApplierFrame, now: float) -> list[ShipperOutput]:
        match frame:
            case Welcome():
                return self._on_welcome(frame, now)
            case ApplierHeartbeat():
                self._move(ShipperTrigger.HEAR_HEARTBEAT)
                return []
            case Refuse():
                self._move(ShipperTrigger.HEAR_REFUSE)
                return [Refused(error_of(frame))]
            case Fenced():
                self._move(ShipperTrigger.HEAR_FENCED)
                return [FencedOff(frame.at, frame.timeline, Lsn(frame.lsn))]
        self._move(ShipperTrigger.HEAR_FRAME)
        match frame:
            case Ack():
                return self._on_ack(frame)
            case ResumeAt():
                return self._on_resume(frame)
            case SeedRequest():
                return [SeedRequested(frame.why)]
            case SeedAck():
                return self._on_seed_ack(frame)
            case SeedDone():
                self._seed_answered(frame.seed_id)
                self._end_seed(frame.seed_id)
                return [SeedFinished(frame.seed_id)]
            case SeedAborted():
                self._seed_answered(frame.seed_id)
                self._end_seed(frame.seed_id)
                return [SeedStopped(frame.seed_id, frame.code, frame.what)]

    def _on_welcome(self, welcome: Welcome, now: float) -> list[ShipperOutput]:
        if not self._hello.version_min <= welcome.version <= self._hello.version_max:
            raise _bad_frame(f"a welcome in protocol version {welcome.version}")
        low, high = _HEARTBEAT_RANGE_SECONDS
        if not low <= welcome.heartbeat_seconds <= high:
            raise _bad_frame(f"heartbeats every {welcome.heartbeat_seconds} s")
        if not 1 <= welcome.max_span_bytes <= welcome.window_bytes - SPAN_COST_BYTES:
            raise _bad_frame(
                f"spans of {welcome.max_span_bytes} in a window of {welcome.window_bytes} bytes"
            )
        self._move(ShipperTrigger.HEAR_WELCOME)
        self.welcome = welcome
        self._heartbeat_at = now + welcome.heartbeat_seconds
        self._known_timelines.update(welcome.known_timelines)
        if welcome.resume_lsn:
            resume = Position(welcome.resume_timeline, Lsn(welcome.resume_lsn))
            self._sent = self._received = self._durable = resume
            self._highest_sent = {resume.timeline: resume.lsn}
        if welcome.seed_id:
            self._seed_id, self._seed_sequence = welcome.seed_id, welcome.seed_sequence
        return [Welcomed(welcome, self._sent)]

    def _on_ack(self, ack: Ack) -> list[ShipperOutput]:
        if self._seed_unanswered:
            return []  # of the chain before the seed
        if ack.durable_lsn > ack.received_lsn:
            raise _bad_frame("an ack of more as durable than as received")
        if ack.received_lsn > self._highest_sent.get(ack.timeline, -1):
            raise _bad_frame(
                f"an ack of {Position(ack.timeline, Lsn(ack.received_lsn))}, "
                f"only {self._sent or 'nothing'} was sent"
            )
        before = (self._received, self._durable, self.applied_lsn)
        received = Position(ack.timeline, Lsn(ack.received_lsn))
        self._flight.settle(received)
        if self._sent is not None:
            received = min(received, self._sent)  # an ack from before a rewind
        self._received = max(self._received or received, received)
        if ack.durable_lsn:
            durable = Position(ack.timeline, Lsn(ack.durable_lsn))
            self._durable = max(self._durable or durable, durable)
        self.applied_lsn = Lsn(ack.applied_lsn)
        if before == (self._received, self._durable, self.applied_lsn):
            return []
        return [Acked(self._received, self._durable, self.applied_lsn)]

    def _on_resume(self, frame: ResumeAt) -> list[ShipperOutput]:
        if self._seed_unanswered:
            return []
        if self._filled_from_bucket and frame.lsn:
            self._highest_sent[frame.timeline] = max(
                frame.lsn, self._highest_sent.get(frame.timeline, 0)
            )
        if not 0 < frame.lsn <= self._highest_sent.get(frame.timeline, 0):
            raise _bad_frame(f"asked for {frame.timeline}:{Lsn(frame.lsn)}, which was not sent")
        resume = Position(frame.timeline, Lsn(frame.lsn))
        self._flight.cut(resume)
        self._sent = resume
        if self._received is not None:
            self._received = min(self._received, resume)
        self._filled_from_bucket = False
        return [Rewind(resume.timeline, resume.lsn, frame.why)]

    def _on_seed_ack(self, ack: SeedAck) -> list[ShipperOutput]:
        self._seed_answered(ack.seed_id)
        if ack.seed_id != self._seed_id:
            return []  # of a seed that was aborted here meanwhile
        if ack.next_sequence > self._seed_sequence:
            raise _bad_frame(f"an ack of seed chunk {ack.next_sequence - 1}, never sent")
        return [SeedAcked(ack.seed_id, ack.next_sequence, ack.resend)]

    def _move(self, trigger: ShipperTrigger) -> None:
        self.state = next_state(SHIPPER_TRANSITIONS, self.state, trigger)


def _replace_heartbeat(
    frame: ShipperHeartbeat, sent: Position, seed_id: str, seed_sequence: int
) -> ShipperHeartbeat:
    return ShipperHeartbeat(
        timeline=frame.timeline,
        flush_lsn=frame.flush_lsn,
        sent_at=frame.sent_at,
        primary_reachable=frame.primary_reachable,
        sync_state=frame.sync_state,
        slot_wal_status=frame.slot_wal_status,
        sent_timeline=sent.timeline,
        sent_lsn=sent.lsn,
        seed_id=seed_id,
        seed_sequence=seed_sequence,
        other_roads=frame.other_roads,
    )


def _bad_frame(why: str) -> LogshipError:
    return LogshipError(
        Code.BAD_FRAME,
        f"the applier sent what the protocol does not allow: {why}",
        "the connection is closed and tried again; if this repeats, compare the versions "
        "on both sides",
        retryable=True,
    )
