"""The walsender's role as transcripts: what comes in, what goes out."""

from __future__ import annotations

import pytest

from applier.walserver.gate import OPEN_GATE, Gate
from applier.walserver.replication import MAX_SEND_BYTES, WalSender
from applier.walserver.session import Session
from applier.walserver.status import StandbyState
from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from tests.unit.applier.walserver.memory_source import MemorySource
from tests.unit.applier.walserver.transcript import (
    STANDBY,
    answers,
    copy_done,
    feedback,
    query,
    report,
    startup,
)

SEGMENT = 1 << 20
START = Lsn(SEGMENT)
FORK = Lsn(2 * SEGMENT + 500)
END_OF_1 = ["columns", "row 2, 0/2001F4", "complete START_STREAMING", "complete START_REPLICATION"]


class Standby:
    """A session with one role, driven as the shell drives it."""

    def __init__(self, source: MemorySource, **role_arguments: float) -> None:
        self.source = source
        self.role = WalSender(source, "17.9", wall_clock=lambda: 1e9, **role_arguments)  # type: ignore[arg-type]
        self.session = Session(lambda _: self.role, process_id=1, secret=b"s" * 32, now=0)
        self.session.receive_data(startup(**STANDBY), 0)
        self.session.data_to_send()

    def sends(self, data: bytes, now: float = 1) -> list[str]:
        self.session.receive_data(data, now)
        return self.gets(now)

    def gets(self, now: float = 1) -> list[str]:
        """All that is sent to one that reads everything at once."""
        output: list[bytes] = []
        while True:
            self.session.advance(now)
            output += self.session.data_to_send()
            request = self.session.wal_wanted(now)
            if request is None:
                return answers(output)
            try:
                data = self.source.read(request.timeline, request.lsn, request.max_bytes)
            except LogshipError as error:
                self.session.wal_failed(error, now)
            else:
                self.session.wal_read(request, data, now)


def plain(size: int = 1000) -> MemorySource:
    source = MemorySource(segment_bytes=SEGMENT)
    source.append(1, START, b"1" * size)
    return source


def forked(parent_end: Lsn = FORK) -> MemorySource:
    source = plain(parent_end - START)
    fork(source)
    return source


def fork(source: MemorySource) -> None:
    source.add_history(2, f"1\t{FORK}\tno recovery target specified\n".encode())
    source.append(2, 2 * SEGMENT, b"1" * 500 + b"2" * 500)


def test_identify_system_tells_who_and_where() -> None:
    assert Standby(plain()).sends(query("IDENTIFY_SYSTEM")) == [
        "columns",
        "row 7301234567890123456, 1, 0/1003E8, NULL",
        "complete IDENTIFY_SYSTEM",
        "ready",
    ]


def test_before_there_is_wal_the_standby_is_told_to_come_back() -> None:
    standby = Standby(MemorySource())
    for text in ("IDENTIFY_SYSTEM", "START_REPLICATION 0/0 TIMELINE 1"):
        assert standby.sends(query(text)) == ["ERROR 57P03 no WAL is held here yet", "ready"]


def test_a_history_is_given_as_it_came_and_a_missing_one_named() -> None:
    standby = Standby(forked())
    line, tag, ready = standby.sends(query("TIMELINE_HISTORY 2"))[1:]
    assert line == "row 00000002.history, 1\t0/2001F4\tno recovery target specified\n"
    assert (tag, ready) == ("complete TIMELINE_HISTORY", "ready")
    missing, _ = standby.sends(query("TIMELINE_HISTORY 3"))
    assert missing.startswith('ERROR 58P01 could not open file "pg_wal/00000003.history"')


def test_slots_are_answered_as_if_there_were_none() -> None:
    assert Standby(plain()).sends(query('READ_REPLICATION_SLOT "s"'))[1] == "row NULL, NULL, NULL"


def test_wal_is_streamed_as_it_is_written() -> None:
    standby = Standby(plain())
    assert standby.sends(query("START_REPLICATION SLOT s 0/100000 TIMELINE 1")) == [
        "copy",
        "wal 0/100000..0/1003E8 of 0/1003E8",
    ]
    assert standby.role.state is StandbyState.STREAMING
    standby.source.append(1, START + 1000, b"1" * 24)
    assert standby.gets() == ["wal 0/1003E8..0/100400 of 0/100400"]
    assert standby.gets() == []


