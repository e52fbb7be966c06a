"""Both sessions over a pipe that loses, repeats, reorders and damages, and a store that crashes.

What must hold at every step: the shipper never believes more durable than the store has, what
it believes never falls, the store is offered no gap that it would have to refuse, and the
window holds.  Once the faults stop, everything arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from logship.errors import LogshipError
from logship.frames import SeedBegin, SeedChunk, SeedEnd, ShipperHeartbeat, Welcome
from logship.link.applier_session import ApplierSession
from logship.link.events import (
    ApplierOutput,
    Greeted,
    HeartbeatDue,
    LinkLost,
    PeerLeft,
    PeerRefused,
    Refused,
    Rewind,
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
from logship.link.windows import SPAN_COST_BYTES, SeedOutbox
from logship.lsn import Lsn, Position
from logship.seal import seal, unseal
from tests.support.link_frames import SEGMENT_BYTES, hello, wal_bytes, welcome

START = SEGMENT_BYTES - 700
END = SEGMENT_BYTES + 2300
WAL = wal_bytes(1, START, END - START)
WINDOW_BYTES, SPAN_BYTES = 900 + 3 * SPAN_COST_BYTES, 300
CHUNKS = 6

Wire = list[list[bytes]]


class World:
    def __init__(self, *, seeding: bool) -> None:
        self.now = 0.0
        self.seeding = seeding
        # The store, which outlives applier sessions; a crash keeps what is durable.
        self.written = self.durable = START
        self.seed_begun = False
        self.seed_next = 0
        self.seed_ended = False
        # The shipper, which outlives its sessions.
        self.believed_durable = 0
        self.seed_started = False
        self.outbox = SeedOutbox(
            SeedBegin(seed_id="s1", timeline=1, start_lsn=SEGMENT_BYTES, estimated_bytes=0)
        )
        self.to_applier: Wire = []
        self.to_shipper: Wire = []
        self.work: list[ApplierOutput] = []
        self.connect()
        self.shake_hands()

    def connect(self) -> None:
        self.to_applier.clear()
        self.to_shipper.clear()
        self.work.clear()
        self.shipper = ShipperSession(hello(), now=self.now)
        self.applier = ApplierSession(now=self.now)
        self.carry_out_shipper(self.shipper.start(self.now))

    def shake_hands(self, _: int = 0) -> None:
        """Most plans should fail later than in the greeting."""
        self.deliver_to_applier(1)
        self.deliver_to_shipper(1)

    # --- both shells ------------------------------------------------------------------------

    def carry_out_shipper(self, outputs: Sequence[ShipperOutput]) -> None:
        for output in outputs:
            match output:
                case Send():
                    self.to_applier.append([bytes(part) for part in output.parts()])
                case HeartbeatDue():
                    beat = ShipperHeartbeat(timeline=1, flush_lsn=END, sent_at=0.0)
                    self.carry_out_shipper([self.shipper.heartbeat(beat, self.now)])
                case Welcomed():
                    if self.seed_started:
                        self.resume_seed(output.welcome.seed_id, output.welcome.seed_sequence)
                case SeedAcked():
                    self.outbox.acked(output.next_sequence)
                    if output.resend:
                        self.resume_seed(output.seed_id, output.next_sequence)
                case Rewind():
                    assert START <= output.lsn <= END
                case LinkLost() | Refused():
                    self.connect()
                    return

    def resume_seed(self, seed_id: str, sequence: int) -> None:
        items = self.outbox.resume(seed_id, sequence)
        assert items is not None, "the seed can't go on"
        for frame, payload in items:
            self.carry_out_shipper([self.shipper.seed(frame, self.now, payload)])

    def carry_out_applier(self, outputs: Sequence[ApplierOutput]) -> None:
        session = self.applier
        for output in outputs:
            match output:
                case Send():
                    self.to_shipper.append([bytes(part) for part in output.parts()])
                case HeartbeatDue():
                    self.carry_out_applier(session.heartbeat(0.0, self.now))
                case Greeted():
                    self.carry_out_applier(session.welcome(self.welcome(), self.now))
                case SpanReceived() | SeedBegun() | SeedChunkReceived() | SeedEnded():
                    self.work.append(output)
                case LinkLost() | PeerRefused() | PeerLeft():
                    return  # the shipper hears the refusal, or silence

    def do_work(self, count: int) -> None:
        """The applier's worker, which lags behind what was received."""
        for _ in range(count):
            if not self.work:
                return
            event = self.work.pop(0)
            self.applier.handled(event)
            match event:
                case SpanReceived():
                    self.store_span(event)
                case SeedBegun():
                    self.written = self.durable = SEGMENT_BYTES
                    self.seed_begun = True
                    self.carry_out_applier(self.applier.seed_ack("s1", 0, self.now))
                case SeedChunkReceived():
                    self.store_chunk(event)
                case SeedEnded():
                    self.seed_ended = True
                    self.seed_next += 1
                    outputs = self.applier.seed_ack("s1", self.seed_next, self.now)
                    self.carry_out_applier(outputs)

    def welcome(self) -> Welcome:
        return welcome(
            window_bytes=WINDOW_BYTES,
            max_span_bytes=SPAN_BYTES,
            resume_timeline=1,
            resume_lsn=self.durable,
            seed_id="s1" if self.seed_begun else "",
            seed_sequence=self.seed_next,
        )

    def store_span(self, event: SpanReceived) -> None:
        span = event.span
        if event.epoch != self.applier.epoch:
            return
        try:
            raw = unseal(
                span.codec, span.crc32c, span.raw_bytes, event.payload, max_raw_bytes=SPAN_BYTES
            )
        except LogshipError as error:
            self.carry_out_applier(self.applier.span_failed(event, error, self.now))
            return
        assert span.start_lsn <= self.written, "a gap was offered to the store"
        assert bytes(raw) == WAL[span.start_lsn - START :][: len(raw)]
        self.written = max(self.written, span.start_lsn + len(raw))
        self.report()

    def store_chunk(self, event: SeedChunkReceived) -> None:
        if event.epoch != self.applier.seed_epoch:
            return
        chunk = event.chunk
        try:
            raw = unseal(
                chunk.codec, chunk.crc32c, chunk.raw_bytes, event.payload, max_raw_bytes=1000
            )
        except LogshipError as error:
            self.carry_out_applier(self.applier.chunk_failed(event, error, self.now))
            return
        assert chunk.sequence == self.seed_next
        assert bytes(raw) == b"chunk %d" % chunk.sequence
        self.seed_next += 1
        self.carry_out_applier(self.applier.seed_ack("s1", self.seed_next, self.now))

    def report(self) -> None:
        outputs = self.applier.ack(
            Position(1, Lsn(self.written)), Position(1, Lsn(self.durable)), 0, self.now
        )
        self.carry_out_applier(outputs)

    # --- what can happen --------------------------------------------------------------------

    def send(self, size_bytes: int) -> None:
        """Two spans, so that one of them can be lost."""
        for _ in range(2):
            session = self.shipper
            if session.sent is None or session.closed or session.welcome is None:
                return
            start = session.sent.lsn
            boundary = SEGMENT_BYTES if start < SEGMENT_BYTES else END
            room_bytes = min(session.window_room_bytes, boundary - start, SPAN_BYTES)
            size_bytes = min(size_bytes, room_bytes)
            if size_bytes > 0:
                raw = WAL[start - START :][:size_bytes]
                self.carry_out_shipper([session.span(1, start, seal(raw), self.now)])

    def begin_seed(self, _: int) -> None:
        """With WAL of the chain before it on the way, and acks of that coming back."""
        session = self.shipper
        if self.seeding and not self.seed_started and session.welcome and not session.closed:
            self.seed_started = True
            self.believed_durable = 0
            self.carry_out_shipper([session.seed(self.outbox.begin, self.now)])

    def send_chunk(self, _: int) -> None:
        sequence = self.outbox.next_sequence
        session = self.shipper
        if not self.seed_started or session.welcome is None or session.closed or sequence > CHUNKS:
            return
        if sequence == CHUNKS:
            end = SeedEnd(seed_id="s1", sequence=sequence, timeline=1, end_lsn=END)
            self.outbox.add(end)
            self.carry_out_shipper([session.seed(end, self.now)])
            return
        sealed = seal(b"chunk %d" % sequence)
        chunk = SeedChunk(
            seed_id="s1",
            sequence=sequence,
            kind="data",
            raw_bytes=sealed.raw_bytes,
            crc32c=sealed.crc32c,
        )
        self.outbox.add(chunk, sealed.payload)
        self.carry_out_shipper([session.seed(chunk, self.now, sealed.payload)])

    def deliver_to_applier(self, count: int) -> None:
        for _ in range(count):
            if not self.to_applier:
                return
            self.carry_out_applier(self.applier.receive(self.to_applier.pop(0), self.now))

    def deliver_to_shipper(self, count: int) -> None:
        for _ in range(count):
            if not self.to_shipper:
                return
            self.carry_out_shipper(self.shipper.receive(self.to_shipper.pop(0), self.now))

    def drop(self, index: int) -> None:
        for wire in (self.to_applier, self.to_shipper)[: 1 + index % 2]:
            if wire:
                wire.pop(index % len(wire))

    def repeat(self, index: int) -> None:
        wire = (self.to_applier, self.to_shipper)[index % 2]
        if wire:
            wire.insert(index % len(wire), wire[index % len(wire)])

    def reorder(self, index: int) -> None:
        wire = (self.to_applier, self.to_shipper)[index % 2]
        if wire:
            wire.append(wire.pop(index % len(wire)))

    def damage(self, index: int) -> None:
        wire = (self.to_applier, self.to_shipper)[index % 2]
        if wire:
            message = wire[index % len(wire)] = list(wire[index % len(wire)])
            part = bytearray(message[-1])
            if part:
                part[index % len(part)] ^= 1 << index % 8
            message[-1] = bytes(part)

    def flush(self, _: int) -> None:
        self.durable = self.written
        self.report()

    def crash_applier(self, _: int) -> None:
        self.written = self.durable
        self.connect()

    def cut(self, _: int) -> None:
        self.connect()

    def pass_time(self, tenths: int) -> None:
        self.now += tenths % 40 / 10
        self.carry_out_applier(self.applier.timer(self.now))
        self.carry_out_shipper(self.shipper.timer(self.now))

    def check(self) -> None:
        if self.shipper.durable is not None:
            assert self.shipper.durable.lsn <= self.durable
            assert self.shipper.durable.lsn >= self.believed_durable
            self.believed_durable = self.shipper.durable.lsn
            if self.shipper.received is not None and self.shipper.sent is not None:
                assert self.shipper.received <= self.shipper.sent
        assert self.applier.in_flight_bytes <= WINDOW_BYTES
        assert self.durable <= self.written

    @property
    def done(self) -> bool:
        whole = self.shipper.durable is not None and self.shipper.durable.lsn == END
        return whole and (not self.seeding or self.outbox.acked_sequence == CHUNKS + 1)


