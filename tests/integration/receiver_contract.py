"""What every receiver must do; a new one subclasses a contract and plugs in.

`ReceiverContract` is for all.  `AnsweringReceiverContract` adds what the receiver of a road owes
its senders on which it can answer them.

The subclass gives a `rig` fixture: a receiver over instances in memory, and destinations that
ship to it by the same road.  It is not collected by itself.

Where the road can't answer, the rig's destinations say what can be seen at the receiver's end:
`Acked` is what the intake holds, `Lost` that the receiver let go of it, and why.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

import pytest
from structlog.testing import capture_logs

from applier.receivers import FencedError
from logship.errors import Code, LogshipError
from logship.frames import GapFound
from logship.lsn import Lsn
from logship.seal import INLINE_BYTES
from shipper.destinations import Acked, Destination, Lost, Rewind, SeedFinished, SeedWanted
from tests.integration.destination_contract import PATIENCE_SECONDS, Seed, Shipping, facts
from tests.support.fake_intake import FakeIntake
from tests.support.link_frames import SEGMENT_BYTES, at, profile, wal_bytes
from tests.support.waiting import until

S = SEGMENT_BYTES


class ReceiverRig(Protocol):
    """A receiver that feeds `intake`, the instance "orders", which starts at `at(1, S)`."""

    window_bytes: int
    silence_seconds: float
    """After so long without a word a connection would be lost."""
    intake: FakeIntake

    def make_destination(self) -> Destination: ...

    def cut(self) -> None:
        """Connections end, as by the network."""

    async def stop(self) -> None:
        """Stop the receiver."""


CALLS = ["hello", "wal", "profile"]
"""What an intake may refuse, with everything that was sent after it."""
CALLS_OF_ONE_SENDER = ["history", "seed_begin"]
"""As well, where the sender hears of it and may then go on with something else."""


async def provoke(shipping: Shipping, call: str) -> None:
    """Have the intake's `call` be called."""
    destination = shipping.destination
    match call:
        case "wal":
            await shipping.send(100)
        case "history":
            destination.send_history(2, b"1\t0/200064\tno recovery target specified\n")
        case "profile":
            destination.tell(facts(profile=profile(max_connections=7)))
            await shipping.send(100)
        case "seed_begin":
            await Seed().send(destination, last=0)


