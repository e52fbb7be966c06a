"""Byte windows: how much may be on the way, WAL and seed apart.

The WAL window counts raw bytes, and SPAN_COST_BYTES for each span, from the moment they are
sent until the applier acknowledges them as received (written to its store, not yet durable).
Both ends keep the same account, the applier to refuse a peer that ignores it.

The seed window counts payload bytes of chunks that the applier has not finished with; the
chunks themselves are kept, so that a seed, unlike WAL, can be sent again after a cut
without asking the primary for it.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from logship.frames import (
    SEED_WINDOW_BYTES,
    Payload,
    SeedBegin,
    SeedChunk,
    SeedEnd,
)
from logship.lsn import Position

SEED_ITEM_COST_BYTES: Final = 256
"""What a chunk counts beside its payload, so that empty ones are bounded too."""

SPAN_COST_BYTES: Final = 256
"""What a span counts beside its raw bytes, so that a flood of small ones is bounded too."""

SeedItem = tuple[SeedBegin | SeedChunk | SeedEnd, Payload | None]


class Flight:
    """Spans on the way, in sending order."""

    __slots__ = ("_spans", "size_bytes", "wal_bytes")

    def __init__(self) -> None:
        self._spans: deque[tuple[int, int, int]] = deque()  # timeline, start, end
        self.wal_bytes = 0
        """Raw bytes on the way."""
        self.size_bytes = 0
        """What they take of the window: the raw bytes, and each span's cost until all of it
        has arrived."""

    def add(self, timeline: int, start: int, end: int) -> None:
        self._count(end - start, 1)
        self._spans.append((timeline, start, end))

    def _count(self, wal_bytes: int, spans: int) -> None:
        self.wal_bytes += wal_bytes
        self.size_bytes += wal_bytes + spans * SPAN_COST_BYTES

    def settle(self, position: Position) -> None:
        """Everything up to `position` has arrived; that includes all older timelines."""
        while self._spans and self._spans[0][:2] < position:
            timeline, start, end = self._spans.popleft()
            if timeline == position.timeline and end > position.lsn:
                self._spans.appendleft((timeline, position.lsn, end))
                self._count(start - position.lsn, 0)
            else:
                self._count(start - end, -1)

    def cut(self, position: Position) -> None:
        """Everything from `position` on is lost and no longer on the way."""
        while self._spans and (self._spans[-1][0], self._spans[-1][2]) > position:
            timeline, start, end = self._spans.pop()
            if timeline == position.timeline and start < position.lsn:
                self._spans.append((timeline, start, position.lsn))
                self._count(position.lsn - end, 0)
            else:
                self._count(start - end, -1)

    def clear(self) -> None:
        self._spans.clear()
        self.wal_bytes = self.size_bytes = 0


def seed_item_cost(payload: Payload | None) -> int:
    """Bytes that one seed chunk takes of the seed window."""
    return SEED_ITEM_COST_BYTES + (0 if payload is None else len(payload))


class SeedOutbox:
    """The part of a seed that was read from the primary and not yet acknowledged.

    Outlives sessions: one per seed, kept by whoever reads the base backup.  Add only while
    `room_bytes` is positive (the last chunk may overdraw it by its own size).
    """

    def __init__(self, begin: SeedBegin, *, window_bytes: int = SEED_WINDOW_BYTES) -> None:
        self.begin = begin
        self.next_sequence = 0
        """The sequence that the next chunk (or the end) must carry."""
        self._window_bytes = window_bytes
        self._items: deque[tuple[SeedChunk | SeedEnd, Payload | None]] = deque()
        self._size_bytes = 0

    @property
    def acked_sequence(self) -> int:
        """Everything below this is with the applier for good."""
        return self.next_sequence - len(self._items)

    @property
    def room_bytes(self) -> int:
        return self._window_bytes - self._size_bytes

    def add(self, item: SeedChunk | SeedEnd, payload: Payload | None = None) -> None:
        """Keep the next chunk, or the end.  Raises ValueError out of order or for another seed."""
        if item.seed_id != self.begin.seed_id or item.sequence != self.next_sequence:
            raise ValueError(
                f"chunk {item.sequence} of seed {item.seed_id}; "
                f"{self.next_sequence} of {self.begin.seed_id} is next"
            )
        self._items.append((item, payload))
        self._size_bytes += seed_item_cost(payload)
        self.next_sequence += 1

    def acked(self, next_sequence: int) -> None:
        """Forget what lies below `next_sequence`.  An old or repeated ack changes nothing;
        one for chunks that were never added raises ValueError."""
        if next_sequence > self.next_sequence:
            raise ValueError(f"chunk {next_sequence - 1} acknowledged before it was sent")
        while self.acked_sequence < next_sequence:
            _, payload = self._items.popleft()
            self._size_bytes -= seed_item_cost(payload)

    def pending_from(self, sequence: int) -> list[tuple[SeedChunk | SeedEnd, Payload | None]]:
        """What must be sent (again) when the applier wants chunk `sequence` next.

        Raises ValueError if that is already forgotten: the seed must be started anew.
        """
        if not self.acked_sequence <= sequence <= self.next_sequence:
            raise ValueError(
                f"chunk {sequence} wanted; only {self.acked_sequence} to "
                f"{self.next_sequence - 1} are kept"
            )
        return [item for item in self._items if item[0].sequence >= sequence]

    def resume(self, seed_id: str, sequence: int) -> list[SeedItem] | None:
        """What continues the seed after a cut, given `seed_id` and `seed_sequence` of the new
        welcome; None if it can't be continued and must be started anew.

        A welcome that names no seed has not heard of it: then it starts again from the
        begin frame, if nothing of it was acknowledged before.
        Send each through the session's `seed`.
        """
        if seed_id == self.begin.seed_id:
            if not self.acked_sequence <= sequence <= self.next_sequence:
                return None
            return list(self.pending_from(sequence))
        if seed_id or self.acked_sequence:
            return None
        return [(self.begin, None), *self._items]
