"""One accepted connection: what is read, sent, told and passed back, whatever breaks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from logship.errors import Code, LogshipError
from logship.frames import GapFound
from logship.lsn import Lsn, Position
from logship.seal import INLINE_BYTES
from shipper.agent import pipeline as pipeline_module
from shipper.agent import shipping as shipping_module
from shipper.agent.shipping import Shipping
from shipper.destinations import (
    Accepted,
    Acked,
    Facts,
    Lost,
    Rewind,
    SeedFinished,
    SeedWanted,
)
from shipper.sources import HistoryFile, SourceIdentity
from tests.support.fakes import FakeDestination, FakeSource, link_lost, primary_lost
from tests.support.link_frames import SEGMENT_BYTES, at, profile, wal_bytes
from tests.support.waiting import until

S = SEGMENT_BYTES
START = at(1, S)


class Run:
    """A Shipping that runs, its fakes, and how it ended."""

    def __init__(self) -> None:
        self.source = FakeSource(start_lsn=S)
        self.destination = FakeDestination()
        self.wanted: list[str] = []
        self.finished: list[SeedFinished] = []
        self.task: asyncio.Task[LogshipError] | None = None

    def start(
        self,
        position: Position | None = START,
        *,
        known_timelines: frozenset[int] = frozenset(),
        seed_wanted: bool = False,
        max_span_bytes: int = 1 << 20,
    ) -> None:
        shipping = Shipping(
            self.source,
            self.destination,
            SourceIdentity(self.source.profile, self.source.timeline, self.source.flush_lsn),
            Accepted(position, known_timelines, seed_wanted, max_span_bytes, durable=position),
            compress=True,
            want_seed=self.wanted.append,
            seed_finished=self.finished.append,
        )
        self.task = asyncio.create_task(shipping.run())

    async def shipped(self, lsn: int, *, from_lsn: int = S) -> None:
        """Flush up to `lsn` and wait until exactly these bytes are at the far end."""
        self.source.flush(lsn)
        expected = wal_bytes(1, from_lsn, lsn - from_lsn)
        await until(
            lambda: self._ended or self.destination.wal_from(from_lsn) == expected,
            f"WAL from {Lsn(from_lsn)} to {Lsn(lsn)} is sent",
        )
        if self._ended and self.task is not None:
            raise AssertionError(f"shipping ended: {self.task.result()}")

    @property
    def _ended(self) -> bool:
        return self.task is not None and self.task.done()

    @property
    def told(self) -> list[Facts]:
        return self.destination.of_kind("tell")

    async def end(self) -> LogshipError:
        assert self.task is not None
        async with asyncio.timeout(10):
            return await self.task


@pytest.fixture
async def run(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Run]:
    monkeypatch.setattr(shipping_module, "OBSERVE_SECONDS", 0.02)
    made = Run()
    yield made
    if made.task is not None and not made.task.done():
        made.task.cancel()
        await asyncio.gather(made.task, return_exceptions=True)


# --- WAL ------------------------------------------------------------------------------------


async def test_wal_is_read_from_the_accepted_position_and_sent_whole(run: Run) -> None:
    run.start(known_timelines=frozenset({2, 3}))
    await run.shipped(S + 1234)
    await run.shipped(S + 5000)
    assert run.source.starts == [(at(1, S), frozenset({2, 3}))]


async def test_nothing_is_read_before_the_far_end_has_a_place_for_it(run: Run) -> None:
    run.source.flush(S + 1000)
    run.start(None, seed_wanted=True)
    await until(lambda: run.told, "the first observation")
    assert run.wanted == ["the far end has no seed"]
    assert run.source.starts == []
    run.destination.say(Rewind(at(1, S), "a seed begins here"))
    await run.shipped(S + 1000)


async def test_a_rewind_reads_again_from_there(run: Run) -> None:
    run.start()
    await run.shipped(S + 1000)
    run.destination.say(Rewind(at(1, S + 250), "a span was damaged"))
    await until(lambda: len(run.source.starts) == 2, "it starts again")
    assert run.source.starts[1][0] == at(1, S + 250)
    await run.shipped(S + 2000)
    later = [start for _, start, _ in run.destination.spans if start == S + 250]
    assert later, "sent again from the rewind's place"


@pytest.mark.parametrize("where", [S, S + 300, S + 5000])
async def test_a_rewind_under_load_never_sends_what_was_read_before_it(
    run: Run, where: int
) -> None:
    """Spans sent between the rewind and its answer would be out of order at the far end."""
    run.start()
    run.source.flush(S + 200_000)
    await until(lambda: len(run.destination.spans) > 60, "it is busy")
    run.destination.say(Rewind(at(1, where), "lost"))
    before = len(run.destination.spans)
    await run.shipped(S + 200_000)
    resumed = [what for what in run.destination.of_kind("resume") if what == at(1, where)]
    assert resumed
    assert run.destination.spans[before][1] == where
    expected = where
    for _, start, data in run.destination.spans[before:]:
        assert start == expected
        expected += len(data)


async def test_rewinds_that_follow_each_other_end_at_the_last(run: Run) -> None:
    run.start()
    await run.shipped(S + 1000)
    for lsn in (S + 900, S + 500, S + 100):
        run.destination.say(Rewind(at(1, lsn), "lost"))
    await run.shipped(S + 3000)
    assert run.source.starts[-1][0] == at(1, S + 100)


async def test_a_span_larger_than_the_far_end_takes_is_split(run: Run) -> None:
    run.source.piece_bytes = 10_000
    run.start(max_span_bytes=700)

    async def read_more_than_asked(max_bytes: int) -> object:
        return await FakeSource.read(run.source, 10 * max_bytes)

    run.source.read = read_more_than_asked  # type: ignore[method-assign,assignment]
    await run.shipped(S + 10_000)
    assert max(len(data) for _, _, data in run.destination.spans) <= 700


async def test_a_history_comes_before_any_wal_that_was_read_after_it(run: Run) -> None:
    run.start()
    await run.shipped(S + 1000)
    run.source.histories.append(HistoryFile(2, b"1\t0/200000\tno recovery target\n"))
    await run.shipped(S + 2000)
    kinds = [name for name, _ in run.destination.log if name in ("wal", "history")]
    first = kinds.index("history")
    assert "wal" in kinds[first:]
    sent_before = [d for n, d in run.destination.log[:first] if n == "wal"]
    assert all(start < S + 1000 for _, start, _ in sent_before)
    run.source.timeline = 2
    run.destination.say(Rewind(at(1, S + 1500), "lost"))
    await until(lambda: len(run.source.starts) == 2, "it starts again")
    assert run.source.starts[1][1] == frozenset({2}), "and is not sent twice"


# --- the primary goes away ------------------------------------------------------------------


async def test_a_lost_primary_is_told_and_reading_goes_on_where_sending_stopped(run: Run) -> None:
    run.start()
    await run.shipped(S + 1000)
    run.source.fail_open += [primary_lost(), primary_lost()]
    run.source.break_read(primary_lost())
    await until(lambda: any(not facts.reachable for facts in run.told), "the loss is told")
    await run.shipped(S + 2000)
    assert run.source.opened == 3
    assert run.source.starts[1][0] == at(1, S + 1000)
    await until(lambda: run.told[-1].reachable, "its return is told")
    starts = [start for _, start, _ in run.destination.spans]
    assert len(starts) == len(set(starts)), "nothing was sent twice"


async def test_a_primary_that_refuses_for_a_while_is_waited_for(run: Run) -> None:
    run.source.fail_start.append(LogshipError(Code.PRIMARY_REFUSED, "too many walsenders"))
    run.start()
    await run.shipped(S + 1000)


async def test_what_changed_in_the_primary_is_told_before_wal_that_it_wrote_since(
    run: Run,
) -> None:
    run.start()
    await run.shipped(S + 1000)
    run.source.observing = asyncio.Event()
    changed = profile(server_version_num=170010)
    run.source.profile = changed
    run.source.break_read(primary_lost())
    await run.shipped(S + 2000)
    log = run.destination.log
    told = next(
        n for n, (name, what) in enumerate(log) if name == "tell" and what.profile == changed
    )
    for name, what in log[:told]:
        assert name != "wal" or what[1] < S + 1000, "WAL of the changed server went first"


async def test_another_cluster_behind_the_same_conninfo_ends_it(run: Run) -> None:
    run.start()
    await run.shipped(S + 1000)
    run.source.profile = profile(system_identifier=42)
    run.source.flush(S + 2000)
    run.source.break_read(primary_lost())
    with pytest.raises(LogshipError) as caught:
        await run.end()
    assert caught.value.code is Code.SYSTEM_IDENTIFIER_MISMATCH
    assert not caught.value.retryable
    assert run.destination.wal_from(S) == wal_bytes(1, S, 1000)


async def test_the_primarys_state_is_told_as_it_is_observed(run: Run) -> None:
    run.source.sync_state = "async"
    run.start()
    await until(lambda: run.told and run.told[-1].sync_state == "async", "async")
    run.source.sync_state = "sync"
    await until(lambda: run.told[-1].sync_state == "sync", "sync")
    assert run.told[-1].slot_wal_status == "reserved"


async def test_where_the_slot_is_told_once_it_was_asked(run: Run) -> None:
    run.source.slot_restart_lsn = Lsn(S + 100)
    run.source.observing = asyncio.Event()
    run.start()
    await until(lambda: run.told, "something is told")
    assert run.told[0].slot_restart_lsn is None, "not known yet"
    run.source.observing.set()
    await until(lambda: run.told[-1].slot_restart_lsn == S + 100, "the slot's place")
    run.source.slot_restart_lsn = None
    await until(lambda: run.told[-1].slot_restart_lsn == 0, "there is none")


async def test_a_primary_that_changed_unseen_is_told_before_wal_is_read_from_it(run: Run) -> None:
    """Nothing was read for a while (no seed), and the primary is another one meanwhile."""
    run.source.observing = asyncio.Event()
    run.start(None)
    await asyncio.sleep(0)
    changed = profile(server_version_num=170010)
    run.source.profile = changed
    run.source.timeline = 2
    run.destination.say(Rewind(at(2, S), "a seed begins here"))
    run.source.flush(S + 1000)
    await until(lambda: run.destination.spans, "WAL of the new primary")
    kinds = [
        name if name == "wal" else what.profile
        for name, what in run.destination.log
        if name in ("wal", "tell")
    ]
    assert changed in kinds[: kinds.index("wal")]
    assert run.told[-1].timeline == 2
    assert run.destination.of_kind("gap") == []


async def test_what_can_no_longer_be_observed_is_not_told_as_if_it_were(run: Run) -> None:
    run.source.sync_state = "sync"
    run.start()
    await until(lambda: run.told and run.told[-1].sync_state == "sync", "sync")
    run.source.fail_observe += [primary_lost()] * 10_000
    await until(lambda: run.told[-1].sync_state == "", "no longer known")
    assert run.told[-1].slot_wal_status == ""
    run.source.fail_observe.clear()
    await until(lambda: run.told[-1].sync_state == "sync", "known again")
    assert run.told[-1].slot_wal_status == "reserved"


async def test_a_primary_that_dies_while_nothing_streams_is_said_to_be_away(run: Run) -> None:
    run.start(None, seed_wanted=True)
    await until(lambda: run.told and run.told[-1].reachable, "it is there")
    run.source.fail_observe += [primary_lost()] * 10_000
    await until(lambda: not run.told[-1].reachable, "it is away")
    run.source.fail_observe.clear()
    await until(lambda: run.told[-1].reachable, "it is back")


async def test_a_primary_that_never_answers_is_not_known_either(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping_module, "OBSERVE_TIMEOUT_SECONDS", 0.05)
    run.source.sync_state = "sync"
    run.start()
    await until(lambda: run.told and run.told[-1].sync_state == "sync", "sync")
    run.source.observing = asyncio.Event()
    await until(lambda: run.told[-1].sync_state == "", "no longer known")
    run.source.observing.set()
    await until(lambda: run.told[-1].sync_state == "sync", "known again")


async def test_a_lost_stream_is_not_synchronous_whatever_the_primary_still_says(run: Run) -> None:
    run.source.sync_state = "sync"
    run.start()
    await run.shipped(S + 1000)
    await until(lambda: run.told[-1].sync_state == "sync", "sync")
    run.source.fail_open += [primary_lost()] * 3
    run.source.break_read(primary_lost())
    await until(lambda: any(not facts.reachable for facts in run.told), "the loss is told")
    await until(lambda: run.told[-1].reachable, "its return is told")
    assert all(facts.sync_state == "" for facts in run.told if not facts.reachable)


# --- gaps -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        Code.WAL_REMOVED,
        Code.SLOT_LOST,
        Code.TIMELINE_DIVERGED,
        Code.NOT_IN_HISTORY,
        Code.PRIMARY_BEHIND,
    ],
)
async def test_a_gap_is_reported_once_and_only_a_seed_starts_again(run: Run, code: Code) -> None:
    run.start()
    await run.shipped(S + 1000)
    run.source.break_read(LogshipError(code, "it is gone"))
    await until(lambda: run.destination.of_kind("gap"), "the gap is reported")
    (gap,) = run.destination.of_kind("gap")
    assert isinstance(gap, GapFound)
    assert (gap.timeline, gap.from_lsn, gap.code) == (1, S + 1000, str(code))
    tells = len(run.told)
    run.source.flush(S + 9000)
    await until(lambda: len(run.told) > tells + 3, "time passes")
    assert len(run.source.starts) == 1, "it does not try in vain"
    assert len(run.destination.of_kind("gap")) == 1
    run.destination.say(Rewind(at(1, S + 8192), "a seed begins here"))
    await run.shipped(S + 9000, from_lsn=S + 8192)
    assert len(run.destination.of_kind("gap")) == 1


async def test_a_seed_that_begins_while_a_gap_is_looked_into_is_not_forgotten(run: Run) -> None:
    run.start()
    await run.shipped(S + 1000)
    run.source.observing = asyncio.Event()
    run.source.break_read(LogshipError(Code.WAL_REMOVED, "it is gone"))
    await until(lambda: not run.source.fail_read, "the gap is found")
    await asyncio.sleep(0.01)
    run.destination.say(Rewind(at(1, S + 8192), "a seed begins here"))
    await asyncio.sleep(0.01)
    run.source.observing.set()
    await run.shipped(S + 9000, from_lsn=S + 8192)


async def test_an_error_of_the_reading_that_a_rewind_ended_is_of_no_matter(run: Run) -> None:
    run.start()
    await run.shipped(S + 1000)
    # Both in one step of the event loop.
    run.destination.say(Rewind(at(1, S + 500), "a seed begins here"))
    run.source.break_read(LogshipError(Code.WAL_REMOVED, "it is gone"))
    await run.shipped(S + 2000, from_lsn=S + 500)


async def test_a_slot_that_the_operator_must_make_is_no_gap_and_is_waited_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping_module, "REFUSED_RETRY_SECONDS", 0.02)
    missing = LogshipError(Code.SLOT_MISSING, "no slot", "make it")
    run.source.fail_start += [missing] * 4
    with capture_logs() as logs:
        run.start()
        await run.shipped(S + 1000)
    assert run.destination.of_kind("gap") == []
    assert len(run.source.starts) == 5
    assert all(facts.reachable for facts in run.told)
    said = [entry for entry in logs if entry.get("code") == "slot-missing"]
    assert [(entry["log_level"], entry["hint"]) for entry in said] == [("error", "make it")]


# --- bugs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["start", "read", "observe", "event"])
async def test_a_bug_ends_the_connection_and_is_raised(
    run: Run, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.start()
    await run.shipped(S + 1000)
    bug = ZeroDivisionError(where)
    if where == "start":
        run.source.fail_start.append(bug)
        run.destination.say(Rewind(at(1, S), "again"))
    elif where == "read":
        run.source.break_read(bug)
    elif where == "observe":
        run.source.fail_observe.append(bug)
    else:

        def acknowledge(*_: object) -> None:
            raise bug

        monkeypatch.setattr(run.source, "acknowledge", acknowledge)
        run.destination.say(Acked(at(1, S + 1000), at(1, S + 1000), Lsn(0)))
    with pytest.raises(ZeroDivisionError):
        await run.end()


async def test_a_bug_in_the_sender_shows_also_while_nothing_is_read(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last span before a primary falls silent must not wait for the next one."""
    run.source.piece_bytes = 2 * INLINE_BYTES
    reads_on = threading.Event()

    def fail(*_: object, **__: object) -> None:
        reads_on.wait(10)
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline_module, "_seal_span", fail)
    run.start()
    run.source.flush(S + 2 * INLINE_BYTES)
    await until(lambda: run.source.waiting, "the reader waits for more")
    reads_on.set()
    with pytest.raises(ZeroDivisionError):
        await run.end()


