"""What several destinations are sent, from one stream of WAL.  No I/O: events in, commands out.

The stream is read once, from the least position that a member still needs.  Each member has a
place of its own where what it is sent goes on; what lies below is not sent to it.  A member that
can't be served from where the stream is makes it start again there: a Rewind, upwards.

All of this is one state: where the stream is, who is where, and what that lets the source
forget.  What can be told apart from it has modules of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from logship.errors import Code, LogshipError
from logship.frames import GapFound, OtherRoad
from logship.lsn import Lsn, Position
from logship.wal import History, parse_history
from shipper.destinations import Accepted, Acked, Facts, Lost, Rewind
from shipper.destinations.several.commands import (
    Command,
    Connect,
    GoOnAt,
    Hole,
    Part,
    Say,
    SendHistory,
    Up,
    misses,
)
from shipper.destinations.several.members import Member, Role
from shipper.destinations.several.spill import Spill, SpillRule
from shipper.destinations.several.turns import Turns

FORWARD_BYTES = 16 << 20
"""WAL that no member needs is skipped if there is so much of it."""
NEAR_BYTES = 1 << 20
"""So near to the primary's flush position counts as caught up."""
SPAN_BYTES = 1 << 20
"""No more in one span, so that one that comes later takes them too."""
BUDGET_SECONDS = 5.0


