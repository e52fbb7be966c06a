"""ShipperSession, as transcripts: what happens, then what must come back."""

from __future__ import annotations

from typing import Any

import pytest

from logship.errors import Code, LogshipError
from logship.frames import (
    Ack,
    ApplierHeartbeat,
    Bye,
    Fenced,
    Frame,
    GapFound,
    OtherRoad,
    Refuse,
    ResumeAt,
    SeedAborted,
    SeedAck,
    SeedBegin,
    SeedChunk,
    SeedDone,
    SeedEnd,
    SeedRequest,
    ShipperHeartbeat,
    Span,
    TimelineHistory,
    decode_from_shipper,
    encode,
)
from logship.link.events import (
    Acked,
    FencedOff,
    HeartbeatDue,
    LinkLost,
    Refused,
    Rewind,
    SeedAcked,
    SeedFinished,
    SeedRequested,
    SeedStopped,
    Send,
    ShipperOutput,
    Welcomed,
)
from logship.link.shipper_session import WELCOME_TIMEOUT_SECONDS, ShipperSession
from logship.link.states import IllegalTransition
from logship.link.windows import SPAN_COST_BYTES
from logship.lsn import Lsn
from tests.support.link_frames import SEGMENT_BYTES, at, hello, profile, sealed_wal, welcome

S = SEGMENT_BYTES
COST = SPAN_COST_BYTES
NOW = 1000.0


def hear(session: ShipperSession, frame: Frame, now: float = NOW) -> list[ShipperOutput]:
    return session.receive([bytes(part) for part in encode(frame)], now)


def greeting() -> ShipperSession:
    session = ShipperSession(hello(), now=NOW)
    assert session.start(NOW) == [Send(hello())]
    return session


def opened(**changes: Any) -> ShipperSession:
    session = greeting()
    hear(session, welcome(**changes))
    return session


def send_wal(session: ShipperSession, size_bytes: int, timeline: int = 1) -> Send:
    assert session.sent is not None
    start = session.sent.lsn
    return session.span(timeline, start, sealed_wal(timeline, start, size_bytes), NOW)


def lost_code(outputs: list[ShipperOutput]) -> Code:
    (output,) = outputs
    assert isinstance(output, LinkLost)
    return output.error.code


def test_a_hello_is_followed_by_nothing_until_the_welcome() -> None:
    session = greeting()
    assert session.window_room_bytes == 0
    with pytest.raises(IllegalTransition):
        session.profile(profile(), NOW)
    assert hear(session, welcome()) == [Welcomed(welcome(), at(1, S))]
    assert session.window_room_bytes == 64 * 1024 - COST


def test_spans_follow_each_other_from_the_resume_position() -> None:
    session = opened()
    send = send_wal(session, 100)
    assert isinstance(send.frame, Span)
    assert (send.frame.start_lsn, send.frame.raw_bytes) == (S, 100)
    assert session.sent == at(1, S + 100)
    assert session.window_room_bytes == 64 * 1024 - 100 - 2 * COST
    send_wal(session, 50)
    assert session.sent == at(1, S + 150)


@pytest.mark.parametrize(
    ("timeline", "start", "size"),
    [
        (1, S + 1, 10),  # a hole
        (1, S - 10, 10),  # what lies below
        (1, S, 16 * 1024 + 1),  # larger than a span may be
        (2, S, 10),  # a timeline without its history
        (2, S + 5, 10),  # a timeline that starts in mid-segment
        (0, S, 10),
    ],
)
def test_a_span_out_of_place_is_the_callers_bug(timeline: int, start: int, size: int) -> None:
    session = opened()
    with pytest.raises(ValueError, match=r"span|WAL"):
        session.span(timeline, start, sealed_wal(timeline, start, size), NOW)
    assert session.sent == at(1, S)


def test_a_span_may_not_cross_a_segments_end() -> None:
    session = opened(resume_lsn=2 * S - 10)
    with pytest.raises(ValueError, match="segment"):
        send_wal(session, 11)
    send_wal(session, 10)
    send_wal(session, 11)


def test_the_window_fills_and_acks_of_received_bytes_open_it() -> None:
    session = opened(window_bytes=20_000 + 2 * COST, max_span_bytes=16_000)
    send_wal(session, 16_000)
    with pytest.raises(ValueError, match="free"):
        send_wal(session, 4_001)
    send_wal(session, 4_000)
    assert session.window_room_bytes == 0
    ack = Ack(timeline=1, received_lsn=S + 15_000, durable_lsn=S + 10_000)
    assert hear(session, ack) == [Acked(at(1, S + 15_000), at(1, S + 10_000), Lsn(0))]
    # Both spans are still on their way, one of them in part.
    assert session.window_room_bytes == 15_000 - COST
    hear(session, Ack(timeline=1, received_lsn=S + 16_000, durable_lsn=S + 10_000))
    assert session.window_room_bytes == 16_000


