"""ApplierSession, as transcripts: what arrives, then what must come back."""

from __future__ import annotations

import crc32c
import msgspec
import pytest

from logship.errors import Code, LogshipError
from logship.frames import (
    Ack,
    ApplierHeartbeat,
    Bye,
    Fenced,
    Frame,
    GapFound,
    Payload,
    ProfileChanged,
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
    encode,
)
from logship.link.acks import ACK_DELAY_SECONDS
from logship.link.applier_session import (
    DECIDING_HEARTBEAT_SECONDS,
    HELLO_TIMEOUT_SECONDS,
    MAX_WAITING_FRAMES,
    ApplierSession,
)
from logship.link.events import (
    ApplierOutput,
    GapReported,
    Greeted,
    HeartbeatDue,
    HistoryReceived,
    LinkLost,
    PeerLeft,
    PeerRefused,
    PrimaryHeard,
    ProfileReceived,
    SeedBegun,
    SeedChunkReceived,
    SeedEnded,
    SeedStopped,
    Send,
    SpanReceived,
)
from logship.link.states import IllegalTransition
from logship.wal import MAX_HISTORY_BYTES
from tests.support.link_frames import (
    SEGMENT_BYTES,
    at,
    hello,
    profile,
    sealed_wal,
    span_frame,
    welcome,
)

S = SEGMENT_BYTES
NOW = 1000.0
DAMAGED = LogshipError(Code.CHECKSUM_MISMATCH, "damaged", retryable=True)
WRONG = LogshipError(Code.WAL_CONFLICT, "other bytes")


def hear(
    session: ApplierSession, frame: Frame, payload: Payload | None = None, now: float = NOW
) -> list[ApplierOutput]:
    return session.receive([bytes(part) for part in encode(frame, payload)], now)


def opened(**changes: object) -> ApplierSession:
    session = ApplierSession(now=NOW)
    assert hear(session, hello()) == [Greeted(hello(), 1)]
    session.welcome(welcome(**changes), NOW)
    return session


def hear_wal(
    session: ApplierSession, start: int, size_bytes: int, timeline: int = 1, now: float = NOW
) -> list[ApplierOutput]:
    frame = span_frame(timeline, start, size_bytes)
    return hear(session, frame, sealed_wal(timeline, start, size_bytes).payload, now)


def handed_up(outputs: list[ApplierOutput]) -> SpanReceived:
    (output,) = outputs
    assert isinstance(output, SpanReceived)
    return output


def refused_code(outputs: list[ApplierOutput]) -> Code:
    send, refused = outputs
    assert isinstance(send, Send)
    assert isinstance(send.frame, Refuse)
    assert isinstance(refused, PeerRefused)
    assert send.frame.code == refused.error.code
    return refused.error.code


# --- the hello ----------------------------------------------------------------------------


def test_nothing_is_accepted_before_a_hello() -> None:
    session = ApplierSession(now=NOW)
    assert refused_code(hear_wal(session, S, 10)) is Code.BAD_FRAME
    assert session.closed
    assert hear(session, hello()) == []


def test_nothing_is_accepted_between_hello_and_welcome() -> None:
    session = ApplierSession(now=NOW)
    hear(session, hello())
    assert refused_code(hear_wal(session, S, 10)) is Code.BAD_FRAME


def test_a_second_hello_is_refused() -> None:
    assert refused_code(hear(opened(), hello())) is Code.BAD_FRAME


def test_the_highest_common_version_is_chosen() -> None:
    session = ApplierSession(now=NOW, versions=(3, 4))
    frame = hello(version_min=2, version_max=3)
    assert hear(session, frame) == [Greeted(frame, 3)]
    (send,) = session.welcome(welcome(), NOW)
    assert isinstance(send, Send)
    assert send.frame == welcome(version=3)


@pytest.mark.parametrize(("low", "high", "who"), [(1, 2, "shipper"), (5, 9, "applier"), (4, 3, "")])
def test_no_common_version_names_both_ranges_and_who_must_upgrade(
    low: int, high: int, who: str
) -> None:
    session = ApplierSession(now=NOW, versions=(3, 4))
    outputs = hear(session, hello(version_min=low, version_max=high))
    assert refused_code(outputs) is Code.VERSION_MISMATCH
    error = outputs[1].error  # type: ignore[union-attr]
    assert f"{low} to {high}" in error.what
    assert "3 to 4" in error.what
    assert who in error.hint


