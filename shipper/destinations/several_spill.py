"""When the bucket stands in for the link, and when it need not any more.  No I/O."""

from __future__ import annotations

from typing import NamedTuple

from logship.identity import Incarnation
from logship.lsn import Lsn, Position
from logship.wal import History
from shipper.destinations import Facts
from shipper.destinations.several_members import Member


class SpillRule(NamedTuple):
    """Spill once the link owes more than `after_bytes`, or is down for `after_seconds`."""

    after_bytes: int
    after_seconds: float


class Spill:
    """Whether WAL goes to the spill member now.

    What was spilled needs no record: the bucket's own end and the link's welcome tell it.
    """

    def __init__(self, rule: SpillRule, link: Member, bucket: Member) -> None:
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
        self.floor: Lsn | None = None
        """The slot is there at least; None: not known.  0: there is no slot.  It only grows, so an
        old word of it holds while the primary can't be asked."""
        self._incarnation: Incarnation | None = None

    def learn(self, facts: Facts) -> None:
        """The primary's state, as of now."""
        if facts.profile.incarnation != self._incarnation:
            self._incarnation = facts.profile.incarnation
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

    def where(
        self, timeline: int, slot_restart_lsn: Lsn | None, line: History | None
    ) -> Position | None:
        """Up to where the link, or what was spilled before, has everything.  None: not known
        yet.

        line: the history of `timeline`, which the primary is on; None: not heard yet.
        """
        if self.link.durable is not None or self.link.connected:
            return self.link.durable
        if not slot_restart_lsn:
            return None
        # The slot never passed what was durable on either of the two.  Right after a switch it
        # is still on the timeline before.
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