def test_a_catch_up_goes_in_chunks_cut_at_pages() -> None:
    standby = Standby(plain(2_400_000))
    lines = standby.sends(query("START_REPLICATION 0/100064"))
    assert lines == [
        "copy",
        "wal 0/100064..0/200000 of 0/349F00",
        "wal 0/200000..0/300000 of 0/349F00",
        "wal 0/300000..0/349F00 of 0/349F00",
    ]
    assert all(size <= MAX_SEND_BYTES for _, _, size in standby.source.reads)


def test_reports_are_kept_and_feedback_is_passed_over() -> None:
    standby = Standby(plain())
    standby.sends(query("START_REPLICATION 0/100000"))
    assert standby.sends(report(0x100400, 0x100300, 0x100200), now=3) == []
    assert standby.sends(feedback(), now=4) == []
    role = standby.role
    assert (role.write_lsn, role.flush_lsn, role.apply_lsn) == (0x100400, 0x100300, 0x100200)
    assert role.last_reply_at == 3


def test_a_requested_reply_is_given_once_for_any_number_of_requests() -> None:
    standby = Standby(plain())
    standby.sends(query("START_REPLICATION 0/100000"))
    assert standby.sends(report(1, asks=True) * 1000) == ["keepalive 0/1003E8"]


def test_a_start_below_the_oldest_wal_is_refused() -> None:
    standby = Standby(plain())
    assert standby.sends(query("START_REPLICATION 0/80000 TIMELINE 1")) == [
        "ERROR 58P01 requested WAL segment 000000010000000000000000 has already been removed",
        "ready",
    ]
    assert standby.role.refusal is not None
    assert standby.role.refusal.code is Code.WAL_REMOVED


def test_a_start_ahead_of_what_is_written_waits_and_never_gets_older_bytes() -> None:
    standby = Standby(plain(1000))
    assert standby.sends(query("START_REPLICATION 0/100400 TIMELINE 1")) == ["copy"]
    assert standby.role.state is StandbyState.WAITING
    standby.source.append(1, START + 1000, b"1" * 20)
    assert standby.gets() == []
    assert standby.gets(now=32) == ["keepalive 0/1003FC reply"]
    standby.source.append(1, START + 1020, b"1" * 100)
    assert standby.gets(now=33) == ["wal 0/100400..0/100460 of 0/100460"]


def test_wal_lost_in_a_crash_is_not_sent_twice() -> None:
    standby = Standby(plain(1000))
    standby.sends(query("START_REPLICATION 0/100000"))
    standby.source.lose(1, START + 500)
    assert standby.gets() == []
    assert standby.role.state is StandbyState.WAITING
    standby.source.append(1, START + 500, b"1" * 600)
    assert standby.gets() == ["wal 0/1003E8..0/10044C of 0/10044C"]


# Timelines


def test_a_timeline_s_end_is_handed_over_while_streaming() -> None:
    standby = Standby(plain(FORK - START))
    standby.sends(query("START_REPLICATION 0/200000 TIMELINE 1"))
    fork(standby.source)
    assert standby.gets() == ["copy done"]
    assert standby.sends(report(FORK, FORK, FORK)) == []
    assert standby.sends(copy_done()) == [*END_OF_1, "ready"]
    assert standby.sends(query("START_REPLICATION 0/200000 TIMELINE 2")) == [
        "copy",
        "wal 0/200000..0/2003E8 of 0/2003E8",
    ]


def test_all_up_to_the_fork_is_sent_before_the_end_and_nothing_past_it() -> None:
    standby = Standby(forked(Lsn(FORK + 4000)))
    assert standby.sends(query("START_REPLICATION 0/200000 TIMELINE 1")) == [
        "copy",
        "wal 0/200000..0/2001F4 of 0/2003E8",
        "copy done",
    ]


def test_what_the_parent_lacks_is_sent_from_its_successor() -> None:
    standby = Standby(forked(Lsn(2 * SEGMENT + 100)))
    assert standby.sends(query("START_REPLICATION 0/200000 TIMELINE 1")) == [
        "copy",
        "wal 0/200000..0/200064 of 0/2003E8",
        "wal 0/200064..0/2001F4 of 0/2003E8",
        "copy done",
    ]


