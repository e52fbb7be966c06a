"""What a file's name in an outbox says.  No I/O.

The forms are those of `xlog_internal.h`: `XLogFileName`, `TLHistoryFileName`,
`BackupHistoryFileName` and the `.partial` that `xlog.c` appends at a promotion.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from logship.lsn import Lsn
from logship.wal import history_name, parse_history_name, parse_segment_name, segment_name

_PARTIAL = ".partial"
_BACKUP = re.compile(r"\A([0-9A-F]{24})\.([0-9A-F]{8})\.backup\Z")
_PASSING = ("archtemp.", ".")


class Segment(NamedTuple):
    timeline: int
    start_lsn: Lsn


class Partial(NamedTuple):
    """The last segment of a timeline that ended in it."""

    timeline: int
    start_lsn: Lsn


class TimelineHistory(NamedTuple):
    timeline: int


class BackupMarker(NamedTuple):
    """A base backup that began at `start_lsn`."""

    timeline: int
    start_lsn: Lsn


OutboxName = Segment | Partial | TimelineHistory | BackupMarker


def parse(name: str, segment_bytes: int) -> OutboxName | None:
    """What `name` stands for; None for a name that an archiver does not give."""
    try:
        if name.endswith(".history"):
            timeline = parse_history_name(name)
            return TimelineHistory(timeline) if timeline > 1 else None
        if name.endswith(_PARTIAL):
            return Partial(*parse_segment_name(name.removesuffix(_PARTIAL), segment_bytes))
        if match := _BACKUP.match(name):
            timeline, start = parse_segment_name(match[1], segment_bytes)
            offset = int(match[2], 16)
            return BackupMarker(timeline, Lsn(start + offset)) if offset < segment_bytes else None
        return Segment(*parse_segment_name(name, segment_bytes))
    except ValueError:
        return None


def is_passing(name: str) -> bool:
    """Whether a writer gives `name` only until the file is whole: nothing to wonder about."""
    return name.startswith(_PASSING)


def partial_name(timeline: int, lsn: int, segment_bytes: int) -> str:
    return segment_name(timeline, lsn, segment_bytes) + _PARTIAL


def name_of(file: Segment | Partial | TimelineHistory, segment_bytes: int) -> str:
    """The inverse of `parse`."""
    match file:
        case TimelineHistory(timeline):
            return history_name(timeline)
        case Partial(timeline, start_lsn):
            return partial_name(timeline, start_lsn, segment_bytes)
        case Segment(timeline, start_lsn):
            return segment_name(timeline, start_lsn, segment_bytes)
