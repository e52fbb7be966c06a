"""The agent comes back from everything but what makes going on senseless."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from structlog.testing import capture_logs

from logship.errors import Code, LogshipError, RefusedError
from logship.frames import SeedAborted, SeedBegin
from logship.lsn import Lsn
from shipper.agent import agent as agent_module
from shipper.agent.agent import Agent, SendSeed
from shipper.agent.last_primary import LastPrimary
from shipper.backoff import Backoff, Reminder
from shipper.destinations import Accepted, Lost, SeedFinished, SeedWanted
from tests.support.fakes import FakeDestination, FakeSource, link_lost, primary_lost
from tests.support.link_frames import SEGMENT_BYTES, at, profile, wal_bytes
from tests.support.waiting import until

S = SEGMENT_BYTES


class Run:
    def __init__(self) -> None:
        self.source = FakeSource(start_lsn=S)
        self.destination = FakeDestination(Accepted(at(1, S), frozenset(), False, 1 << 20))
        self.stop = asyncio.Event()
        self.seeds: list[int] = []
        self.fail_seed: list[Exception] = []
        self.seed_may_end = asyncio.Event()
        self.seed_may_end.set()
        self.seed_begins = False
        """The seed sends its beginning before it waits for `seed_may_end`."""
        self.seeds_cancelled = 0
        self.known: LastPrimary | None = None
        self.remembered: list[LastPrimary] = []
        self.task: asyncio.Task[None] | None = None
        self.agent: Agent | None = None

    def start(self) -> None:
        self.agent = agent = Agent(
            self.source,
            self.destination,
            self._take_seed,
            last_primary=self.known,
            remember=self.remembered.append,
        )
        self.task = asyncio.create_task(agent.run(self.stop))

    async def _take_seed(self, send: SendSeed, system_identifier: int) -> None:
        self.seeds.append(system_identifier)
        begin = SeedBegin(seed_id="s1", timeline=1, start_lsn=S, estimated_bytes=0)
        if self.seed_begins:
            await send(begin, b"")
        try:
            await self.seed_may_end.wait()
        except asyncio.CancelledError:
            self.seeds_cancelled += 1
            raise
        if self.fail_seed:
            raise self.fail_seed.pop(0)
        if not self.seed_begins:
            await send(begin, b"")

    def health(self) -> tuple[str, str | None]:
        """The state, and the code of the error."""
        assert self.agent is not None
        said = self.agent.health_report("main")
        return said["state"], said["error"] and said["error"]["code"]

    async def until(self, condition: Callable[[], object], what: str) -> None:
        assert self.task is not None
        task = self.task
        await until(lambda: task.done() or condition(), what)
        if task.done():
            task.result()

    async def shipped(self, lsn: int) -> None:
        self.source.flush(lsn)
        await self.until(
            lambda: self.destination.wal_from(S) == wal_bytes(1, S, lsn - S), f"WAL to {Lsn(lsn)}"
        )


@pytest.fixture
async def run(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Run]:
    monkeypatch.setattr(agent_module, "REFUSED_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(agent_module, "FIRST_SEED_PAUSE_SECONDS", 0.02)
    made = Run()
    yield made
    made.stop.set()
    if made.task is not None:
        await asyncio.gather(made.task, return_exceptions=True)


async def test_it_ships_until_it_is_stopped_and_then_lets_go(run: Run) -> None:
    run.start()
    await run.shipped(S + 1000)
    run.stop.set()
    assert run.task is not None
    await asyncio.wait_for(run.task, 10)
    assert run.destination.closed_because[-1] == "the shipper stops"
    assert run.source.closed


async def test_it_waits_for_a_primary_that_is_down(run: Run) -> None:
    run.source.fail_open += [primary_lost(), primary_lost()]
    run.start()
    assert run.health() == ("starting", None)
    await run.until(lambda: run.health()[0] == "no-primary", "it says what it waits for")
    await run.shipped(S + 1000)
    assert run.health() == ("shipping", None)


async def test_a_lost_link_is_made_again(run: Run) -> None:
    run.start()
    await run.shipped(S + 1000)
    run.destination.accepted = Accepted(at(1, S + 600), frozenset({2}), False, 1 << 20)
    run.destination.say(Lost(link_lost()))
    await run.until(lambda: len(run.destination.connects) == 2, "it connects again")
    await run.shipped(S + 2000)
    assert run.source.starts[-1] == (at(1, S + 600), frozenset({2}))


async def test_an_applier_that_is_down_is_tried_again(run: Run) -> None:
    down = LogshipError(Code.APPLIER_UNREACHABLE, "nobody listens", retryable=True)
    run.destination.refusals += [down, down]
    run.start()
    waits = ("connecting", Code.APPLIER_UNREACHABLE)
    await run.until(lambda: run.health() == waits, "it says what it waits for")
    await run.shipped(S + 1000)
    assert len(run.destination.connects) == 3


async def test_a_refusal_is_tried_again_too_so_that_mending_it_needs_no_restart(run: Run) -> None:
    run.destination.refusals.append(LogshipError(Code.KEY_NOT_ALLOWED, "not yours"))
    run.start()
    await run.shipped(S + 1000)


async def test_a_fenced_shipper_goes_on_asking_and_sends_nothing(run: Run) -> None:
    run.destination.refusals += [LogshipError(Code.FENCED, "promoted")] * 5
    run.source.flush(S + 1000)
    run.start()
    await run.until(lambda: len(run.destination.connects) >= 3, "it asks again")
    assert run.destination.spans == []


@pytest.mark.parametrize(
    "code",
    [Code.LINK_AUTHENTICATION, Code.KEY_NOT_ALLOWED, Code.UNKNOWN_INSTANCE, Code.FENCED],
)
async def test_a_lasting_refusal_is_said_once_not_at_each_try(run: Run, code: Code) -> None:
    run.destination.refusals += [
        LogshipError(code, f"no, for the {number}th time", "mend it") for number in range(4)
    ]
    with capture_logs() as logs:
        run.start()
        await run.shipped(S + 1000)
    assert len(run.destination.connects) == 5
    said = [entry for entry in logs if entry.get("code") == code]
    assert [(entry["log_level"], entry["hint"]) for entry in said] == [("error", "mend it")]


async def test_tries_that_fail_at_the_applier_do_not_repeat_that_the_primary_is_reached(
    run: Run,
) -> None:
    run.destination.refusals += [LogshipError(Code.KEY_NOT_ALLOWED, "not yours")] * 4
    with capture_logs() as logs:
        run.start()
        await run.shipped(S + 1000)
    assert [entry["event"] for entry in logs].count("reached the primary") == 1


@pytest.mark.parametrize("in_hello", [True, False])
async def test_being_superseded_ends_the_process(run: Run, in_hello: bool) -> None:
    superseded = LogshipError(Code.SUPERSEDED, "another one took over", "stop one")
    if in_hello:
        run.destination.refusals.append(superseded)
        run.start()
    else:
        run.start()
        await run.shipped(S + 10)
        run.destination.say(Lost(superseded))
    assert run.task is not None
    with pytest.raises(RefusedError) as caught:
        await asyncio.wait_for(run.task, 10)
    assert caught.value.code is Code.SUPERSEDED
    assert caught.value.hint == "stop one"


async def test_a_primary_that_changed_while_the_applier_was_away_is_known_as_it_is(
    run: Run,
) -> None:
    """The hello and what is told after it must say the same."""
    run.destination.refusals.append(
        LogshipError(Code.APPLIER_UNREACHABLE, "nobody listens", retryable=True)
    )
    run.start()
    await run.until(lambda: run.destination.connects, "the first try")
    changed = profile(server_version_num=170010)
    run.source.profile = changed
    run.source.timeline = 3
    run.source.observing = asyncio.Event()
    await run.shipped(S + 1000)
    assert run.destination.connects[-1].profile == changed
    told = run.destination.of_kind("tell")
    assert told and all(facts.profile == changed and facts.timeline == 3 for facts in told)


async def test_no_hello_says_what_a_lost_primary_was_as_if_it_were_so_now(run: Run) -> None:
    """It may be another one when it is back: until then nothing is known of it."""
    run.destination.refusals.append(
        LogshipError(Code.APPLIER_UNREACHABLE, "nobody listens", retryable=True)
    )
    run.start()
    await run.until(lambda: run.destination.connects, "the first try")
    run.source.fail_open += [primary_lost()] * 3
    changed = profile(server_version_num=170010)
    run.source.profile = changed
    await run.shipped(S + 1000)
    said = run.destination.connects[1:]
    assert [facts.profile for facts in said if facts.reachable] == [changed]
    assert all(facts.flush_lsn == 0 for facts in said if not facts.reachable)
    assert run.source.fail_open == []


async def test_an_applier_that_is_reached_while_the_primary_is_away_is_told_that(run: Run) -> None:
    """Else it takes the whole site for lost."""
    run.start()
    await run.shipped(S + 1000)
    run.source.is_down = True
    run.destination.say(Lost(link_lost()))
    await run.until(lambda: len(run.destination.connects) == 2, "it connects all the same")
    assert not run.destination.connects[-1].reachable
    assert run.destination.connects[-1].profile.incarnation == profile().incarnation
    run.destination.say(Lost(link_lost()))
    await run.until(lambda: len(run.destination.connects) == 3, "and again")
    assert run.seeds == []
    run.source.is_down = False
    await run.shipped(S + 2000)
    assert run.destination.connects[-1].reachable


async def test_what_was_said_of_a_seed_is_heard_while_the_primary_is_away(run: Run) -> None:
    run.seed_begins = True
    run.start()
    await run.shipped(S + 1000)
    run.source.is_down = True
    run.destination.say(Lost(link_lost()))
    await run.until(lambda: len(run.destination.connects) == 2, "it connects all the same")
    with capture_logs() as logs:
        run.destination.say(SeedFinished("s1", ""))
        await run.until(lambda: "the seed is in place" in [e["event"] for e in logs], "it is heard")


async def test_a_shipper_that_starts_beside_a_dead_primary_says_so_too(run: Run) -> None:
    run.known = LastPrimary(profile(), 3)
    run.source.is_down = True
    run.start()
    await run.until(lambda: run.destination.connects, "it connects")
    (facts,) = run.destination.connects
    assert (facts.reachable, facts.ships, facts.timeline) == (False, False, 3)
    assert run.remembered == []
    run.source.is_down = False
    await run.shipped(S + 1000)
    assert run.remembered == [LastPrimary(profile(), 1)]


async def test_a_shipper_that_never_knew_a_primary_has_nothing_to_say(run: Run) -> None:
    run.source.is_down = True
    run.start()
    await run.until(lambda: run.source.opened >= 3, "it tries")
    assert run.destination.connects == []


async def test_being_superseded_while_the_primary_is_away_ends_the_process(run: Run) -> None:
    run.known = LastPrimary(profile(), 1)
    run.source.is_down = True
    run.destination.refusals.append(LogshipError(Code.SUPERSEDED, "another one took over"))
    run.start()
    assert run.task is not None
    with pytest.raises(RefusedError):
        await asyncio.wait_for(run.task, 10)


@pytest.mark.parametrize("where", ["open", "read", "connect"])
async def test_a_bug_is_logged_with_its_details_and_shipping_starts_over(
    run: Run, where: str
) -> None:
    bugs: list[Exception] = [ZeroDivisionError("oops")] * 3
    if where == "open":
        run.source.fail_open += bugs
    elif where == "connect":
        run.destination.refusals += bugs
    else:
        run.source.fail_read += bugs
    with capture_logs() as logs:
        run.start()
        await run.shipped(S + 1000)
    said = [entry for entry in logs if entry.get("exc_info")]
    assert len(said) == 1
    assert said[0]["log_level"] == "error"
    if where == "read":
        closed = run.destination.closed_because
        assert closed and all("ZeroDivisionError" in why for why in closed)


async def test_a_seed_is_made_of_the_cluster_that_was_accepted(run: Run) -> None:
    run.destination.refusals.append(
        LogshipError(Code.SYSTEM_IDENTIFIER_MISMATCH, "another cluster")
    )
    run.destination.accepted = Accepted(None, frozenset(), True, 1 << 20)
    run.start()
    await run.until(lambda: run.destination.connects, "the first try")
    run.source.profile = profile(system_identifier=42)
    await run.until(lambda: run.seeds, "a seed starts")
    assert run.seeds == [42]
    assert run.source.reserved == 1, "the slot keeps WAL before the backup starts"


async def test_one_seed_at_a_time(run: Run) -> None:
    run.seed_may_end.clear()
    run.destination.accepted = Accepted(None, frozenset(), True, 1 << 20)
    run.start()
    await run.until(lambda: run.seeds, "a seed starts")
    run.destination.say(SeedWanted("an operator asked"))
    run.destination.say(SeedWanted("and again"))
    await asyncio.sleep(0.05)
    assert len(run.seeds) == 1
    run.seed_may_end.set()
    await run.until(lambda: run.destination.of_kind("seed"), "it is sent")
    run.destination.say(SeedWanted("an operator asked"))
    await run.until(lambda: len(run.seeds) == 2, "the next")


async def test_a_failed_seed_is_made_again(run: Run) -> None:
    run.fail_seed.append(LogshipError(Code.SEED_FAILED, "no walsender is free", retryable=True))
    run.destination.accepted = Accepted(None, frozenset(), True, 1 << 20)
    run.start()
    await run.until(lambda: run.destination.of_kind("seed"), "the second try")
    assert len(run.seeds) == 2


async def test_a_seed_that_the_applier_gave_up_is_made_again(run: Run) -> None:
    run.destination.accepted = Accepted(None, frozenset(), True, 1 << 20)
    run.start()
    await run.until(lambda: run.destination.of_kind("seed"), "the first")
    run.destination.say(SeedFinished("s1", "it does not match its manifest"))
    await run.until(lambda: len(run.destination.of_kind("seed")) == 2, "the second")


async def test_seeds_that_always_fail_are_not_made_for_ever(run: Run) -> None:
    error = LogshipError(Code.SEED_FAILED, "no walsender is free", retryable=True)
    run.fail_seed += [error] * 100
    run.destination.accepted = Accepted(at(1, S), frozenset(), True, 1 << 20)
    run.start()
    await run.until(lambda: len(run.seeds) == agent_module.MAX_SEED_TRIES, "all tries")
    await run.shipped(S + 1000)
    await asyncio.sleep(0.05)
    assert len(run.seeds) == agent_module.MAX_SEED_TRIES


async def test_a_seed_waits_for_what_somebody_must_mend_first_and_uses_up_no_try(
    run: Run,
) -> None:
    """No try costs the primary anything before its slot is there."""
    missing = LogshipError(Code.SLOT_MISSING, "no slot, and create_slot is off", "make it")
    tries = 2 * agent_module.MAX_SEED_TRIES
    run.source.fail_reserve += [missing] * tries + [primary_lost()] * 2
    run.destination.accepted = Accepted(None, frozenset(), True, 1 << 20)
    with capture_logs() as logs:
        run.start()
        await run.until(lambda: run.destination.of_kind("seed"), "a seed begins")
    assert len(run.seeds) == 1
    said = [entry for entry in logs if entry.get("code") == Code.SLOT_MISSING]
    assert [(entry["log_level"], entry["hint"]) for entry in said] == [("error", "make it")]


async def test_a_fence_ends_the_seed_that_is_on_its_way(run: Run) -> None:
    """It would hold one of the primary's walsenders, and wait for room, for ever."""
    run.seed_begins = True
    run.seed_may_end.clear()
    run.destination.accepted = Accepted(None, frozenset(), True, 1 << 20)
    run.start()
    await run.until(lambda: run.destination.of_kind("seed"), "a seed begins")
    run.destination.refusals += [LogshipError(Code.FENCED, "promoted")] * 3
    run.destination.say(Lost(LogshipError(Code.FENCED, "promoted")))
    await run.until(lambda: run.seeds_cancelled, "it ends")
    await run.until(lambda: len(run.destination.of_kind("seed")) == 2, "it is forgotten")
    aborted, _ = run.destination.of_kind("seed")[1]
    assert isinstance(aborted, SeedAborted)
    assert (aborted.seed_id, aborted.code) == ("s1", "fenced")
    # The fence is lifted: a seed is wanted again, and made.
    await run.until(lambda: len(run.seeds) == 2, "the next seed")
    assert run.seeds_cancelled == 1


