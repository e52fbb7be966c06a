"""From what was asked for to an LSN: where replay has to stop.

As PostgreSQL has it (`recoveryStopsBefore`, `recoveryStopsAfter` in xlogrecovery.c): for a time,
before the first commit or abort that is later, in the order of the WAL; for a name, behind its
restore point.  For an LSN, before the first record that begins there or later.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator
from functools import cache
from typing import Final, NamedTuple

from applier.restore.records import XACT_ENDS, Records
from applier.restore.seeds import SeedChoice
from applier.restore.targets import Target, shown_time
from applier.restore.window import Stretch, Window
from logship.errors import Code, LogshipError, RefusedError
from logship.lsn import Lsn
from logship.wal import WAL_PAGE_BYTES, segment_end, segment_start
from logship.wal_records import Kind, Mark, marks_in, record_end

SLACK_MICROSECONDS: Final = 2_000_000
"""By how much commits may be out of the order of their times: a transaction takes its time
shortly before it writes its commit.  A clock that was set back by more can hide a commit."""

_RESTORE_POINT_BYTES: Final = 104
"""Of a restore point's record, aligned: 24 (header) + 2 + 8 (time) + 64 (name) = 98."""
_LEFT = struct.Struct("<I")
_LEFT_OFFSET: Final = 16  # offsetof(XLogPageHeaderData, xlp_rem_len)
_NAME_OFFSET: Final = 34
_MAX_NAMED: Final = 10


class Stop(NamedTuple):
    """Where to stop."""

    lsn: Lsn
    """Everything below is replayed, nothing from here on: here the next record would begin."""
    replayed_lsn: Lsn
    """Where the last record that is replayed ends, as a server reports it: before `lsn` if only
    a page's header is between them."""
    timeline: int
    seed: SeedChoice
    stretch: Stretch
    what: str
    """What is there, for people."""
    last_commit_time: int | None
    """Of the last transaction that is in it; None: none is in the WAL that is held."""


def find_stop(records: Records, window: Window, target: Target) -> Stop:
    """Blocks: reads the WAL around the target (for a name: all of it).

    Raises LogshipError(TARGET_UNREACHABLE), naming the nearest moment that can be reached, and
    what reading raises.
    """
    if target.kind == "time":
        return _find_time(records, window, target.time)
    if target.kind == "lsn":
        return _find_lsn(records, window, target.lsn)
    if target.kind == "name":
        return _find_name(records, window, target.name)
    last = window.stretches[-1]
    return _stop(records, last, last.latest_lsn, "the end of what is kept")


def _stop(records: Records, stretch: Stretch, lsn: int, what: str) -> Stop:
    """From the newest seed that is consistent by then."""
    done = record_end(lsn, records.kept.line.segment_bytes)
    seed = [each for each in stretch.seeds if each.end_lsn <= done][-1]
    timeline = records.history.timeline_at(max(lsn - 1, 0))
    last = records.tail(stretch.wal.start, lsn).last_xact_time
    return Stop(Lsn(lsn), done, timeline, seed, stretch, what, last)


# --- a time ---------------------------------------------------------------------------------


def _find_time(records: Records, window: Window, time: int) -> Stop:
    for stretch in window.stretches:
        if stretch.earliest_time <= time <= stretch.latest_time:
            mark = _first_later(records, stretch, time)
            if mark is None:
                what = "the end of what is kept: nothing was committed later"
                return _stop(records, stretch, stretch.latest_lsn, what)
            kind = mark.kind.value
            what = f"before the {kind} of {shown_time(mark.time or 0)}"
            return _stop(records, stretch, mark.start_lsn, what)
    raise _no_such_time(window, time)


def _first_later(records: Records, stretch: Stretch, time: int) -> Mark | None:
    """The first transaction's end after `time`, not before the stretch's earliest moment; None
    where all of the stretch was read, and there is none."""
    kept, segment_bytes = records.kept, records.kept.line.segment_bytes
    first = segment_start(stretch.earliest_lsn, segment_bytes)
    end = stretch.wal.end
    starts = range(first, end, segment_bytes)

    @cache
    def time_in(number: int) -> int | None:
        begin = starts[number]
        limit = min(end, segment_end(begin, segment_bytes))
        found = kept.last_commit_in(records.history, begin, limit)
        return found.time if found is not None else None

    def last_time(number: int) -> int:
        """Of the segment, or the nearest one before it that has any."""
        times = (time_in(each) for each in range(number, -1, -1))
        return next((time for time in times if time is not None), 0)

    number = bisect_left(
        range(len(starts)), True, key=lambda n: last_time(n) > time - SLACK_MICROSECONDS
    )
    # From the segment before on: a commit may begin there and end in this one.
    begin = starts[max(number - 1, 0)] if starts else first
    for mark in records.marks(begin, end, to_the_end=True):
        if mark.kind not in XACT_ENDS or mark.time is None or mark.time <= time:
            continue
        if mark.start_lsn >= stretch.earliest_lsn:
            return mark
    return None


