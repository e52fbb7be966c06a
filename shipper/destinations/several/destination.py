"""Several destinations as one: the shell around `flow`."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import structlog

from logship.errors import Code, LogshipError
from logship.frames import GapFound, SeedAborted, SeedBegin, SeedChunk, SeedEnd
from logship.lsn import Lsn, Position
from logship.seal import Sealed, seal, unseal
from shipper.backoff import Backoff, Reminder
from shipper.destinations import (
    Accepted,
    Acked,
    Destination,
    DestinationEvent,
    Facts,
    Lost,
    MayStand,
    Rewind,
    SeedFinished,
    SeedWanted,
)
from shipper.destinations.changes import Change
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
from shipper.destinations.several.flow import BUDGET_SECONDS, Flow
from shipper.destinations.several.members import Role
from shipper.destinations.several.room import Room
from shipper.destinations.several.seeds import SeveralSeeds
from shipper.destinations.several.spill import SpillRule

log = structlog.get_logger(__name__)

STOP_CODES = frozenset({Code.FENCED, Code.SUPERSEDED})
"""What one member says so, ends it for all."""
GRACE_SECONDS = 1.0
"""How long the first that is connected waits for the others."""
TICK_SECONDS = 0.5
REFUSED_RETRY_SECONDS = 15.0


@runtime_checkable
class SpillDestination(Destination, Protocol):
    """One that may have holes: a bucket that takes what another destination can't."""

    def skip_to(self, position: Position, why: str) -> Position:
        """Spans go on at what is returned, `position` or less, though what lies before is not
        there.  Instead of `resume`, once connected.

        Raises LogshipError: LINK_LOST, or that nothing can be added; a Lost tells that too."""


class SeveralMember(NamedTuple):
    """name: for logs and status."""

    name: str
    role: Role
    destination: Destination


