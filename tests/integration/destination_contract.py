"""What every destination must do; a new one subclasses `DestinationContract` and plugs in.

The subclass gives a `rig` fixture: the far end of a destination, which does as it is told.  It
is not collected by itself.  The cluster that ships has segments of `SEGMENT_BYTES`.
"""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import Any, Protocol, TypeVar

import pytest

from logship.errors import Code, LogshipError
from logship.frames import GapFound, SeedAborted, SeedBegin, SeedChunk, SeedEnd
from logship.lsn import Lsn, Position
from logship.seal import INLINE_BYTES, seal
from shipper.destinations import (
    Accepted,
    Acked,
    Destination,
    DestinationEvent,
    Facts,
    Lost,
    Rewind,
    SeedFinished,
    SeedWanted,
)
from tests.support.link_frames import SEGMENT_BYTES, at, profile, sealed_wal, wal_bytes
from tests.support.waiting import until
from tests.unit.applier.receivers.seed.archives import entry, manifest

S = SEGMENT_BYTES
PATIENCE_SECONDS = 60.0
EventT = TypeVar("EventT", bound=DestinationEvent)


class FarEnd(Protocol):
    """What a destination ships to.  It has an empty chain from `at(1, S)` on, unless
    `without_wal` was called before anything else."""

    window_bytes: int
    """So much may be in flight."""

    answers: bool
    """Somebody is there who notices a cut at once, asks for what he wants, and listens while
    nothing is shipped.  Else it only keeps what it is given, as a bucket does."""

    def make_destination(self) -> Destination: ...

    def without_wal(self) -> None:
        """It has nothing and can take nothing before a seed."""

    @property
    def log(self) -> list[tuple[str, Any]]:
        """What it has been given, in order: ("history", (timeline, content)),
        ("wal", (timeline, lsn, bytes)), ("profile", Profile), ("heartbeat", …), ("gap", GapFound),
        ("seed_begin", SeedBegin), ("seed_chunk", sequence), ("seed_end", SeedEnd),
        ("seed_stopped", (seed_id, code, what))."""

    def wal_of(self, timeline: int) -> bytes:
        """What it holds of that timeline, from the start of its chain on."""

    def seed_content(self) -> bytes:
        """The data of all seed chunks that its unpacker was given, joined."""

    # what it is told to do

    def hold_durability(self) -> None:
        """What arrives is not durable by itself any more: `harden` says when."""

    def harden(self, position: Position) -> None: ...

    def can_harden(self, position: Position) -> Position:
        """The last position, `position` at most, that it can make durable by itself."""

    def stop_taking(self) -> None:
        """What arrives is not taken, so it stays in flight."""

    def go_on_taking(self) -> None: ...

    def ask_again_from(self, position: Position) -> None:
        """What it has from `position` on, not yet durable, is lost to it: it wants it again."""

    def refuse(self, error: LogshipError) -> None:
        """Refuse the next connection with this."""

    def refuse_seed(self, error: LogshipError) -> None:
        """The next seed can't begin."""

    def spoil_seed_chunk(self, error: LogshipError) -> None:
        """Taking the next seed chunk fails with this."""

    def spoil_seed_end(self, error: LogshipError) -> None: ...

    def forget_seed(self) -> None:
        """What it has of the seed that is on its way is gone."""

    def want_seed(self, why: str) -> None: ...

    def fence(self) -> None: ...

    # what happens to the way there

    def cut(self) -> None:
        """Connections end; new ones are fine."""

    def cut_when_seed_ends(self) -> None:
        """Connections end when it has the whole of the next seed, before it can say so."""

    def vanish(self) -> None:
        """... and new ones fail too, until `come_back`."""

    def come_back(self) -> None: ...


def facts(**changes: Any) -> Facts:
    """Of a primary that has written more than any test ships."""
    return Facts(profile(), 1, Lsn(1000 * S), True, "", "")._replace(**changes)


