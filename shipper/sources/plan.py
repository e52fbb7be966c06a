"""Which timeline to read, from where, and what may be reported as durable.  No I/O."""

from __future__ import annotations

from typing import NamedTuple

from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from logship.wal import History, segment_start


class StreamFrom(NamedTuple):
    """Ask the primary for `timeline` from `lsn`; it ends by itself at a switch point."""

    timeline: int
    lsn: Lsn


def plan_start(
    resume: Position, server_timeline: int, history: History | None, segment_bytes: int
) -> StreamFrom:
    """Where to start so that what follows joins `resume` without a hole.

    `history` is the history of `server_timeline` (None on timeline 1).  A new timeline is
    read from the start of the segment that holds its switch point: PostgreSQL copies the
    parent's part of that segment into the new timeline's file (`XLogInitNewTimeline`), and
    standbys ask for it so.

    Raises LogshipError(TIMELINE_DIVERGED) if the store's timeline is not an ancestor of the
    server's.
    """
    if resume.timeline == server_timeline:
        return StreamFrom(resume.timeline, resume.lsn)
    end = history.end_of(resume.timeline) if history is not None else None
    if history is None or end is None:
        raise LogshipError(
            Code.TIMELINE_DIVERGED,
            f"the store follows timeline {resume.timeline}, but the primary is on timeline "
            f"{server_timeline}, which does not descend from it",
            "check that conninfo leads to the right server; "
            "if it does, a new seed continues protection: applier seed NAME",
        )
    if resume.lsn < end:
        return StreamFrom(resume.timeline, resume.lsn)
    return plan_successor(resume.timeline, history, segment_bytes)


def plan_successor(ended_timeline: int, history: History, segment_bytes: int) -> StreamFrom:
    """Where to go on after `ended_timeline` was read to its end."""
    successor = history.successor_of(ended_timeline)
    end = history.end_of(ended_timeline)
    if successor is None or end is None:
        raise ValueError(f"timeline {ended_timeline} has no successor on this line")
    return StreamFrom(successor, segment_start(end, segment_bytes))


def reportable(position: Position, server_timeline: int, history: History | None) -> Lsn | None:
    """How much of `position` the primary may be told, or None for nothing.

    The store may hold bytes of an old timeline past the fork; they are not the bytes that
    stand at these LSNs on the primary's line, so they must not move its slot.
    """
    if position.timeline == server_timeline:
        return position.lsn
    end = history.end_of(position.timeline) if history is not None else None
    return None if end is None else min(position.lsn, end)
