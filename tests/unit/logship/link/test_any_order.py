"""Sessions that hear any frames in any order: they answer or end, and what they hold is bounded.

Beside `tests.fuzz`, which makes frames of bytes: here every frame is one that decodes, with the
values that matter drawn from few, so that they meet.
"""

from __future__ import annotations

from typing import Any

import crc32c
import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from logship.errors import Code, LogshipError
from logship.frames import (
    MAX_HEAD_BYTES,
    SEED_WINDOW_BYTES,
    Frame,
    SeedBegin,
    SeedChunk,
    SeedEnd,
    ShipperHeartbeat,
    Span,
    TimelineHistory,
    decode_from_applier,
    decode_from_shipper,
    encode,
)
from logship.link.applier_session import MAX_WAITING_FRAMES, ApplierSession
from logship.link.events import (
    ApplierOutput,
    FencedOff,
    HeartbeatDue,
    LinkLost,
    PeerLeft,
    PeerRefused,
    Refused,
    SeedAcked,
    SeedBegun,
    SeedChunkReceived,
    SeedEnded,
    Send,
    ShipperOutput,
    SpanReceived,
    Welcomed,
)
from logship.link.shipper_session import ShipperSession
from logship.link.states import ApplierState, ShipperState
from logship.link.windows import SEED_ITEM_COST_BYTES, SeedOutbox
from logship.lsn import Lsn, Position
from logship.seal import seal
from tests.fuzz import samples
from tests.support.link_frames import SEGMENT_BYTES, hello, wal_bytes, welcome

S = SEGMENT_BYTES
WINDOW_BYTES = 8192
LSNS = (0, 1, S - 8, S, S + 700, S + 1400, 2 * S, 2 * S + 700, (1 << 64) - 1)
VALUES: dict[str, tuple[Any, ...]] = {
    "timeline": (0, 1, 2, 3, (1 << 32) - 1),
    "resume_timeline": (0, 1, 2),
    "sent_timeline": (0, 1, 2),
    "seed_id": ("", "s1", "s2", "x" * 3000),
    "sequence": (0, 1, 2, 3, 1 << 53),
    "seed_sequence": (0, 1, 2, 1 << 53),
    "next_sequence": (0, 1, 2, 3, 1 << 53),
    "raw_bytes": (0, 1, 700, 1400, S, 1 << 62),
    "crc32c": (0, 1),
    "codec": ("none", "zstd", "x" * 3000),
    "kind": ("archive", "manifest", "data", "other"),
    "version": (0, 1, 2),
    "version_max": (0, 1, 7),
    "window_bytes": (0, 1, WINDOW_BYTES, 1 << 62),
    "max_span_bytes": (0, 1, 4096, 1 << 62),
    "heartbeat_seconds": (-1.0, 0.0, 0.01, 2.0, 1e308, float("inf"), float("nan")),
    "code": ("fenced", "wal-gap", "no-such-code", ""),
    "what": ("", "w", "w" * 100_000),
    "resend": (True, False),
    "retryable": (True, False),
    **dict.fromkeys(
        ("start_lsn", "flush_lsn", "lsn", "end_lsn", "from_lsn", "available_lsn", "resume_lsn"),
        LSNS,
    ),
    **dict.fromkeys(("received_lsn", "durable_lsn", "applied_lsn", "sent_lsn"), LSNS),
}

TERMINAL = (LinkLost, PeerLeft, PeerRefused, Refused, FencedOff)


@st.composite
def frames(draw: st.DrawFn, good: list[samples.Sample]) -> tuple[Frame, bytes | None]:
    """A sample, some of its values replaced, its payload's checksum right."""
    frame, payload = draw(st.sampled_from(good))
    names = sorted(set(frame.__struct_fields__) & VALUES.keys())
    if names:
        chosen = draw(st.lists(st.sampled_from(names), max_size=3, unique=True))
        changes = {name: draw(st.sampled_from(VALUES[name])) for name in chosen}
        frame = msgspec.structs.replace(frame, **changes)
    if isinstance(frame, Span) and frame.raw_bytes in (1, 700, 1400) and draw(st.booleans()):
        raw = wal_bytes(frame.timeline, frame.start_lsn, frame.raw_bytes)
        frame = msgspec.structs.replace(frame, codec="none", crc32c=crc32c.crc32c(raw))
        payload = raw
    if isinstance(frame, TimelineHistory):
        frame = msgspec.structs.replace(frame, crc32c=crc32c.crc32c(payload or b""))
    return frame, payload