def test_a_window_of_small_spans_is_full_before_their_bytes_fill_it() -> None:
    session = opened(window_bytes=10_000, max_span_bytes=1000)
    spans = 0
    while session.window_room_bytes >= 2:
        send_wal(session, 2)
        spans += 1
    assert spans == 10_000 // (2 + COST)


def test_durable_never_falls_and_a_repeated_ack_says_nothing() -> None:
    session = opened()
    send_wal(session, 1000)
    ack = Ack(timeline=1, received_lsn=S + 900, durable_lsn=S + 800)
    assert len(hear(session, ack)) == 1
    assert hear(session, ack) == []
    assert hear(session, Ack(timeline=1, received_lsn=S + 500, durable_lsn=S + 400)) == []
    assert session.durable == at(1, S + 800)
    assert session.received == at(1, S + 900)


def test_the_standbys_position_is_passed_on() -> None:
    session = opened()
    send_wal(session, 1000)
    ack = Ack(timeline=1, received_lsn=S, durable_lsn=S, applied_lsn=S - 5)
    assert hear(session, ack) == [Acked(at(1, S), at(1, S), Lsn(S - 5))]


@pytest.mark.parametrize(
    "ack",
    [
        Ack(timeline=1, received_lsn=S + 101, durable_lsn=S),
        Ack(timeline=1, received_lsn=S + 100, durable_lsn=S + 101),
        Ack(timeline=2, received_lsn=S, durable_lsn=0),
    ],
)
def test_an_ack_of_what_was_not_sent_ends_the_link(ack: Ack) -> None:
    session = opened()
    send_wal(session, 100)
    assert lost_code(hear(session, ack)) is Code.BAD_FRAME
    assert session.closed
    assert session.durable == at(1, S)


def test_a_rewind_sets_sending_back_and_frees_what_was_lost() -> None:
    session = opened()
    for _ in range(3):
        send_wal(session, 1000)
    resume = ResumeAt(timeline=1, lsn=S + 1000, why="checksum")
    assert hear(session, resume) == [Rewind(1, Lsn(S + 1000), "checksum")]
    assert session.sent == at(1, S + 1000)
    assert session.window_room_bytes == 64 * 1024 - 1000 - 2 * COST
    send_wal(session, 500)


def test_an_ack_from_before_a_rewind_does_not_lift_received_beyond_sent() -> None:
    session = opened()
    send_wal(session, 1000)
    hear(session, ResumeAt(timeline=1, lsn=S + 100, why="store reopened"))
    hear(session, Ack(timeline=1, received_lsn=S + 900, durable_lsn=S + 50))
    assert session.received == at(1, S + 100)
    assert session.durable == at(1, S + 50)


def test_a_rewind_to_what_was_never_sent_ends_the_link() -> None:
    session = opened()
    outputs = hear(session, ResumeAt(timeline=1, lsn=S + 1, why=""))
    assert lost_code(outputs) is Code.BAD_FRAME


def test_after_a_hole_that_the_bucket_fills_the_link_goes_on_beyond_what_was_sent() -> None:
    session = opened()
    send_wal(session, 1000)
    gap = GapFound(
        timeline=1,
        from_lsn=S + 1000,
        available_lsn=3 * S,
        code="wal-in-bucket",
        what="it was spilled",
    )
    assert session.gap(gap, NOW) == Send(gap)
    resume = ResumeAt(timeline=1, lsn=3 * S + 50, why="filled")
    assert hear(session, resume) == [Rewind(1, Lsn(3 * S + 50), "filled")]
    send_wal(session, 500)
    (acked,) = hear(session, Ack(timeline=1, received_lsn=3 * S + 550, durable_lsn=3 * S + 550))
    assert isinstance(acked, Acked) and acked.durable == at(1, 3 * S + 550)
    outputs = hear(session, ResumeAt(timeline=1, lsn=9 * S, why=""))
    assert lost_code(outputs) is Code.BAD_FRAME, "once for each hole"


def test_a_hole_that_only_a_seed_ends_lets_nobody_go_on_beyond_what_was_sent() -> None:
    session = opened()
    gap = GapFound(
        timeline=1, from_lsn=S, available_lsn=3 * S, code="wal-removed", what="it is gone"
    )
    session.gap(gap, NOW)
    outputs = hear(session, ResumeAt(timeline=1, lsn=3 * S, why=""))
    assert lost_code(outputs) is Code.BAD_FRAME


