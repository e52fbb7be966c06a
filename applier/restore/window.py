"""What can be restored to: the stretches between a seed's consistency and the end of its WAL."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from applier.restore.intervals import Interval
from applier.restore.kept import Kept
from applier.restore.records import XACT_ENDS, Records
from applier.restore.seeds import SeedChoice
from applier.restore.targets import shown_time
from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from logship.wal import WAL_PAGE_BYTES, History, segment_end, segment_start
from logship.wal_records import Kind

_MICROSECONDS = 1_000_000


class Heard(NamedTuple):
    """The primary was heard to have flushed no more than this, then."""

    timeline: int
    lsn: int
    time: int
    """Microseconds since 1970 UTC, by the clock of who heard."""


class Stretch(NamedTuple):
    """Every moment of it can be restored to."""

    wal: Interval
    """WAL in one piece, seeds' starts included."""
    seeds: tuple[SeedChoice, ...]
    """Those whose WAL is in it, by where they are consistent; at least one."""
    earliest_lsn: Lsn
    earliest_time: int
    latest_lsn: Lsn
    """End of the last whole record."""
    latest_commit_time: int | None
    latest_time: int
    """Up to here it is known that nothing more was committed; not before the last commit."""


class Window(NamedTuple):
    """Along one timeline's line of descent."""

    timeline: int
    stretches: tuple[Stretch, ...]
    """By position; between them WAL is missing, or no seed is there for it."""
    lost: tuple[Interval, ...]
    """WAL that is missing between what is held."""
    unused_seeds: tuple[SeedChoice, ...]
    """Those from which nothing can be restored, for want of their WAL."""

    @property
    def last_hole(self) -> Interval | None:
        """Missing WAL behind which there is more, and no seed for that; None: what can be restored
        to goes up to the end of what is held."""
        end = self.stretches[-1].wal.end
        return next((each for each in self.lost if each.start >= end), None)

    def as_dict(self) -> dict[str, Any]:
        """The `--json` form; times are seconds since 1970."""
        return {
            "timeline": self.timeline,
            "stretches": [_stretch_as_dict(each) for each in self.stretches],
            "missing": [
                {"from_lsn": str(Lsn(each.start)), "to_lsn": str(Lsn(each.end))}
                for each in self.lost
            ],
            "unused_seeds": [each.as_dict() for each in self.unused_seeds],
        }


def _stretch_as_dict(each: Stretch) -> dict[str, Any]:
    commit = each.latest_commit_time
    return {
        "earliest_lsn": str(each.earliest_lsn),
        "earliest_time": each.earliest_time / _MICROSECONDS,
        "latest_lsn": str(each.latest_lsn),
        "latest_commit_time": None if commit is None else commit / _MICROSECONDS,
        "latest_time": each.latest_time / _MICROSECONDS,
        "seeds": [seed.as_dict() for seed in each.seeds],
    }


def window_lines(window: Window) -> Iterator[str]:
    """For people."""
    for number, each in enumerate(window.stretches):
        if number:
            yield "  ... what lies between can't be restored: WAL or a seed is missing"
        yield f"from  {shown_time(each.earliest_time)}  {each.earliest_lsn}"
        yield f"to    {shown_time(each.latest_time)}  {each.latest_lsn}"
        if each.latest_commit_time is not None:
            yield f"      {shown_time(each.latest_commit_time)}  the last commit"
        for seed in each.seeds:
            yield f"      seed {seed.info.begin.seed_id} in {seed.where}, from {seed.end_lsn} on"
    for seed in window.unused_seeds:
        yield f"no use: seed {seed.info.begin.seed_id} in {seed.where}: its WAL is not here"