def test_a_hello_of_the_far_future_gets_the_version_answer_though_it_cant_be_read() -> None:
    class Future(msgspec.Struct, tag_field="t", tag="hello"):
        version_min: int = 50
        version_max: int = 51
        instance: dict[str, int] = msgspec.field(default_factory=dict)

    session = ApplierSession(now=NOW)
    outputs = hear(session, Future())  # type: ignore[arg-type]
    assert refused_code(outputs) is Code.VERSION_MISMATCH


def test_a_segment_size_that_postgresql_cant_have_is_refused() -> None:
    frame = hello(profile=profile(wal_segment_size=12345))
    assert refused_code(hear(ApplierSession(now=NOW), frame)) is Code.BAD_FRAME


def test_deciding_sends_heartbeats_and_can_refuse() -> None:
    session = ApplierSession(now=NOW)
    hear(session, hello())
    assert session.deadline == NOW + DECIDING_HEARTBEAT_SECONDS
    later = NOW + DECIDING_HEARTBEAT_SECONDS
    assert session.timer(later) == [HeartbeatDue()]
    assert session.heartbeat(7.0, later) == [Send(ApplierHeartbeat(sent_at=7.0))]
    assert session.timer(NOW + 3600)[0] == HeartbeatDue()  # the shipper is silent, as it must be
    (send,) = session.refuse(LogshipError(Code.INSTANCE_BUSY, "w", "h", retryable=True))
    assert send == Send(Refuse(code="instance-busy", what="w", hint="h", retryable=True))
    assert session.closed
    assert session.refuse(WRONG) == []


def test_a_hello_can_be_answered_with_the_fence() -> None:
    session = ApplierSession(now=NOW)
    hear(session, hello())
    assert session.fence(1.0, 2, 3) == [Send(Fenced(at=1.0, timeline=2, lsn=3))]
    assert session.closed


def test_a_connection_that_never_says_hello_is_given_up() -> None:
    (output,) = ApplierSession(now=NOW).timer(NOW + HELLO_TIMEOUT_SECONDS)
    assert isinstance(output, LinkLost)


# --- WAL ----------------------------------------------------------------------------------


def test_spans_in_order_are_handed_up() -> None:
    session = opened()
    first = handed_up(hear_wal(session, S, 100))
    assert (first.repeats, first.epoch) == (False, 0)
    assert session.expected == at(1, S + 100)
    assert not handed_up(hear_wal(session, S + 100, 50)).repeats
    assert session.in_flight_bytes == 150


def test_a_hole_asks_once_and_drops_until_the_stream_restarts_there() -> None:
    session = opened()
    hear_wal(session, S, 100)
    (send,) = hear_wal(session, S + 200, 100)
    assert isinstance(send, Send)
    assert isinstance(send.frame, ResumeAt)
    assert (send.frame.timeline, send.frame.lsn) == (1, S + 100)
    assert hear_wal(session, S + 300, 100) == []
    handed_up(hear_wal(session, S + 100, 100))
    # Heeded: the next hole asks again.
    assert len(hear_wal(session, S + 900, 100)) == 1


def test_a_hole_that_goes_unheeded_is_asked_for_again_after_a_heartbeats_time() -> None:
    session = opened()
    hear_wal(session, S + 200, 100)
    assert hear_wal(session, S + 300, 100, now=NOW + 1.9) == []
    assert len(hear_wal(session, S + 300, 100, now=NOW + 2)) == 1


def test_what_repeats_is_handed_up_for_comparison() -> None:
    session = opened()
    hear_wal(session, S, 100)
    assert handed_up(hear_wal(session, S, 100)).repeats
    assert session.expected == at(1, S + 100)
    assert session.in_flight_bytes == 100
    partly = handed_up(hear_wal(session, S + 50, 100))
    assert partly.repeats
    assert session.expected == at(1, S + 150)
    assert session.in_flight_bytes == 150


def test_endless_repeats_are_refused() -> None:
    session = opened(window_bytes=1512, max_span_bytes=500)
    hear_wal(session, S, 500)
    for applied in range(2):
        handed_up(hear_wal(session, S, 500))
        # What the standby does frees nothing of what still waits to be compared.
        session.ack(at(1, S + 500), at(1, S + 500), applied, NOW)
    assert refused_code(hear_wal(session, S, 500)) is Code.BAD_FRAME