def test_a_start_at_a_timeline_s_end_ends_at_once_but_lets_the_standby_report() -> None:
    standby = Standby(forked())
    assert standby.sends(query(f"START_REPLICATION {FORK} TIMELINE 1")) == ["copy", "copy done"]
    assert standby.sends(report(FORK, FORK, FORK) + copy_done()) == [*END_OF_1, "ready"]


def test_a_standby_past_a_fork_at_a_segment_s_end_is_found_by_its_report() -> None:
    """It asks for WAL from the fork itself: only the report tells that it has more."""
    standby = Standby(forked())
    standby.sends(query(f"START_REPLICATION {FORK} TIMELINE 1"))
    [error, _] = standby.sends(report(FORK + 8, FORK + 8, FORK + 8))
    assert "is not in this server's history" in error
    assert standby.role.refusal is not None
    assert standby.role.refusal.code is Code.STANDBY_AHEAD_OF_FORK


def test_a_client_may_end_the_copy_by_itself() -> None:
    standby = Standby(forked(Lsn(FORK + 4000)))
    standby.sends(query("START_REPLICATION 0/200000 TIMELINE 2"))
    assert standby.sends(copy_done()) == ["copy done", "complete START_STREAMING", "ready"]
    assert standby.role.state is StandbyState.STARTUP


def test_a_stray_history_ends_nothing() -> None:
    standby = Standby(plain())
    standby.sends(query("START_REPLICATION 0/100000 TIMELINE 1"))
    standby.source.add_history(2, b"1\t0/100010\tanother branch\n")
    assert standby.gets() == []
    standby.source.append(1, START + 1000, b"1")
    assert standby.gets() == ["wal 0/1003E8..0/1003E9 of 0/1003E9"]


@pytest.mark.parametrize("timeline", [3, 7])
def test_a_timeline_that_is_not_on_the_line_is_refused(timeline: int) -> None:
    source = forked()
    source.add_history(4, b"2\t0/2003E8\tx\n")
    source.append(4, 2 * SEGMENT, b"4" * 5000)
    standby = Standby(source)
    assert standby.sends(query(f"START_REPLICATION 0/200000 TIMELINE {timeline}")) == [
        f"ERROR 55000 requested timeline {timeline} is not in this server's history",
        "ready",
    ]
    wanted = {3: Code.STANDBY_AHEAD_OF_FORK, 7: Code.HISTORY_MISSING}
    assert standby.role.refusal is not None
    assert standby.role.refusal.code is wanted[timeline]


def test_a_start_past_the_fork_is_refused() -> None:
    standby = Standby(forked())
    [error, _] = standby.sends(query("START_REPLICATION 0/300000 TIMELINE 1"))
    assert error == (
        "ERROR 55000 starting point 0/300000 on timeline 1 is not in this server's history"
    )
    assert standby.role.refusal is not None
    assert standby.role.refusal.code is Code.STANDBY_AHEAD_OF_FORK
    assert "forked from timeline 1 at 0/2001F4" in standby.role.refusal.what


def test_a_standby_that_replayed_past_the_fork_is_refused_at_its_first_report() -> None:
    standby = Standby(forked(Lsn(FORK + 4000)))
    # It asks from the segment's start, as walreceivers do, which shows nothing.
    assert standby.sends(query("START_REPLICATION 0/200000 TIMELINE 1"))[-1] == "copy done"
    ahead = FORK + 100
    assert standby.sends(report(ahead, ahead, ahead) + copy_done()) == [
        "ERROR 55000 starting point 0/200258 on timeline 1 is not in this server's history",
        "ready",
    ]
    assert standby.role.state is StandbyState.REFUSED


def test_a_standby_found_ahead_when_the_fork_becomes_known_is_refused_at_once() -> None:
    standby = Standby(plain(FORK + 4000 - START))
    standby.sends(query("START_REPLICATION 0/200000 TIMELINE 1"))
    standby.sends(report(FORK + 4000, FORK + 4000, FORK + 4000))
    fork(standby.source)
    [error, _] = standby.gets()
    assert error.startswith("ERROR 55000 starting point")