class ApplierMachine(RuleBasedStateMachine):
    """The applier's end, and a caller that does what the contract asks, late or early."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.work: list[ApplierOutput] = []
        self.connect(greeted=True)

    def connect(self, *, greeted: bool) -> None:
        """A new session; the one before has ended."""
        self.session = ApplierSession(now=self.now)
        self.work.clear()
        if greeted:
            self.take(self.session.receive(encode(hello()), self.now))
            self.work.clear()

    @precondition(lambda self: self.session.closed)
    @rule(greeted=st.booleans())
    def connect_again(self, greeted: bool) -> None:
        self.connect(greeted=greeted)

    def take(self, outputs: list[ApplierOutput]) -> None:
        for output in outputs:
            if isinstance(output, Send):
                parts = output.parts()
                assert len(parts[0]) <= MAX_HEAD_BYTES
                decode_from_applier(parts)
            elif isinstance(output, HeartbeatDue):
                self.take(self.session.heartbeat(0.0, self.now))
            elif not isinstance(output, TERMINAL):
                self.work.append(output)
        ended = [isinstance(output, TERMINAL) for output in outputs]
        assert True not in ended[:-1], "something follows the end"
        if ended and ended[-1]:
            assert self.session.closed

    @precondition(lambda self: self.session.state is not ApplierState.CLOSED)
    @rule(message=frames(samples.from_shipper()))
    def hear(self, message: tuple[Frame, bytes | None]) -> None:
        self.take(self.session.receive(encode(*message), self.now))

    @precondition(lambda self: self.session.state is not ApplierState.CLOSED)
    @rule(data=st.binary(max_size=40))
    def hear_bytes(self, data: bytes) -> None:
        session = self.session
        before = session.closed
        self.take(session.receive([data], self.now))
        assert before or session.closed, "bytes that are no frame end it"

    @rule(message=frames([samples.from_shipper()[2]]), count=st.integers(1, 12))
    def hear_again_and_again(self, message: tuple[Frame, bytes | None], count: int) -> None:
        for _ in range(count):
            self.take(self.session.receive(encode(*message), self.now))

    @precondition(lambda self: self.session.state is ApplierState.DECIDING)
    @rule(
        resume=st.sampled_from((0, S, S + 700)),
        seed_id=st.sampled_from(("", "s1")),
        at=st.integers(0, 3),
    )
    def welcome(self, resume: int, seed_id: str, at: int) -> None:
        made = welcome(
            resume_timeline=1 if resume else 0,
            resume_lsn=resume,
            window_bytes=WINDOW_BYTES,
            max_span_bytes=4096,
            seed_id=seed_id,
            seed_sequence=at if seed_id else 0,
        )
        self.take(self.session.welcome(made, self.now))

    @rule(received=st.sampled_from(LSNS), durable=st.sampled_from(LSNS), timeline=st.integers(1, 3))
    def ack(self, received: int, durable: int, timeline: int) -> None:
        low, high = sorted((received, durable))
        self.take(
            self.session.ack(
                Position(timeline, Lsn(high)), Position(timeline, Lsn(low)), low, self.now
            )
        )

    @precondition(lambda self: self.work)
    @rule(data=st.data(), retryable=st.booleans())
    def work_off(self, data: st.DataObject, retryable: bool) -> None:
        """One of what was handed up is used, or can't be."""
        output = self.work.pop(data.draw(st.integers(0, len(self.work) - 1)))
        session, error = self.session, LogshipError(Code.BAD_FRAME, "no", retryable=retryable)
        works = data.draw(st.booleans())
        match output:
            case SpanReceived(span, _, _, epoch) if epoch == session.epoch:
                end = Position(span.timeline, Lsn(span.start_lsn + span.raw_bytes))
                if works:
                    self.take(session.ack(end, None, 0, self.now))
                else:
                    self.take(session.span_failed(output, error, self.now))
            case SeedBegun(begin):
                self.take(session.seed_ack(begin.seed_id, 0, self.now))
            case SeedChunkReceived(chunk, _, epoch) if epoch == session.seed_epoch:
                if works and chunk.sequence + 1 >= session._seed.acked:
                    self.take(session.seed_ack(chunk.seed_id, chunk.sequence + 1, self.now))
                elif not works:
                    self.take(session.chunk_failed(output, error, self.now))
            case SeedEnded(end, epoch) if epoch == session.seed_epoch:
                if session.state is ApplierState.OPEN:
                    self.take(session.seed_done(end.seed_id, self.now))
        session.handled(output)

    @rule(seconds=st.sampled_from((0.0, 0.06, 2.0, 5.9, 60.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.take(self.session.timer(self.now))
        deadline = self.session.deadline
        assert deadline is None or deadline == deadline

    @precondition(lambda self: self.session.state is ApplierState.OPEN)
    @rule(what=st.sampled_from(("fence", "refuse", "seed")))
    def say(self, what: str) -> None:
        if what == "fence":
            self.take(self.session.fence(1e9, 2, S))
        elif what == "refuse":
            self.take(self.session.refuse(LogshipError(Code.FENCED, "x" * 300_000)))
        else:
            self.take(self.session.seed_request("asked", self.now))

    @invariant()
    def what_it_holds_is_bounded(self) -> None:
        session = self.session
        assert session._wal.flight.size_bytes <= WINDOW_BYTES
        assert session._wal.repeated_bytes <= 2 * WINDOW_BYTES + S
        assert session._frames <= MAX_WAITING_FRAMES + 1
        assert session._seed._size_bytes <= SEED_WINDOW_BYTES + 2 * (8 << 20)
        assert len(session._seed._costs) <= 2 + SEED_WINDOW_BYTES // SEED_ITEM_COST_BYTES * 2


class ShipperMachine(RuleBasedStateMachine):
    """The shipper's end with a seed's outbox, used as `shipper.destinations` does."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.outbox = SeedOutbox(
            SeedBegin(seed_id="s1", timeline=1, start_lsn=S + 40, estimated_bytes=0)
        )
        self.connect()

    def connect(self) -> None:
        """A new session, and mostly what a good applier would answer."""
        self.session = ShipperSession(hello(), now=self.now)
        self.take(self.session.start(self.now))

    @precondition(lambda self: self.session.closed)
    @rule(_=st.none())
    def connect_again(self, _: None) -> None:
        self.connect()

    @precondition(lambda self: self.session.state is ShipperState.GREETING)
    @rule(seeded=st.booleans())
    def is_welcomed(self, seeded: bool) -> None:
        made = welcome(window_bytes=WINDOW_BYTES, max_span_bytes=4096)
        if not seeded:
            made = msgspec.structs.replace(made, resume_lsn=0, resume_timeline=0)
        self.take(self.session.receive(encode(made), self.now))

    def take(self, outputs: list[ShipperOutput]) -> None:
        for output in outputs:
            match output:
                case Send():
                    self.sent(output)
                case HeartbeatDue():
                    beat = ShipperHeartbeat(timeline=1, flush_lsn=S, sent_at=0.0)
                    self.sent(self.session.heartbeat(beat, self.now))
                case Welcomed(made, resume):
                    assert 1 <= made.max_span_bytes <= made.window_bytes
                    assert resume == self.session.sent
                    assert 0 < made.heartbeat_seconds <= 3600
                    self.outbox.resume(made.seed_id, made.seed_sequence)
                case SeedAcked("s1", next_sequence, _):
                    assert next_sequence <= self.session._seed_sequence
        ended = [isinstance(output, TERMINAL) for output in outputs]
        assert True not in ended[:-1]
        if ended and ended[-1]:
            assert self.session.closed

    def sent(self, output: Send) -> None:
        decode_from_shipper(output.parts())

    @precondition(lambda self: self.session.state is ShipperState.OPEN)
    @rule(message=frames(samples.from_applier()))
    def hear(self, message: tuple[Frame, bytes | None]) -> None:
        self.take(self.session.receive(encode(*message), self.now))

    @rule(data=st.binary(max_size=40))
    def hear_bytes(self, data: bytes) -> None:
        self.take(self.session.receive([data], self.now))
        assert self.session.closed

    @precondition(lambda self: self.session.state is ShipperState.OPEN)
    @rule(size_bytes=st.sampled_from((1, 700, 5000)))
    def ship(self, size_bytes: int) -> None:
        session = self.session
        if session.sent is None or session.sent.timeline != 1:
            return
        start = session.sent.lsn
        room = min(size_bytes, session.window_room_bytes, session.max_span_bytes, S - start % S)
        if room > 0 and start + room < 1 << 64:
            self.sent(session.span(1, start, seal(bytes(room)), self.now))

    @precondition(lambda self: self.session.state is ShipperState.OPEN)
    @rule(kind=st.sampled_from(("begin", "chunk", "end")))
    def seed(self, kind: str) -> None:
        outbox = self.outbox
        if kind == "begin":
            self.sent(self.session.seed(outbox.begin, self.now))
            return
        item: SeedChunk | SeedEnd
        if kind == "chunk":
            item = SeedChunk(seed_id="s1", sequence=outbox.next_sequence, kind="archive")
        else:
            item = SeedEnd(seed_id="s1", sequence=outbox.next_sequence, timeline=1, end_lsn=S)
        outbox.add(item)
        self.sent(self.session.seed(item, self.now))

    @rule(seconds=st.sampled_from((0.0, 2.0, 5.9, 60.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.take(self.session.timer(self.now))

    @invariant()
    def the_slot_may_follow_what_it_says(self) -> None:
        session = self.session
        durable = session.durable
        if durable is not None:
            highest = session._highest_sent
            assert durable.lsn <= max(highest.get(durable.timeline, 0), durable.lsn)
            assert durable.timeline in highest
            assert durable.lsn <= highest[durable.timeline]
        if session.welcome is not None:
            assert session._flight.size_bytes <= session.welcome.window_bytes


TestApplier = ApplierMachine.TestCase
TestApplier.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestShipper = ShipperMachine.TestCase
TestShipper.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