def test_repeats_that_were_handled_count_no_more() -> None:
    session = opened(window_bytes=1512, max_span_bytes=500)
    hear_wal(session, S, 500)
    for _ in range(9):
        session.handled(handed_up(hear_wal(session, S, 500)))
    assert not session.closed


def test_small_spans_cost_window_beside_their_bytes() -> None:
    session = opened(window_bytes=2580, max_span_bytes=600)
    for number in range(10):
        handed_up(hear_wal(session, S + 2 * number, 2))
    session.ack(at(1, S + 2), None, 0, NOW)
    handed_up(hear_wal(session, S + 20, 2))
    assert session.in_flight_bytes == 20
    assert refused_code(hear_wal(session, S + 22, 2)) is Code.BAD_FRAME


def test_frames_without_a_window_may_wait_only_so_many_at_a_time() -> None:
    session = opened()
    history = b"1\t0/100000\tx\n"
    frames: list[tuple[Frame, Payload | None]] = [
        (ProfileChanged(profile=profile()), None),
        (TimelineHistory(timeline=2, crc32c=crc32c.crc32c(history)), history),
        (GapFound(timeline=1, from_lsn=S, available_lsn=0, code="wal-removed", what="x"), None),
        (SeedAborted(seed_id="s", code="seed-failed", what="x"), None),
    ]
    for _ in range(3):
        waiting = [hear(session, *frames[number % 4])[0] for number in range(MAX_WAITING_FRAMES)]
        for output in waiting:
            session.handled(output)
    for number in range(MAX_WAITING_FRAMES):
        hear(session, *frames[number % 4])
    _, refused = hear(session, *frames[0])
    assert isinstance(refused, PeerRefused)
    assert refused.error.code is Code.BAD_FRAME
    assert refused.error.retryable


def test_a_history_larger_than_any_is_refused() -> None:
    content = b"#" * (MAX_HISTORY_BYTES + 1)
    frame = TimelineHistory(timeline=2, crc32c=crc32c.crc32c(content))
    assert refused_code(hear(opened(), frame, content)) is Code.BAD_FRAME


def test_more_than_the_window_is_refused() -> None:
    session = opened(window_bytes=1512, max_span_bytes=600)
    hear_wal(session, S, 600)
    assert refused_code(hear_wal(session, S + 600, 401)) is Code.BAD_FRAME


def test_the_window_opens_with_what_the_store_has_received() -> None:
    session = opened(window_bytes=1000, max_span_bytes=600)
    hear_wal(session, S, 600)
    session.ack(at(1, S + 600), None, 0, NOW)
    handed_up(hear_wal(session, S + 600, 600))


@pytest.mark.parametrize(
    "frame",
    [
        span_frame(1, S, 10, raw_bytes=0),
        span_frame(1, S, 10, raw_bytes=20_000),
        span_frame(1, S, 10, raw_bytes=9),  # payload larger than what it unpacks to
        span_frame(0, S, 10),
        span_frame(1, 2 * S - 9, 10),
    ],
)
def test_a_span_that_contradicts_itself_is_refused(frame: Span) -> None:
    payload = sealed_wal(1, S, 10).payload
    assert refused_code(hear(opened(), frame, payload)) is Code.BAD_FRAME


def test_a_span_without_its_payload_is_refused() -> None:
    assert refused_code(hear(opened(), span_frame(1, S, 10))) is Code.BAD_FRAME


def test_wal_before_any_seed_is_refused() -> None:
    session = opened(resume_lsn=0, resume_timeline=0)
    assert refused_code(hear_wal(session, S, 10)) is Code.BAD_FRAME


def test_a_new_timeline_starts_at_a_segment_at_or_below_what_is_here() -> None:
    session = opened(resume_lsn=S + 500)
    assert not handed_up(hear_wal(session, S, 700, timeline=2)).repeats
    assert session.expected == at(2, S + 700)


def test_a_new_timeline_beyond_what_is_here_is_a_hole() -> None:
    session = opened(resume_lsn=S + 500)
    (send,) = hear_wal(session, 2 * S, 700, timeline=2)
    assert isinstance(send, Send)
    assert isinstance(send.frame, ResumeAt)
    assert (send.frame.timeline, send.frame.lsn) == (1, S + 500)


