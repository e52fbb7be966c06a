"""When the bucket stands in for the link, from where on, and when it need not any more.  No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from logship.errors import Code
from logship.frames import GapFound
from logship.lsn import Lsn, Position
from logship.wal import History, segment_start
from shipper.destinations import Facts
from shipper.destinations.several.commands import (
    Command,
    Connect,
    GoOnAt,
    Hole,
    Part,
    Say,
    SkipTo,
    misses,
    skips,
    spills,
)
from shipper.destinations.several.members import Member

REMOVED_CODES = frozenset({str(Code.WAL_REMOVED), str(Code.SLOT_LOST)})
"""Gaps after which the primary's WAL goes on."""


class SpillRule(NamedTuple):
    """Spill once the link owes more than `after_bytes`, or is down for `after_seconds`."""

    after_bytes: int
    after_seconds: float


class Spill:
    """Whether WAL goes to the spill member now.

    What was spilled needs no record: the bucket's own end and the link's welcome tell it.
    """

    def __init__(
        self, rule: SpillRule, link: Member, bucket: Member, lines: Mapping[int, History]
    ) -> None:
        """lines: the histories of timelines as they come."""
        self.rule = rule
        self.link = link
        self.bucket = bucket
        self.active = False
        self.since: Position | None = None
        """Where it began, if that is known: what the link had then."""
        self.start: Position | None = None
        """What the bucket has from here on has no hole: this process began there.  None: nothing
        was begun yet.  What an earlier process left may have one: it skipped what was gone."""
        self.why = ""
        self.begun = False
        """WAL was sent to the bucket since it is active, or is about to be."""
        self.unserved: GapFound | None = None
        """What the link misses and the primary has no more: the bucket is asked for it."""
        self.floor: Lsn | None = None
        """The slot is there at least; None: not known.  0: there is no slot.  It only grows, so an
        old word of it holds while the primary can't be asked."""
        self._facts: Facts | None = None
        self._lines = lines

    def learn(self, facts: Facts) -> None:
        """The primary's state, as of now."""
        before, self._facts = self._facts, facts
        if before is not None and before.profile.incarnation != facts.profile.incarnation:
            self.floor = None
        if facts.slot_restart_lsn is not None:
            self.floor = facts.slot_restart_lsn

    def acknowledged(self, lsn: Lsn) -> None:
        """The slot is about to be moved there."""
        if self.floor:
            self.floor = max(self.floor, lsn)

    def due(self, now: float, flush_lsn: Lsn) -> str:
        """Why to begin, or ""."""
        if self.active:
            return ""
        link = self.link
        backlog_bytes = self._backlog_bytes(flush_lsn)
        if self._owes_too_much(flush_lsn):
            return f"the link has not acknowledged {backlog_bytes} bytes"
        if link.lost_at is None or backlog_bytes == 0:
            return ""  # nothing is written while there is nothing to write
        down_seconds = now - link.lost_at
        return f"the link is down for {down_seconds:.0f} s" if self._is_long(down_seconds) else ""

    def _backlog_bytes(self, flush_lsn: Lsn) -> int | None:
        return flush_lsn - self.link.durable.lsn if self.link.durable is not None else None

    def _owes_too_much(self, flush_lsn: Lsn) -> bool:
        backlog_bytes = self._backlog_bytes(flush_lsn)
        return backlog_bytes is not None and backlog_bytes > self.rule.after_bytes

    def _is_long(self, down_seconds: float) -> bool:
        return down_seconds >= self.rule.after_seconds

    def begin(self, why: str) -> None:
        self.active = True
        self.why = why
        self.since = self.link.durable

    def is_over(self, flush_lsn: Lsn) -> bool:
        """The link has all that was spilled, and keeps up."""
        link, bucket = self.link, self.bucket
        if not self.active or not link.connected or link.gap is not None:
            return False
        if not self.begun and not self._owes_too_much(flush_lsn):
            return True
        if not link.takes or link.durable is None:
            return False
        if bucket.durable is not None and link.durable < bucket.durable:
            return False
        return flush_lsn - link.durable.lsn <= self.rule.after_bytes // 2

    def end(self) -> None:
        self.active = self.begun = False
        self.since = None
        self.why = ""

    def judge(self, now: float, flush_lsn: Lsn) -> list[Command]:
        """Begin or end, if it is time."""
        if why := self.due(now, flush_lsn):
            self.begin(why)
            return [Connect(self.bucket.name)]
        if not self.is_over(flush_lsn):
            return []
        commands: list[Command] = []
        if self.begun:
            fields = {"link_durable": str(self.link.durable)}
            commands.append(Say("info", "spilling is over: the link has everything", fields))
        self.end()
        self.bucket.parted(None, now)
        return [*commands, Part(self.bucket.name, "the link keeps up again")]

    # --- where --------------------------------------------------------------------------------

    def place(self) -> list[Command]:
        """Go on at the bucket's own end if that joins, else with what the link has."""
        facts, bucket = self._facts, self.bucket
        assert facts is not None
        where = self._where(facts)
        its_end = bucket.durable
        commands = self._resolve()
        if where is None and facts.slot_restart_lsn == 0:
            where = its_end  # a source without a slot: what it can't give is a gap
        if where is None:
            bucket.next = None
            return commands
        if not self.begun:
            self.begun = True
            commands.append(spills(self.why, where))
        # The primary keeps the whole segment that the slot is in.
        segment_bytes = facts.profile.wal_segment_size
        joins_at = Position(where.timeline, segment_start(where.lsn, segment_bytes))
        if its_end is not None and its_end >= joins_at:
            bucket.next = its_end
            if self.start is None:
                self.start = its_end
            return [*commands, GoOnAt(bucket.name, its_end)]
        bucket.next = None
        return [*commands, SkipTo(bucket.name, where, f"the link has everything up to {where}")]

    def skipped(self, position: Position) -> None:
        """What the bucket is sent goes on there, though it has not what lies before."""
        self.bucket.next = self.bucket.durable = self.bucket.received = position
        self.start = position
        if self.since is None:
            self.since = position

    def _where(self, facts: Facts) -> Position | None:
        """Up to where the link, or what was spilled before, has everything.  None: not known
        yet."""
        slot_restart_lsn, timeline = facts.slot_restart_lsn, facts.timeline
        if self.link.durable is not None or self.link.connected:
            return self.link.durable
        if not slot_restart_lsn:
            return None
        # The slot never passed what was durable on either of the two.  Right after a switch it
        # is still on the timeline before.
        line = self._lines.get(timeline)
        if line is not None:
            timeline = line.timeline_at(slot_restart_lsn)
        elif self.bucket.durable is not None and self.bucket.durable.timeline < timeline:
            return self.bucket.durable
        return Position(timeline, slot_restart_lsn)

    def durable(self) -> Position | None:
        """Up to where link and bucket together have everything, without a hole."""
        link, bucket = self.link.durable, self.bucket.durable
        if link is None or bucket is None:
            return link or bucket
        if self.start is None or self.start > link:
            return link
        return max(link, bucket)

    # --- what the primary has no more ---------------------------------------------------------

    def gap(self, member: Member, gap: GapFound) -> list[Command]:
        """The source can't go on where link or bucket is."""
        if member is self.bucket:
            available = self._available(gap)
            if available is not None and member.next is not None and available > member.next:
                said = skips(member, available)
                member.next = None
                return [said, SkipTo(member.name, available, gap.what)]
        member.gap = gap
        if member is self.bucket:
            return [misses(member), Hole(member.name, gap)]
        self.unserved = gap
        if self.bucket.connected:
            return self._resolve()
        if self.active:
            return []  # it is being tried
        self.begin("the primary has no more what the link needs")
        return [Connect(self.bucket.name)]

    def _available(self, gap: GapFound) -> Position | None:
        """The start of the first whole segment after a hole; None: what lies there does not go on
        from what lies before."""
        facts = self._facts
        if gap.code not in REMOVED_CODES or facts is None:
            return None
        line = self._lines.get(facts.timeline)
        timeline = gap.timeline
        if line is not None and line.contains(timeline):
            timeline = max(timeline, line.timeline_at(gap.available_lsn))
        start = segment_start(gap.available_lsn, facts.profile.wal_segment_size)
        return Position(timeline, start)

    def _resolve(self) -> list[Command]:
        """Tell the link what it misses, and whether the bucket has it."""
        gap = self.unserved
        if gap is None or not self.link.connected:
            return []
        self.unserved = None
        its_end = self.bucket.durable
        if its_end is not None and its_end > (gap.timeline, gap.from_lsn):
            gap = msgspec.structs.replace(
                gap,
                code=str(Code.WAL_IN_BUCKET),
                available_lsn=its_end.lsn,
                what=f"it was spilled to the bucket, which has it up to {its_end}",
            )
        self.link.gap = gap
        return [misses(self.link), Hole(self.link.name, gap)]
