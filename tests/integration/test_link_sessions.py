"""Sessions over real ZeroMQ: bad input from raw peers, two shippers, restarts, silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
import zmq

from logship.errors import Code, LogshipError
from logship.frames import (
    Ack,
    Frame,
    Payload,
    Refuse,
    ResumeAt,
    ShipperHeartbeat,
    Welcome,
    decode_from_applier,
    encode,
)
from logship.link.alarm import Alarm
from logship.link.applier_session import ApplierSession
from logship.link.events import (
    ApplierOutput,
    Greeted,
    HeartbeatDue,
    LinkLost,
    PeerLeft,
    PeerRefused,
    Refused,
    Send,
    ShipperOutput,
    SpanReceived,
)
from logship.link.instances import Instances, why_replaced
from logship.link.keys import KeyPair
from logship.link.shipper_session import ShipperSession
from logship.link.transport import Dealer, Peer, Router
from logship.lsn import Lsn, Position
from logship.seal import unseal
from tests.support.link_frames import (
    SEGMENT_BYTES,
    hello,
    sealed_wal,
    span_frame,
    wal_bytes,
    welcome,
)
from tests.support.proxy import TcpProxy
from tests.support.waiting import free_port

S = SEGMENT_BYTES
HEARTBEAT_SECONDS = 2.0
"""A silence of three is a loss, and a busy machine may stop both sides for a second or two."""


def new_keys() -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


SERVER, ORDERS, BILLING = new_keys(), new_keys(), new_keys()
ALLOWED = {ORDERS.public: frozenset({"orders"}), BILLING.public: frozenset({"orders", "billing"})}


class MemoryApplier:
    """Router, sessions, arbiter and a store in memory, for one instance's WAL from S on."""

    def __init__(self, wal: bytearray, *, versions: tuple[int, int] = (1, 1)) -> None:
        self.wal = wal
        self.versions = versions
        self.heartbeat_seconds = HEARTBEAT_SECONDS
        self.ended: asyncio.Queue[ApplierOutput] = asyncio.Queue()
        self.repeats = 0
        self.heard = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._sessions: dict[Peer, ApplierSession] = {}
        self._alarms: dict[Peer, Alarm] = {}
        self._instances: Instances[Peer] = Instances(ALLOWED)
        self.router = Router(
            keys=SERVER,
            allowed_public_keys=ALLOWED,
            on_message=self._on_message,
            on_gone=self._on_gone,
        )
        self.port = 0

    def listen(self, port: int = 0) -> None:
        self.port = int(self.router.bind(f"tcp://127.0.0.1:{port}").rpartition(":")[2])

    def close(self) -> None:
        for alarm in self._alarms.values():
            alarm.cancel()
        self.router.close()

    def _on_message(self, peer: Peer, parts: list[Payload]) -> None:
        now = self._loop.time()
        self.heard.set()
        session = self._sessions.get(peer)
        if session is None:
            session = self._sessions[peer] = ApplierSession(now=now, versions=self.versions)
            self._alarms[peer] = Alarm(lambda: self._on_alarm(peer))
        self._carry_out(peer, session.receive(parts, now))

    def _on_gone(self, peer: Peer) -> None:
        if peer in self._sessions:
            error = LogshipError(Code.LINK_LOST, "gone", retryable=True)
            self._carry_out(peer, self._sessions[peer].lost(error))

    def _on_alarm(self, peer: Peer) -> None:
        self._carry_out(peer, self._sessions[peer].timer(self._loop.time()))

    def _carry_out(self, peer: Peer, outputs: Sequence[ApplierOutput]) -> None:
        session, now = self._sessions[peer], self._loop.time()
        for output in outputs:
            match output:
                case Send():
                    self.router.send(peer, output.parts())
                case HeartbeatDue():
                    self._carry_out(peer, session.heartbeat(0.0, now))
                case Greeted():
                    self._greet(peer, session, output)
                case SpanReceived():
                    self._store(peer, session, output)
                case LinkLost() | PeerLeft() | PeerRefused():
                    self._end(peer, output)
        if peer in self._alarms:
            self._alarms[peer].set(session.deadline)

    def _greet(self, peer: Peer, session: ApplierSession, greeted: Greeted) -> None:
        try:
            before = self._instances.claim(
                peer, peer.public_key, greeted.hello, address=peer.address
            )
        except LogshipError as error:
            self._carry_out(peer, session.refuse(error))
            self._end(peer, PeerRefused(error))
            return
        if before is not None:
            ousted = why_replaced(before, greeted.hello)
            assert ousted is not None
            self._carry_out(before.peer, self._sessions[before.peer].refuse(ousted))
            self._end(before.peer, PeerRefused(ousted))
        resume_lsn = S + len(self.wal)
        answer = welcome(heartbeat_seconds=self.heartbeat_seconds, resume_lsn=resume_lsn)
        self._carry_out(peer, session.welcome(answer, self._loop.time()))

    def _store(self, peer: Peer, session: ApplierSession, event: SpanReceived) -> None:
        span, now = event.span, self._loop.time()
        try:
            raw = unseal(
                span.codec, span.crc32c, span.raw_bytes, event.payload, max_raw_bytes=1 << 20
            )
        except LogshipError as error:
            self._carry_out(peer, session.span_failed(event, error, now))
            return
        offset = span.start_lsn - S
        assert offset <= len(self.wal)
        self.repeats += event.repeats
        self.wal[offset : offset + len(raw)] = raw
        end = Position(1, Lsn(S + len(self.wal)))
        self._carry_out(peer, session.ack(end, end, 0, now))

    def _end(self, peer: Peer, output: ApplierOutput) -> None:
        del self._sessions[peer]
        self._alarms.pop(peer).cancel()
        self._instances.release(peer)
        self.router.drop(peer)
        self.ended.put_nowait(output)