def test_a_damaged_span_is_asked_for_again_and_what_followed_is_void() -> None:
    session = opened()
    first = handed_up(hear_wal(session, S, 100))
    second = handed_up(hear_wal(session, S + 100, 100))
    (send,) = session.span_failed(first, DAMAGED, NOW)
    assert isinstance(send, Send)
    assert send.frame == ResumeAt(timeline=1, lsn=S, why="damaged")
    assert second.epoch != session.epoch
    assert session.in_flight_bytes == 0
    assert session.span_failed(second, DAMAGED, NOW) == []
    assert hear_wal(session, S + 200, 100) == []
    assert handed_up(hear_wal(session, S, 100)).epoch == session.epoch


def test_a_span_that_can_never_be_right_refuses_the_peer() -> None:
    session = opened()
    span = handed_up(hear_wal(session, S, 100))
    after = handed_up(hear_wal(session, S + 100, 100))
    assert refused_code(session.span_failed(span, WRONG, NOW)) is Code.WAL_CONFLICT
    assert after.epoch != session.epoch
    assert session.span_failed(span, WRONG, NOW) == []


def test_what_followed_a_damaged_span_is_void_though_the_peer_is_gone() -> None:
    session = opened()
    first = handed_up(hear_wal(session, S, 100))
    second = handed_up(hear_wal(session, S + 100, 100))
    session.lost(LogshipError(Code.LINK_LOST, "gone"))
    assert first.epoch == session.epoch
    assert session.span_failed(first, DAMAGED, NOW) == []
    assert second.epoch != session.epoch


def test_a_damaged_span_of_the_chain_before_does_not_set_a_seeds_back() -> None:
    session = opened()
    before = handed_up(hear_wal(session, S, 100))
    hear(session, BEGIN)
    assert session.span_failed(before, DAMAGED, NOW) == []
    assert session.expected == at(1, 3 * S)
    handed_up(hear_wal(session, 3 * S, 100))


def test_setting_the_stream_ahead_is_the_callers_bug() -> None:
    with pytest.raises(ValueError, match="never reached"):
        opened().resume_at(at(1, S + 1), "", NOW)


def test_what_came_by_another_road_lets_the_peer_go_on_behind_it() -> None:
    session = opened()
    hear_wal(session, S, 100)
    (send,) = session.resume_at(at(1, 3 * S + 7), "it is here", NOW, beyond=True)
    assert isinstance(send, Send)
    assert send.frame == ResumeAt(timeline=1, lsn=3 * S + 7, why="it is here")
    assert hear_wal(session, S + 100, 50) == [], "sent before it heard that"
    assert handed_up(hear_wal(session, 3 * S + 7, 50)).epoch == session.epoch
    (acked,) = session.ack(at(1, 3 * S + 57), at(1, 3 * S + 57), 0, NOW)
    assert isinstance(acked, Send)
    assert isinstance(acked.frame, Ack) and acked.frame.durable_lsn == 3 * S + 57


def test_a_lost_last_span_is_noticed_by_the_heartbeat() -> None:
    session = opened()
    beat = ShipperHeartbeat(timeline=1, flush_lsn=0, sent_at=0.0, sent_timeline=1, sent_lsn=S + 10)
    heard, send = hear(session, beat)
    assert heard == PrimaryHeard(beat)
    assert isinstance(send, Send)
    assert isinstance(send.frame, ResumeAt)
    assert send.frame.lsn == S


# --- acks ---------------------------------------------------------------------------------


def test_durable_progress_is_acked_at_once() -> None:
    session = opened()
    hear_wal(session, S, 100)
    assert session.ack(at(1, S + 100), at(1, S + 60), 9, NOW) == [
        Send(Ack(timeline=1, received_lsn=S + 100, durable_lsn=S + 60, applied_lsn=9))
    ]
    assert session.ack(at(1, S + 100), at(1, S + 60), 9, NOW) == []


