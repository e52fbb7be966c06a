"""Half-open ranges of LSNs, as sorted lists without overlaps.  Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Interval(NamedTuple):
    """[start, end)."""

    start: int
    end: int

    def clipped(self, start: int, end: int) -> Interval | None:
        """What of it lies in [start, end); None if nothing does."""
        both = Interval(max(self.start, start), min(self.end, end))
        return both if both.start < both.end else None


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same bytes in as few intervals as can be: what touches is joined."""
    joined: list[Interval] = []
    for each in sorted(intervals):
        if each.start >= each.end:
            continue
        if joined and each.start <= joined[-1].end:
            joined[-1] = Interval(joined[-1].start, max(joined[-1].end, each.end))
        else:
            joined.append(each)
    return joined


def clip(intervals: Iterable[Interval], start: int, end: int) -> list[Interval]:
    """What of them lies in [start, end)."""
    return [both for each in intervals if (both := each.clipped(start, end)) is not None]


def holding(intervals: Iterable[Interval], start: int, end: int) -> Interval | None:
    """The one that holds all of [start, end)."""
    return next((each for each in intervals if each.start <= start and end <= each.end), None)