class MemoryShipper:
    """Dealer and session, for one connection."""

    def __init__(self, port: int, *, keys: KeyPair = ORDERS, **changes: object) -> None:
        self._loop = asyncio.get_running_loop()
        self.events: asyncio.Queue[ShipperOutput] = asyncio.Queue()
        self.session = ShipperSession(hello(**changes), now=self._loop.time())
        self.dealer = Dealer(
            f"tcp://127.0.0.1:{port}",
            server_public_key=SERVER.public,
            keys=keys,
            on_message=self._on_message,
            on_closed=lambda error: self.carry_out(self.session.lost(error)),
        )
        self._alarm = Alarm(self._on_alarm)

    async def start(self) -> None:
        await self.dealer.connect(5)
        self.carry_out(self.session.start(self._loop.time()))

    def close(self) -> None:
        self._alarm.cancel()
        self.dealer.close()

    def send_wal(self, size_bytes: int) -> None:
        assert self.session.sent is not None
        start = self.session.sent.lsn
        sealed = sealed_wal(1, start, size_bytes)
        self.carry_out([self.session.span(1, start, sealed, self._loop.time())])

    async def until(self, wanted: Callable[[ShipperOutput], bool]) -> ShipperOutput:
        async with asyncio.timeout(10):
            while not wanted(event := await self.events.get()):
                pass
        return event

    async def until_durable(self, lsn: int) -> None:
        async with asyncio.timeout(10):
            while self.session.durable is None or self.session.durable.lsn < lsn:
                await self.events.get()

    async def until_refused(self) -> LogshipError:
        event = await self.until(lambda event: isinstance(event, Refused))
        assert isinstance(event, Refused)
        return event.error

    def _on_message(self, parts: list[Payload]) -> None:
        self.carry_out(self.session.receive(parts, self._loop.time()))

    def _on_alarm(self) -> None:
        self.carry_out(self.session.timer(self._loop.time()))

    def carry_out(self, outputs: Sequence[ShipperOutput]) -> None:
        for output in outputs:
            match output:
                case Send():
                    self.dealer.send(output.parts())
                case HeartbeatDue():
                    beat = ShipperHeartbeat(timeline=1, flush_lsn=0, sent_at=0.0)
                    self.carry_out([self.session.heartbeat(beat, self._loop.time())])
                case _:
                    self.events.put_nowait(output)
        self._alarm.set(self.session.deadline)