def test_lesser_news_waits_a_little_and_joins_what_follows() -> None:
    session = opened()
    hear_wal(session, S, 100)
    assert session.ack(at(1, S + 50), at(1, S), 0, NOW) == []
    assert session.ack(at(1, S + 90), at(1, S), 8, NOW) == []
    assert session.deadline == NOW + ACK_DELAY_SECONDS
    assert session.timer(NOW + ACK_DELAY_SECONDS) == [
        Send(Ack(timeline=1, received_lsn=S + 90, durable_lsn=S, applied_lsn=8))
    ]
    assert session.timer(NOW + ACK_DELAY_SECONDS) == []


def test_a_quarter_of_the_window_is_freed_at_once() -> None:
    session = opened(window_bytes=2000, max_span_bytes=1000)
    hear_wal(session, S, 1000)
    assert session.ack(at(1, S + 499), at(1, S), 0, NOW) == []
    assert len(session.ack(at(1, S + 500), at(1, S), 0, NOW)) == 1


def test_positions_are_never_acked_beyond_what_this_connection_brought() -> None:
    session = opened()
    hear_wal(session, S, 100)
    # The store holds more, from a connection before this one.
    (send,) = session.ack(at(1, S + 900), at(1, S + 900), 0, NOW)
    assert send == Send(Ack(timeline=1, received_lsn=S + 100, durable_lsn=S + 100))


def test_positions_never_fall() -> None:
    session = opened()
    hear_wal(session, S, 100)
    session.ack(at(1, S + 100), at(1, S + 100), 0, NOW)
    assert session.ack(at(1, S + 10), at(1, S + 10), 0, NOW + 1) == []


def test_durable_on_the_old_timeline_is_told_before_received_on_the_new() -> None:
    session = opened(resume_lsn=S + 500)
    hear_wal(session, S + 500, 100)
    hear_wal(session, S, 700, timeline=2)
    assert session.ack(at(2, S + 700), at(1, S + 600), 0, NOW) == [
        Send(Ack(timeline=1, received_lsn=S + 600, durable_lsn=S + 600)),
        Send(Ack(timeline=2, received_lsn=S + 700, durable_lsn=0)),
    ]
    assert session.ack(at(2, S + 700), at(2, S + 700), 0, NOW) == [
        Send(Ack(timeline=2, received_lsn=S + 700, durable_lsn=S + 700))
    ]


def test_nothing_is_acked_before_the_welcome_or_after_the_end() -> None:
    session = ApplierSession(now=NOW)
    assert session.ack(at(1, S), at(1, S), 0, NOW) == []
    session = opened()
    session.refuse(WRONG)
    assert session.ack(at(1, S), at(1, S), 5, NOW) == []


def test_heartbeats_repeat_the_last_ack() -> None:
    session = opened()
    hear_wal(session, S, 100)
    session.ack(at(1, S + 100), at(1, S + 100), 0, NOW)
    last = Send(Ack(timeline=1, received_lsn=S + 100, durable_lsn=S + 100))
    assert session.timer(NOW + 2) == [HeartbeatDue()]
    assert session.heartbeat(1.0, NOW + 2) == [last]
    assert session.deadline == NOW + 4


def test_where_there_is_nothing_to_repeat_a_heartbeat_says_that_we_live() -> None:
    session = opened(resume_timeline=0, resume_lsn=0)
    assert session.heartbeat(1.0, NOW + 2) == [Send(ApplierHeartbeat(sent_at=1.0))]
    assert session.deadline == NOW + 4


def test_silence_for_three_heartbeats_is_loss() -> None:
    session = opened()
    session.timer(NOW + 5)
    (output,) = session.timer(NOW + 6)
    assert isinstance(output, LinkLost)
    assert output.error.code is Code.LINK_LOST
    assert session.deadline is None


# --- the rest -----------------------------------------------------------------------------


def test_histories_profiles_gaps_and_byes_are_handed_up() -> None:
    import crc32c

    session = opened()
    history = TimelineHistory(timeline=2, crc32c=crc32c.crc32c(b"h"))
    assert hear(session, history, b"h") == [HistoryReceived(2, b"h")]
    assert hear(session, ProfileChanged(profile=profile())) == [ProfileReceived(profile())]
    gap = GapFound(timeline=1, from_lsn=1, available_lsn=2, code="slot-lost", what="w")
    assert hear(session, gap) == [GapReported(gap)]
    assert hear(session, Bye(reason="stop")) == [PeerLeft("stop")]
    assert session.closed