FAULTS: list[Callable[[World, int], None]] = [
    World.drop,
    World.repeat,
    World.reorder,
    World.damage,
    World.crash_applier,
    World.cut,
]
STEPS: list[Callable[[World, int], None]] = [
    World.send,
    World.send_chunk,
    World.deliver_to_applier,
    World.do_work,
    World.deliver_to_shipper,
    World.flush,
    World.begin_seed,
    World.pass_time,
    World.shake_hands,
]

steps = st.one_of(*[st.sampled_from(STEPS)] * 3, st.sampled_from(FAULTS))
plans = st.lists(st.tuples(steps, st.integers(1, SPAN_BYTES)), min_size=10, max_size=100)


@settings(max_examples=300, deadline=None)
@given(plan=plans, seeding=st.booleans())
def test_nothing_is_believed_falsely_and_everything_arrives(
    plan: list[tuple[Callable[[World, int], None], int]], seeding: bool
) -> None:
    world = World(seeding=seeding)
    for step, argument in plan:
        step(world, argument)
        world.check()
    for _ in range(200):
        if world.done:
            break
        for quiet in (
            World.send,
            World.begin_seed,
            World.send_chunk,
            World.deliver_to_applier,
            World.do_work,
            World.flush,
            World.deliver_to_shipper,
        ):
            quiet(world, SPAN_BYTES)
            world.check()
        world.pass_time(5)
        world.check()
    assert world.done
    assert world.written == END
    if seeding:
        assert world.seed_ended
        assert world.seed_next == CHUNKS + 1


def test_a_refused_peers_work_has_no_gap_either() -> None:
    """A span on the way is damaged, a seed's begin is lost; its first chunk ends the session
    while the spans still wait to be stored."""
    world = World(seeding=True)
    world.send(300)
    world.damage(0)
    world.begin_seed(0)
    world.to_applier.pop()
    world.send_chunk(0)
    world.deliver_to_applier(3)
    assert world.applier.closed
    assert len(world.work) == 2
    world.do_work(2)
    assert world.written == START
