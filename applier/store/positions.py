"""Where WAL fits: the store's rules without a byte of I/O.

A chain is contiguous WAL since a seed's start.  On each timeline it holds one `Extent`; the
newest timeline's end is the written position.  `ChainPositions.accept` says what a span is to
the chain, and `advance` records that its new bytes were written.  Nothing else moves a
position, except `hardened`, which records what a sync made durable.

Timeline rule: a promoted PostgreSQL copies its parent's last segment, up to the switch point,
into its own first segment (`XLogInitNewTimeline`, src/backend/access/transam/xlog.c), and
walsenders and walreceivers exchange it in that form.  So a new timeline's WAL starts at the
segment start of its switch point, and what lies below must be held on its ancestors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from logship.lsn import Lsn, Position
from logship.wal import History, segment_end, segment_start


class Extent(NamedTuple):
    """Bytes [start, end) of one timeline, all held."""

    start: Lsn
    end: Lsn


class Fits(NamedTuple):
    """All of the span is new and starts exactly where the chain ends (or forks)."""


class Repeats(NamedTuple):
    """All of it is held: compare, drop."""


class Copied(NamedTuple):
    """All of it is held, and the stream has gone on to a newer timeline since: compare it part
    by part with what (timeline, extent) holds, drop.  The parts follow each other."""

    parts: tuple[tuple[int, Extent], ...]


class Overlaps(NamedTuple):
    """The first `known_bytes` are held: compare those, append the rest."""

    known_bytes: int


class BelowStart(NamedTuple):
    """It ends at or below the chain's start: of no use to this chain, and harmless."""


class Gap(NamedTuple):
    """Bytes from `expected` on are missing before it."""

    expected: Position


class HistoryMissing(NamedTuple):
    """Its timeline's history must come first."""

    timeline: int


class Ended(NamedTuple):
    """Its timeline was left for `current` already; only repeats are taken from it."""

    current: Position


class Unrelated(NamedTuple):
    """Its timeline does not descend from the chain: `why` completes "it can't follow: …"."""

    why: str


class Malformed(NamedTuple):
    """Not a span at all."""

    why: str


Verdict = (
    Fits
    | Repeats
    | Copied
    | Overlaps
    | BelowStart
    | Gap
    | HistoryMissing
    | Ended
    | Unrelated
    | Malformed
)


def check_shape(timeline: int, start: int, size_bytes: int, segment_bytes: int) -> str:
    """Why the three numbers are no span (one segment's bytes, at least one), or ""."""
    if not 1 <= timeline <= 0xFFFFFFFF:
        return f"timeline {timeline}"
    if size_bytes < 1:
        return "no bytes"
    if not 0 < start < 1 << 64:
        return f"start {start}"
    if start + size_bytes > segment_end(start, segment_bytes):
        return f"{size_bytes} bytes from {Lsn(start)} cross a segment's end"
    return ""