def test_a_damaged_history_ends_the_connection_which_brings_it_again() -> None:
    outputs = hear(opened(), TimelineHistory(timeline=2, crc32c=1), b"h")
    assert refused_code(outputs) is Code.CHECKSUM_MISMATCH
    assert outputs[1].error.retryable  # type: ignore[union-attr]


def test_a_damaged_head_ends_the_connection_which_brings_it_again() -> None:
    session = opened()
    head = bytearray(encode(Bye(reason="stop"))[0])
    head[6] ^= 4
    assert refused_code(session.receive([bytes(head)], NOW)) is Code.CHECKSUM_MISMATCH


def test_a_fence_ends_an_open_session_and_nothing_is_heard_after_it() -> None:
    session = opened()
    assert session.fence(1.0, 2, 3) == [Send(Fenced(at=1.0, timeline=2, lsn=3))]
    assert hear_wal(session, S, 10) == []
    assert session.fence(1.0, 2, 3) == []


def test_sending_before_the_welcome_is_the_callers_bug() -> None:
    session = ApplierSession(now=NOW)
    with pytest.raises(IllegalTransition):
        session.seed_request("", NOW)
    with pytest.raises(IllegalTransition):
        session.welcome(welcome(), NOW)


# --- the seed -----------------------------------------------------------------------------

BEGIN = SeedBegin(seed_id="s1", timeline=1, start_lsn=3 * S + 40, estimated_bytes=0)


def chunk(sequence: int) -> SeedChunk:
    return SeedChunk(seed_id="s1", sequence=sequence, kind="data", raw_bytes=3)


def hear_chunk(session: ApplierSession, sequence: int) -> SeedChunkReceived:
    (output,) = hear(session, chunk(sequence), b"abc")
    assert isinstance(output, SeedChunkReceived)
    return output


def seeding() -> ApplierSession:
    session = opened()
    assert hear(session, BEGIN) == [SeedBegun(BEGIN)]
    return session


def test_a_seed_sets_the_stream_to_its_segment_and_holds_acks_until_the_chain_has_begun() -> None:
    session = seeding()
    assert session.expected == at(1, 3 * S)
    assert session.epoch == 1
    handed_up(hear_wal(session, 3 * S, 100))
    assert session.ack(at(1, S + 9999), at(1, S + 9999), 0, NOW) == []
    assert session.heartbeat(0.0, NOW) == [Send(ApplierHeartbeat(sent_at=0.0))]
    assert session.seed_ack("s1", 0, NOW) == [Send(SeedAck(seed_id="s1", next_sequence=0))]
    assert session.ack(at(1, 3 * S + 100), at(1, 3 * S + 100), 0, NOW) == [
        Send(Ack(timeline=1, received_lsn=3 * S + 100, durable_lsn=3 * S + 100))
    ]


def test_chunks_come_up_in_order_once() -> None:
    session = seeding()
    epoch = session.seed_epoch
    assert hear(session, chunk(0), b"abc") == [SeedChunkReceived(chunk(0), b"abc", epoch)]
    assert hear(session, chunk(0), b"abc") == []
    (send,) = hear(session, chunk(2), b"abc")
    assert send == Send(SeedAck(seed_id="s1", next_sequence=1, resend=True))
    assert hear(session, chunk(3), b"abc") == []
    assert hear(session, chunk(1), b"abc") == [SeedChunkReceived(chunk(1), b"abc", epoch)]
    end = SeedEnd(seed_id="s1", sequence=2, timeline=1, end_lsn=1)
    assert hear(session, end) == [SeedEnded(end, session.seed_epoch)]
    assert session.seed_ack("s1", 3, NOW) == [Send(SeedAck(seed_id="s1", next_sequence=3))]
    assert session.seed_done("s1", NOW) == [Send(SeedDone(seed_id="s1"))]


def test_a_damaged_chunk_is_asked_for_again_and_what_followed_is_void() -> None:
    session = seeding()
    before = session.seed_epoch
    _, second, third = (hear_chunk(session, sequence) for sequence in range(3))
    assert session.chunk_failed(second, DAMAGED, NOW) == [
        Send(SeedAck(seed_id="s1", next_sequence=1, resend=True))
    ]
    assert session.seed_epoch == before + 1
    assert session.chunk_failed(third, DAMAGED, NOW) == []
    (again,) = hear(session, chunk(1), b"abc")
    assert again == SeedChunkReceived(chunk(1), b"abc", before + 1)