async def test_a_bug_is_not_lost_when_the_link_is_lost_with_it(run: Run) -> None:
    run.start()
    await run.shipped(S + 1000)
    run.source.break_read(ZeroDivisionError())
    await until(lambda: not run.source.fail_read, "it happened")
    run.destination.say(Lost(link_lost()))
    with pytest.raises(ZeroDivisionError):
        await run.end()


# --- the link goes away ---------------------------------------------------------------------


async def test_a_lost_link_ends_it_with_the_far_ends_own_word(run: Run) -> None:
    run.start()
    await run.shipped(S + 1000)
    fenced = LogshipError(Code.FENCED, "promoted")
    run.destination.cut(fenced)
    run.source.flush(S + 2000)
    assert (await run.end()) is fenced


async def test_a_lost_link_ends_it_also_while_nothing_is_sent(run: Run) -> None:
    run.start()
    await run.shipped(S + 1000)
    error = link_lost("silence")
    run.destination.say(Lost(error))
    assert (await run.end()) is error


async def test_a_lost_link_ends_it_also_while_it_waits_for_room(run: Run) -> None:
    run.destination.free(0)
    run.start()
    run.source.flush(S + 2000)
    await until(lambda: run.told, "it runs")
    run.destination.cut()
    with pytest.raises(LogshipError) as caught:
        await run.end()
    assert caught.value.code is Code.LINK_LOST


