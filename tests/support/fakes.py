"""A source and a destination in memory, for the agent that joins real ones.

Both break on command, which the real ones do only by luck.  What they promise is what
`tests/integration/source_contract.py` and `destination_contract.py` promise.
"""

from __future__ import annotations

import asyncio
from typing import Any

from logship.errors import Code, LogshipError
from logship.frames import GapFound, SeedAborted, SeedBegin, SeedChunk, SeedEnd
from logship.identity import Profile
from logship.lsn import Lsn, Position
from logship.seal import Sealed, unseal
from shipper.destinations import (
    Accepted,
    DestinationEvent,
    Facts,
    Lost,
    Rewind,
)
from shipper.sources import HistoryFile, Observation, SourceEvent, SourceIdentity, WalBytes
from tests.support.link_frames import profile, wal_bytes


def primary_lost() -> LogshipError:
    return LogshipError(Code.PRIMARY_UNREACHABLE, "the primary went away", retryable=True)


def link_lost(what: str = "the link went away") -> LogshipError:
    return LogshipError(Code.LINK_LOST, what, retryable=True)


class FakeSource:
    """WAL of one timeline that is there as soon as `flush` says so.

    `fail_open`, `fail_reserve`, `fail_start`, `fail_read`, `fail_observe`: raised by the next
    such calls, one each.  As the contract says, `start` reads only from what the last `open`
    described.
    """

    def __init__(self, *, start_lsn: int, piece_bytes: int = 100) -> None:
        self.timeline = 1
        self.profile: Profile = profile()
        self.piece_bytes = piece_bytes
        self.fail_open: list[Exception] = []
        self.fail_reserve: list[Exception] = []
        self.fail_start: list[Exception] = []
        self.fail_read: list[Exception] = []
        self.fail_observe: list[Exception] = []
        self.is_down = False
        """`open` fails for as long."""
        self.is_reachable = True
        """False: it gives WAL although the primary is away."""
        self.opened = 0
        self.reserved = 0
        self.starts: list[tuple[Position, frozenset[int]]] = []
        self.histories: list[HistoryFile] = []
        """Given by the next `read` after `start`, before any WAL."""
        self.acknowledged: list[tuple[Position, Position, Lsn]] = []
        self.observing: asyncio.Event | None = None
        """If set, `observe` waits for it."""
        self.sync_state = ""
        self.slot_restart_lsn: Lsn | None = Lsn(0)
        self.closed = False
        self.waiting = False
        """A `read` waits for more."""
        self._flush = Lsn(start_lsn)
        self._next: Position | None = None
        self._changed = asyncio.Event()
        self._heard = False
        self._described: tuple[Profile, int] | None = (self.profile, self.timeline)

    def flush(self, lsn: int) -> None:
        """The cluster has flushed up to here."""
        self._flush = Lsn(lsn)
        self._changed.set()

    def break_read(self, error: Exception) -> None:
        """The connection breaks, also under a read that waits."""
        self.fail_read.append(error)
        self._changed.set()

    # --- Source -----------------------------------------------------------------------------

    async def open(self) -> SourceIdentity:
        self.opened += 1
        self._next = None
        self._described = None
        if self.fail_open:
            raise self.fail_open.pop(0)
        if self.is_down:
            raise primary_lost()
        self._described = (self.profile, self.timeline)
        return SourceIdentity(self.profile, self.timeline, self._flush)

    async def reserve(self) -> None:
        if self.fail_reserve:
            raise self.fail_reserve.pop(0)
        self.reserved += 1

    async def start(self, resume: Position, known_timelines: frozenset[int]) -> None:
        self.starts.append((resume, known_timelines))
        if self.fail_start:
            raise self.fail_start.pop(0)
        if self._described != (self.profile, self.timeline):
            raise LogshipError(Code.PRIMARY_NOT_READY, "it is another one now", retryable=True)
        self._next = resume
        self._heard = False

    async def read(self, max_bytes: int) -> list[SourceEvent]:
        while True:
            await asyncio.sleep(0)
            if self.fail_read:
                self._next = None
                raise self.fail_read.pop(0)
            assert self._next is not None, "read without start"
            if self.histories:
                events: list[SourceEvent] = list(self.histories)
                self.histories.clear()
                return events
            if self._next.lsn < self._flush:
                return [self._take(max_bytes)]
            if not self._heard:
                self._heard = True
                return []
            self._changed.clear()
            self.waiting = True
            await self._changed.wait()
            self.waiting = False

    def _take(self, max_bytes: int) -> WalBytes:
        assert self._next is not None
        start = self._next.lsn
        size = min(self.piece_bytes, max_bytes, self._flush - start)
        self._next = Position(self._next.timeline, Lsn(start + size))
        chunk = wal_bytes(self._next.timeline, start, size)
        return WalBytes(self._next.timeline, start, [chunk], size)

    @property
    def flush_lsn(self) -> Lsn:
        return self._flush

    @property
    def reachable(self) -> bool:
        return self.is_reachable

    def acknowledge(self, received: Position, durable: Position, applied: Lsn) -> None:
        self.acknowledged.append((received, durable, applied))

    async def observe(self) -> Observation:
        if self.observing is not None:
            await self.observing.wait()
        if self.fail_observe:
            raise self.fail_observe.pop(0)
        return Observation(self.profile, self.sync_state, "reserved", self.slot_restart_lsn)

    async def close(self) -> None:
        self.closed = True