def test_a_chunk_that_can_never_be_right_refuses_the_peer() -> None:
    session = seeding()
    first, second = hear_chunk(session, 0), hear_chunk(session, 1)
    error = LogshipError(Code.BAD_TAR, "x")
    assert refused_code(session.chunk_failed(first, error, NOW)) is Code.BAD_TAR
    assert second.epoch != session.seed_epoch


def test_what_followed_a_damaged_chunk_is_void_though_the_peer_is_gone() -> None:
    session = seeding()
    first, second = hear_chunk(session, 0), hear_chunk(session, 1)
    session.lost(LogshipError(Code.LINK_LOST, "gone"))
    assert first.epoch == session.seed_epoch
    assert session.chunk_failed(first, DAMAGED, NOW) == []
    assert second.epoch != session.seed_epoch


def test_a_seed_that_comes_twice_begins_once() -> None:
    session = seeding()
    assert hear(session, BEGIN) == []
    session.seed_ack("s1", 0, NOW)
    handed_up(hear_wal(session, 3 * S, 100))
    session.seed_done("s1", NOW)
    assert hear(session, BEGIN) == []
    assert session.expected == at(1, 3 * S + 100)


def test_a_seed_has_a_name() -> None:
    begin = SeedBegin(seed_id="", timeline=1, start_lsn=3 * S, estimated_bytes=0)
    assert refused_code(hear(opened(), begin)) is Code.BAD_FRAME
    nameless = SeedChunk(seed_id="", sequence=0, kind="data", raw_bytes=3)
    assert refused_code(hear(opened(), nameless, b"abc")) is Code.BAD_FRAME


def test_acking_chunks_that_never_came_is_the_callers_bug() -> None:
    with pytest.raises(ValueError, match="acked"):
        seeding().seed_ack("s1", 1, NOW)


def test_a_seed_beyond_its_window_is_refused() -> None:
    session = seeding()
    big = bytes(8 * 1024 * 1024)
    for sequence in range(2):
        hear(session, chunk(sequence), big)
    assert len(hear(session, chunk(2), big[:-4096])) == 1
    assert refused_code(hear(session, chunk(3), big)) is Code.BAD_FRAME


def test_a_seed_given_up_by_either_side_is_forgotten() -> None:
    session = seeding()
    aborted = SeedAborted(seed_id="s1", code="seed-failed", what="w")
    assert hear(session, aborted) == [SeedStopped("s1", "seed-failed", "w")]
    assert hear(session, chunk(0), b"abc") == []
    # The chain was begun all the same, and acks go on once the caller says so.
    assert session.seed_ack("s1", 0, NOW) == [Send(SeedAck(seed_id="s1", next_sequence=0))]
    hear(session, BEGIN)
    assert session.seed_abort("s1", LogshipError(Code.BAD_TAR, "w"), NOW) == [
        Send(SeedAborted(seed_id="s1", code="bad-tar", what="w"))
    ]
    assert session.seed_request("again", NOW) == [Send(SeedRequest(why="again"))]


def test_a_seed_goes_on_after_a_cut_where_the_welcome_says() -> None:
    session = opened(seed_id="s1", seed_sequence=5)
    assert hear(session, chunk(4), b"abc") == []
    assert len(hear(session, chunk(5), b"abc")) == 1


def test_a_lost_last_chunk_is_noticed_by_the_heartbeat() -> None:
    session = seeding()
    beat = ShipperHeartbeat(timeline=1, flush_lsn=0, sent_at=0.0, seed_id="s1", seed_sequence=1)
    assert hear(session, beat)[1] == Send(SeedAck(seed_id="s1", next_sequence=0, resend=True))


def test_a_repeated_begin_does_not_begin_the_chain_twice() -> None:
    session = seeding()
    hear(session, chunk(0), b"abc")
    assert hear(session, BEGIN) == []
    assert len(hear(session, chunk(1), b"abc")) == 1


def test_a_chunk_of_a_seed_whose_begin_was_lost_ends_the_connection() -> None:
    outputs = hear(opened(), chunk(0), b"abc")
    assert refused_code(outputs) is Code.BAD_FRAME
    assert outputs[1].error.retryable  # type: ignore[union-attr]