class RawPeer:
    """A Dealer that sends whatever a test wants, past all checks of a session."""

    def __init__(self, port: int, *, keys: KeyPair = ORDERS) -> None:
        self._heard: asyncio.Queue[Frame] = asyncio.Queue()
        self.dealer = Dealer(
            f"tcp://127.0.0.1:{port}",
            server_public_key=SERVER.public,
            keys=keys,
            on_message=lambda parts: self._heard.put_nowait(decode_from_applier(parts)[0]),
            on_closed=lambda error: None,
        )

    async def greet(self, **changes: object) -> None:
        await self.dealer.connect(5)
        self.send(hello(**changes))
        await self.hear(Welcome)

    def send(self, frame: Frame, payload: Payload | None = None) -> None:
        self.dealer.send(encode(frame, payload))

    def send_wal(self, start_lsn: int, size_bytes: int) -> None:
        sealed = sealed_wal(1, start_lsn, size_bytes)
        self.send(span_frame(1, start_lsn, size_bytes), sealed.payload)

    async def hear(self, kind: type[Frame]) -> Frame:
        async with asyncio.timeout(10):
            while not isinstance(frame := await self._heard.get(), kind):
                pass
        return frame

    async def refusal(self) -> Refuse:
        frame = await self.hear(Refuse)
        assert isinstance(frame, Refuse)
        return frame

    async def until_durable(self, lsn: int) -> None:
        while True:
            ack = await self.hear(Ack)
            assert isinstance(ack, Ack)
            if ack.durable_lsn >= lsn:
                return


@pytest.fixture
async def applier() -> AsyncIterator[MemoryApplier]:
    applier = MemoryApplier(bytearray())
    applier.listen()
    yield applier
    applier.close()


@pytest.fixture
async def raw(applier: MemoryApplier) -> AsyncIterator[RawPeer]:
    raw = RawPeer(applier.port)
    await raw.greet()
    yield raw
    raw.dealer.close()


async def test_wal_arrives_and_is_acknowledged(applier: MemoryApplier) -> None:
    shipper = MemoryShipper(applier.port)
    await shipper.start()
    await shipper.until(lambda _: shipper.session.sent is not None)
    for _ in range(5):
        shipper.send_wal(10_000)
    await shipper.until_durable(S + 50_000)
    assert applier.wal == wal_bytes(1, S, 50_000)
    shipper.close()


async def test_idle_links_stay_up_by_heartbeats(applier: MemoryApplier) -> None:
    shipper = MemoryShipper(applier.port)
    await shipper.start()
    await shipper.until(lambda _: shipper.session.sent is not None)
    async with asyncio.timeout(30):
        for _ in range(4):
            applier.heard.clear()
            await applier.heard.wait()
    assert shipper.events.empty()
    assert not shipper.session.closed
    assert applier.ended.empty()
    shipper.close()


# --- bad frames ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        [b""],
        [b"\0\0\0\0x"],
        [b"a", b"b", b"c"],
        [bytes(300_000)],
        [encode(hello())[0][:20]],
    ],
    ids=["empty", "bad checksum", "three parts", "oversized head", "truncated"],
)
async def test_what_is_no_frame_is_refused(raw: RawPeer, parts: list[bytes]) -> None:
    raw.dealer.send(parts)
    refusal = await raw.refusal()
    assert refusal.code in (Code.BAD_FRAME, Code.CHECKSUM_MISMATCH)


async def test_a_refused_peer_is_heard_no_more(applier: MemoryApplier, raw: RawPeer) -> None:
    raw.send(hello())
    assert (await raw.refusal()).code == Code.BAD_FRAME
    raw.send_wal(S, 100)
    other = MemoryShipper(applier.port, boot_id="boot-2")
    await other.start()
    await other.until(lambda _: other.session.sent is not None)
    assert applier.wal == b""
    other.close()