class FakeDestination:
    """Keeps what it is sent in `log`, in order; `say` makes its far end speak.

    `room_bytes`: what may be sent until it is raised again; None is no limit.
    `refusals`: raised by the next `connect` calls, one each.
    """

    far_end = "the far end"

    def __init__(self, accepted: Accepted | None = None) -> None:
        self.accepted = accepted
        self.refusals: list[Exception] = []
        self.connects: list[Facts] = []
        self.log: list[tuple[str, Any]] = []
        """("wal", (timeline, lsn, bytes)), ("history", …), ("gap", …), ("tell", Facts), …"""
        self.room_bytes: int | None = None
        self.closed_because: list[str] = []
        self._events: asyncio.Queue[DestinationEvent] = asyncio.Queue()
        self._lost: LogshipError | None = None
        self._changed = asyncio.Event()
        self._void = False

    def say(self, event: DestinationEvent) -> None:
        if isinstance(event, Lost):
            self._lost = event.error
        self._void = self._void or isinstance(event, Rewind)
        self._events.put_nowait(event)
        self._changed.set()

    def cut(self, error: LogshipError | None = None) -> None:
        """The connection is gone; `error` is the far end's word, told a moment later if given."""
        self._lost = link_lost("the socket closed")
        self._changed.set()
        if error is not None:
            asyncio.get_running_loop().call_soon(self._events.put_nowait, Lost(error))

    def free(self, room_bytes: int | None) -> None:
        self.room_bytes = room_bytes
        self._changed.set()

    def of_kind(self, kind: str) -> list[Any]:
        return [what for name, what in self.log if name == kind]

    @property
    def spans(self) -> list[tuple[int, int, bytes]]:
        return self.of_kind("wal")

    def wal_from(self, lsn: int, timeline: int = 1) -> bytes:
        """The bytes that would now stand at the far end, from `lsn` on; a hole is an error."""
        held = bytearray()
        for its_timeline, start, data in self.spans:
            if its_timeline != timeline or start + len(data) <= lsn:
                continue
            assert start <= lsn + len(held), f"a hole before {Lsn(start)}"
            held[max(0, start - lsn) :] = data[max(0, lsn - start) :]
        return bytes(held)

    # --- Destination ------------------------------------------------------------------------

    async def connect(self, facts: Facts) -> Accepted:
        self.connects.append(facts)
        await asyncio.sleep(0)
        if self.refusals:
            raise self.refusals.pop(0)
        assert self.accepted is not None
        self._lost = None
        self._void = False
        self._events = asyncio.Queue()
        return self.accepted

    def tell(self, facts: Facts) -> None:
        self.log.append(("tell", facts))

    async def room(self, size_bytes: int) -> None:
        while self._lost is None:
            if self.room_bytes is None or self.room_bytes >= size_bytes:
                return
            self._changed.clear()
            await self._changed.wait()
        raise link_lost("the link is down")

    def resume(self, position: Position) -> None:
        self._void = False
        self.log.append(("resume", position))

    def send_span(self, timeline: int, start_lsn: int, sealed: Sealed, flush_lsn: int) -> None:
        if self._lost is not None:
            raise link_lost("the link is down")
        if self._void:
            return
        raw = unseal(
            sealed.codec, sealed.crc32c, sealed.raw_bytes, sealed.payload, max_raw_bytes=1 << 22
        )
        if self.room_bytes is not None:
            self.room_bytes -= len(raw)
        self.log.append(("wal", (timeline, start_lsn, bytes(raw))))

    def send_history(self, timeline: int, content: bytes) -> None:
        self.log.append(("history", (timeline, content)))

    def send_gap(self, gap: GapFound) -> None:
        self.log.append(("gap", gap))

    async def send_seed(
        self, frame: SeedBegin | SeedChunk | SeedEnd | SeedAborted, payload: bytes | memoryview
    ) -> None:
        self.log.append(("seed", (frame, bytes(payload))))

    async def next_event(self) -> DestinationEvent:
        return await self._events.get()

    async def close(self, reason: str) -> None:
        self.closed_because.append(reason)