def test_a_heartbeat_says_what_becomes_of_the_other_roads() -> None:
    road = OtherRoad(name="bucket", role="spill", state="spilling", timeline=1, durable_lsn=2 * S)
    beat = ShipperHeartbeat(timeline=1, flush_lsn=S, sent_at=1.0, other_roads=[road])
    frame, _ = decode_from_shipper(opened().heartbeat(beat, NOW).parts())
    assert isinstance(frame, ShipperHeartbeat)
    assert frame.other_roads == [road]
    assert frame.sent_lsn == S


def test_a_new_timeline_starts_at_its_segment_after_its_history() -> None:
    session = opened(resume_lsn=S + 5000)
    assert not session.knows_history(2)
    send = session.history(2, b"1\t0/101388\tno reason\n", NOW)
    assert isinstance(send.frame, TimelineHistory)
    assert session.knows_history(2)
    session.span(2, S, sealed_wal(2, S, 7000), NOW)
    assert session.sent == at(2, S + 7000)
    # The parent's bytes count as arrived once any of the new timeline are.
    hear(session, Ack(timeline=2, received_lsn=S + 6000, durable_lsn=0))
    assert session.durable == at(1, S + 5000)
    assert session.received == at(2, S + 6000)
    assert session.window_room_bytes == 64 * 1024 - 1000 - 2 * COST


def test_histories_named_in_the_welcome_are_known() -> None:
    assert opened(known_timelines=[2, 3]).knows_history(3)


def test_an_empty_store_takes_no_wal_before_a_seed() -> None:
    session = opened(resume_lsn=0, resume_timeline=0)
    assert session.sent is None
    with pytest.raises(ValueError, match="seed"):
        session.span(1, S, sealed_wal(1, S, 10), NOW)


def seed_begin() -> SeedBegin:
    return SeedBegin(seed_id="s1", timeline=1, start_lsn=3 * S + 40, estimated_bytes=0)


def test_acks_of_the_old_chain_do_not_count_for_a_seeds_new_one() -> None:
    session = opened()
    send_wal(session, 1000)
    session.seed(seed_begin(), NOW)
    assert session.sent == at(1, 3 * S)
    assert session.durable is None
    assert session.window_room_bytes == 64 * 1024 - COST
    # Sent before the applier knew of the seed:
    assert hear(session, Ack(timeline=1, received_lsn=S + 1000, durable_lsn=S + 1000)) == []
    assert hear(session, ResumeAt(timeline=1, lsn=S + 10, why="")) == []
    assert session.durable is None
    assert hear(session, SeedAck(seed_id="s1", next_sequence=0)) == [SeedAcked("s1", 0, False)]
    send_wal(session, 10)
    hear(session, Ack(timeline=1, received_lsn=3 * S + 10, durable_lsn=3 * S + 10))
    assert session.durable == at(1, 3 * S + 10)


def test_a_seed_goes_out_and_its_answers_come_up() -> None:
    session = opened(resume_lsn=0)
    session.seed(seed_begin(), NOW)
    chunk = SeedChunk(seed_id="s1", sequence=0, kind="data")
    assert session.seed(chunk, NOW, b"abc") == Send(chunk, b"abc")
    session.seed(SeedEnd(seed_id="s1", sequence=1, timeline=1, end_lsn=4 * S), NOW)
    ack = SeedAck(seed_id="s1", next_sequence=1, resend=True)
    assert hear(session, ack) == [SeedAcked("s1", 1, True)]
    assert hear(session, SeedAck(seed_id="other", next_sequence=9)) == []
    assert hear(session, SeedDone(seed_id="s1")) == [SeedFinished("s1")]
    assert hear(session, SeedRequest(why="asked")) == [SeedRequested("asked")]
    stopped = SeedAborted(seed_id="s1", code="bad-tar", what="x")
    assert hear(session, stopped) == [SeedStopped("s1", "bad-tar", "x")]


def test_an_ack_of_a_chunk_never_sent_ends_the_link() -> None:
    session = opened(resume_lsn=0)
    session.seed(seed_begin(), NOW)
    assert lost_code(hear(session, SeedAck(seed_id="s1", next_sequence=1))) is Code.BAD_FRAME