class Flow:
    """Members, where each is, and what the source may forget."""

    def __init__(
        self,
        roles: Mapping[str, Role],
        *,
        spill: SpillRule | None = None,
        budget_seconds: float = BUDGET_SECONDS,
        now: float,
    ) -> None:
        """roles: by name, the link first.  A `spill` rule needs a member of that role."""
        self.members = {
            name: Member(name, role, budget_seconds=budget_seconds) for name, role in roles.items()
        }
        self.facts: Facts | None = None
        self.flush_lsn = Lsn(0)
        self.stream: Position | None = None
        """Where the next span starts.  None: nobody needs any."""
        self.greeting = True
        """No connection was accepted upwards yet."""
        self._void = True
        """What is sent does not count before `resumed` says the place that was asked for."""
        self._max_span_bytes = 0
        self._histories: dict[int, bytes] = {}
        self._lines: dict[int, History] = {}
        self._told: Acked | None = None
        self._turns = Turns()
        first, *_ = self.members.values()
        self._first = first
        if Role.REQUIRED not in roles.values() or (spill and first.role is not Role.REQUIRED):
            raise ValueError("the slot has nothing to follow")
        self.spill: Spill | None = None
        for member in self.members.values():
            member.lost_at = now
            if member.role is Role.SPILL and spill is not None:
                self.spill = Spill(spill, first, member, self._lines)

    # --- connecting -----------------------------------------------------------------------

    def begin(self, facts: Facts, now: float) -> list[Connect]:
        """A new try to connect: all members anew."""
        self.greeting = self._void = True
        self.stream = None
        self._told = None
        self._turns = Turns()
        for member in self.members.values():
            member.parted(member.error, now)
        if self.spill is not None:
            self.spill.unserved = None
        self._learn(facts)
        # There is nothing to spill while there is no WAL.
        spill = self.spill if facts.ships else None
        if spill is not None and (why := spill.due(now, self.flush_lsn)):
            spill.begin(why)
        return [
            Connect(name)
            for name, member in self.members.items()
            if self._is_used(member) and (facts.ships or member.role is not Role.SPILL)
        ]

    def _is_used(self, member: Member) -> bool:
        return member.role is not Role.SPILL or (self.spill is not None and self.spill.active)

    def connected(self, name: str, accepted: Accepted, facts: Facts, now: float) -> list[Command]:
        """The member accepts what was said with `facts`."""
        member = self.members[name]
        member.accepted(accepted, facts)
        if not self.greeting and member.max_span_bytes < self._max_span_bytes:
            what = f"{name} takes spans of {member.max_span_bytes} bytes at most"
            return [Up(Lost(LogshipError(Code.LINK_LOST, what, retryable=True)))]
        commands: list[Command] = []
        if member.telling:
            return commands
        for timeline, content in self._histories.items():
            commands += self._history_for(member, timeline, content)
        if member.role is Role.SPILL:
            assert self.spill is not None
            commands += self.spill.place()
        elif member.next is not None:
            commands.append(GoOnAt(name, member.next))
        return [*commands, *self._settle(), *self._check_ahead(), *self._acks()]

    def accepted(self) -> Accepted | None:
        """What is accepted upwards: as soon as any member is connected."""
        connected = [each for each in self.members.values() if each.connected]
        if not connected:
            return None
        self.greeting = False
        takers = [each.next for each in connected if each.takes and each.next is not None]
        self.stream = min(takers, default=None)
        known = set.intersection(*(each.known_timelines for each in connected))
        acked = self._acked()
        self._max_span_bytes = min(SPAN_BYTES, *(each.max_span_bytes for each in connected))
        return Accepted(
            position=self.stream,
            # One that comes later is given what the others had already.
            known_timelines=frozenset(known & self._histories.keys()),
            seed_wanted=False,
            max_span_bytes=self._max_span_bytes,
            durable=acked.durable if acked is not None else None,
        )

    def lost(self, name: str, error: LogshipError, now: float) -> list[Command]:
        """The member's connection ended, or could not be made."""
        member = self.members[name]
        member.parted(error, now)
        if self.spill is not None and member is self._first:
            self.spill.unserved = None
        return self._settle()

    @property
    def is_alone(self) -> bool:
        """Nobody is connected: who sends has to begin anew."""
        return not any(each.connected for each in self.members.values())

    def away(self) -> dict[str, LogshipError | None]:
        """The required ones that are not connected, or take nothing, by name, and why."""
        return {
            each.name: each.standing if each.connected else each.error
            for each in self.members.values()
            if each.role is Role.REQUIRED and not (each.connected and each.standing is None)
        }

    def why_lost(self) -> LogshipError:
        """Of those that are used the first one's error; one that trying again mends, if any."""
        errors = [
            each.error
            for each in self.members.values()
            if each.error is not None and self._is_used(each)
        ]
        for error in errors:
            if error.retryable:
                return error
        return errors[0] if errors else _nobody()

    def _check_ahead(self) -> list[Command]:
        """Find members that have WAL which the primary never wrote.

        The source sees that of the place where it starts; what it writes next must not be
        joined to the others, though it will reach their places.
        """
        if self.stream is None or self.facts is None or not self.flush_lsn:
            return []
        if not self.facts.reachable:
            return []  # it wrote more than is known here
        newest = Position(self.facts.timeline, self.flush_lsn)
        commands: list[Command] = []
        for member in self.members.values():
            if member.takes and member.next is not None and member.next > max(newest, self.stream):
                member.gap = GapFound(
                    timeline=member.next.timeline,
                    from_lsn=member.next.lsn,
                    available_lsn=0,
                    code=str(Code.PRIMARY_BEHIND),
                    what=f"it has WAL up to {member.next}, the primary is at {newest}",
                )
                commands += [misses(member), Hole(member.name, member.gap)]
        return commands

    # --- what members say -----------------------------------------------------------------

    def acked(self, name: str, acked: Acked) -> list[Command]:
        member = self.members[name]
        start = self.spill.start if self.spill is not None else None
        if member.role is Role.SPILL and start is not None and acked.durable < start:
            return []  # of what was spilled before
        member.acked(acked)
        return self._acks()

    def rewound(self, name: str, position: Position) -> list[Command]:
        """The member wants WAL from there, again or for the first time."""
        member = self.members[name]
        if self.spill is not None and member is self._first:
            self.spill.unserved = None
        member.next = position
        member.gap = member.aside_until = None
        return [GoOnAt(name, position), *self._settle()]

    def skipped(self, name: str, position: Position) -> list[Command]:
        """What the member is sent goes on there, though it has not what lies before."""
        assert self.spill is not None
        assert name == self.spill.bucket.name
        self.spill.skipped(position)
        return self._settle()

    def seed_began(self, names: Sequence[str]) -> None:
        for name in names:
            self.members[name].seed_began()

    # --- what who sends says --------------------------------------------------------------

    def told(self, facts: Facts, now: float) -> list[Command]:
        """The primary's state, as of now."""
        self._learn(facts)
        commands = self._greet_anew(now)
        spill = self.spill
        if spill is not None and spill.bucket.connected and spill.bucket.next is None:
            commands += spill.place()
        return [*commands, *self._settle(), *self._acks()]

    def _greet_anew(self, now: float) -> list[Command]:
        """A connection that said that the primary is away can't be shipped on once it is back."""
        facts = self.facts
        if facts is None:
            return []
        commands: list[Command] = []
        for member in self.members.values():
            if (member.telling and facts.ships) or (member.greeted_away and facts.reachable):
                member.parted(None, now)
                commands += [Part(member.name, "the primary is back"), Connect(member.name)]
        return commands

    def _learn(self, facts: Facts) -> None:
        if facts.ships and not facts.reachable:
            # What gives WAL without its primary has no slot.
            facts = facts._replace(slot_restart_lsn=Lsn(0))
        if self.spill is not None:
            self.spill.learn(facts)
        self.facts = facts
        self.flush_lsn = Lsn(max(self.flush_lsn, facts.flush_lsn))

    def resumed(self, position: Position) -> list[Command]:
        """Spans go on there.  With any other place than the one asked for they do not count."""
        self._void = position != self.stream
        return [] if self._void else self._check_ahead()

    def takers(self, size_bytes: int) -> list[Member]:
        """Who may be sent some of the next `size_bytes`; those that are waited for first."""
        if self._void or self.stream is None:
            return []
        timeline, lsn = self.stream
        wanted = [
            member
            for member in self.members.values()
            if member.takes
            and member.next is not None
            and (member.next.timeline != timeline or member.next.lsn < lsn + size_bytes)
        ]
        return sorted(wanted, key=self.may_be_left)

    @property
    def is_void(self) -> bool:
        return self._void

    def may_be_left(self, member: Member) -> bool:
        """Whether the others go on without it when it has no room for long."""
        if member.role is Role.OPTIONAL:
            return True
        spill = self.spill
        return spill is not None and member is spill.link and spill.bucket.takes

    def pieces(
        self, timeline: int, start_lsn: int, size_bytes: int, flush_lsn: int, asked: frozenset[str]
    ) -> list[tuple[str, int]]:
        """Who is sent what of a span: (name, bytes to leave out at its beginning).

        asked: those that have room for it.
        """
        if self._void:
            return []
        end = Position(timeline, Lsn(start_lsn + size_bytes))
        self.stream = end
        self.flush_lsn = Lsn(max(self.flush_lsn, flush_lsn, end.lsn))
        pieces: list[tuple[str, int]] = []
        for member in self.members.values():
            if not member.takes or member.next is None or member.next >= end:
                continue
            opens = timeline > member.next.timeline
            if start_lsn > member.next.lsn or member.name not in asked:
                continue  # `tick` has the stream start again for it
            pieces.append((member.name, 0 if opens else member.next.lsn - start_lsn))
            member.next = end
        return pieces

    def history(self, timeline: int, content: bytes) -> list[Command]:
        self._histories[timeline] = content
        commands: list[Command] = []
        line: History | None = None
        # What is wrong with one that can't be read, the far ends say.
        with contextlib.suppress(LogshipError):
            line = self._lines[timeline] = parse_history(timeline, content)
        for member in self.members.values():
            if member.connected and not member.telling:
                commands += self._history_for(member, timeline, content)
            if member.takes and line is not None:
                commands += self._check_line(member, line)
        return [*commands, *self._settle()]

    def _history_for(self, member: Member, timeline: int, content: bytes) -> list[Command]:
        if timeline in member.known_timelines:
            return []
        member.known_timelines.add(timeline)
        return [SendHistory(member.name, timeline, content)]

    def _check_line(self, member: Member, line: History) -> list[Command]:
        """What `member` has must be of the line that the primary goes on with."""
        assert member.next is not None
        if member.next.timeline >= line.timeline or line.contains(member.next.timeline):
            return []
        member.gap = GapFound(
            timeline=member.next.timeline,
            from_lsn=member.next.lsn,
            available_lsn=0,
            code=str(Code.TIMELINE_DIVERGED),
            what=f"it follows timeline {member.next.timeline}, of which the primary's timeline "
            f"{line.timeline} does not descend",
        )
        return [misses(member), Hole(member.name, member.gap)]

    def gap(self, gap: GapFound) -> list[Command]:
        """The source can't go on from where the stream is: those who need it have a hole."""
        missing = Position(gap.timeline, Lsn(gap.from_lsn))
        commands: list[Command] = []
        for member in list(self.members.values()):
            # Any other has been set back since: it is tried where it is now.
            if member.takes and member.next == missing:
                commands += self._gap_of(member, gap)
        self.stream = None
        self._void = True
        return [*commands, *self._settle()]

    def _gap_of(self, member: Member, gap: GapFound) -> list[Command]:
        spill = self.spill
        if spill is not None and member in (spill.link, spill.bucket):
            return spill.gap(member, gap)
        member.gap = gap
        return [misses(member), Hole(member.name, gap)]

    # --- time -----------------------------------------------------------------------------

    def waited(self, name: str, seconds: float, now: float) -> list[Command]:
        """The others waited for room at a member that may be left."""
        member = self.members[name]
        if not member.takes or not member.kept_waiting(seconds, now):
            return []
        member.leave_behind(now)
        fields = {"destination": name, "at": str(member.next), "times": str(member.times_behind)}
        said = Say("warning", "a destination is left behind: it does not keep up", fields)
        return [said, *self._settle()]

    def tick(self, now: float) -> list[Command]:
        """Time passed."""
        commands = self._greet_anew(now)
        if self.spill is not None:
            commands += self.spill.judge(now, self.flush_lsn)
        for member in self.members.values():
            if member.aside_until is not None and now >= member.aside_until and member.drained:
                member.aside_until = None
            if member.behind and member.takes and self._is_near(member):
                member.caught_up()
                fields = {"destination": member.name}
                commands.append(Say("info", "a destination has caught up", fields))
        if self._turns.are_due(list(self.members.values()), self.stream, self.flush_lsn, now):
            self.stream = None
        return [*commands, *self._settle(), *self._acks()]

    def _is_near(self, member: Member) -> bool:
        return member.next is not None and member.next.lsn + NEAR_BYTES >= self.flush_lsn

    # --- what follows ---------------------------------------------------------------------

    def _settle(self) -> list[Command]:
        """Have the stream start again elsewhere, if somebody needs that."""
        if self.greeting:
            return []
        places = [each.next for each in self.members.values() if each.takes and each.next]
        if not places:
            return []
        least = min(places)
        if self.stream is None:
            why = "there is a place to go on from"
        elif self.stream > least:
            why = "one of the destinations is further behind"
        elif least.timeline == self.stream.timeline and _far(self.stream, least):
            why = "no destination needs what lies before"
        else:
            return []
        self.stream = least
        self._void = True
        return [Up(Rewind(least, why))]

    def _acked(self) -> Acked | None:
        """What the source may be told.  None: not known yet of all that count."""
        durables = [
            member.durable
            for member in self.members.values()
            if member.role is Role.REQUIRED and (self.spill is None or member is not self._first)
        ]
        if self.spill is not None:
            durables.append(self.spill.durable())
        known = [each for each in durables if each is not None]
        if not known or len(known) != len(durables):
            return None
        durable = min(known)
        if self.spill is not None:
            # The link alone may have less than the slot passed already.
            floor = self.spill.floor
            if floor is None or durable.lsn < floor:
                return None
        first = self._first
        if not first.connected or first.received is None:
            return Acked(durable, durable, Lsn(0))
        return Acked(max(first.received, durable), durable, Lsn(first.applied))

    def _acks(self) -> list[Command]:
        acked = self._acked()
        if self.greeting or acked is None or acked == self._told:
            return []
        self._told = acked
        if self.spill is not None:
            self.spill.acknowledged(acked.durable.lsn)
        return [Up(acked)]

    def roads(self, name: str) -> tuple[OtherRoad, ...]:
        """What a member's far end is told of the others."""
        spill = self.spill
        since = None
        if spill is not None and spill.begun:
            since = spill.since or spill.start or Position(0, Lsn(0))
        return tuple(
            member.road(idle=not self._is_used(member), spilling_since=since)
            for member in self.members.values()
            if member.name != name
        )


def _far(stream: Position, least: Position) -> bool:
    return least.lsn - stream.lsn > FORWARD_BYTES


def _nobody() -> LogshipError:
    return LogshipError(Code.LINK_LOST, "no destination is connected", retryable=True)
