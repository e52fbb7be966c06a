"""Destination `link` over real ZeroMQ to the real receiver: the contract, and what is its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from applier.receivers.link import LinkReceiver
from logship.errors import Code, LogshipError
from logship.frames import SeedChunk
from logship.link.keys import KeyPair
from logship.link.windows import SPAN_COST_BYTES
from logship.lsn import Lsn, Position
from shipper.destinations import Acked, Lost, SeedFinished
from shipper.destinations.link import LinkDestination, ShipperIdentity
from tests.integration.destination_contract import (
    PATIENCE_SECONDS,
    DestinationContract,
    Seed,
    Shipping,
    facts,
    given,
)
from tests.support.fake_intake import FakeIntake, new_keys
from tests.support.link_frames import SEGMENT_BYTES, at, sealed_wal
from tests.support.proxy import TcpProxy
from tests.support.waiting import until

pytestmark = pytest.mark.integration

S = SEGMENT_BYTES
HEARTBEAT_SECONDS = 60.0
"""A pause of the machine is no silence, and what is told at once does not wait for one of these."""

heartbeats = pytest.mark.parametrize("rig", [1.5], indirect=True)
"""For tests that wait for some: a pause of three is a loss."""


class LinkFarEnd:
    """A `LinkReceiver` with an instance in memory, behind a proxy."""

    window_bytes = 400_000
    """Of WAL, in four spans."""
    answers = True

    def __init__(self, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self.server_keys, self.keys = new_keys(), new_keys()
        self.intake = FakeIntake(at(1, S), S)
        self.receiver = LinkReceiver(
            {"orders": self.intake},
            {self.keys.public: frozenset({"orders"})},
            keys=self.server_keys,
            window_bytes=self.window_bytes + 4 * SPAN_COST_BYTES,
            heartbeat_seconds=heartbeat_seconds,
        )
        self.port = int(self.receiver.start("tcp://127.0.0.1:0").rpartition(":")[2])
        self.proxy = TcpProxy("127.0.0.1", self.port)

    def make_destination(self, *, keys: KeyPair | None = None, **options: Any) -> LinkDestination:
        return LinkDestination(
            self.proxy.endpoint,
            server_public_key=self.server_keys.public,
            keys=keys or self.keys,
            identity=ShipperIdentity("orders", "shipper-a", "boot-1", "async"),
            **options,
        )

    def without_wal(self) -> None:
        self.intake.__init__(None, S)  # type: ignore[misc]
        self.intake.seed_wanted = True

    @property
    def log(self) -> list[tuple[str, Any]]:
        return self.intake.log

    def wal_of(self, timeline: int) -> bytes:
        return self.intake.wal_of(timeline)

    def seed_content(self) -> bytes:
        return b"".join(raw for _, raw in self.intake.seed_parts)

    def hold_durability(self) -> None:
        self.intake.auto_durable = False

    def harden(self, position: Position) -> None:
        self.intake.harden(position)

    def can_harden(self, position: Position) -> Position:
        return position

    def stop_taking(self) -> None:
        self.intake.taking.clear()

    def go_on_taking(self) -> None:
        self.intake.taking.set()

    def ask_again_from(self, position: Position) -> None:
        self.intake.forget_from(position)

    def refuse(self, error: LogshipError) -> None:
        self.intake.fail["hello"].append(error)

    def refuse_seed(self, error: LogshipError) -> None:
        self.intake.fail["seed_begin"].append(error)

    def spoil_seed_chunk(self, error: LogshipError) -> None:
        self.intake.fail["seed_chunk"].append(error)

    def spoil_seed_end(self, error: LogshipError) -> None:
        self.intake.fail["seed_end"].append(error)

    def forget_seed(self) -> None:
        self.intake.forget_seed()

    def want_seed(self, why: str) -> None:
        assert self.intake.listener is not None
        self.intake.listener.seed_requested(why)

    def fence(self) -> None:
        self.intake.fence()

    def cut(self) -> None:
        self.proxy.cut()

    def cut_when_seed_ends(self) -> None:
        self.intake.when_seeded = self.proxy.cut

    def vanish(self) -> None:
        self.proxy.refuse()

    def come_back(self) -> None:
        self.proxy.accept()


@pytest.fixture
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[LinkFarEnd]:
    made = LinkFarEnd(getattr(request, "param", HEARTBEAT_SECONDS))
    async with made.proxy:
        yield made
        await made.receiver.stop()


class TestLinkDestination(DestinationContract):
    pass


@pytest.fixture
async def shipping(rig: LinkFarEnd) -> AsyncIterator[Shipping]:
    made = Shipping(rig)
    yield made
    await made.close()


@heartbeats
async def test_an_idle_link_stays_up_for_many_heartbeats(
    rig: LinkFarEnd, shipping: Shipping
) -> None:
    await shipping.connect()
    before = len(given(rig, "heartbeat"))
    await until(lambda: len(given(rig, "heartbeat")) >= before + 5, "five heartbeats", 60)
    assert not shipping.heard(Lost)
    assert len(given(rig, "hello")) == 1
    assert rig.intake.gone == []


@heartbeats
async def test_a_heartbeat_takes_nothing_back_that_a_span_said_of_the_primary(
    rig: LinkFarEnd, shipping: Shipping
) -> None:
    """The primary is asked every few seconds, and its stream says more all the while: what would
    be lost is measured by the last that was heard."""
    await shipping.connect()
    told = Lsn(1000 * S)

    async def heartbeat_after(flush_lsn: int) -> int:
        before = len(given(rig, "heartbeat"))
        span = sealed_wal(1, shipping.sent.lsn, 100)
        shipping.destination.send_span(1, shipping.sent.lsn, span, flush_lsn)
        shipping.sent = at(1, shipping.sent.lsn + 100)
        # Several destinations at once tell each the same again and again.
        shipping.destination.tell(facts(flush_lsn=told))
        await until(lambda: len(given(rig, "heartbeat")) > before, "a heartbeat", 30)
        return int(given(rig, "heartbeat")[-1].flush_lsn)

    assert await heartbeat_after(1001 * S) == 1001 * S
    told = Lsn(1002 * S)
    assert await heartbeat_after(1001 * S) == 1002 * S
    assert await heartbeat_after(1003 * S) == 1003 * S
    told = Lsn(9 * S)
    assert await heartbeat_after(1003 * S) == 9 * S, "asked again, it had gone back"


async def test_a_hello_takes_nothing_back_that_a_span_said_of_the_primary(
    rig: LinkFarEnd, shipping: Shipping
) -> None:
    """Several destinations connect one anew with what they were told last of the primary."""

    async def hello_says(lsn: int, **changes: Any) -> int:
        await shipping.connect(flush_lsn=Lsn(lsn), **changes)
        return int(given(rig, "hello")[-1].flush_lsn)

    assert await hello_says(1000 * S) == 1000 * S
    span = sealed_wal(1, shipping.sent.lsn, 100)
    shipping.destination.send_span(1, shipping.sent.lsn, span, 1001 * S)
    assert await hello_says(1000 * S) == 1001 * S
    assert await hello_says(1000 * S) == 1001 * S
    assert await hello_says(999 * S) == 999 * S, "asked again, it had gone back"
    assert await hello_says(1000 * S) == 1000 * S


@heartbeats
async def test_a_silent_far_end_is_lost_after_three_heartbeats(
    rig: LinkFarEnd, shipping: Shipping
) -> None:
    await shipping.connect()
    rig.proxy.stall()
    (lost,) = await shipping.hear(Lost)
    assert lost.error.code is Code.LINK_LOST
    assert "nothing was heard" in lost.error.what
    rig.proxy.resume()
    await shipping.connect_patiently()


async def test_a_far_end_that_never_answers_is_given_up(rig: LinkFarEnd) -> None:
    rig.proxy.stall()
    destination = rig.make_destination(connect_timeout_seconds=0.3)
    with pytest.raises(LogshipError) as caught:
        await destination.connect(facts())
    assert caught.value.code is Code.APPLIER_UNREACHABLE
    assert caught.value.retryable
    await destination.close("done")


async def test_an_unknown_key_is_refused_with_the_remedy(rig: LinkFarEnd) -> None:
    stranger = new_keys()
    destination = rig.make_destination(keys=stranger)
    with pytest.raises(LogshipError) as caught:
        await destination.connect(facts())
    assert caught.value.code is Code.LINK_AUTHENTICATION
    assert stranger.public in caught.value.what
    await destination.close("done")


async def test_a_connect_that_is_given_up_can_be_made_again(rig: LinkFarEnd) -> None:
    destination = rig.make_destination()
    entered = asyncio.Event()
    leave = asyncio.Event()
    real = rig.intake.hello

    async def slow_hello(hello: Any, listener: Any) -> Any:
        entered.set()
        await leave.wait()
        return await real(hello, listener)

    rig.intake.hello = slow_hello  # type: ignore[method-assign]
    connecting = asyncio.create_task(destination.connect(facts()))
    await entered.wait()
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)
    leave.set()
    assert (await destination.connect(facts())).position == at(1, S)
    await destination.close("done")


async def test_the_maker_of_a_seed_waits_while_too_much_of_it_is_on_its_way(
    rig: LinkFarEnd, shipping: Shipping
) -> None:
    rig.without_wal()
    await shipping.connect()
    entered = asyncio.Event()
    leave = asyncio.Event()
    real = rig.intake.seed_chunk

    async def slow_chunk(frame: SeedChunk, payload: bytes | memoryview) -> None:
        entered.set()
        await leave.wait()
        await real(frame, payload)

    rig.intake.seed_chunk = slow_chunk  # type: ignore[method-assign]
    seed = Seed(chunks=40)
    seed.content = [bytes([n]) + b"\0" * 10 for n in range(40)]
    big = b"x" * (1 << 20)
    sent = 0

    async def send_all() -> None:
        nonlocal sent
        await shipping.destination.send_seed(seed.begin, b"")
        for number in range(40):
            chunk = SeedChunk(
                seed_id="5eed1", sequence=number, kind="data", raw_bytes=len(big), crc32c=0
            )
            await shipping.destination.send_seed(chunk, big)
            sent += 1

    sending = asyncio.create_task(send_all())
    await entered.wait()
    await until(lambda: sent >= 15, "the window is full")
    await asyncio.sleep(0.2)
    assert sent <= 17, "more than the window is on its way"
    # It learns also while it waits that the seed is lost.
    rig.spoil_seed_chunk(LogshipError(Code.BAD_TAR, "not a tar archive"))
    leave.set()
    with pytest.raises(LogshipError) as caught:
        await asyncio.wait_for(sending, PATIENCE_SECONDS)
    assert caught.value.code is Code.SEED_FAILED


async def test_it_says_goodbye(rig: LinkFarEnd, shipping: Shipping) -> None:
    await shipping.connect()
    await shipping.destination.close("the shipper stops")
    await until(lambda: rig.intake.gone, "the far end knows")
    assert [why for _, why in rig.intake.gone] == ["the shipper stops"]


async def test_a_small_ack_does_not_wait_for_a_heartbeat(
    rig: LinkFarEnd, shipping: Shipping
) -> None:
    """A commit that waits for remote_apply waits for this."""
    await shipping.connect()
    await shipping.send(100)
    await shipping.hear_durable(at(1, S + 100))
    rig.intake.applied_lsn = Lsn(S + 50)
    assert rig.intake.listener is not None
    rig.intake.listener.positions_changed()
    await until(
        lambda: any(ack.applied == S + 50 for ack in shipping.heard(Acked)),
        "the standby's position",
        HEARTBEAT_SECONDS / 2,
    )


async def test_acks_are_pushed_to_whoever_asked_for_that_and_still_make_room(
    rig: LinkFarEnd, shipping: Shipping
) -> None:
    await shipping.connect()
    pushed: list[Acked] = []
    assert isinstance(shipping.destination, LinkDestination)
    shipping.destination.on_acked = pushed.append
    await shipping.send(3 * rig.window_bytes)
    await until(lambda: pushed and pushed[-1].durable == shipping.sent, "all is acknowledged")
    assert pushed == sorted(pushed)
    assert shipping.heard(Acked) == []
    shipping.destination.on_acked = None
    await shipping.send(1000)
    await shipping.hear_durable(shipping.sent)
    assert pushed[-1].durable < shipping.sent


async def test_spans_that_were_read_before_a_rewind_was_heard_are_dropped_even_if_they_fit(
    rig: LinkFarEnd, shipping: Shipping
) -> None:
    """A seed that begins just where the WAL that was sent ends is the case: the reader starts
    there again, and must not find that the place was passed already."""
    await shipping.connect()
    await shipping.send(2 * S)
    await shipping.hear_durable(at(1, 3 * S))
    await Seed(start_lsn=3 * S + 40).send(shipping.destination, last=0)
    stale = sealed_wal(1, 3 * S, 100)
    shipping.destination.send_span(1, 3 * S, stale, 0)
    shipping.destination.resume(at(1, 3 * S))
    shipping.sent = at(1, 3 * S)
    await shipping.send(500)
    await until(lambda: len(rig.wal_of(1)) == 500, "all of it arrived")
    assert [len(data) for _, start, data in given(rig, "wal") if start >= 3 * S] == [500]


async def test_a_seed_that_was_given_up_by_its_maker_is_no_news(
    rig: LinkFarEnd, shipping: Shipping
) -> None:
    rig.without_wal()
    await shipping.connect()
    await Seed("5eed1").send(shipping.destination, last=2)
    await Seed("5eed2").send(shipping.destination)
    await shipping.hear(SeedFinished)
    assert shipping.heard(SeedFinished) == [SeedFinished("5eed2", "")]