def test_one_that_has_received_but_not_replayed_past_the_fork_may_still_turn() -> None:
    standby = Standby(plain(FORK + 4000 - START))
    standby.sends(query("START_REPLICATION 0/200000 TIMELINE 1"))
    standby.sends(report(FORK + 4000, FORK + 4000, FORK))
    fork(standby.source)
    assert standby.gets() == ["copy done"]
    assert standby.role.refusal is None


def test_a_new_chain_without_the_streamed_timeline_ends_the_copy() -> None:
    source = forked()
    standby = Standby(source)
    standby.sends(query("START_REPLICATION 0/200000 TIMELINE 2"))
    source.append(5, 9 * SEGMENT, b"5" * 100)  # Seeded again, from another branch.
    source.add_history(5, b"1\t0/100100\tx\n")
    assert standby.gets() == [
        "ERROR 55000 requested timeline 2 is not in this server's history",
        "ready",
    ]


# What was held before WAL got lost


def seeded_again() -> MemorySource:
    """1000 bytes from START; then a gap, and a new seed's chain from segment 4 on."""
    source = plain()
    source.begin_chain(1, 4 * SEGMENT)
    source.append(1, 4 * SEGMENT, b"n" * 1000)
    return source


@pytest.mark.parametrize("start", [START, Lsn(START + 400), Lsn(START + 1000)])
def test_the_old_seed_s_standby_gets_all_before_the_gap_and_then_waits(start: Lsn) -> None:
    standby = Standby(seeded_again())
    lines = standby.sends(query(f"START_REPLICATION {start} TIMELINE 1"))
    assert lines == ["copy", f"wal {start}..0/1003E8 of 0/1003E8"][: 2 if start < 0x1003E8 else 1]
    assert standby.role.state is StandbyState.WAITING
    standby.source.append(1, 4 * SEGMENT + 1000, b"n" * 50)
    assert standby.gets() == []
    assert standby.gets(now=32) == ["keepalive 0/1003E8 reply"]
    assert standby.role.refusal is None


def test_a_gap_that_opens_while_streaming_changes_nothing_for_the_old_standby() -> None:
    source = plain()
    standby = Standby(source)
    standby.sends(query("START_REPLICATION 0/100000 TIMELINE 1"))
    source.begin_chain(1, 4 * SEGMENT)
    source.append(1, 4 * SEGMENT, b"n" * 1000)
    assert standby.gets() == []
    assert standby.role.state is StandbyState.WAITING


def test_the_new_seed_s_standby_gets_the_new_chain() -> None:
    standby = Standby(seeded_again())
    lines = standby.sends(query("START_REPLICATION 0/400000 TIMELINE 1"))
    assert lines == ["copy", "wal 0/400000..0/4003E8 of 0/4003E8"]
    assert standby.role.state is StandbyState.STREAMING


def test_a_standby_that_needs_bytes_of_the_gap_is_refused_and_told_what_there_is() -> None:
    standby = Standby(seeded_again())
    line, _ = standby.sends(query("START_REPLICATION 0/200000 TIMELINE 1"))
    assert line.startswith("ERROR 58P01 requested WAL segment 000000010000000000000002")
    assert standby.role.refusal is not None
    assert standby.role.refusal.code is Code.WAL_REMOVED
    assert "0/100000 to 0/1003E8 and 0/400000 to 0/4003E8" in standby.role.refusal.what


def test_an_open_copy_that_can_never_be_served_again_is_refused_and_not_starved() -> None:
    source = seeded_again()
    standby = Standby(source)
    standby.sends(query("START_REPLICATION 0/100000 TIMELINE 1"))
    source.forget_chain(0)
    error, _ = standby.gets()
    assert error.startswith("ERROR 58P01")
    assert standby.role.refusal is not None
    assert standby.role.refusal.code is Code.WAL_REMOVED


def test_the_old_standby_keeps_its_timeline_though_the_new_chain_s_forked_below_its_end() -> None:
    source = plain(FORK + 300 - START)
    source.add_history(2, f"1\t{FORK}\tx\n".encode())
    source.begin_chain(2, 6 * SEGMENT)
    standby = Standby(source)
    lines = standby.sends(query("START_REPLICATION 0/200000 TIMELINE 1"))
    assert lines[-1] == f"wal 0/200000..{Lsn(FORK + 300)} of {Lsn(FORK + 300)}"
    assert standby.sends(report(FORK + 300, FORK + 300, FORK + 300)) == []
    assert standby.role.refusal is None