async def test_a_fence_ends_a_seed_that_waits_for_its_next_try(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "FIRST_SEED_PAUSE_SECONDS", 0.3)
    run.fail_seed.append(LogshipError(Code.SEED_FAILED, "no walsender is free", retryable=True))
    run.destination.accepted = Accepted(at(1, S), frozenset(), True, 1 << 20)
    run.start()
    await run.until(lambda: run.seeds and not run.fail_seed, "the first try failed")
    run.destination.refusals += [LogshipError(Code.FENCED, "promoted")] * 1000
    run.destination.say(Lost(LogshipError(Code.FENCED, "promoted")))
    await run.until(lambda: len(run.destination.connects) > 20, "time passes")
    assert len(run.seeds) == 1


async def test_a_bug_in_a_seed_is_logged_and_another_try_is_made(run: Run) -> None:
    run.seed_begins = True
    run.fail_seed.append(ZeroDivisionError("oops"))
    run.destination.accepted = Accepted(None, frozenset(), True, 1 << 20)
    with capture_logs() as logs:
        run.start()
        await run.until(lambda: len(run.seeds) == 2, "the second try")
    assert [entry["event"] for entry in logs if entry.get("exc_info")] == ["a bug ended the seed"]
    kinds = [type(frame) for frame, _ in run.destination.of_kind("seed")]
    assert kinds[:2] == [SeedBegin, SeedAborted], "the far end does not wait for the rest"