async def test_nothing_runs_on_after_the_end(run: Run) -> None:
    run.start()
    await run.shipped(S + 1000)
    run.destination.say(Lost(link_lost()))
    await run.end()
    sent = len(run.destination.log)
    run.source.flush(S + 5000)
    await asyncio.sleep(0.05)
    assert len(run.destination.log) == sent


# --- acks and seeds -------------------------------------------------------------------------


async def test_acks_reach_the_source_as_they_were_given_and_no_others(run: Run) -> None:
    run.start()
    await run.shipped(S + 1000)
    welcomed = (START, START, Lsn(0))
    assert run.source.acknowledged == [welcomed]
    run.destination.say(Acked(at(1, S + 900), at(1, S + 400), Lsn(S + 100)))
    run.destination.say(Acked(at(1, S + 1000), at(1, S + 400), Lsn(0)))
    await until(lambda: len(run.source.acknowledged) == 3, "both arrive")
    assert run.source.acknowledged == [
        welcomed,
        (at(1, S + 900), at(1, S + 400), Lsn(S + 100)),
        (at(1, S + 1000), at(1, S + 400), Lsn(0)),
    ]


async def test_each_new_stream_is_told_what_the_far_end_holds(run: Run) -> None:
    """An ack that was lost with a connection is not given again while nothing is written."""
    run.start()
    await run.shipped(S + 1000)
    ack = Acked(at(1, S + 1000), at(1, S + 1000), Lsn(0))
    run.destination.say(ack)
    await until(lambda: len(run.source.acknowledged) == 2, "the ack arrives")
    run.source.break_read(primary_lost())
    await until(lambda: len(run.source.acknowledged) == 3, "the new stream is told")
    assert run.source.acknowledged[-1] == tuple(ack)