async def test_a_flipped_bit_in_the_payload_is_asked_for_again(
    applier: MemoryApplier, raw: RawPeer
) -> None:
    payload = bytearray(wal_bytes(1, S, 100))
    payload[50] ^= 1
    frame = span_frame(1, S, 100)
    raw.send(frame, bytes(payload))
    raw.send_wal(S + 100, 100)
    resume = await raw.hear(ResumeAt)
    assert isinstance(resume, ResumeAt)
    assert resume.lsn == S
    assert applier.wal == b""
    raw.send_wal(S, 200)
    await raw.until_durable(S + 200)
    assert applier.wal == wal_bytes(1, S, 200)


async def test_a_truncated_payload_is_refused(applier: MemoryApplier, raw: RawPeer) -> None:
    raw.send(span_frame(1, S, 100), wal_bytes(1, S, 99))
    assert (await raw.refusal()).code == Code.BAD_FRAME
    assert applier.wal == b""


async def test_repeated_spans_change_nothing(applier: MemoryApplier, raw: RawPeer) -> None:
    for _ in range(3):
        raw.send_wal(S, 100)
    raw.send_wal(S + 100, 100)
    await raw.until_durable(S + 200)
    assert applier.repeats == 2
    assert applier.wal == wal_bytes(1, S, 200)


async def test_reordered_spans_are_sent_back_to_the_first_missing(
    applier: MemoryApplier, raw: RawPeer
) -> None:
    raw.send_wal(S + 100, 100)
    raw.send_wal(S, 100)
    resume = await raw.hear(ResumeAt)
    assert isinstance(resume, ResumeAt)
    assert resume.lsn == S
    raw.send_wal(S + 100, 100)
    await raw.until_durable(S + 200)
    assert applier.wal == wal_bytes(1, S, 200)


async def test_a_peer_that_ignores_the_span_size_is_refused(raw: RawPeer) -> None:
    sealed = sealed_wal(1, S, 17_000)
    raw.send(span_frame(1, S, 17_000), sealed.payload)
    assert (await raw.refusal()).code == Code.BAD_FRAME


# --- who may ------------------------------------------------------------------------------


async def test_the_key_of_another_instance_is_refused(applier: MemoryApplier) -> None:
    shipper = MemoryShipper(applier.port, instance="billing")
    await shipper.start()
    error = await shipper.until_refused()
    assert error.code is Code.KEY_NOT_ALLOWED
    assert error.hint
    shipper.close()


async def test_an_unknown_instance_is_refused(applier: MemoryApplier) -> None:
    shipper = MemoryShipper(applier.port, instance="nonesuch")
    await shipper.start()
    assert (await shipper.until_refused()).code is Code.UNKNOWN_INSTANCE
    shipper.close()


async def test_a_second_shipper_is_refused_until_the_first_leaves(applier: MemoryApplier) -> None:
    first = MemoryShipper(applier.port)
    await first.start()
    await first.until(lambda _: first.session.sent is not None)
    second = MemoryShipper(applier.port, keys=BILLING, shipper_id="shipper-b")
    await second.start()
    error = await second.until_refused()
    assert error.code is Code.INSTANCE_BUSY
    assert "shipper-a" in error.what
    second.close()
    first.carry_out(first.session.bye("done"))
    await first.dealer.finish()
    async with asyncio.timeout(10):
        while not isinstance(await applier.ended.get(), PeerLeft):
            pass
    third = MemoryShipper(applier.port, keys=BILLING, shipper_id="shipper-b")
    await third.start()
    await third.until(lambda _: third.session.sent is not None)
    third.close()
    first.close()


async def test_a_shipper_started_again_supersedes_its_old_connection(
    applier: MemoryApplier,
) -> None:
    old = MemoryShipper(applier.port)
    await old.start()
    await old.until(lambda _: old.session.sent is not None)
    new = MemoryShipper(applier.port, boot_id="boot-2")
    await new.start()
    await new.until(lambda _: new.session.sent is not None)
    assert (await old.until_refused()).code is Code.SUPERSEDED
    new.send_wal(100)
    await new.until_durable(S + 100)
    old.close()
    new.close()