class ReceiverContract:
    @pytest.fixture
    async def shipping(self, rig: ReceiverRig) -> AsyncIterator[Shipping]:
        made = Shipping(rig)  # type: ignore[arg-type]
        yield made
        await made.close()

    # --- handing up ---------------------------------------------------------------------

    async def test_wal_is_handed_up_unsealed_in_order_one_call_at_a_time(
        self, rig: ReceiverRig, shipping: Shipping
    ) -> None:
        await shipping.connect()
        for size in (3 * INLINE_BYTES, 10, 2 * INLINE_BYTES, 1, INLINE_BYTES, S, 7):
            await shipping.send(size)
        end = shipping.sent.lsn
        await shipping.hear_durable(shipping.sent)
        assert rig.intake.wal_of(1) == wal_bytes(1, S, end - S)
        place = S
        for timeline, start, data in rig.intake.of_kind("wal"):
            assert (timeline, start) == (1, place)
            place += len(data)

    async def test_what_is_said_of_the_primary_is_handed_up(
        self, rig: ReceiverRig, shipping: Shipping
    ) -> None:
        await shipping.connect(flush_lsn=Lsn(5 * S))
        (hello,) = rig.intake.of_kind("hello")
        assert (hello.instance, hello.flush_lsn, hello.profile) == ("orders", 5 * S, profile())
        await shipping.send(100)
        await until(lambda: (1, S + 100) in rig.intake.of_kind("heard"), "the flush position")
        gap = GapFound(
            timeline=1, from_lsn=S + 100, available_lsn=0, code="wal-removed", what="gone"
        )
        shipping.destination.send_gap(gap)
        await until(lambda: rig.intake.of_kind("gap") == [gap], "the gap")

    # --- errors -------------------------------------------------------------------------

    @pytest.mark.parametrize("retryable", [True, False])
    @pytest.mark.parametrize("call", CALLS)
    async def test_an_error_of_the_intake_is_told_in_its_words(
        self, rig: ReceiverRig, shipping: Shipping, call: str, retryable: bool
    ) -> None:
        await self.check_error(rig, shipping, call, retryable=retryable)

    async def check_error(
        self, rig: ReceiverRig, shipping: Shipping, call: str, *, retryable: bool
    ) -> None:
        error = LogshipError(Code.WAL_CONFLICT, "not the same", "look", retryable=retryable)
        if call == "hello":
            rig.intake.fail["hello"].append(error)
            with pytest.raises(LogshipError) as caught:
                await shipping.connect()
            told = caught.value
        else:
            await shipping.connect()
            rig.intake.fail[call].append(error)
            await provoke(shipping, call)
            (lost,) = await shipping.hear(Lost)
            told = lost.error
        assert (told.code, told.what, told.hint, told.retryable) == (
            Code.WAL_CONFLICT,
            "not the same",
            "look",
            retryable,
        )
        await shipping.connect_patiently()
        await shipping.send(100)
        await shipping.hear_durable(at(1, S + 100))

    async def test_nothing_that_followed_an_error_is_handed_up(
        self, rig: ReceiverRig, shipping: Shipping
    ) -> None:
        await shipping.connect()
        rig.intake.taking.clear()
        rig.intake.fail["wal"].append(LogshipError(Code.BAD_WAL_PAGE, "no WAL page"))
        await shipping.send(20_000, span_bytes=1000)
        await asyncio.sleep(0.05)
        rig.intake.taking.set()
        await shipping.hear(Lost)
        assert len(rig.intake.of_kind("wal")) == 1
        assert rig.intake.wal_of(1) == b""

    async def test_a_bug_in_an_intake_ends_one_connection_not_the_receiver(
        self, rig: ReceiverRig, shipping: Shipping
    ) -> None:
        await shipping.connect()
        rig.intake.fail["wal"].append(ZeroDivisionError("a bug"))
        # Shown as in a terminal, its traceback takes seconds of this loop on a busy machine: the
        # silence would be the end of the connection.
        with capture_logs():
            await shipping.send(100)
            (lost,) = await shipping.hear(Lost)
        assert lost.error.code is Code.INTERNAL
        assert lost.error.retryable
        await shipping.connect_patiently()
        await shipping.send(100)
        await shipping.hear_durable(at(1, S + 100))

    async def test_a_store_that_fails_outside_a_call_ends_the_connection(
        self, rig: ReceiverRig, shipping: Shipping
    ) -> None:
        await shipping.connect()
        assert rig.intake.listener is not None
        rig.intake.listener.failed(LogshipError(Code.STORE_FAILED, "fsync failed", retryable=True))
        (lost,) = await shipping.hear(Lost)
        assert (lost.error.code, lost.error.retryable) == (Code.STORE_FAILED, True)
        await shipping.connect_patiently()

    @pytest.mark.parametrize("call", CALLS)
    async def test_a_fence_is_told_whichever_call_meets_it(
        self, rig: ReceiverRig, shipping: Shipping, call: str
    ) -> None:
        await self.check_fence(rig, shipping, call)

    async def check_fence(self, rig: ReceiverRig, shipping: Shipping, call: str) -> None:
        fence = FencedError(1700000000.0, 2, 0x3000028)
        if call == "hello":
            rig.intake.fail["hello"].append(fence)
            with pytest.raises(LogshipError) as caught:
                await shipping.connect()
            told = caught.value
        else:
            await shipping.connect()
            rig.intake.fail[call].append(fence)
            await provoke(shipping, call)
            (lost,) = await shipping.hear(Lost)
            told = lost.error
        assert told.code is Code.FENCED
        assert "0/3000028" in told.what
        assert not told.retryable

    # --- the end ------------------------------------------------------------------------

    async def test_the_intake_is_told_of_a_lost_connection_exactly_once(
        self, rig: ReceiverRig, shipping: Shipping
    ) -> None:
        await shipping.connect()
        listener = rig.intake.listener
        await shipping.send(100)
        rig.cut()
        await shipping.hear(Lost)
        await until(lambda: rig.intake.gone, "the intake knows", PATIENCE_SECONDS)
        await shipping.connect_patiently()
        await asyncio.sleep(1.5 * rig.silence_seconds)
        assert [who for who, _ in rig.intake.gone] == [listener]
        assert rig.intake.listener is not None

    @pytest.mark.parametrize("end", ["refused", "fenced", "failed", "stopped"])
    async def test_the_intake_is_told_once_however_it_ends(
        self, rig: ReceiverRig, shipping: Shipping, end: str
    ) -> None:
        await self.check_end(rig, shipping, end)

    async def check_end(self, rig: ReceiverRig, shipping: Shipping, end: str) -> None:
        await shipping.connect()
        listener = rig.intake.listener
        assert listener is not None
        match end:
            case "refused":
                rig.intake.fail["wal"].append(LogshipError(Code.BAD_WAL_PAGE, "no"))
                await shipping.send(100)
            case "fenced":
                listener.fenced(FencedError(0.0, 2, 1))
            case "failed":
                listener.failed(LogshipError(Code.STORE_FAILED, "no"))
            case "goodbye":
                await shipping.destination.close("done")
            case "stopped":
                await rig.stop()
        await until(lambda: rig.intake.gone, "the intake knows", PATIENCE_SECONDS)
        # What is told to a connection that has ended goes nowhere, and hurts nobody.
        listener.positions_changed()
        listener.seed_requested("too late")
        listener.failed(LogshipError(Code.STORE_FAILED, "too late"))
        listener.fenced(FencedError(0.0, 2, 1))
        await asyncio.sleep(0.05)
        assert [who for who, _ in rig.intake.gone] == [listener]