def make_window(
    kept: Kept, history: History, seeds: Sequence[SeedChoice], heard: Heard | None
) -> Window:
    """Blocks: reads the WAL's ends.  Raises LogshipError as `Kept.pieces`."""
    records = Records(kept, history)
    held = kept.along(history)
    stretches = []
    used: set[SeedChoice] = set()
    for wal in held:
        usable = sorted(
            (seed for seed in seeds if _fits(seed, wal, history, kept.line.segment_bytes)),
            key=lambda seed: seed.end_lsn,
        )
        if usable:
            stretches.append(_stretch(records, wal, usable, heard))
            used.update(usable)
    lost = tuple(Interval(before.end, after.start) for before, after in itertools.pairwise(held))
    unused = tuple(seed for seed in seeds if seed not in used)
    return Window(history.timeline, tuple(stretches), lost, unused)


def _fits(seed: SeedChoice, wal: Interval, history: History, segment_bytes: int) -> bool:
    """Whether the seed lies on the line, and the WAL that makes it consistent in `wal`."""
    info = seed.info
    fork = history.end_of(info.timeline)
    if not history.contains(info.timeline) or (fork is not None and info.end_lsn > fork):
        return False
    start = segment_start(info.start_lsn, segment_bytes)
    return wal.start <= start and info.end_lsn <= wal.end


def _stretch(
    records: Records, wal: Interval, seeds: Sequence[SeedChoice], heard: Heard | None
) -> Stretch:
    first = seeds[0]
    tail = records.tail(wal.start, wal.end)
    earliest_time = _earliest_time(records, first, wal)
    latest_time = max(tail.last_time or 0, earliest_time)
    if heard is not None and _says_complete(heard, wal, records.history):
        latest_time = max(latest_time, heard.time)
    return Stretch(
        wal=wal,
        seeds=tuple(seeds),
        earliest_lsn=Lsn(first.end_lsn),
        earliest_time=earliest_time,
        latest_lsn=max(tail.end, Lsn(first.end_lsn)),
        latest_commit_time=tail.last_xact_time,
        latest_time=latest_time,
    )


def _earliest_time(records: Records, seed: SeedChoice, wal: Interval) -> int:
    """From when on the seed can be restored to: what was committed before it is consistent is
    in it in any case."""
    start, end = seed.info.start_lsn, seed.end_lsn
    segment = segment_start(start, records.kept.line.segment_bytes)
    tail = records.tail(wal.start, end)
    if tail.last_xact_time is not None:
        return tail.last_xact_time
    known = int(seed.info.begun_at * _MICROSECONDS)
    # None before it is known, as a backup begins with a new segment.  Its checkpoint tells its
    # time, in whole seconds.
    for mark in records.marks(segment, end):
        if mark.kind is Kind.CHECKPOINT and mark.end_lsn > start and mark.time is not None:
            known = mark.time + _MICROSECONDS
            break
    first = _first_xact_time(records, end, wal)
    return known if first is None else min(known, first)


def _first_xact_time(records: Records, consistent: int, wal: Interval) -> int | None:
    """Of the first transaction that ends behind `consistent`, in the same segment: replay can
    stop before it and behind it."""
    limit = min(segment_end(consistent, records.kept.line.segment_bytes), wal.end)
    for mark in records.marks(consistent - consistent % WAL_PAGE_BYTES, limit):
        if mark.kind in XACT_ENDS and mark.start_lsn >= consistent and mark.time is not None:
            return mark.time
    return None


def _says_complete(heard: Heard, wal: Interval, history: History) -> bool:
    """Whether all that the primary had then is in `wal`, whose end is the line's."""
    if not history.contains(heard.timeline):
        return False
    end = history.end_of(heard.timeline)
    return wal.start <= heard.lsn <= wal.end and (end is None or heard.lsn <= end)


def nothing_kept(name: str, kept: Kept, seeds: Sequence[SeedChoice]) -> LogshipError:
    """Why a window is empty."""
    if not seeds:
        what = f"no seed of {name} is kept, neither in a bucket nor in a seeds directory"
        hint = "have seeds kept (seeds.keep, or the shipper's [bucket]), then make one"
    elif kept.newest_timeline is None:
        what, hint = f"no WAL of {name} is kept", "look at the store and the bucket"
    else:
        what = f"the WAL that the seeds of {name} need is not kept"
        hint = "a newer seed would be of use: applier seed NAME"
    return LogshipError(Code.TARGET_UNREACHABLE, what, hint)