# The gate


def test_the_gate_holds_and_releases() -> None:
    standby = Standby(plain())
    standby.role.gate = Gate(hold_at_lsn=Lsn(START + 100))
    lines = standby.sends(query("START_REPLICATION 0/100000"))
    assert lines == ["copy", "wal 0/100000..0/100064 of 0/1003E8"]
    assert standby.role.state is StandbyState.HELD
    assert standby.gets(now=31.5) == ["keepalive 0/1003E8 reply"]
    standby.role.gate = OPEN_GATE
    assert standby.gets(now=32) == ["wal 0/100064..0/1003E8 of 0/1003E8"]


@pytest.mark.parametrize(("hold", "visible"), [(FORK - 1, False), (FORK, False), (FORK + 1, True)])
def test_a_held_standby_learns_of_no_timeline_past_its_hold(hold: int, visible: bool) -> None:
    standby = Standby(forked())
    standby.role.gate = Gate(hold_at_lsn=Lsn(hold))
    identified = standby.sends(query("IDENTIFY_SYSTEM"))[1].split(", ")[1:3]
    assert identified == (["2", str(Lsn(hold))] if visible else ["1", str(Lsn(hold))])
    lines = standby.sends(query("START_REPLICATION 0/200000 TIMELINE 1"))
    assert lines[1] == f"wal 0/200000..{Lsn(min(hold, FORK))} of 0/2003E8"
    assert ("copy done" in lines) is visible
    standby.role.gate = OPEN_GATE
    if not visible:
        assert standby.gets()[-1] == "copy done"


def test_a_start_at_a_held_timeline_s_end_waits() -> None:
    standby = Standby(forked())
    standby.role.gate = Gate(hold_at_lsn=FORK)
    assert standby.sends(query(f"START_REPLICATION {FORK} TIMELINE 1")) == ["copy"]
    assert standby.role.state is StandbyState.HELD


# Time


def test_a_silent_standby_is_asked_and_then_given_up() -> None:
    standby = Standby(plain(), timeout_seconds=10)
    standby.sends(query("START_REPLICATION 0/100000"), now=100)
    assert standby.session.deadline == 105
    assert standby.gets(now=104.9) == []
    assert standby.gets(now=105) == ["keepalive 0/1003E8 reply"]
    assert standby.session.deadline == 110
    assert standby.gets(now=109.9) == []
    assert standby.gets(now=110) == ["FATAL 57P05 terminating connection: the standby is silent"]
    assert standby.session.closed


def test_a_standby_that_only_reports_hears_of_us_too() -> None:
    standby = Standby(plain(), timeout_seconds=10)
    standby.sends(query("START_REPLICATION 0/100000"), now=100)
    standby.sends(report(1), now=104)
    assert standby.gets(now=105) == ["keepalive 0/1003E8"]
    assert standby.session.deadline == 109


def test_a_client_that_never_ends_its_side_of_the_copy_is_given_up() -> None:
    standby = Standby(forked(), timeout_seconds=10)
    assert standby.sends(query("START_REPLICATION 0/200000 TIMELINE 1"), 1)[-1] == "copy done"
    assert standby.gets(now=6) == []
    assert standby.session.deadline == 11
    assert standby.gets(now=11) == ["FATAL 57P05 terminating connection: the standby is silent"]


# Reading


@pytest.mark.parametrize(
    ("code", "sqlstate", "refused"),
    [(Code.WAL_REMOVED, "58P01", True), (Code.STORE_DAMAGED, "58030", False)],
)
def test_wal_that_can_not_be_read_ends_the_copy_with_the_reason(
    code: Code, sqlstate: str, refused: bool
) -> None:
    source = plain()
    source.failure = LogshipError(code, "it broke")
    standby = Standby(source)
    lines = standby.sends(query("START_REPLICATION 0/100000"))
    assert lines == ["copy", f"ERROR {sqlstate} it broke", "ready"]
    assert (standby.role.refusal is not None) is refused
    source.failure = None
    assert standby.sends(query("START_REPLICATION 0/100000"))[0] == "copy"
    assert standby.role.refusal is None