class Shipping:
    """A destination in use: sends WAL and collects what the far end says."""

    def __init__(self, rig: FarEnd) -> None:
        self.rig = rig
        self.events: list[DestinationEvent] = []
        self.sent = at(1, S)
        self.max_span_bytes = 0
        self._listening: asyncio.Task[None] | None = None

    @cached_property
    def destination(self) -> Destination:
        return self.rig.make_destination()

    async def connect(self, **changes: Any) -> Accepted:
        self._stop_listening()
        async with asyncio.timeout(PATIENCE_SECONDS):
            accepted = await self.destination.connect(facts(**changes))
        self.max_span_bytes = accepted.max_span_bytes
        if accepted.position is not None:
            self.go_on_at(accepted.position)
        self._listening = asyncio.create_task(self._listen())
        return accepted

    async def connect_patiently(self) -> Accepted:
        """As an agent does: until it works."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    return await self.connect()
                except LogshipError as error:
                    assert error.retryable, error
                    await asyncio.sleep(0.02)

    def go_on_at(self, position: Position) -> None:
        self.destination.resume(position)
        self.sent = position

    async def send(self, size_bytes: int, *, span_bytes: int = 0) -> None:
        """The next `size_bytes` of WAL, in spans that stay within their segments."""
        end = self.sent.lsn + size_bytes
        while self.sent.lsn < end:
            timeline, lsn = self.sent
            room = min(end, (lsn // S + 1) * S) - lsn
            piece = min(room, self.max_span_bytes, span_bytes or self.max_span_bytes)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self.destination.room(piece)
            sealed = sealed_wal(timeline, lsn, piece)
            self.destination.send_span(timeline, lsn, sealed, lsn + piece)
            self.sent = Position(timeline, Lsn(lsn + piece))

    async def hear(self, kind: type[EventT], *, count: int = 1) -> list[EventT]:
        """Wait for `count` events of `kind`."""
        await until(
            lambda: len(self.heard(kind)) >= count, f"{count} {kind.__name__}", PATIENCE_SECONDS
        )
        return self.heard(kind)

    def heard(self, kind: type[EventT]) -> list[EventT]:
        return [event for event in self.events if isinstance(event, kind)]

    async def hear_durable(self, position: Position) -> None:
        await until(
            lambda: any(ack.durable >= position for ack in self.heard(Acked)),
            f"{position} is durable",
            PATIENCE_SECONDS,
        )

    async def lose(self) -> None:
        """The connection ends while nothing is in flight.  Where nobody answers that means
        nothing: the next connection is made without a word."""
        self.rig.cut()
        if self.rig.answers:
            await self.hear(Lost)

    async def close(self) -> None:
        self._stop_listening()
        await self.destination.close("the test is over")

    async def _listen(self) -> None:
        while True:
            event = await self.destination.next_event()
            assert not self.heard(Lost), f"{event} after the loss"
            self.events.append(event)

    def _stop_listening(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            if listening.done():
                listening.result()
            listening.cancel()
        self.events.clear()


class Seed:
    """A small base backup, sent part by part: an archive of one file, and its manifest."""

    def __init__(self, seed_id: str = "5eed1", *, chunks: int = 6, start_lsn: int = 3 * S + 40):
        self.begin = SeedBegin(
            seed_id=seed_id, timeline=1, start_lsn=start_lsn, estimated_bytes=chunks * 1000
        )
        self.end = SeedEnd(seed_id=seed_id, sequence=chunks, timeline=1, end_lsn=start_lsn + 99)
        file = wal_bytes(9, 7919, chunks * 1000)
        archive = entry("base/1/2", file) + bytes(1024)
        listed = manifest(
            {"base/1/2": file}, start=str(Lsn(start_lsn)), end=str(Lsn(self.end.end_lsn))
        )
        pieces = chunks - 3
        size = -(-len(archive) // pieces)
        self.content = [b"", *(archive[n * size : (n + 1) * size] for n in range(pieces))]
        self.content += [b"", listed]

    @property
    def whole(self) -> bytes:
        return b"".join(self.content)

    def chunk(self, sequence: int) -> tuple[SeedChunk, bytes | memoryview]:
        if not self.content[sequence]:
            kind = "manifest" if sequence else "archive"
            return SeedChunk(seed_id=self.begin.seed_id, sequence=sequence, kind=kind), b""
        sealed = seal(self.content[sequence])
        chunk = SeedChunk(
            seed_id=self.begin.seed_id,
            sequence=sequence,
            kind="data",
            raw_bytes=sealed.raw_bytes,
            crc32c=sealed.crc32c,
            codec=sealed.codec,
        )
        return chunk, sealed.payload

    async def send(self, destination: Destination, first: int = 0, last: int | None = None) -> None:
        """Chunks from `first` to before `last`; the begin before 0, the end after the last."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            if first == 0:
                await destination.send_seed(self.begin, b"")
            for sequence in range(first, len(self.content) if last is None else last):
                await destination.send_seed(*self.chunk(sequence))
            if last is None:
                await destination.send_seed(self.end, b"")