def test_idle_asks_for_heartbeats_and_they_say_what_was_sent() -> None:
    session = opened()
    send_wal(session, 10)
    assert session.deadline == NOW + 2
    assert session.timer(NOW + 1.9) == []
    assert session.timer(NOW + 2) == [HeartbeatDue()]
    beat = ShipperHeartbeat(timeline=1, flush_lsn=9, sent_at=5.0, slot_wal_status="reserved")
    send = session.heartbeat(beat, NOW + 2)
    assert send.frame == ShipperHeartbeat(
        timeline=1,
        flush_lsn=9,
        sent_at=5.0,
        slot_wal_status="reserved",
        sent_timeline=1,
        sent_lsn=S + 10,
    )
    assert session.deadline == NOW + 4


def test_a_caller_that_does_not_answer_heartbeat_due_is_not_asked_without_end() -> None:
    session = opened()
    assert session.timer(NOW + 2) == [HeartbeatDue()]
    assert session.timer(NOW + 2) == []


def test_silence_for_three_heartbeats_is_loss() -> None:
    session = opened()
    hear(session, ApplierHeartbeat(sent_at=0.0), NOW + 1)
    assert session.timer(NOW + 6.9) == [HeartbeatDue()]
    assert lost_code(session.timer(NOW + 7)) is Code.LINK_LOST
    assert session.closed
    assert session.deadline is None
    assert session.timer(NOW + 99) == []
    assert hear(session, ApplierHeartbeat(sent_at=0.0)) == []


def test_an_applier_that_takes_its_time_keeps_a_greeting_alive_by_heartbeats() -> None:
    session = greeting()
    later = NOW + WELCOME_TIMEOUT_SECONDS - 1
    assert hear(session, ApplierHeartbeat(sent_at=0.0), later) == []
    assert session.timer(NOW + WELCOME_TIMEOUT_SECONDS) == []
    assert lost_code(session.timer(later + WELCOME_TIMEOUT_SECONDS)) is Code.LINK_LOST


def test_a_refusal_is_passed_on_with_its_code_and_hint() -> None:
    session = greeting()
    refuse = Refuse(code="instance-busy", what="w", hint="h", retryable=True)
    (output,) = hear(session, refuse)
    assert isinstance(output, Refused)
    assert output.error.as_dict() == {
        "code": "instance-busy",
        "what": "w",
        "hint": "h",
        "retryable": True,
    }
    assert session.closed


def test_a_refusal_with_a_code_of_a_newer_applier_is_still_told() -> None:
    (output,) = hear(opened(), Refuse(code="moon-phase", what="w", hint="", retryable=False))
    assert isinstance(output, Refused)
    assert output.error.code is Code.INTERNAL
    assert "moon-phase" in output.error.what


@pytest.mark.parametrize("session", [greeting(), opened()], ids=["greeting", "open"])
def test_a_fence_ends_the_session(session: ShipperSession) -> None:
    assert hear(session, Fenced(at=1.5, timeline=2, lsn=7)) == [FencedOff(1.5, 2, Lsn(7))]
    assert session.closed


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"heartbeat_seconds": 0.0},
        {"heartbeat_seconds": float("nan")},
        {"max_span_bytes": 0},
        {"max_span_bytes": 100, "window_bytes": 99},
    ],
)
def test_a_welcome_that_makes_no_sense_ends_the_link(changes: dict[str, Any]) -> None:
    assert lost_code(hear(greeting(), welcome(**changes))) is Code.BAD_FRAME


@pytest.mark.parametrize(
    "frame", [Ack(timeline=1, received_lsn=1, durable_lsn=1), SeedDone(seed_id="x")]
)
def test_frames_before_the_welcome_end_the_link(frame: Frame) -> None:
    assert lost_code(hear(greeting(), frame)) is Code.BAD_FRAME


def test_a_second_welcome_ends_the_link() -> None:
    assert lost_code(hear(opened(), welcome())) is Code.BAD_FRAME


def test_a_damaged_frame_ends_the_link_and_may_be_tried_again() -> None:
    session = opened()
    head = bytearray(encode(ApplierHeartbeat(sent_at=0.0))[0])
    head[-1] ^= 1
    (output,) = session.receive([bytes(head)], NOW)
    assert isinstance(output, LinkLost)
    assert output.error.code is Code.CHECKSUM_MISMATCH
    assert output.error.retryable


def test_bye_parts_and_nothing_follows() -> None:
    session = opened()
    assert session.bye("stopping") == [Send(Bye(reason="stopping"))]
    assert session.closed
    assert session.bye("again") == []
    with pytest.raises(IllegalTransition):
        session.profile(profile(), NOW)


def test_a_transport_that_ends_is_told_once() -> None:
    session = opened()
    error = LogshipError(Code.LINK_LOST, "x")
    assert session.lost(error) == [LinkLost(error)]
    assert session.lost(error) == []