class ChainPositions:
    """What one chain holds.  `durable` ≤ `written` in the order in which bytes arrived."""

    def __init__(self, start: Position, segment_bytes: int) -> None:
        if start.lsn % segment_bytes:
            raise AssertionError(f"a chain starts at a segment's start, not at {start}")
        self.segment_bytes = segment_bytes
        self.start = start
        self.durable = start
        self._timeline = start.timeline
        self._extents = {start.timeline: Extent(start.lsn, start.lsn)}

    @property
    def written(self) -> Position:
        return Position(self._timeline, self._extents[self._timeline].end)

    @property
    def growing(self) -> Extent:
        """What is held of the newest timeline."""
        return self._extents[self._timeline]

    @property
    def extents(self) -> Mapping[int, Extent]:
        """By timeline, oldest first."""
        return self._extents

    def end_of(self, timeline: int) -> Lsn | None:
        extent = self._extents.get(timeline)
        return None if extent is None else extent.end

    def accept(
        self, timeline: int, start: int, size_bytes: int, histories: Mapping[int, History]
    ) -> Verdict:
        """What the span [start, start + size_bytes) of `timeline` is to this chain."""
        if why := check_shape(timeline, start, size_bytes, self.segment_bytes):
            return Malformed(why)
        end = start + size_bytes
        extent = self._extents.get(timeline)
        if extent is not None and extent.start <= start and end <= extent.end:
            return Repeats()
        if timeline <= self.start.timeline and end <= self.start.lsn:
            return BelowStart()
        if timeline < self._timeline:
            parts = self._held_up_to_fork(timeline, start, end, histories.get(self._timeline))
            return Ended(self.written) if parts is None else Copied(parts)
        if timeline > 1 and timeline not in histories:
            return HistoryMissing(timeline)
        if extent is None:
            return self._accept_fork(timeline, start, histories[timeline])
        if not extent.start <= start <= extent.end:
            return Gap(Position(timeline, extent.end))
        known_bytes = extent.end - start
        return Overlaps(known_bytes) if known_bytes else Fits()

    def _accept_fork(self, timeline: int, start: int, history: History) -> Verdict:
        fork = history.end_of(self._timeline)
        if fork is None:
            return Unrelated(f"timeline {timeline} does not descend from {self._timeline}")
        first = segment_start(history.ancestors[-1].end_lsn, self.segment_bytes)
        if fork < self.start.lsn or first < self.start.lsn:
            return Unrelated(
                f"it left timeline {self._timeline} at {fork}, before the chain's start"
            )
        # The ancestor's bytes in the fork's own segment come again as the new timeline's.
        held = self._extents[self._timeline].end
        if held < min(fork, first):
            return Gap(Position(self._timeline, held))
        if fork < first:
            between = history.successor_of(self._timeline)
            assert between is not None  # fork is not None, so there is one
            return Gap(Position(between, segment_start(fork, self.segment_bytes)))
        if start != first:
            return Gap(Position(timeline, first))
        return Fits()

    def _held_up_to_fork(
        self, timeline: int, start: int, end: int, history: History | None
    ) -> tuple[tuple[int, Extent], ...] | None:
        """Where the bytes [start, end) of a timeline that was left are held: its own as far as
        they go, then its successors' copies.  None if not all are, or it never had them all."""
        fork = history.end_of(timeline) if history is not None else None
        if history is None or fork is None or end > fork:
            return None
        parts = []
        holder: int | None = timeline
        while start < end:
            if holder is None:
                return None
            held = self._extents.get(holder)
            if held is not None and held.start <= start < held.end:
                stop = min(end, held.end)
                parts.append((holder, Extent(Lsn(start), Lsn(stop))))
                start = stop
            else:
                holder = history.successor_of(holder)
        return tuple(parts)

    def copied(
        self, timeline: int, start: int, end: int, history: History | None
    ) -> list[tuple[int, Extent]]:
        """Which of a new timeline's bytes [start, end) its ancestors hold as well.

        PostgreSQL copied them, so they must be equal.  (timeline, extent), oldest first.  Not
        only the parent's: of several promotions in one segment the chain may hold a
        grandparent and nothing of those between.
        """
        shared = []
        for ancestor, fork in history.ancestors if history is not None else ():
            held = self._extents.get(ancestor)
            if held is not None and ancestor != timeline:
                both = Extent(Lsn(max(start, held.start)), Lsn(min(end, fork, held.end)))
                if both.start < both.end:
                    shared.append((ancestor, both))
        return shared

    def advance(self, timeline: int, start: int, end: int) -> None:
        """Bytes [start, end) of `timeline`, for which `accept` said Fits, were written."""
        if timeline not in self._extents:
            assert timeline > self._timeline
            # Replaced, not changed: another thread may be looking through it.
            self._extents = {**self._extents, timeline: Extent(Lsn(start), Lsn(start))}
            self._timeline = timeline
        extent = self._extents[timeline]
        assert timeline == self._timeline
        assert extent.end == start < end
        self._extents[timeline] = Extent(extent.start, Lsn(end))

    def hardened(self, position: Position) -> None:
        """A sync made everything up to `position`, a former written position, durable."""
        assert self.durable <= position <= self.written
        self.durable = position

    def durable_extents(self) -> dict[int, Extent]:
        """The part of `extents` that no crash takes away."""
        timeline, end = self.durable
        return {
            tli: extent if tli < timeline else Extent(extent.start, end)
            for tli, extent in self._extents.items()
            if tli <= timeline
        }

    def continues_at(self, start: Position) -> bool:
        """Whether a chain that starts at `start` may keep the bytes held from there on."""
        extent = self._extents.get(start.timeline)
        return (
            extent is not None
            and start.timeline == self._timeline
            and extent.start <= start.lsn <= extent.end
        )

    def restarted_at(self, start: Position) -> ChainPositions:
        """A chain from `start` that keeps the bytes held; all of them must be durable."""
        assert self.continues_at(start) and self.durable == self.written
        chain = ChainPositions(start, self.segment_bytes)
        if self.written > start:
            chain.advance(start.timeline, start.lsn, self.written.lsn)
        chain.durable = chain.written
        return chain

    def without_below(self, start: Position, extents: Mapping[int, Extent]) -> ChainPositions:
        """The same chain, all of it durable, from `start` on, of which `extents` are left."""
        assert self.durable == self.written
        chain = ChainPositions(start, self.segment_bytes)
        chain._extents = dict(extents)
        chain._timeline = self._timeline
        chain.durable = self.durable
        return chain