class SeveralDestinations:
    """See `shipper.destinations.Destination`.

    members: the one that speaks for the standby (the link) first; at least one is required.
    spill: when the member of that role is used; it must be a `SpillDestination`.
    budget_seconds: how long an optional member may keep the others waiting.
    """

    def __init__(
        self,
        members: Sequence[SeveralMember],
        *,
        spill: SpillRule | None = None,
        budget_seconds: float = BUDGET_SECONDS,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._destinations = {each.name: each.destination for each in members}
        self.far_end = " or ".join(self._destinations)
        self._flow = Flow(
            {each.name: each.role for each in members},
            spill=spill,
            budget_seconds=budget_seconds,
            now=self._loop.time(),
        )
        self._seeds = SeveralSeeds()
        self._seed_names = [each.name for each in members if each.role is not Role.SPILL]
        self._facts: Facts | None = None
        self._events: deque[DestinationEvent] = deque()
        self._acked: Acked | None = None
        self._changed = Change()
        """`room` or `next_event` may have something new."""
        self._ended: LogshipError | None = _closed()
        self._stopped_by = ""
        """The member that stopped all: the others are not used before it accepts again."""
        self._bug: Exception | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._clock: asyncio.Task[None] | None = None
        self._partings: dict[str, asyncio.Task[None]] = {}
        self._room = Room(self._flow, self._destinations, self._changed, self._do, self._check_open)
        self._reminders = {name: Reminder() for name in self._destinations}

    def away(self) -> dict[str, LogshipError | None]:
        self._look_who_stands()
        return self._flow.away()

    def _look_who_stands(self) -> None:
        for name, destination in self._destinations.items():
            if isinstance(destination, MayStand):
                self._flow.members[name].standing = destination.standing()

    # --- connecting -----------------------------------------------------------------------

    async def connect(self, facts: Facts) -> Accepted:
        await self._stop()
        # What became of a seed is said once, whatever becomes of the connections.
        self._events = deque(each for each in self._events if isinstance(each, SeedFinished))
        self._acked = self._bug = self._ended = None
        self._facts = facts
        names = [each.name for each in self._flow.begin(facts, self._loop.time())]
        try:
            if self._stopped_by:
                names.remove(self._stopped_by)
                await self._reach_again(self._stopped_by)
            await self._reach(names)
            accepted = self._flow.accepted()
            if accepted is None:
                raise self._flow.why_lost()
        except BaseException as error:
            await self._stop()
            self._ended = _closed()
            await self._close_all(str(error) or "given up")
            raise
        self._clock = asyncio.create_task(self._guarded(self._tick_for_ever))
        return accepted._replace(seed_wanted=self._seeds.wanted and not self._seeds.targets)

    async def _reach_again(self, name: str) -> None:
        """The one that stopped all.  Raises LogshipError unless it accepts."""
        if (error := await self._start(name)) is not None:
            raise error
        self._stopped_by = ""

    async def _reach(self, names: Sequence[str]) -> None:
        """Have these connected from now on; returns soon after one is, or all have failed."""
        firsts = {name: self._start(name) for name in names}
        await self._first_answers(list(firsts.values()))
        for name, first in firsts.items():
            error = first.result() if first.done() else None
            if error is not None and error.code in STOP_CODES:
                self._stopped_by = name
                raise error

    async def _first_answers(self, firsts: Sequence[asyncio.Future[LogshipError | None]]) -> None:
        """Until one is connected, at whichever try, and a moment longer, or all have failed."""
        while self._bug is None and self._flow.is_alone and not all(each.done() for each in firsts):
            await self._changed.wait()
        if self._bug is not None:
            raise self._bug
        if pending := {each for each in firsts if not each.done()}:
            await asyncio.wait(pending, timeout=GRACE_SECONDS)
        if self._bug is not None:
            raise self._bug

    def _start(self, name: str) -> asyncio.Future[LogshipError | None]:
        """Have the member connected from now on; returns how the first try ends."""
        first: asyncio.Future[LogshipError | None] = self._loop.create_future()
        keep = partial(self._keep, name, first)
        self._tasks[name] = asyncio.create_task(self._guarded(keep, first))
        return first

    async def _guarded(
        self,
        work: Callable[[], Awaitable[None]],
        first: asyncio.Future[LogshipError | None] | None = None,
    ) -> None:
        """A bug in `work` is raised where somebody looks."""
        try:
            await work()
        except Exception as error:
            self._bug = error
            self._changed.happened()
            if first is not None and not first.done():
                first.set_result(None)

    async def _keep(self, name: str, first: asyncio.Future[LogshipError | None]) -> None:
        destination = self._destinations[name]
        if (parting := self._partings.pop(name, None)) is not None:
            await parting
        backoff = Backoff()
        while self._ended is None:
            facts = self._facts
            assert facts is not None
            try:
                accepted = await destination.connect(self._facts_for(name, facts))
            except LogshipError as caught:
                error = caught
            else:
                backoff = Backoff()
                if (newest := self._facts) not in (None, facts):
                    # Before WAL comes, which may say more.
                    destination.tell(self._facts_for(name, newest))
                self._accepted(name, accepted, facts)
                if not first.done():
                    first.set_result(None)
                error = await self._listen(name)
                await destination.close(error.what)
            self._lost(name, error)
            if not first.done():
                first.set_result(error)
            await asyncio.sleep(
                backoff.next_seconds() if error.retryable else REFUSED_RETRY_SECONDS
            )

    def _accepted(self, name: str, accepted: Accepted, facts: Facts) -> None:
        resume = str(accepted.position) if accepted.position else "nowhere yet"
        log.info("a destination accepts", destination=name, resume=resume)
        if accepted.seeding is False:
            self._seeds.doubt(name)
        wish = name in self._seed_names and self._seeds.accepted(name, wanted=accepted.seed_wanted)
        if wish and not self._flow.greeting:
            self._tell_up(SeedWanted(f"{name} has no seed"))
        self._do(self._flow.connected(name, accepted, facts, self._loop.time()))

    async def _listen(self, name: str) -> LogshipError:
        """Until the connection is lost; returns why."""
        destination = self._destinations[name]
        while True:
            event = await destination.next_event()
            match event:
                case Acked():
                    self._do(self._flow.acked(name, event))
                case Rewind(position, why):
                    log.info("a destination goes on elsewhere", destination=name, why=why)
                    self._do(self._flow.rewound(name, position))
                case SeedWanted(why):
                    if name not in self._seed_names:
                        log.warning("a bucket that only spills takes no seed", why=why)
                    elif self._seeds.asked(name, why):
                        self._tell_up(event)
                case SeedFinished():
                    if (last_word := self._seeds.finished(name, event)) is not None:
                        self._tell_up(last_word)
                case Lost(error):
                    return error

    def _lost(self, name: str, error: LogshipError) -> None:
        # By its code if refused: the words may hold a number that is another one each time.
        if self._reminders[name].due(error.what if error.retryable else error.code):
            said = log.warning if error.retryable else log.error
            said("a destination is not connected", destination=name, **error.as_dict())
        self._do(self._flow.lost(name, error, self._loop.time()))
        if self._flow.greeting or self._ended is not None:
            return
        if error.code in STOP_CODES:
            self._stopped_by = name
            self._end(error)
        elif self._flow.is_alone:
            self._end(self._flow.why_lost())

    def _end(self, error: LogshipError) -> None:
        """Who sends has to connect anew."""
        if self._ended is not None:
            return
        self._ended = error
        self._tell_up(Lost(error))
        current = asyncio.current_task()
        for task in (*self._tasks.values(), self._clock):
            if task is not None and task is not current:
                task.cancel()

    async def close(self, reason: str) -> None:
        await self._stop()
        self._ended = _closed()
        self._changed.happened()
        await self._close_all(reason)

    async def _close_all(self, reason: str) -> None:
        for destination in self._destinations.values():
            await destination.close(reason)

    async def _stop(self) -> None:
        tasks = [*self._tasks.values(), *self._partings.values()]
        tasks += [self._clock] if self._clock is not None else []
        self._tasks.clear()
        self._partings.clear()
        self._clock = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- what is decided ------------------------------------------------------------------

    def _do(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case Up(Lost(error)):
                    self._end(error)
                case Up(event):
                    self._tell_up(event)
                case Say(level, event, fields):
                    getattr(log, level)(event, **fields)
                case Connect(name):
                    if name not in self._tasks:
                        self._start(name)
                case Part(name, why):
                    if (task := self._tasks.pop(name, None)) is not None:
                        task.cancel()
                        self._partings[name] = asyncio.create_task(self._part(name, task, why))
                case _:
                    self._do_to_member(command)
        self._changed.happened()

    def _do_to_member(self, command: GoOnAt | SkipTo | Hole | SendHistory) -> None:
        destination = self._destinations[command.name]
        try:
            match command:
                case GoOnAt(_, position):
                    destination.resume(position)
                case Hole(_, gap):
                    destination.send_gap(gap)
                case SendHistory(_, timeline, content):
                    destination.send_history(timeline, content)
                case SkipTo(name, position, why):
                    assert isinstance(destination, SpillDestination), "it has the role for it"
                    start = destination.skip_to(position, why)
                    self._do(self._flow.skipped(name, start))
        except LogshipError as error:
            # Its task hears of the same loss.
            self._do(self._flow.lost(command.name, error, self._loop.time()))

    async def _part(self, name: str, task: asyncio.Task[None], why: str) -> None:
        await asyncio.gather(task, return_exceptions=True)
        with contextlib.suppress(LogshipError):
            await self._destinations[name].close(why)

    def _tell_up(self, event: DestinationEvent) -> None:
        if isinstance(event, Acked):
            self._acked = event
        else:
            self._events.append(event)
        self._changed.happened()

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._do(self._flow.tick(self._loop.time()))
            if (last_word := self._seeds.settle_doubts()) is not None:
                self._tell_up(last_word)
            if wish := self._seeds.next_wish():
                self._tell_up(SeedWanted(wish))
            self._tell_members()

    # --- what is told of the primary ------------------------------------------------------

    def tell(self, facts: Facts) -> None:
        if self._ended is not None:
            return
        self._facts = facts
        self._do(self._flow.told(facts, self._loop.time()))
        self._tell_members()

    def _tell_members(self) -> None:
        for name, member in self._flow.members.items():
            if member.connected and self._facts is not None:
                self._destinations[name].tell(self._facts_for(name, self._facts))

    def _facts_for(self, name: str, facts: Facts) -> Facts:
        self._look_who_stands()
        return facts._replace(other_roads=self._flow.roads(name))

    # --- sending --------------------------------------------------------------------------

    async def room(self, size_bytes: int) -> None:
        await self._room.wait(size_bytes)

    def resume(self, position: Position) -> None:
        self._do(self._flow.resumed(position))

    def send_span(self, timeline: int, start_lsn: int, sealed: Sealed, flush_lsn: int) -> None:
        self._check_open()
        pieces = self._flow.pieces(
            timeline, start_lsn, sealed.raw_bytes, flush_lsn, self._room.found
        )
        for name, skipped_bytes in pieces:
            piece = _cut(sealed, skipped_bytes) if skipped_bytes else sealed
            start = Lsn(start_lsn + skipped_bytes)
            try:
                self._destinations[name].send_span(timeline, start, piece, flush_lsn)
            except LogshipError as error:
                self._do(self._flow.lost(name, error, self._loop.time()))

    def send_history(self, timeline: int, content: bytes) -> None:
        self._check_open()
        self._do(self._flow.history(timeline, content))

    def send_gap(self, gap: GapFound) -> None:
        self._check_open()
        self._do(self._flow.gap(gap))

    async def send_seed(
        self, frame: SeedBegin | SeedChunk | SeedEnd | SeedAborted, payload: bytes | memoryview
    ) -> None:
        seeds = self._seeds
        if isinstance(frame, SeedBegin):
            self._look_who_stands()
            standing = {each.name for each in self._flow.members.values() if each.standing}
            self._flow.seed_began(seeds.begin(frame.seed_id, self._seed_names, standing))
        names = list(seeds.targets)
        if isinstance(frame, SeedAborted):
            seeds.abort()
        elif not names:
            why = seeds.failure or "the seed was given up"
            raise LogshipError(Code.SEED_FAILED, why, retryable=True)
        failures: list[LogshipError] = []
        for name in names:
            try:
                await self._destinations[name].send_seed(frame, payload)
            except LogshipError as error:
                # The member says so too, with a SeedFinished, unless it never began.
                failures.append(error)
                if isinstance(frame, SeedBegin):
                    seeds.refused(name, error.what)
            else:
                if isinstance(frame, SeedBegin):
                    seeds.began(name)
        if failures and len(failures) == len(names):
            raise failures[0]

    # --- receiving ------------------------------------------------------------------------

    async def next_event(self) -> DestinationEvent:
        while True:
            if self._bug is not None:
                raise self._bug
            if self._acked is not None:
                acked, self._acked = self._acked, None
                return acked
            if self._events:
                return self._events.popleft()
            await self._changed.wait()

    def _check_open(self) -> None:
        if self._ended is not None:
            raise LogshipError(Code.LINK_LOST, self._ended.what, retryable=True)


def _closed() -> LogshipError:
    return LogshipError(Code.LINK_LOST, "no destination is connected", retryable=True)


def _cut(sealed: Sealed, skipped_bytes: int) -> Sealed:
    """A span without its first bytes, for a member that has them: rare."""
    raw = unseal(
        sealed.codec,
        sealed.crc32c,
        sealed.raw_bytes,
        sealed.payload,
        max_raw_bytes=sealed.raw_bytes,
    )
    return seal(memoryview(raw)[skipped_bytes:], compress=sealed.codec != "none", quick=True)
