"""The applier's account of the WAL of one connection: what comes next, and how much waits."""

from __future__ import annotations

import crc32c

from logship.errors import Code, LogshipError
from logship.frames import MAX_SPAN_BYTES, Payload, ResumeAt, Span, TimelineHistory, Welcome
from logship.link.events import HistoryReceived, SpanReceived
from logship.link.refusals import MAX_REASON_CHARACTERS, bad_frame
from logship.link.windows import SPAN_COST_BYTES, Flight
from logship.lsn import Lsn, Position
from logship.wal import MAX_HISTORY_BYTES, segment_start


class WalInbox:
    """Spans in order and within their window; a ResumeAt that it returns is to be sent.

    Raises LogshipError(BAD_FRAME) for what the protocol does not allow.
    """

    def __init__(self) -> None:
        self.epoch = 0
        """Of the stream: rises whenever what was handed up before is void."""
        self.expected: Position | None = None
        """End of the WAL handed up: where the next span must start; None: no chain yet."""
        self.flight = Flight()
        """What was handed up and not yet reported as received."""
        self.repeated_bytes = 0
        """Of spans that came again and are not handled yet: they stay in memory whatever is
        acknowledged."""
        self._segment_bytes = 0
        self._window_bytes = 0
        self._max_span_bytes = 0
        self._ask_again_seconds = 0.0
        self._asked: ResumeAt | None = None
        self._asked_at = 0.0

    def open(self, welcome: Welcome, segment_bytes: int) -> Position | None:
        """The windows are agreed on.  Returns where the stream goes on; None: with a seed."""
        self._segment_bytes = segment_bytes
        self._window_bytes = welcome.window_bytes
        self._max_span_bytes = min(MAX_SPAN_BYTES, welcome.max_span_bytes)
        self._ask_again_seconds = welcome.heartbeat_seconds
        if welcome.resume_lsn:
            self.expected = Position(welcome.resume_timeline, Lsn(welcome.resume_lsn))
        return self.expected

    def begin_chain(self, timeline: int, start_lsn: int) -> None:
        """A seed begins: its WAL starts with the segment that holds `start_lsn`."""
        self.epoch += 1
        self.expected = Position(timeline, segment_start(start_lsn, self._segment_bytes))
        self._asked = None
        self.flight.clear()

    def take(self, span: Span, payload: Payload, now: float) -> SpanReceived | ResumeAt | None:
        """A span came.  None: it was sent before the shipper heard that it must start again."""
        expected = self.expected
        if expected is None:
            raise bad_frame("WAL before a seed has begun")
        start, end = span.start_lsn, span.start_lsn + span.raw_bytes
        self._check(span, len(payload))
        here = Position(span.timeline, Lsn(start))
        opens_timeline = (
            span.timeline > expected.timeline
            and start % self._segment_bytes == 0
            and start <= expected.lsn
        )
        if here == expected or opens_timeline:
            self._asked = None
            return self._advance(span, payload, start, repeats=False)
        if here > expected:
            return self._ask_again(f"{here} came, {expected} is next", now)
        if self._asked is not None:
            return None
        self.repeated_bytes += span.raw_bytes + SPAN_COST_BYTES
        if self.repeated_bytes > self._window_bytes:
            raise bad_frame("the same WAL over and over")
        if span.timeline == expected.timeline and end > expected.lsn:
            # Only the part beyond what is expected is new.
            return self._advance(span, payload, expected.lsn, repeats=True)
        return SpanReceived(span, payload, repeats=True, epoch=self.epoch)

    def _check(self, span: Span, payload_bytes: int) -> None:
        limit = self._max_span_bytes
        if not 1 <= span.raw_bytes <= limit or payload_bytes == 0:
            raise bad_frame(f"a span of {span.raw_bytes} bytes, 1 to {limit} are allowed")
        if payload_bytes > span.raw_bytes:
            raise bad_frame(f"{payload_bytes} bytes for a span of {span.raw_bytes}")
        if span.timeline < 1:
            raise bad_frame(f"WAL of timeline {span.timeline}")
        last = span.start_lsn + span.raw_bytes - 1
        if segment_start(last, self._segment_bytes) > span.start_lsn:
            raise bad_frame(f"span {Lsn(span.start_lsn)} to {Lsn(last)} crosses a segment's end")

    def _advance(
        self, span: Span, payload: Payload, start_lsn: int, *, repeats: bool
    ) -> SpanReceived:
        end = Lsn(span.start_lsn + span.raw_bytes)
        ahead_bytes = self.flight.size_bytes + end - start_lsn + SPAN_COST_BYTES
        if ahead_bytes > self._window_bytes:
            raise bad_frame(f"{ahead_bytes} bytes sent ahead, {self._window_bytes} are allowed")
        self.flight.add(span.timeline, start_lsn, end)
        self.expected = Position(span.timeline, end)
        return SpanReceived(span, payload, repeats=repeats, epoch=self.epoch)

    def handled(self, received: SpanReceived) -> None:
        """The caller is done with it: used, failed or dropped."""
        if received.repeats:
            self.repeated_bytes -= received.span.raw_bytes + SPAN_COST_BYTES

    def sent(self, up_to: Position, now: float) -> ResumeAt | None:
        """The shipper says how far it has sent."""
        if self.expected is None or up_to <= self.expected:
            return None
        return self._ask_again(f"{up_to} was sent, {self.expected} is next", now)

    def resume_at(self, position: Position, why: str, now: float, *, beyond: bool) -> ResumeAt:
        """Have the stream again from `position`.

        beyond: it may go on behind what is expected.  Else raises ValueError if it would.
        """
        if self.expected is None or (position > self.expected and not beyond):
            raise ValueError(f"{position} was never reached, {self.expected} is next")
        self.epoch += 1
        self.flight.cut(position)
        self.expected = position
        why = why[:MAX_REASON_CHARACTERS]
        self._asked = ResumeAt(timeline=position.timeline, lsn=position.lsn, why=why)
        self._asked_at = now
        return self._asked

    def _ask_again(self, why: str, now: float) -> ResumeAt | None:
        """Something is missing before what came.  Said once, and again each heartbeat's time
        while it goes unheeded."""
        assert self.expected is not None
        if self._asked is None:
            timeline, lsn = self.expected
            self._asked = ResumeAt(timeline=timeline, lsn=lsn, why=why)
        elif now < self._asked_at + self._ask_again_seconds:
            return None
        self._asked_at = now
        return self._asked


def history_of(frame: TimelineHistory, payload: Payload) -> HistoryReceived:
    """A history that came whole.  Raises LogshipError(BAD_FRAME, CHECKSUM_MISMATCH)."""
    if len(payload) > MAX_HISTORY_BYTES:
        raise bad_frame(f"a history of {len(payload)} bytes, {MAX_HISTORY_BYTES} at most")
    if crc32c.crc32c(payload) != frame.crc32c:
        raise LogshipError(
            Code.CHECKSUM_MISMATCH,
            f"the history of timeline {frame.timeline} does not match its CRC-32C",
            "nothing of it was stored, it will be sent again on a new connection",
            retryable=True,
        )
    return HistoryReceived(frame.timeline, bytes(payload))