# --- backoff --------------------------------------------------------------------------------


def test_pauses_grow_to_a_cap_and_never_vanish() -> None:
    backoff = Backoff(0.1, 5.0)
    pauses = [backoff.next_seconds() for _ in range(20)]
    assert 0.07 < pauses[0] < 0.13
    assert all(3.7 < pause < 6.3 for pause in pauses[8:])


def test_the_same_failure_is_said_once_a_minute_and_a_new_one_at_once() -> None:
    reminder = Reminder(60)
    assert reminder.due("down")
    assert not reminder.due("down")
    assert reminder.due("refused")
    assert not reminder.due("down"), "nor when the two take turns"
    assert all(Reminder(0).due("down") for _ in range(2))


async def test_a_source_that_needs_no_primary_says_hello_without_one(run: Run) -> None:
    run.source.is_reachable = False
    run.start()
    await run.shipped(S + 100)
    assert not run.destination.connects[0].reachable
    assert run.remembered == [], "it was not reached"
    run.source.is_reachable = True
    run.source.break_read(LogshipError(Code.PRIMARY_NOT_READY, "it is back", retryable=True))
    await run.until(lambda: len(run.destination.connects) == 2, "a new hello")
    assert run.destination.connects[1].reachable
    assert len(run.remembered) == 1
    await run.shipped(S + 200)


async def test_the_log_says_where_it_ships_to(run: Run) -> None:
    run.destination.refusals.append(
        LogshipError(Code.BUCKET_UNREACHABLE, "nobody answers", retryable=True)
    )
    with capture_logs() as logged:
        run.start()
        await run.shipped(S + 1000)
    said = {line["event"]: line.get("destination") for line in logged}
    assert said["can't reach the destination"] == "the far end"
    assert said["the destination accepts"] == "the far end"
    assert not any("applier" in event or "link" in event for event in said)
