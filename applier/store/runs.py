"""Which WAL is held in one piece, over all the chains that there ever were.

A chain ends where the next one begins.  If the next one begins inside it or right at its end
nothing is missing between the two, and both are one run; otherwise the WAL between them never
came, the older one ends for good, and nothing may be read across.  Pure rules, as `positions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from applier.store.positions import Extent
from logship.lsn import Lsn, Position


@dataclass(frozen=True, slots=True)
class Run:
    """Contiguous WAL along one line of timelines."""

    extents: Mapping[int, Extent]
    """By timeline, at least one; may grow at its end while the run is the current one."""

    @property
    def end(self) -> Position:
        """End of its newest timeline's bytes."""
        timeline = max(self.extents)
        return Position(timeline, self.extents[timeline].end)

    def extent_of(self, timeline: int) -> tuple[Lsn, Lsn] | None:
        """Bytes [start, end) of `timeline`; None if it has none."""
        return self.extents.get(timeline)

    def reaches(self, position: Position) -> bool:
        """Whether `position` lies in its bytes or right at their end."""
        extent = self.extents.get(position.timeline)
        return extent is not None and extent.start <= position.lsn <= extent.end


def clipped(extents: Mapping[int, Extent], start: Position) -> dict[int, Extent]:
    """What is left of a chain when one begins at `start` that does not continue the last: the
    files at or above `start` are set aside."""
    left = {}
    for timeline, extent in extents.items():
        if timeline < start.timeline:
            left[timeline] = extent
        elif timeline == start.timeline and extent.start < start.lsn:
            left[timeline] = Extent(extent.start, min(extent.end, start.lsn))
    return left


def joined(chains: Sequence[Mapping[int, Extent]]) -> list[Run]:
    """The runs that chains, oldest first, make up; oldest first."""
    runs: list[Run] = []
    for extents in chains:
        if not extents:
            continue  # all of it was set aside
        if runs and is_continued(runs[-1].extents, extents):
            runs[-1] = Run(_union(runs[-1].extents, extents))
        else:
            runs.append(Run(extents))
    return runs


def is_continued(before: Mapping[int, Extent], after: Mapping[int, Extent]) -> bool:
    """Whether nothing is missing between two chains, neither of which is empty."""
    timeline = max(before)
    return min(after) == timeline and after[timeline].start <= before[timeline].end


def _union(before: Mapping[int, Extent], after: Mapping[int, Extent]) -> dict[int, Extent]:
    timeline = max(before)
    start = min(before[timeline].start, after[timeline].start)
    end = max(before[timeline].end, after[timeline].end)
    return {**before, **after, timeline: Extent(start, end)}