class AnsweringReceiverContract(ReceiverContract):
    """The receiver of a road on which senders are answered."""

    @pytest.mark.parametrize("retryable", [True, False])
    @pytest.mark.parametrize("call", CALLS_OF_ONE_SENDER)
    async def test_an_error_that_meets_one_sender_is_told_it(
        self, rig: ReceiverRig, shipping: Shipping, call: str, retryable: bool
    ) -> None:
        await self.check_error(rig, shipping, call, retryable=retryable)

    @pytest.mark.parametrize("call", CALLS_OF_ONE_SENDER)
    async def test_a_fence_that_meets_one_sender_is_told_it(
        self, rig: ReceiverRig, shipping: Shipping, call: str
    ) -> None:
        await self.check_fence(rig, shipping, call)

    async def test_the_intake_is_told_once_of_a_goodbye(
        self, rig: ReceiverRig, shipping: Shipping
    ) -> None:
        await self.check_end(rig, shipping, "goodbye")

    async def test_the_primary_is_heard_also_while_the_store_waits_for_room(
        self, rig: ReceiverRig, shipping: Shipping
    ) -> None:
        rig.intake.taking.clear()
        await shipping.connect()
        await shipping.send(1000)
        shipping.destination.tell(facts(sync_state="quorum", flush_lsn=Lsn(9 * S)))
        await until(
            lambda: any(beat.flush_lsn == 9 * S for beat in rig.intake.of_kind("heartbeat")),
            "the exposure is known",
        )
        await asyncio.sleep(1.5 * rig.silence_seconds)
        assert not shipping.heard(Lost), "waiting for room is no silence"
        assert rig.intake.gone == []
        rig.intake.taking.set()
        await shipping.hear_durable(at(1, S + 1000))

    async def test_only_what_the_intake_calls_durable_is_acknowledged_as_that(
        self, rig: ReceiverRig, shipping: Shipping
    ) -> None:
        rig.intake.auto_durable = False
        await shipping.connect()
        for place in (S + 1000, S + 1500, S + 3000):
            await shipping.send(3000, span_bytes=500)
            await until(lambda: len(rig.intake.wal_of(1)) == shipping.sent.lsn - S, "it is written")
            rig.intake.harden(at(1, place))
            await shipping.hear_durable(at(1, place))
            assert max(ack.durable for ack in shipping.heard(Acked)) == at(1, place)

    async def test_what_was_sent_and_not_taken_is_not_even_received(
        self, rig: ReceiverRig, shipping: Shipping
    ) -> None:
        rig.intake.taking.clear()
        await shipping.connect()
        await shipping.send(5000)
        assert rig.intake.listener is not None
        rig.intake.listener.positions_changed()
        await asyncio.sleep(0.1)
        assert all(ack.received <= at(1, S) for ack in shipping.heard(Acked))

    async def test_the_standbys_position_goes_along(
        self, rig: ReceiverRig, shipping: Shipping
    ) -> None:
        await shipping.connect()
        await shipping.send(1000)
        await shipping.hear_durable(at(1, S + 1000))
        rig.intake.applied_lsn = Lsn(S + 700)
        assert rig.intake.listener is not None
        rig.intake.listener.positions_changed()
        await until(
            lambda: any(ack.applied == S + 700 for ack in shipping.heard(Acked)), "it is told"
        )

    async def test_a_gap_at_the_intake_has_the_sender_go_back_to_what_it_has(
        self, rig: ReceiverRig, shipping: Shipping
    ) -> None:
        rig.intake.auto_durable = False
        await shipping.connect()
        await shipping.send(4000, span_bytes=1000)
        await until(lambda: len(rig.intake.wal_of(1)) == 4000, "it is written")
        rig.intake.forget_from(at(1, S + 1500))
        await shipping.send(1000)
        (rewind,) = await shipping.hear(Rewind)
        assert rewind.position == at(1, S + 1500)
        shipping.go_on_at(rewind.position)
        await shipping.send(6000)
        await until(lambda: len(rig.intake.wal_of(1)) == 7500, "the rest is written")
        assert rig.intake.wal_of(1) == wal_bytes(1, S, 7500)

    async def test_a_seeds_parts_are_handed_up_once_each_and_in_order(
        self, rig: ReceiverRig, shipping: Shipping
    ) -> None:
        await shipping.connect()
        await Seed().send(shipping.destination)
        await shipping.hear(SeedFinished)
        names = [name for name, _ in rig.intake.log if name.startswith("seed")]
        assert names == ["seed_begin", *["seed_chunk"] * 6, "seed_end"]
        assert rig.intake.of_kind("seed_chunk") == list(range(6))

    @pytest.mark.parametrize("which", [0, 3, 5])
    async def test_a_chunk_that_does_not_match_is_asked_for_again_and_the_rest_after_it(
        self, rig: ReceiverRig, shipping: Shipping, which: int
    ) -> None:
        """Also the last one, with the seed's end right behind it."""
        await shipping.connect()
        seed = Seed()
        await seed.send(shipping.destination, last=which)
        await until(lambda: len(rig.intake.of_kind("seed_chunk")) == which, "those before")
        error = LogshipError(Code.CHECKSUM_MISMATCH, "a bit flipped", retryable=True)
        rig.intake.fail["seed_chunk"].append(error)
        for sequence in range(which, 6):
            await shipping.destination.send_seed(*seed.chunk(sequence))
        await shipping.destination.send_seed(seed.end, b"")
        (finished,) = await shipping.hear(SeedFinished)
        assert finished.error == ""
        assert b"".join(raw for _, raw in rig.intake.seed_parts) == seed.whole
        assert len(rig.intake.of_kind("seed_end")) == 1

    async def test_a_seed_is_asked_for_when_the_intake_says_so(
        self, rig: ReceiverRig, shipping: Shipping
    ) -> None:
        await shipping.connect()
        assert rig.intake.listener is not None
        rig.intake.listener.seed_requested("an operator asked")
        (wanted,) = await shipping.hear(SeedWanted)
        assert wanted.why == "an operator asked"

    @pytest.mark.parametrize("noticed", [False, True])
    async def test_a_connection_that_ends_while_it_is_accepted_leaves_nothing_behind(
        self, rig: ReceiverRig, shipping: Shipping, noticed: bool
    ) -> None:
        """noticed: by the receiver, before the intake has answered."""
        entered, leave = asyncio.Event(), asyncio.Event()
        real = rig.intake.hello

        async def slow_hello(hello: Any, listener: Any) -> Any:
            entered.set()
            await leave.wait()
            return await real(hello, listener)

        rig.intake.hello = slow_hello  # type: ignore[method-assign]
        connecting = asyncio.create_task(shipping.connect())
        await entered.wait()
        rig.cut()
        with pytest.raises(LogshipError):
            await connecting
        if noticed:
            await asyncio.sleep(1.5 * rig.silence_seconds)
        leave.set()
        await shipping.connect_patiently()
        assert rig.intake.listener is not None
        await shipping.send(100)
        await shipping.hear_durable(at(1, S + 100))

    async def test_a_connection_that_ends_under_a_call_lets_the_next_one_in(
        self, rig: ReceiverRig, shipping: Shipping
    ) -> None:
        await shipping.connect()
        rig.intake.taking.clear()
        await shipping.send(5000, span_bytes=1000)
        rig.cut()
        await shipping.hear(Lost)
        rig.intake.taking.set()
        assert (await shipping.connect_patiently()).position is not None
        await shipping.send(at(1, S + 5000).lsn - shipping.sent.lsn)
        await shipping.hear_durable(at(1, S + 5000))
        assert rig.intake.wal_of(1) == wal_bytes(1, S, 5000)