async def test_what_the_far_end_says_of_seeds_is_passed_on(run: Run) -> None:
    run.start()
    run.destination.say(SeedWanted("an operator asked"))
    run.destination.say(SeedFinished("s1", ""))
    await until(lambda: run.finished, "both are heard")
    assert run.wanted == ["an operator asked"]
    assert run.finished == [SeedFinished("s1", "")]


# --- a source that needs no primary ------------------------------------------------------------


async def test_wal_flows_and_the_absence_of_the_primary_is_told(run: Run) -> None:
    run.start()
    await run.shipped(S + 100)
    run.source.is_reachable = False
    await until(lambda: not run.told[-1].reachable, "it is told")
    await run.shipped(S + 200)
    assert not run.told[-1].reachable
    run.source.is_reachable = True
    await until(lambda: run.told[-1].reachable, "it is back")


async def test_a_connection_that_began_without_a_primary_ends_when_it_is_back(run: Run) -> None:
    run.source.is_reachable = False
    run.start()
    await run.shipped(S + 100)
    run.source.is_reachable = True
    run.source.break_read(LogshipError(Code.PRIMARY_NOT_READY, "it is back", retryable=True))
    ended = await asyncio.gather(run.task or asyncio.sleep(0), return_exceptions=True)
    assert isinstance(ended[0], LogshipError)
    assert ended[0].code == Code.PRIMARY_NOT_READY
    assert ended[0].retryable