def _no_such_time(window: Window, time: int) -> LogshipError:
    asked = shown_time(time)
    first, last = window.stretches[0], window.stretches[-1]
    if time < first.earliest_time:
        return _unreachable(
            f"{asked} is before the first moment that can be restored to",
            f"the nearest is --to-time '{shown_time(first.earliest_time)}' (LSN "
            f"{first.earliest_lsn}), when the oldest seed is consistent",
        )
    if time > last.latest_time:
        return _unreachable(
            f"{asked} is later than anything that is known of the primary here",
            f"the nearest is --latest: LSN {last.latest_lsn}, known to be complete up to "
            f"{shown_time(last.latest_time)}",
        )
    before = [each for each in window.stretches if each.latest_time < time][-1]
    after = next(each for each in window.stretches if each.earliest_time > time)
    return _unreachable(
        f"{asked} is in a hole: WAL, or a seed to begin with, is missing there",
        f"the nearest are --to-lsn {before.latest_lsn} ({shown_time(before.latest_time)}) and "
        f"--to-lsn {after.earliest_lsn} ({shown_time(after.earliest_time)})",
    )


# --- an LSN ---------------------------------------------------------------------------------


def _find_lsn(records: Records, window: Window, lsn: int) -> Stop:
    for stretch in window.stretches:
        if record_end(lsn, records.kept.line.segment_bytes) < stretch.earliest_lsn:
            continue
        if lsn > max(stretch.wal.end, stretch.latest_lsn):
            continue
        end = records.end_at_or_after(lsn, stretch.wal.end)
        found = stretch.latest_lsn if end is None else end
        return _stop(records, stretch, found, "before the record there")
    first, last = window.stretches[0], window.stretches[-1]
    if lsn < first.earliest_lsn:
        hint = f"the nearest is --to-lsn {first.earliest_lsn}, where the oldest seed is consistent"
        raise _unreachable(f"{Lsn(lsn)} is before the first moment that can be restored to", hint)
    if lsn > last.latest_lsn:
        raise _unreachable(
            f"{Lsn(lsn)} is past the end of what is kept",
            f"the nearest is --latest: LSN {last.latest_lsn}",
        )
    before = [each for each in window.stretches if each.latest_lsn < lsn][-1]
    after = next(each for each in window.stretches if each.earliest_lsn > lsn)
    raise _unreachable(
        f"{Lsn(lsn)} is in a hole: WAL, or a seed to begin with, is missing there",
        f"the nearest are --to-lsn {before.latest_lsn} and --to-lsn {after.earliest_lsn}",
    )


# --- a name ---------------------------------------------------------------------------------


def _find_name(records: Records, window: Window, name: str) -> Stop:
    found = [
        (stretch, mark)
        for stretch in window.stretches
        for mark in named_points(records, stretch, name)
    ]
    if not found:
        raise _unreachable(
            f"no restore point {name!r} is in the WAL that can be restored",
            "names are told apart by case; or restore to a time or an LSN in what "
            "`applier window NAME` shows",
        )
    if len(found) > 1:
        listing = ", ".join(
            f"{Lsn(mark.end_lsn)} ({shown_time(mark.time or 0)})" for _, mark in found[:_MAX_NAMED]
        )
        raise RefusedError(
            Code.TARGET_UNREACHABLE,
            f"there are {len(found)} restore points {name!r}: {listing}",
            "name one by its LSN: --to-lsn",
        )
    stretch, mark = found[0]
    what = f"behind the restore point of {shown_time(mark.time or 0)}"
    return _stop(records, stretch, mark.end_lsn, what)


def named_points(records: Records, stretch: Stretch, name: str) -> Iterator[Mark]:
    """Its restore points, in order: searched for as bytes, then looked at as records."""
    wanted = name.encode("utf-8", "surrogateescape")
    segment_bytes = records.kept.line.segment_bytes
    wal_start, end = stretch.wal
    seen = 0
    before = b""
    for begin in range(segment_start(stretch.earliest_lsn, segment_bytes), end, segment_bytes):
        stop = min(end, segment_end(begin, segment_bytes))
        data = b"".join(records.kept.pieces(records.history, begin, stop))
        for page in _candidate_pages(data, before, wanted):
            # The record may begin in the page before.
            first = max(begin + page - WAL_PAGE_BYTES, wal_start)
            last = min(end, begin + page + 2 * WAL_PAGE_BYTES)
            pieces = records.kept.pieces(records.history, first, last)
            for mark in marks_in(pieces, records.kept.line, first)[0]:
                is_it = mark.kind is Kind.RESTORE_POINT and mark.name == name
                if is_it and mark.start_lsn >= seen and mark.end_lsn >= stretch.earliest_lsn:
                    seen = mark.end_lsn
                    yield mark
        before = data[-_RESTORE_POINT_BYTES:]


def _candidate_pages(data: bytes, before: bytes, wanted: bytes) -> Iterator[int]:
    """Offsets of the pages of a segment in which such a record may be or end, in order.

    before: what stands right before `data`.
    """
    pages: set[int] = set()
    at = data.find(wanted)
    while at >= 0:
        pages.add(at - at % WAL_PAGE_BYTES)
        # On from the next page: the walk sees all that is in this one.
        at = data.find(wanted, at - at % WAL_PAGE_BYTES + WAL_PAGE_BYTES)
    for page in range(0, len(data) - _LEFT_OFFSET - _LEFT.size, WAL_PAGE_BYTES):
        (left_bytes,) = _LEFT.unpack_from(data, page + _LEFT_OFFSET)
        if 0 < left_bytes < _RESTORE_POINT_BYTES:
            header_bytes = 40 if page == 0 else 24
            head = before if page == 0 else data[page - _RESTORE_POINT_BYTES : page]
            rest = data[page + header_bytes : page + header_bytes + left_bytes]
            if wanted in head + rest:
                pages.add(page)
    yield from sorted(pages)


def _unreachable(what: str, hint: str) -> RefusedError:
    return RefusedError(Code.TARGET_UNREACHABLE, what, hint)
