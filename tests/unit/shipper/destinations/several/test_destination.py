"""Several destinations behind one face: tasks, commands and words, on members in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from logship.errors import Code, LogshipError
from logship.frames import GapFound, SeedBegin, SeedChunk, SeedEnd
from logship.lsn import Lsn, Position
from shipper.agent.pipeline import SealPipeline
from shipper.destinations import (
    Accepted,
    DestinationEvent,
    Facts,
    Lost,
    Rewind,
    SeedFinished,
    SeedWanted,
)
from shipper.destinations.several import destination as several_module
from shipper.destinations.several import room as room_module
from shipper.destinations.several.destination import SeveralDestinations, SeveralMember
from shipper.destinations.several.members import Role
from shipper.destinations.several.spill import SpillRule
from shipper.sources import WalBytes
from tests.support.fake_bucket import FakeBucket
from tests.support.fakes import FakeSource
from tests.support.link_frames import SEGMENT_BYTES, at, profile, sealed_wal, wal_bytes
from tests.support.waiting import until

S = SEGMENT_BYTES


class Run:
    """SeveralDestinations in use, as an agent uses it."""

    def __init__(self, **roles: Role) -> None:
        self.ends = {
            name: FakeBucket(None if role is Role.SPILL else at(1, S))
            for name, role in roles.items()
        }
        self.roles = roles
        self.events: list[DestinationEvent] = []
        self.sent = at(1, S)
        self.facts = Facts(profile(), 1, Lsn(S), True, "", "reserved", slot_restart_lsn=Lsn(S))
        self.destination = self.make()
        self.listening: asyncio.Task[None] | None = None

    def make(self, spill: SpillRule | None = None, **options: Any) -> SeveralDestinations:
        members = [SeveralMember(name, self.roles[name], end) for name, end in self.ends.items()]
        self.destination = SeveralDestinations(members, spill=spill, **options)
        return self.destination

    async def connect(self) -> Accepted:
        accepted = await self.destination.connect(self.facts)
        if accepted.position is not None:
            self.go_on_at(accepted.position)
        self.listening = asyncio.create_task(self._listen())
        return accepted

    def go_on_at(self, position: Position) -> None:
        self.destination.resume(position)
        self.sent = position

    async def _listen(self) -> None:
        while True:
            event = await self.destination.next_event()
            self.events.append(event)
            if isinstance(event, Rewind):
                self.go_on_at(event.position)

    def heard(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def send_to(self, lsn: int) -> None:
        self.tell(lsn)
        async with asyncio.timeout(20):
            while self.sent.lsn < lsn:
                timeline, start = self.sent
                size = min(1000, lsn - start)
                await self.destination.room(size)
                if self.sent != (timeline, start):
                    continue  # set back meanwhile
                self.destination.send_span(timeline, start, sealed_wal(timeline, start, size), lsn)
                self.sent = Position(timeline, Lsn(start + size))

    async def arrives(self, name: str, lsn: int) -> None:
        """Send until the member has everything up to `lsn`."""
        async with asyncio.timeout(20):
            while self.ends[name].end != at(1, lsn):
                await self.send_to(lsn)
                await asyncio.sleep(0.005)

    def tell(self, lsn: int) -> None:
        self.facts = self.facts._replace(flush_lsn=Lsn(lsn))
        self.destination.tell(self.facts)

    async def close(self) -> None:
        if self.listening is not None:
            self.listening.cancel()
            await asyncio.gather(self.listening, return_exceptions=True)
        await self.destination.close("the test is over")


@pytest.fixture
async def run(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Run]:
    monkeypatch.setattr(several_module, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(room_module, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(several_module, "REFUSED_RETRY_SECONDS", 0.02)
    made = Run(link=Role.REQUIRED, bucket=Role.OPTIONAL)
    yield made
    await made.close()


async def test_one_that_is_away_is_reached_later_and_gets_everything(run: Run) -> None:
    run.ends["bucket"].away = True
    assert (await run.connect()).position == at(1, S)
    assert run.destination.away() == {}, "an optional one may be"
    await run.send_to(S + 5000)
    assert run.ends["link"].end == at(1, S + 5000)
    run.ends["bucket"].away = False
    await until(lambda: run.heard(Rewind), "it is further behind")
    await run.send_to(S + 9000)
    assert run.ends["bucket"].end == run.ends["link"].end == at(1, S + 9000)
    assert not run.heard(Lost)


async def test_one_that_is_lost_comes_back_by_itself(run: Run) -> None:
    await run.connect()
    await run.send_to(S + 3000)
    run.ends["link"].away = True
    run.ends["link"].cut()
    await until(run.destination.away, "it is away")
    (error,) = run.destination.away().values()
    assert error is not None and error.retryable
    run.ends["link"].away = False
    await until(lambda: not run.destination.away(), "it is connected again")
    await run.arrives("link", S + 6000)
    assert run.ends["bucket"].end == at(1, S + 6000)
    assert not run.heard(Lost)


async def test_when_all_are_lost_who_sends_begins_anew(run: Run) -> None:
    await run.connect()
    for end in run.ends.values():
        end.vanish()
    await until(lambda: run.heard(Lost), "the loss")
    with pytest.raises(LogshipError) as caught:
        await run.destination.room(1)
    assert caught.value.code is Code.LINK_LOST
    with pytest.raises(LogshipError) as caught:
        await run.destination.connect(run.facts)
    assert caught.value.retryable
    for end in run.ends.values():
        end.away = False
    assert (await run.destination.connect(run.facts)).position == at(1, S)


async def test_one_that_is_refused_for_good_is_said_once_and_the_others_go_on(run: Run) -> None:
    run.ends["bucket"].refusals = [
        LogshipError(Code.EPOCH_HELD, f"{number} writes it", "stop it") for number in range(6)
    ]
    with capture_logs() as logs:
        await run.connect()
        await run.send_to(S + 3000)
        await until(lambda: run.ends["bucket"].connects >= 5, "it is tried again")
    said = [entry for entry in logs if entry.get("code") == "epoch-held"]
    assert [(entry["log_level"], entry["destination"]) for entry in said] == [("error", "bucket")]
    (road,) = run.destination._flow.roads("link")
    assert (road.name, road.state) in [("bucket", "refused"), ("bucket", "connected")]


@pytest.mark.parametrize("while_connected", [False, True])
async def test_a_fence_stops_everything(run: Run, while_connected: bool) -> None:
    fenced = LogshipError(Code.FENCED, "promoted", "keep clients away")
    if while_connected:
        await run.connect()
        run.ends["link"].cut(fenced)
        await until(lambda: run.heard(Lost), "the fence")
        assert run.heard(Lost) == [Lost(fenced)]
        with pytest.raises(LogshipError):
            run.destination.send_span(1, S, sealed_wal(1, S, 10), 0)
    else:
        run.ends["link"].refusals.append(fenced)
        with pytest.raises(LogshipError) as caught:
            await run.destination.connect(run.facts)
        assert caught.value.code is Code.FENCED
        assert not run.ends["bucket"].is_connected
    # Nothing is asked of the others before the one that said so accepts again.
    tries = run.ends["bucket"].connects
    run.ends["link"].refusals.append(fenced)
    with pytest.raises(LogshipError) as caught:
        await run.destination.connect(run.facts)
    assert caught.value.code is Code.FENCED
    run.ends["link"].away = True
    with pytest.raises(LogshipError) as caught:
        await run.destination.connect(run.facts)
    assert caught.value.retryable
    assert run.ends["bucket"].connects == tries
    run.ends["link"].away = False
    await run.destination.connect(run.facts)
    await until(lambda: run.ends["bucket"].connects > tries, "the fence was lifted")
    assert run.ends["bucket"].end == at(1, S)


async def test_the_error_that_time_mends_is_the_one_that_counts(run: Run) -> None:
    run.ends["link"].refusals.append(LogshipError(Code.KEY_NOT_ALLOWED, "not yours"))
    run.ends["bucket"].away = True
    with pytest.raises(LogshipError) as caught:
        await run.destination.connect(run.facts)
    assert caught.value.code is Code.BUCKET_UNREACHABLE


async def test_an_optional_one_without_room_holds_nobody_for_longer_than_its_budget(
    run: Run,
) -> None:
    run.make(budget_seconds=0.1)
    await run.connect()
    run.ends["bucket"].free(2000)
    with capture_logs() as logs:
        await run.send_to(S + 50_000)
    assert run.ends["link"].end == at(1, S + 50_000)
    assert [e["destination"] for e in logs if "left behind" in e["event"]] == ["bucket"]


async def test_one_that_does_not_answer_holds_up_nobody_who_is_connected_later(run: Run) -> None:
    async def hang(facts: Facts) -> Accepted:
        await asyncio.Event().wait()
        raise AssertionError

    run.ends["bucket"].connect = hang  # type: ignore[method-assign]
    down = LogshipError(Code.APPLIER_UNREACHABLE, "it restarts", retryable=True)
    run.ends["link"].refusals.append(down)
    async with asyncio.timeout(10):
        assert (await run.connect()).position == at(1, S)
        await run.send_to(S + 1000)


async def test_a_required_one_without_room_is_waited_for(run: Run) -> None:
    await run.connect()
    run.ends["link"].free(1000)
    sending = asyncio.create_task(run.send_to(S + 3000))
    await until(lambda: run.ends["link"].end == at(1, S + 1000), "its window is full")
    await asyncio.sleep(0.1)
    assert not sending.done()
    run.ends["link"].free(None)
    await sending
    assert run.ends["link"].end == at(1, S + 3000)


async def test_a_hole_of_one_is_told_to_that_one_only(run: Run) -> None:
    await run.connect()
    run.destination._flow.members["link"].next = at(1, S + 4000)
    gap = GapFound(
        timeline=1, from_lsn=S, available_lsn=S + 4000, code="wal-removed", what="it is gone"
    )
    run.destination.send_gap(gap)
    assert run.ends["bucket"].gaps == [gap]
    assert run.ends["link"].gaps == []
    await until(lambda: run.heard(Rewind), "the others go on")
    assert run.heard(Rewind)[0].position == at(1, S + 4000)


async def test_what_is_told_of_the_others_comes_with_the_primarys_state(run: Run) -> None:
    await run.connect()
    run.tell(S + 10)
    (road,) = run.ends["link"].told[-1].other_roads
    assert (road.name, road.role, road.state, road.durable_lsn) == (
        "bucket",
        "optional",
        "connected",
        S,
    )


async def test_what_the_primary_said_while_one_connects_it_hears_before_wal(run: Run) -> None:
    link = run.ends["link"]
    link.away = True
    await run.connect()
    newest = S + 20

    async def connect(facts: Facts) -> Accepted:
        run.tell(newest)
        return await FakeBucket.connect(link, facts)

    link.connect = connect  # type: ignore[method-assign]
    heard: list[int] = []
    link.resume = lambda position: heard.extend(each.flush_lsn for each in link.told)  # type: ignore[method-assign]
    link.away = False
    await until(lambda: link.is_connected and heard, "it is connected")
    assert heard == [newest]


async def test_a_primary_that_is_back_is_told_in_a_new_connection(run: Run) -> None:
    await run.connect()
    run.destination.tell(run.facts._replace(reachable=False))
    run.ends["link"].cut()
    await until(lambda: run.ends["link"].connects == 2, "it is told that the primary is away")
    run.tell(S + 1000)
    await until(lambda: run.ends["link"].connects == 3, "and that it is back")
    await run.arrives("link", S + 1000)


async def test_what_an_archiver_left_is_shipped_while_the_primary_is_away(run: Run) -> None:
    primary_is_back = run.facts
    run.facts = run.facts._replace(reachable=False, slot_restart_lsn=None, flush_lsn=Lsn(0))
    assert (await run.connect()).position == at(1, S)
    await run.send_to(S + 3000)
    assert [end.end for end in run.ends.values()] == [at(1, S + 3000)] * 2
    run.facts = primary_is_back
    run.tell(S + 4000)
    await until(lambda: all(end.connects == 2 for end in run.ends.values()), "all are told anew")
    await run.arrives("link", S + 4000)
    assert not run.heard(Lost)


async def test_with_nothing_to_ship_it_is_only_told_that_the_primary_is_away(run: Run) -> None:
    run.facts = run.facts._replace(reachable=False, ships=False)
    assert (await run.connect()).position is None
    run.facts = run.facts._replace(ships=True)
    run.tell(S + 1000)
    await until(lambda: all(end.connects == 2 for end in run.ends.values()), "there is WAL now")
    await run.arrives("bucket", S + 1000)


async def test_a_bug_of_a_member_is_raised(run: Run) -> None:
    async def broken() -> DestinationEvent:
        raise ZeroDivisionError("oops")

    run.ends["bucket"].next_event = broken  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        await run.connect()
        async with asyncio.timeout(10):
            assert run.listening is not None
            await run.listening


# --- spilling -------------------------------------------------------------------------------


async def test_a_bucket_is_used_only_while_the_link_is_away_for_long(run: Run) -> None:
    run.roles["bucket"] = Role.SPILL
    run.ends["bucket"] = FakeBucket(None)
    run.make(SpillRule(after_bytes=100_000, after_seconds=0.2))
    await run.connect()
    await run.send_to(S + 5000)
    assert run.ends["bucket"].connects == 0
    run.ends["link"].vanish()
    await until(lambda: run.heard(Lost), "nobody is there")
    run.facts = run.facts._replace(flush_lsn=Lsn(S + 9000))

    async def connect_patiently() -> None:
        while True:
            try:
                await run.connect()
            except LogshipError:
                await asyncio.sleep(0.02)
            else:
                return

    await asyncio.wait_for(connect_patiently(), 10)
    await run.send_to(S + 9000)
    bucket = run.ends["bucket"]
    assert bucket.skips == [at(1, S)] and bucket.end == at(1, S + 9000)
    run.ends["link"].away = False
    await until(lambda: run.heard(Rewind), "the link is further behind")
    await run.arrives("link", S + 12_000)
    await until(lambda: not bucket.is_connected, "spilling is over")
    assert bucket.connects == 1


# --- seeds ----------------------------------------------------------------------------------


async def seed(run: Run, seed_id: str, *, end: bool = True) -> None:
    begin = SeedBegin(seed_id=seed_id, timeline=1, start_lsn=S + 40, estimated_bytes=1)
    await run.destination.send_seed(begin, b"")
    chunk = SeedChunk(seed_id=seed_id, sequence=0, kind="data", raw_bytes=1)
    await run.destination.send_seed(chunk, b"x")
    if end:
        last = SeedEnd(seed_id=seed_id, sequence=1, timeline=1, end_lsn=S + 99)
        await run.destination.send_seed(last, b"")


async def test_a_seed_goes_only_to_those_that_want_it(run: Run) -> None:
    await run.connect()
    run.ends["link"].want_seed("an operator asked")
    await until(lambda: run.heard(SeedWanted), "it is passed on")
    await seed(run, "s1")
    await until(lambda: run.heard(SeedFinished), "it is in place")
    assert run.heard(SeedFinished) == [SeedFinished("s1", "")]
    assert run.ends["link"].seeds_done == ["s1"]
    assert run.ends["bucket"].seeds_done == []
    assert run.ends["bucket"].chain_start == at(1, S), "its chain goes on"


async def test_a_seed_that_nobody_wishes_for_goes_to_none_that_takes_nothing(run: Run) -> None:
    parted = LogshipError(Code.PRIMARY_BEHIND, "another's WAL", "run shipper seed")
    link, bucket = run.ends["link"], run.ends["bucket"]
    bucket.standing = lambda: parted  # type: ignore[attr-defined]
    await run.connect()
    await seed(run, "s1")
    assert (link.seeds_done, bucket.seeds_done) == (["s1"], [])
    bucket.want_seed("an operator asked")
    await until(lambda: run.heard(SeedWanted), "it is passed on")
    await seed(run, "s2")
    await until(lambda: len(run.heard(SeedFinished)) == 2, "both are in place")
    assert (link.seeds_done, bucket.seeds_done) == (["s1"], ["s2"])
    link.standing = lambda: parted  # type: ignore[attr-defined]
    with pytest.raises(LogshipError, match="no destination takes one"):
        await seed(run, "s3")


async def test_one_that_asks_while_a_seed_for_another_is_on_its_way_is_heard_after_it(
    run: Run,
) -> None:
    await run.connect()
    run.ends["link"].want_seed("an operator asked")
    await until(lambda: run.heard(SeedWanted), "it is passed on")
    await seed(run, "s1", end=False)
    run.ends["bucket"].want_seed("it is empty")
    await asyncio.sleep(0.1)
    assert len(run.heard(SeedWanted)) == 1
    last = SeedEnd(seed_id="s1", sequence=1, timeline=1, end_lsn=S + 99)
    await run.destination.send_seed(last, b"")
    await until(lambda: len(run.heard(SeedWanted)) == 2, "now")
    assert run.heard(SeedWanted)[1] == SeedWanted("it is empty")
    await seed(run, "s2")
    await until(lambda: len(run.heard(SeedFinished)) == 2, "both are in place")
    assert run.ends["bucket"].seeds_done == ["s2"]
    assert run.ends["link"].seeds_done == ["s1"]


async def test_a_seed_that_one_of_two_gives_up_goes_on_for_the_other(run: Run) -> None:
    for end in run.ends.values():
        end.seed_wanted = True
    assert (await run.connect()).seed_wanted
    run.ends["bucket"].chunk_failures.append(LogshipError(Code.BAD_TAR, "not a tar archive"))
    await seed(run, "s1")
    await until(lambda: run.heard(SeedFinished), "it is over")
    assert run.heard(SeedFinished) == [SeedFinished("s1", "not a tar archive")]
    assert run.ends["link"].seeds_done == ["s1"]
    await seed(run, "s2")
    await until(lambda: len(run.heard(SeedFinished)) == 2, "the next")
    assert run.ends["link"].seeds_done == ["s1"], "it has one"
    assert run.ends["bucket"].seeds_done == ["s2"]


async def test_a_seed_whose_end_a_member_never_says_holds_up_no_later_one(run: Run) -> None:
    await run.connect()
    run.ends["bucket"].want_seed("the newest is old")
    await until(lambda: run.heard(SeedWanted), "the wish")
    begin = SeedBegin(seed_id="one", timeline=1, start_lsn=S, estimated_bytes=0)
    await run.destination.send_seed(begin, b"")
    run.ends["bucket"].seed = None  # it is done, and its word of that is lost
    run.ends["bucket"].seed_wanted = False
    run.ends["bucket"].cut()
    await until(lambda: run.heard(SeedFinished), "it is not waited for any more")
    (finished,) = run.heard(SeedFinished)
    assert finished.seed_id == "one" and "bucket" in finished.error
    run.ends["link"].want_seed("an operator asked")
    await until(lambda: len(run.heard(SeedWanted)) == 2, "the link's wish")


async def test_one_that_comes_back_before_it_is_given_a_seed_is_still_given_it(run: Run) -> None:
    await run.connect()
    link_may_begin = asyncio.Event()
    send_seed = run.ends["link"].send_seed

    async def patient(frame: Any, payload: Any) -> None:
        await link_may_begin.wait()
        await send_seed(frame, payload)

    run.ends["link"].send_seed = patient  # type: ignore[method-assign]
    begin = SeedBegin(seed_id="one", timeline=1, start_lsn=S, estimated_bytes=0)
    sending = asyncio.create_task(run.destination.send_seed(begin, b""))
    run.ends["bucket"].cut()
    await until(lambda: run.ends["bucket"].connects == 2, "it is back")
    ticked = len(run.ends["bucket"].told)
    await until(lambda: len(run.ends["bucket"].told) > ticked + 2, "time passes")
    link_may_begin.set()
    await sending
    await run.destination.send_seed(SeedEnd(seed_id="one", sequence=0, timeline=1, end_lsn=S), b"")
    await until(lambda: run.heard(SeedFinished), "both have it")
    assert run.heard(SeedFinished) == [SeedFinished("one", "")]
    assert run.ends["bucket"].seeds_done == ["one"]


async def test_what_became_of_a_seed_is_heard_after_a_new_connection(run: Run) -> None:
    await run.destination.connect(run.facts)
    run.ends["bucket"].want_seed("the newest is old")
    assert isinstance(await run.destination.next_event(), SeedWanted)
    begin = SeedBegin(seed_id="one", timeline=1, start_lsn=S, estimated_bytes=0)
    await run.destination.send_seed(begin, b"")
    await run.destination.send_seed(SeedEnd(seed_id="one", sequence=0, timeline=1, end_lsn=S), b"")
    await until(lambda: not run.destination._seeds.targets, "the bucket has it")
    await run.connect()
    await until(lambda: run.heard(SeedFinished), "the word of it", 5.0)


async def test_one_that_can_not_begin_with_a_seed_is_not_waited_for(run: Run) -> None:
    async def broken(frame: object, payload: object) -> None:
        raise LogshipError(Code.SEED_FAILED, "the bucket was never reached", retryable=True)

    await run.connect()
    run.ends["bucket"].send_seed = broken  # type: ignore[method-assign]
    begin = SeedBegin(seed_id="one", timeline=1, start_lsn=S, estimated_bytes=0)
    await run.destination.send_seed(begin, b"")
    await run.destination.send_seed(SeedEnd(seed_id="one", sequence=0, timeline=1, end_lsn=S), b"")
    await until(lambda: run.heard(SeedFinished), "the link has it")
    assert run.heard(SeedFinished) == [SeedFinished("one", "the bucket was never reached")]


async def test_a_seed_that_all_give_up_ends_its_maker(run: Run) -> None:
    await run.connect()
    for end in run.ends.values():
        end.chunk_failures.append(LogshipError(Code.BAD_TAR, "not a tar archive"))
    with pytest.raises(LogshipError) as caught:
        await seed(run, "s1")
    assert caught.value.code is Code.SEED_FAILED


async def test_room_is_told_outside_of_a_task_as_well(run: Run) -> None:
    """A shipper hands small WAL on in the callback that received it."""
    await run.connect()
    run.tell(S + 3000)
    pipeline = SealPipeline(FakeSource(start_lsn=S), run.destination, compress=True)
    put: asyncio.Queue[bool | Exception] = asyncio.Queue()

    def push() -> None:
        data = wal_bytes(1, run.sent.lsn, 1000)
        try:
            put.put_nowait(pipeline.put_at_once(WalBytes(1, run.sent.lsn, [data], 1000)))
        except Exception as error:
            put.put_nowait(error)

    try:
        asyncio.get_running_loop().call_soon(push)
        assert await put.get() is True
        assert run.ends["link"].end == run.ends["bucket"].end == at(1, S + 1000)
        run.sent = at(1, S + 1000)
        run.ends["link"].room_bytes = 0
        asyncio.get_running_loop().call_soon(push)
        assert await put.get() is False
        for name in ("link", "bucket"):
            run.ends[name].cut()
        asyncio.get_running_loop().call_soon(push)
        assert await put.get() is False
    finally:
        await pipeline.close()