def needs_answers(rig: FarEnd) -> None:
    if not rig.answers:
        pytest.skip("nobody is there who would ask")


def given(rig: FarEnd, kind: str) -> list[Any]:
    return [what for name, what in rig.log if name == kind]


class DestinationContract:
    @pytest.fixture
    async def shipping(self, rig: FarEnd) -> Any:
        made = Shipping(rig)
        yield made
        await made.close()

    # --- WAL ----------------------------------------------------------------------------

    async def test_what_is_sent_arrives_in_order_and_byte_for_byte(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        accepted = await shipping.connect()
        assert accepted.position == at(1, S)
        assert accepted.max_span_bytes >= INLINE_BYTES
        for size in (1, 700, 100_000, 13, S, 5000):
            await shipping.send(size)
        await shipping.hear_durable(shipping.sent)
        assert rig.wal_of(1) == wal_bytes(1, S, shipping.sent.lsn - S)
        starts = [start for _, start, _ in given(rig, "wal")]
        assert starts == sorted(set(starts)), "in order, none twice"

    async def test_nothing_is_durable_before_the_far_end_says_so(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        rig.hold_durability()
        await shipping.connect()
        await shipping.send(10_000, span_bytes=1000)
        await until(lambda: len(rig.wal_of(1)) == 10_000, "all of it arrived")
        await asyncio.sleep(0.3)
        assert all(ack.durable <= at(1, S) for ack in shipping.heard(Acked))
        reached = rig.can_harden(at(1, S + 2500))
        assert reached > at(1, S)
        rig.harden(at(1, S + 2500))
        await shipping.hear_durable(reached)
        await asyncio.sleep(0.1)
        acks = shipping.heard(Acked)
        assert max(ack.durable for ack in acks) == reached
        assert all(ack.durable <= ack.received <= at(1, S + 10_000) for ack in acks)

    async def test_room_ends_at_the_window_and_comes_back(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        rig.stop_taking()
        await shipping.connect()
        await shipping.send(rig.window_bytes)
        waiting = asyncio.create_task(shipping.destination.room(1))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        rig.go_on_taking()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await waiting
            await shipping.destination.room(rig.window_bytes)
        await shipping.send(rig.window_bytes)
        await shipping.hear_durable(shipping.sent)

    async def test_a_history_arrives_before_the_wal_of_its_timeline(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        await shipping.connect()
        await shipping.send(S + 100)
        content = b"1\t0/200064\tno recovery target specified\n"
        shipping.destination.send_history(2, content)
        shipping.sent = at(2, 2 * S)
        await shipping.send(4000)
        await shipping.hear_durable(at(2, 2 * S + 4000))
        assert given(rig, "history") == [(2, content)]
        names = [(name, what[0]) for name, what in rig.log if name in ("wal", "history")]
        assert names.index(("history", 2)) < names.index(("wal", 2))
        assert rig.wal_of(2) == wal_bytes(2, 2 * S, 4000)

    async def test_a_history_that_the_far_end_has_is_known(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        assert (await shipping.connect()).known_timelines == frozenset()
        shipping.destination.send_history(2, b"1\t0/200064\tno recovery target specified\n")
        await until(lambda: given(rig, "history"), "it arrived")
        await shipping.lose()
        assert (await shipping.connect_patiently()).known_timelines == frozenset({2})

    async def test_a_gap_is_delivered(self, rig: FarEnd, shipping: Shipping) -> None:
        await shipping.connect()
        gap = GapFound(
            timeline=1, from_lsn=S, available_lsn=9 * S, code="wal-removed", what="it is gone"
        )
        shipping.destination.send_gap(gap)
        await until(lambda: given(rig, "gap"), "it arrived")
        assert given(rig, "gap") == [gap]

    async def test_a_rewind_is_told_and_answered_from_there(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        needs_answers(rig)
        rig.hold_durability()
        await shipping.connect()
        await shipping.send(10_000, span_bytes=1000)
        await until(lambda: len(rig.wal_of(1)) == 10_000, "all of it arrived")
        rig.harden(at(1, S + 3000))
        rig.ask_again_from(at(1, S + 4000))
        await shipping.send(500)
        (rewind,) = await shipping.hear(Rewind)
        assert rewind.position == at(1, S + 4000)
        assert rewind.why
        # What a reader sends that has not heard yet is dropped.
        await shipping.send(500)
        shipping.go_on_at(rewind.position)
        await shipping.send(8000)
        rig.harden(at(1, S + 3000))
        await until(lambda: len(rig.wal_of(1)) == 12_000, "all of it arrived")
        assert rig.wal_of(1) == wal_bytes(1, S, 12_000)
        assert len(shipping.heard(Rewind)) == 1

    # --- connecting and losing ----------------------------------------------------------

    async def test_an_unreachable_far_end_is_an_error_that_trying_again_mends(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        rig.vanish()
        with pytest.raises(LogshipError) as caught:
            await shipping.connect()
        assert caught.value.retryable
        assert caught.value.hint
        rig.come_back()
        await shipping.connect_patiently()
        await shipping.send(100)
        await shipping.hear_durable(at(1, S + 100))

    @pytest.mark.parametrize("retryable", [True, False])
    async def test_a_refusal_comes_in_the_far_ends_words(
        self, rig: FarEnd, shipping: Shipping, retryable: bool
    ) -> None:
        rig.refuse(
            LogshipError(
                Code.SYSTEM_IDENTIFIER_MISMATCH, "wrong one", "mend it", retryable=retryable
            )
        )
        with pytest.raises(LogshipError) as caught:
            await shipping.connect()
        error = caught.value
        assert (error.code, error.what, error.hint, error.retryable) == (
            Code.SYSTEM_IDENTIFIER_MISMATCH,
            "wrong one",
            "mend it",
            retryable,
        )
        await shipping.connect_patiently()

    async def test_it_resumes_where_the_far_end_is_durable(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        rig.hold_durability()
        await shipping.connect()
        await shipping.send(10_000, span_bytes=1000)
        await until(lambda: len(rig.wal_of(1)) == 10_000, "all of it arrived")
        rig.harden(at(1, S + 4000))
        rig.cut()
        await shipping.hear(Lost)
        accepted = await shipping.connect_patiently()
        assert accepted.position == at(1, S + 4000)
        await shipping.send(10_000, span_bytes=1000)
        await until(lambda: len(rig.wal_of(1)) == 14_000, "the rest arrived")
        assert rig.wal_of(1) == wal_bytes(1, S, 14_000)

    async def test_after_a_loss_nothing_is_durable_and_nothing_can_be_sent(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        rig.hold_durability()
        await shipping.connect()
        await shipping.send(1000)
        await until(lambda: len(rig.wal_of(1)) == 1000, "it arrived")
        rig.vanish()
        (lost,) = await shipping.hear(Lost)
        assert lost.error.code is Code.LINK_LOST
        assert lost.error.retryable
        rig.harden(at(1, S + 1000))
        with pytest.raises(LogshipError) as caught:
            await shipping.destination.room(1)
        assert caught.value.code is Code.LINK_LOST
        with pytest.raises(LogshipError) as caught:
            shipping.destination.send_span(1, S + 1000, sealed_wal(1, S + 1000, 10), 0)
        assert caught.value.code is Code.LINK_LOST
        shipping.destination.tell(facts(reachable=False))
        await asyncio.sleep(0.1)
        assert shipping.events[-1] is lost, "nothing is told after it"
        assert all(ack.durable <= at(1, S) for ack in shipping.heard(Acked))
        rig.come_back()
        assert (await shipping.connect_patiently()).position == at(1, S + 1000)

    async def test_who_waits_for_room_learns_of_the_loss(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        rig.stop_taking()
        await shipping.connect()
        await shipping.send(rig.window_bytes)
        waiting = asyncio.create_task(shipping.destination.room(1))
        await asyncio.sleep(0)
        rig.cut()
        with pytest.raises(LogshipError) as caught:
            await asyncio.wait_for(waiting, PATIENCE_SECONDS)
        assert caught.value.code is Code.LINK_LOST

    async def test_a_fence_is_a_loss_that_trying_again_does_not_mend(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        await shipping.connect()
        await shipping.send(1000)
        await shipping.hear_durable(at(1, S + 1000))
        rig.fence()
        if not rig.answers:
            await shipping.send(1)
        (lost,) = await shipping.hear(Lost)
        assert lost.error.code is Code.FENCED
        assert not lost.error.retryable
        assert "promoted" in lost.error.what
        with pytest.raises(LogshipError) as caught:
            await shipping.connect()
        assert caught.value.code is Code.FENCED
        assert not caught.value.retryable
        assert rig.wal_of(1) == wal_bytes(1, S, 1000)

    # --- what is told of the primary ----------------------------------------------------

    async def test_a_changed_primary_is_known_before_any_wal_it_wrote(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        await shipping.connect()
        await shipping.send(1000)
        changed = profile(max_connections=777)
        shipping.destination.tell(facts(profile=changed))
        shipping.destination.tell(facts(profile=changed))
        await shipping.send(1000)
        await shipping.hear_durable(at(1, S + 2000))
        assert given(rig, "profile") == [changed], "and is told once"
        names = [name for name, _ in rig.log if name in ("wal", "profile")]
        assert names == ["wal", "profile", "wal"]

    async def test_the_primarys_state_is_told_when_it_changes(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        needs_answers(rig)
        await shipping.connect()
        told = facts(reachable=False, sync_state="sync", slot_wal_status="extended")
        shipping.destination.tell(told)

        def arrived() -> bool:
            return any(
                (beat.primary_reachable, beat.sync_state, beat.slot_wal_status)
                == (False, "sync", "extended")
                for beat in given(rig, "heartbeat")
            )

        # Not only with the next heartbeat.
        await until(arrived, "the new state is known", PATIENCE_SECONDS / 2)

    async def test_wal_that_an_archiver_left_is_shipped_while_the_primary_is_away(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        accepted = await shipping.connect(reachable=False, flush_lsn=Lsn(0))
        assert accepted.position == at(1, S)
        await shipping.send(S + 1000)
        await shipping.hear_durable(at(1, 2 * S + 1000))
        assert rig.wal_of(1) == wal_bytes(1, S, S + 1000)
        assert (await shipping.connect()).position == at(1, 2 * S + 1000)

    # --- seeds --------------------------------------------------------------------------

    async def test_without_wal_nothing_can_be_shipped_before_a_seed_begins(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        rig.without_wal()
        accepted = await shipping.connect()
        assert accepted.position is None
        assert accepted.seed_wanted
        await Seed(start_lsn=3 * S + 40).send(shipping.destination, last=0)
        (rewind,) = await shipping.hear(Rewind)
        assert rewind.position == at(1, 3 * S), "WAL from the start of the seed's segment"
        shipping.go_on_at(rewind.position)
        await shipping.send(2000)
        await shipping.hear_durable(at(1, 3 * S + 2000))
        assert rig.wal_of(1) == wal_bytes(1, 3 * S, 2000)

    async def test_a_seed_arrives_whole_and_its_end_is_told(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        rig.without_wal()
        await shipping.connect()
        seed = Seed()
        await seed.send(shipping.destination)
        (finished,) = await shipping.hear(SeedFinished)
        assert finished == SeedFinished("5eed1", "")
        assert rig.seed_content() == seed.whole
        assert given(rig, "seed_chunk") == list(range(6))
        assert given(rig, "seed_begin") == [seed.begin]
        assert given(rig, "seed_end") == [seed.end]

    async def test_wal_flows_beside_a_seed(self, rig: FarEnd, shipping: Shipping) -> None:
        rig.without_wal()
        await shipping.connect()
        seed = Seed()
        await seed.send(shipping.destination, last=3)
        (rewind,) = await shipping.hear(Rewind)
        shipping.go_on_at(rewind.position)
        await shipping.send(5000)
        await shipping.hear_durable(shipping.sent)
        await seed.send(shipping.destination, 3)
        await shipping.hear(SeedFinished)
        assert rig.seed_content() == seed.whole

    async def test_a_seed_survives_cuts_and_no_part_is_unpacked_twice(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        rig.without_wal()
        await shipping.connect()
        seed = Seed(chunks=9)
        await seed.send(shipping.destination, last=3)
        await until(lambda: given(rig, "seed_chunk"), "the first chunks are there")
        await shipping.lose()
        await seed.send(shipping.destination, 3, 6)  # its maker does not notice
        accepted = await shipping.connect_patiently()
        assert not accepted.seed_wanted, "it is on its way"
        assert accepted.position == at(1, 3 * S)
        rig.cut()
        await seed.send(shipping.destination, 6)
        await shipping.connect_patiently()
        await shipping.hear(SeedFinished)
        assert shipping.heard(SeedFinished) == [SeedFinished("5eed1", "")]
        assert rig.seed_content() == seed.whole
        assert given(rig, "seed_chunk") == list(range(9))
        assert len(given(rig, "seed_begin")) == 1

    async def test_a_seed_that_began_during_a_cut_begins_with_the_next_connection(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        rig.without_wal()
        await shipping.connect()
        rig.vanish()
        if rig.answers:
            await shipping.hear(Lost)
        seed = Seed()
        await seed.send(shipping.destination)
        rig.come_back()
        accepted = await shipping.connect_patiently()
        assert accepted.position == at(1, 3 * S)
        await shipping.hear(SeedFinished)
        assert rig.seed_content() == seed.whole

    async def test_a_seed_whose_beginning_is_lost_is_given_up_for_a_new_one(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        needs_answers(rig)
        rig.without_wal()
        await shipping.connect()
        seed = Seed()
        await seed.send(shipping.destination, last=4)
        await until(lambda: len(given(rig, "seed_chunk")) == 4, "the chunks are there")
        (rewind,) = await shipping.hear(Rewind)
        shipping.go_on_at(rewind.position)
        await shipping.send(100)
        await shipping.hear_durable(shipping.sent)  # so the chunks before were acknowledged
        rig.vanish()
        await shipping.hear(Lost)
        rig.forget_seed()
        rig.come_back()
        accepted = await shipping.connect_patiently()
        assert accepted.seed_wanted
        (finished,) = await shipping.hear(SeedFinished)
        assert finished.seed_id == "5eed1"
        assert finished.error
        with pytest.raises(LogshipError) as caught:
            await seed.send(shipping.destination, 4)
        assert caught.value.code is Code.SEED_FAILED
        again = Seed("5eed2", start_lsn=4 * S + 40)
        await again.send(shipping.destination)
        await shipping.hear(SeedFinished, count=2)
        assert shipping.heard(SeedFinished)[1] == SeedFinished("5eed2", "")
        assert rig.seed_content() == again.whole

    async def test_the_end_of_a_seed_is_heard_though_the_word_of_it_was_lost(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        rig.without_wal()
        await shipping.connect()
        seed = Seed()
        await seed.send(shipping.destination, last=5)
        await until(lambda: len(given(rig, "seed_chunk")) == 5, "the chunks are there")
        await asyncio.sleep(0.1)
        rig.cut_when_seed_ends()
        await shipping.destination.send_seed(*seed.chunk(5))
        await shipping.destination.send_seed(seed.end, b"")
        if rig.answers:
            await shipping.hear(Lost)
            assert not shipping.heard(SeedFinished)
            await shipping.connect_patiently()
        await shipping.hear(SeedFinished)
        assert shipping.heard(SeedFinished) == [SeedFinished("5eed1", "")]
        assert len(given(rig, "seed_begin")) == 1

    async def test_a_damaged_chunk_is_sent_again(self, rig: FarEnd, shipping: Shipping) -> None:
        needs_answers(rig)
        rig.without_wal()
        await shipping.connect()
        seed = Seed()
        rig.spoil_seed_chunk(LogshipError(Code.CHECKSUM_MISMATCH, "a bit flipped", retryable=True))
        await seed.send(shipping.destination)
        await shipping.hear(SeedFinished)
        assert shipping.heard(SeedFinished) == [SeedFinished("5eed1", "")]
        assert rig.seed_content() == seed.whole

    @pytest.mark.parametrize("at_the_end", [False, True])
    async def test_a_seed_that_the_far_end_gives_up_ends_its_maker_too(
        self, rig: FarEnd, shipping: Shipping, at_the_end: bool
    ) -> None:
        rig.without_wal()
        await shipping.connect()
        spoil = rig.spoil_seed_end if at_the_end else rig.spoil_seed_chunk
        spoil(LogshipError(Code.SEED_MANIFEST_MISMATCH, "not what the manifest says"))
        seed = Seed()
        await seed.send(shipping.destination, last=6)
        if at_the_end:
            await shipping.destination.send_seed(seed.end, b"")
        (finished,) = await shipping.hear(SeedFinished)
        assert finished == SeedFinished("5eed1", "not what the manifest says")
        with pytest.raises(LogshipError) as caught:
            await shipping.destination.send_seed(*seed.chunk(5))
        assert caught.value.code is Code.SEED_FAILED
        assert not shipping.heard(Lost), "WAL goes on"
        again = Seed("5eed2")
        await again.send(shipping.destination)
        await shipping.hear(SeedFinished, count=2)
        assert rig.seed_content() == again.whole

    async def test_a_seed_that_its_maker_gives_up_is_given_up_at_the_far_end(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        rig.without_wal()
        await shipping.connect()
        seed = Seed()
        await seed.send(shipping.destination, last=3)
        aborted = SeedAborted(seed_id="5eed1", code="primary-unreachable", what="it went away")
        await shipping.destination.send_seed(aborted, b"")
        await until(lambda: given(rig, "seed_stopped"), "it is known")
        assert given(rig, "seed_stopped") == [("5eed1", "primary-unreachable", "it went away")]

    async def test_a_seed_that_may_not_begin_does_not_stand_in_the_way_of_wal(
        self, rig: FarEnd, shipping: Shipping
    ) -> None:
        await shipping.connect()
        await shipping.send(1000)
        await shipping.hear_durable(at(1, S + 1000))
        rig.refuse_seed(LogshipError(Code.DISK_FULL, "no room for it", retryable=True))
        seed = Seed()
        await seed.send(shipping.destination, last=1)
        if rig.answers:
            (lost,) = await shipping.hear(Lost)
            assert lost.error.code is Code.DISK_FULL
        await shipping.hear(SeedFinished)
        assert shipping.heard(SeedFinished) == [SeedFinished("5eed1", "no room for it")]
        with pytest.raises(LogshipError) as caught:
            await seed.send(shipping.destination, 1)
        assert caught.value.code is Code.SEED_FAILED
        assert (await shipping.connect_patiently()).position == at(1, S + 1000)
        await shipping.send(1000)
        await shipping.hear_durable(at(1, S + 2000))
        assert rig.wal_of(1) == wal_bytes(1, S, 2000)

    async def test_a_seed_is_asked_for(self, rig: FarEnd, shipping: Shipping) -> None:
        needs_answers(rig)
        await shipping.connect()
        rig.want_seed("an operator asked")
        (wanted,) = await shipping.hear(SeedWanted)
        assert wanted.why == "an operator asked"