# --- versions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("applier_versions", "shipper_versions", "agreed"),
    [((1, 2), (1, 1), 1), ((1, 1), (1, 2), 1), ((2, 3), (1, 2), 2), ((2, 3), (3, 4), 3)],
)
async def test_neighbouring_versions_talk(
    applier_versions: tuple[int, int], shipper_versions: tuple[int, int], agreed: int
) -> None:
    applier = MemoryApplier(bytearray(), versions=applier_versions)
    applier.listen()
    low, high = shipper_versions
    shipper = MemoryShipper(applier.port, version_min=low, version_max=high)
    await shipper.start()
    await shipper.until(lambda _: shipper.session.sent is not None)
    assert shipper.session.welcome is not None
    assert shipper.session.welcome.version == agreed
    shipper.send_wal(100)
    await shipper.until_durable(S + 100)
    shipper.close()
    applier.close()


async def test_versions_too_far_apart_are_refused_with_both_named(applier: MemoryApplier) -> None:
    shipper = MemoryShipper(applier.port, version_min=7, version_max=8)
    await shipper.start()
    error = await shipper.until_refused()
    assert error.code is Code.VERSION_MISMATCH
    assert "7 to 8" in error.what
    assert "1 to 1" in error.what
    shipper.close()


# --- cuts, restarts, silence --------------------------------------------------------------


async def test_an_applier_restart_is_noticed_and_the_next_hello_resumes() -> None:
    wal = bytearray()
    before = MemoryApplier(wal)
    before.listen(free_port())
    shipper = MemoryShipper(before.port)
    await shipper.start()
    await shipper.until(lambda _: shipper.session.sent is not None)
    shipper.send_wal(1000)
    await shipper.until_durable(S + 1000)
    before.close()
    await shipper.until(lambda event: isinstance(event, LinkLost))
    shipper.close()
    after = MemoryApplier(wal)
    after.listen(before.port)
    again = MemoryShipper(after.port)
    await again.start()
    await again.until(lambda _: again.session.sent is not None)
    assert again.session.sent == Position(1, Lsn(S + 1000))
    again.send_wal(500)
    await again.until_durable(S + 1500)
    assert wal == wal_bytes(1, S, 1500)
    again.close()
    after.close()


async def test_silence_without_a_cut_is_noticed_by_both_sides(applier: MemoryApplier) -> None:
    applier.heartbeat_seconds = 0.5
    async with TcpProxy("127.0.0.1", applier.port) as proxy:
        shipper = MemoryShipper(proxy.port)
        await shipper.start()
        await shipper.until(lambda _: shipper.session.sent is not None)
        proxy.stall()
        event = await shipper.until(lambda event: isinstance(event, LinkLost))
        assert isinstance(event, LinkLost)
        assert event.error.code is Code.LINK_LOST
        assert "nothing was heard" in event.error.what
        assert isinstance(await asyncio.wait_for(applier.ended.get(), 10), LinkLost)
        shipper.close()
        proxy.resume()
        again = MemoryShipper(proxy.port)
        await again.start()
        await again.until(lambda _: again.session.sent is not None)
        again.close()


async def test_a_cut_in_mid_stream_resumes_at_the_durable_position(applier: MemoryApplier) -> None:
    async with TcpProxy("127.0.0.1", applier.port) as proxy:
        total = 0
        for round_number in range(3):
            shipper = MemoryShipper(proxy.port, boot_id=f"boot-{round_number}")
            await shipper.start()
            await shipper.until(lambda _, s=shipper: s.session.sent is not None)  # type: ignore[misc]
            assert shipper.session.sent == Position(1, Lsn(S + len(applier.wal)))
            for _ in range(4):
                shipper.send_wal(16_000)
            proxy.cut()
            await shipper.until(lambda event: isinstance(event, LinkLost))
            shipper.close()
            # What got through before the cut is read by the applier in its own time.
            total = len(applier.wal)
        final = MemoryShipper(proxy.port, boot_id="boot-final")
        await final.start()
        await final.until(lambda _: final.session.sent is not None)
        final.send_wal(1000)
        assert final.session.sent is not None
        await final.until_durable(final.session.sent.lsn)
        assert len(applier.wal) >= total
        assert applier.wal == wal_bytes(1, S, len(applier.wal))
        final.close()
