"""Spans in, objects due: by size, by age, at a segment's end, where the primary changed.

No I/O.  After a crash objects may stand beyond a hole that only acknowledged WAL would have
filled.  Those are met again: the batch before ends where one of them starts, and the one that
starts there has just its size, so it can be compared and adopted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from logship.bucket.keys import Place
from logship.bucket.wal_objects import Head, opened
from logship.lsn import Lsn
from logship.seal import Sealed, seal
from logship.wal import segment_end


class Context(NamedTuple):
    """What is true of the primary while a span is shipped."""

    flush_lsn: int
    flush_timeline: int
    profile: str
    """Its digest."""


class Batch(NamedTuple):
    """Contiguous WAL that is to be one object."""

    place: Place
    spans: tuple[Sealed, ...]
    raw_bytes: int
    context: Context
    existing: Head | None
    """What stands there already, if that is known."""

    @property
    def end(self) -> Place:
        return Place(self.place.timeline, Lsn(self.place.lsn + self.raw_bytes))


class Batches:
    """The batch that is open at the end of one timeline's WAL."""

    def __init__(
        self,
        place: Place,
        *,
        segment_bytes: int,
        max_object_bytes: int,
        max_delay_seconds: float,
        beyond: Mapping[Place, Head] | None = None,
    ) -> None:
        """beyond: objects at or after `place` that are there already."""
        self._segment_bytes = segment_bytes
        self._max_object_bytes = max_object_bytes
        self._max_delay_seconds = max_delay_seconds
        self._beyond = dict(beyond or {})
        self._starts = sorted(each.lsn for each in self._beyond)
        self._start = place
        self._spans: list[Sealed] = []
        self._open_bytes = 0
        self._since = 0.0
        self._context = Context(0, 0, "")

    @property
    def place(self) -> Place:
        """Where the next byte belongs."""
        if not self._open_bytes:
            return self._start
        return Place(self._start.timeline, Lsn(self._start.lsn + self._open_bytes))

    @property
    def deadline(self) -> float | None:
        """When the open batch is due by its age; None while it waits for nothing but bytes."""
        if not self._spans or self._existing is not None:
            return None
        return self._since + self._max_delay_seconds

    def add(self, sealed: Sealed, context: Context, now: float) -> list[Batch]:
        """The next span, from `place` on, within one segment.  Returns what is full."""
        full: list[Batch] = []
        raw = memoryview(b"")
        done = 0
        while done < sealed.raw_bytes:
            if self._ends_before(sealed.raw_bytes - done, context):
                full += self.cut()
            size = min(sealed.raw_bytes - done, self._hard_end - self.place.lsn)
            if self._existing is None:
                size = min(size, self._max_object_bytes)
            part = sealed
            if size < sealed.raw_bytes:
                raw = raw or memoryview(opened(sealed))
                part = seal(raw[done : done + size], quick=True)
            if not self._spans:
                self._since, self._context = now, context
            self._spans.append(part)
            self._open_bytes += size
            self._context = context._replace(profile=self._context.profile)
            done += size
            if self._is_full:
                full += self.cut()
        return full

    def due(self, now: float) -> list[Batch]:
        """The open batch, if it is old enough."""
        deadline = self.deadline
        return self.cut() if deadline is not None and deadline <= now else []

    def cut(self) -> list[Batch]:
        """The open batch, whatever its age."""
        if not self._spans:
            return []
        batch = Batch(
            self._start, tuple(self._spans), self._open_bytes, self._context, self._existing
        )
        self._start = batch.end
        self._spans, self._open_bytes = [], 0
        return [batch]

    @property
    def met(self) -> Place | None:
        """Where an object stands that the open batch, or the next one, was to be compared with."""
        return self._start if self._existing is not None else None

    def cut_short(self) -> list[Batch]:
        """As `cut`; the WAL ends here, so an object that was `met` is not what comes."""
        self._beyond.pop(self._start, None)
        return self.cut()

    # --- where batches end ------------------------------------------------------------------

    @property
    def _existing(self) -> Head | None:
        return self._beyond.get(self._start)

    @property
    def _hard_end(self) -> int:
        """No batch that starts at `_start` goes further."""
        start = self._start.lsn
        end = int(segment_end(start, self._segment_bytes))
        existing = self._existing
        if existing is not None:
            return min(end, existing.end_lsn)
        while self._starts and self._starts[0] <= start:
            self._starts.pop(0)
        return min(end, self._starts[0]) if self._starts else end

    @property
    def _is_full(self) -> bool:
        if self.place.lsn == self._hard_end:
            return True
        return self._existing is None and self._open_bytes >= self._max_object_bytes

    def _ends_before(self, size_bytes: int, context: Context) -> bool:
        """Whether the open batch ends before the next `size_bytes`, rather than among them."""
        if not self._spans or self._existing is not None:
            return False
        changed = context.profile != self._context.profile
        return changed or self._open_bytes + size_bytes > self._max_object_bytes
