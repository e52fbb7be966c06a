"""A primary, a sender and two far ends in memory, joined by a `Flow`: what its decisions lead to.

Time stands still unless `pass_time` is called.  Nothing is sent by itself: `step` is the sender's
next turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from logship.errors import Code, LogshipError
from logship.frames import GapFound
from logship.lsn import Lsn, Position
from logship.wal import segment_start
from shipper.destinations import Accepted, Acked, Facts, Rewind
from shipper.destinations.several.commands import (
    Command,
    Connect,
    GoOnAt,
    Hole,
    Part,
    Say,
    SendHistory,
    SkipTo,
    Up,
)
from shipper.destinations.several.flow import Flow
from shipper.destinations.several.members import Role
from shipper.destinations.several.spill import SpillRule
from tests.support.link_frames import at, profile

S = 8192
"""Small segments: the primary forgets whole ones."""
SPAN_BYTES = 1000
WINDOW_BYTES = 3000
START = S


def lost(what: str = "cut") -> LogshipError:
    return LogshipError(Code.LINK_LOST, what, retryable=True)


class FarEnd:
    """What one member holds: runs of WAL, the last of which goes on."""

    def __init__(self, start: int | None) -> None:
        self.runs: list[list[int]] = [] if start is None else [[start, start]]
        """[start, end of what is durable]."""
        self.end = start or 0
        """Of what it was sent, durable or not."""
        self.reachable = True
        self.connected = False
        self.refusal: LogshipError | None = None
        self.frozen = False
        """It takes nothing: its window fills."""
        self.gap: GapFound | None = None
        self.gaps: list[GapFound] = []
        self.connects = 0

    @property
    def durable(self) -> int:
        return self.runs[-1][1] if self.runs else 0

    def connect(self) -> Accepted:
        self.connects += 1
        self.connected = True
        self.gap = None
        self.end = self.durable
        position = at(1, self.durable) if self.runs else None
        return Accepted(position, frozenset(), False, 1 << 20, durable=position)

    def take(self, start: int, end: int) -> None:
        assert self.connected
        assert start == self.end, f"{start:X} after {self.end:X}"
        self.end = end
        assert self.end - self.durable <= WINDOW_BYTES, "more than its window"

    def has_room(self, size: int) -> bool:
        return self.end - self.durable + size <= WINDOW_BYTES

    def harden(self) -> None:
        if self.runs and not self.frozen:
            self.runs[-1][1] = max(self.durable, self.end)

    def has(self, start: int, end: int) -> bool:
        """Whether all of that is durable here, over runs that touch."""
        return covered([self], start, end)


def covered(far_ends: Sequence[FarEnd], start: int, end: int) -> bool:
    """Whether what is durable at them together leaves no hole between `start` and `end`."""
    for first, last in sorted(tuple(run) for far_end in far_ends for run in far_end.runs):
        if first <= start < last:
            start = last
    return start >= end


class World:
    """link and bucket behind a Flow, the sender above it, and the primary it reads from."""

    def __init__(self, roles: dict[str, Role], spill: SpillRule | None = None) -> None:
        self.roles, self.spill = roles, spill
        self.now = 1000.0
        self.flush = START
        self.slot = START
        self.kept_from = START
        """The primary has removed what lies below."""
        has_chain = {name: role is not Role.SPILL for name, role in roles.items()}
        self.far = {name: FarEnd(START if has_chain[name] else None) for name in roles}
        self.said: list[Say] = []
        self.reads_from: int | None = None
        self.running = False
        self.wanted: set[str] = set()
        """Members that the shipper tries to reach."""
        self.restart()

    # --- the shipper ------------------------------------------------------------------------

    def restart(self) -> None:
        """The shipper's process is another one: nothing is remembered."""
        for far_end in self.far.values():
            far_end.connected = False
        self.flow = Flow(self.roles, spill=self.spill, now=self.now, budget_seconds=5.0)
        self.running = False

    @property
    def facts(self) -> Facts:
        return Facts(
            profile(wal_segment_size=S),
            1,
            Lsn(self.flush),
            True,
            "",
            "reserved",
            slot_restart_lsn=Lsn(self.slot),
        )

    def connect(self) -> bool:
        """The sender's own try; True if anybody accepts."""
        for far_end in self.far.values():
            far_end.connected = False
        # A hello tells nothing of the slot: what is told later does.
        facts = self.facts._replace(slot_restart_lsn=None)
        commands = self.flow.begin(facts, self.now)
        self.wanted = {each.name for each in commands}
        self._do(commands)
        for name in sorted(self.wanted):
            self._try(name, facts)
        accepted = self.flow.accepted()
        if accepted is None:
            return False
        self.running = True
        self.reads_from = None
        if accepted.durable is not None:
            self._acknowledge(Acked(accepted.durable, accepted.durable, Lsn(0)))
        if accepted.position is not None:
            self._go(accepted.position)
        self.tell()
        return True

    def _try(self, name: str, facts: Facts) -> None:
        far_end = self.far[name]
        if not far_end.reachable:
            self._do(self.flow.lost(name, lost("nobody answers"), self.now))
        elif far_end.refusal is not None:
            self._do(self.flow.lost(name, far_end.refusal, self.now))
        else:
            self._do(self.flow.connected(name, far_end.connect(), facts, self.now))

    def reconnect(self) -> None:
        """As the members' own tasks do."""
        for name in sorted(self.wanted):
            if self.running and not self.far[name].connected:
                self._try(name, self.facts)

    def tell(self) -> None:
        if self.running:
            self._do(self.flow.told(self.facts, self.now))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        if self.running:
            self._do(self.flow.tick(self.now))

    def _go(self, position: Position) -> None:
        self.reads_from = position.lsn
        self._do(self.flow.resumed(position))

    def _do(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case Up(Acked() as acked):
                    self._acknowledge(acked)
                case Up(Rewind(position, _)):
                    self._go(position)
                case Up(event):
                    raise AssertionError(event)
                case Connect(name):
                    self.wanted.add(name)
                case Part(name, _):
                    self.wanted.discard(name)
                    self.far[name].connected = False
                case GoOnAt(name, position):
                    self.far[name].end = position.lsn
                    self.far[name].gap = None
                case Hole(name, gap):
                    self.far[name].gap = gap
                    self.far[name].gaps.append(gap)
                case SkipTo(name, position, _):
                    self._skip(name, position)
                case Say():
                    self.said.append(command)
                case SendHistory():
                    raise AssertionError("there is one timeline")

    def _skip(self, name: str, position: Position) -> None:
        start = segment_start(position.lsn, S)
        # A bucket begins at a segment's start; the primary keeps segments whole.
        start = Lsn(max(start, START))
        far_end = self.far[name]
        far_end.runs.append([start, start])
        far_end.end = start
        self._do(self.flow.skipped(name, Position(1, start)))

    def _acknowledge(self, acked: Acked) -> None:
        assert acked.received >= acked.durable
        self.slot = acked.durable.lsn
        assert self.slot >= self.kept_from, "a slot that is set back to removed WAL is lost"
        self.check()

    # --- what happens -----------------------------------------------------------------------

    def step(self) -> bool:
        """The sender reads and sends one span, if there is one and room for it."""
        if not self.running or self.reads_from is None:
            return False
        start = self.reads_from
        if start < self.kept_from:
            self.reads_from = None
            gap = GapFound(
                timeline=1,
                from_lsn=start,
                available_lsn=self.slot,
                code=str(Code.WAL_REMOVED),
                what="it is gone",
            )
            self._do(self.flow.gap(gap))
            return True
        end = min(self.flush, start + SPAN_BYTES, segment_start(start, S) + S)
        if end <= start:
            return False
        takers = self.flow.takers(end - start)
        if not takers and not self.flow.is_void:
            return False
        for member in takers:
            if not self.far[member.name].has_room(end - start):
                if self.flow.may_be_left(member):
                    self.now += 0.5
                    self._do(self.flow.waited(member.name, 0.5, self.now))
                return False
        asked = frozenset(member.name for member in takers)
        for name, skipped in self.flow.pieces(1, start, end - start, self.flush, asked):
            self.far[name].take(start + skipped, end)
        if self.reads_from == start:
            self.reads_from = end
        return True

    def harden(self, name: str) -> None:
        """What it was sent becomes durable, and is acknowledged."""
        far_end = self.far[name]
        before = far_end.durable
        far_end.harden()
        if far_end.connected and self.running and far_end.durable > before:
            acked = Acked(at(1, far_end.end), at(1, far_end.durable), Lsn(0))
            self._do(self.flow.acked(name, acked))

    def receive(self, name: str) -> None:
        """It says what it has been sent, though that is not durable."""
        far_end = self.far[name]
        if far_end.connected and self.running and far_end.runs:
            acked = Acked(at(1, far_end.end), at(1, far_end.durable), Lsn(0))
            self._do(self.flow.acked(name, acked))

    def lose(self, name: str, *, reachable: bool = False) -> None:
        far_end = self.far[name]
        far_end.reachable = reachable
        if far_end.connected:
            far_end.connected = False
            self._do(self.flow.lost(name, lost(), self.now))
            if self.flow.is_alone:
                self.running = False

    def write(self, size: int) -> None:
        self.flush += size

    def live(self, seconds: float, rate: int, *, slow: str = "", checkpoints: bool = True) -> None:
        """A while of everyday work, with the faults that there are: `rate` bytes a second."""
        for _ in range(int(2 * seconds)):
            self.write(rate // 2)
            if not self.running:
                self.connect()
            self.reconnect()
            self.tell()
            for _ in range(3 + rate // SPAN_BYTES):
                if not self.step():
                    break
                for name in self.far:
                    if name != slow:
                        self.harden(name)
            for name in self.far:
                self.harden(name)
            if checkpoints:
                self.checkpoint()
            self.pass_time(0.5)

    def checkpoint(self) -> None:
        """The primary forgets what its slot does not hold."""
        self.kept_from = max(self.kept_from, segment_start(self.slot, S))

    def fill_from_bucket(self) -> None:
        """What the applier does about WAL that is in the bucket: then it says where to go on."""
        link, bucket = self.far["link"], self.far["bucket"]
        if not link.connected or link.gap is None or link.gap.code != Code.WAL_IN_BUCKET:
            return
        assert bucket.has(link.durable, link.gap.available_lsn), "the bucket has not what was said"
        while link.durable < bucket.durable and bucket.has(link.durable, link.durable + 1):
            link.runs[-1][1] = next(
                end for start, end in bucket.runs if start <= link.durable < end
            )
        link.end = link.durable
        link.gap = None
        self._do(self.flow.acked("link", Acked(at(1, link.end), at(1, link.end), Lsn(0))))
        self._do(self.flow.rewound("link", at(1, link.durable)))

    # --- what must hold ---------------------------------------------------------------------

    def check(self) -> None:
        """Invariant 2: what the slot no longer holds is durable where it is required."""
        required = [self.far[name] for name, role in self.roles.items() if role is Role.REQUIRED]
        if self.spill is not None:
            assert covered(list(self.far.values()), START, self.slot), "a hole below the slot"
            return
        for far_end in required:
            assert far_end.has(START, self.slot), "the slot passed a required destination"

    def settle(self, *, rounds: int = 400) -> None:
        """No faults any more: everything that can go on does."""
        for far_end in self.far.values():
            far_end.reachable, far_end.frozen, far_end.refusal = True, False, None
        for _ in range(rounds):
            if not self.running:
                self.connect()
            self.reconnect()
            self.tell()
            for _ in range(20):
                if not self.step():
                    break
                for name in self.far:
                    self.harden(name)
            for name in self.far:
                self.harden(name)
            self.fill_from_bucket()
            self.pass_time(1.0)
            if self.is_done:
                return

    @property
    def is_done(self) -> bool:
        return self.slot == self.flush and all(
            self.far[name].durable == self.flush or self.far[name].gap is not None
            for name, role in self.roles.items()
            if role is not Role.SPILL
        )

    def describe(self) -> dict[str, Any]:
        return {
            "flush": self.flush,
            "slot": self.slot,
            "kept_from": self.kept_from,
            "reads_from": self.reads_from,
            "stream": self.flow.stream,
            **{
                name: (far.runs, far.end, far.connected, far.gap, self.flow.members[name].__dict__)
                for name, far in self.far.items()
            },
            "said": [(say.event, dict(say.fields)) for say in self.said[-8:]],
        }