@pytest.mark.parametrize(
    ("version_num", "code", "retryable"),
    [
        (180004, Code.PRIMARY_NOT_READY, True),
        (170009, Code.SYSTEM_IDENTIFIER_MISMATCH, False),
        (160014, Code.SYSTEM_IDENTIFIER_MISMATCH, False),
    ],
)
async def test_a_primary_that_comes_back_upgraded_is_introduced_anew_at_once(
    run: Run, version_num: int, code: Code, retryable: bool
) -> None:
    run.start()
    await run.shipped(S + 100)
    run.source.profile = profile(system_identifier=42, server_version_num=version_num)
    run.source.break_read(LogshipError(Code.PRIMARY_UNREACHABLE, "it stopped", retryable=True))
    ended = await asyncio.gather(run.task or asyncio.sleep(0), return_exceptions=True)
    assert isinstance(ended[0], LogshipError)
    assert (ended[0].code, ended[0].retryable) == (code, retryable)


@pytest.mark.parametrize("code", [Code.WAL_REMOVED, Code.WAL_CONFLICT])
async def test_a_gap_that_somebody_may_close_is_told_and_tried_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, code: Code
) -> None:
    monkeypatch.setattr(shipping_module, "REFUSED_RETRY_SECONDS", 0.05)
    run.source.fail_read += [LogshipError(code, "not there", retryable=True)] * 2
    run.start()
    await run.shipped(S + 100)
    gaps: list[GapFound] = run.destination.of_kind("gap")
    assert [gap.code for gap in gaps] == [str(code)] * 2
    assert [start for start, _ in run.source.starts] == [START] * 3
