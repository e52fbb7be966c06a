"""A bucket in memory, as a member of `several`: keeps what it is sent, breaks on command.

What it is sent must fit: WAL with a hole, or with other bytes, is an error at once.  It keeps
what it has over connections, and, as a test's own process does, over a shipper that is made anew.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from logship.errors import Code, LogshipError
from logship.frames import GapFound, SeedAborted, SeedBegin, SeedChunk, SeedEnd
from logship.lsn import Lsn, Position
from logship.seal import Sealed, unseal
from logship.wal import segment_start
from shipper.destinations import (
    Accepted,
    Acked,
    DestinationEvent,
    Facts,
    Lost,
    Rewind,
    SeedFinished,
    SeedWanted,
)
from tests.support.fakes import link_lost
from tests.support.link_frames import SEGMENT_BYTES, wal_bytes


class FakeBucket:
    """See `shipper.destinations.several.destination.SpillDestination`.

    `auto_durable`: what is sent is durable at once; else `harden` says when.
    `room_bytes`: what may be sent until it is raised again; None is no limit.
    """

    far_end = "the bucket"

    def __init__(self, start: Position | None) -> None:
        self.auto_durable = True
        self.away = False
        self.refusals: list[LogshipError] = []
        self.seed_refusals: list[LogshipError] = []
        self.chunk_failures: list[LogshipError] = []
        self.end_failures: list[LogshipError] = []
        self.seed_wanted = False
        self.room_bytes: int | None = None
        self.connects = 0
        self.gaps: list[GapFound] = []
        self.skips: list[Position] = []
        self.told: list[Facts] = []
        self.histories: set[int] = set()
        self.chain_start = self.end = self.durable = start
        self.seed: list[Any] | None = None
        """What came of the seed on its way."""
        self.seeds_done: list[str] = []
        self._seed_failure: LogshipError | None = None
        self._seed_id = ""
        self._connected = False
        self._resumed: Position | None = None
        self._events: deque[DestinationEvent] = deque()
        self._changed = asyncio.Event()

    # --- what a test does -------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        return self._connected

    def harden(self, position: Position) -> None:
        assert self.end is not None
        if self.durable is not None and self.durable < min(position, self.end):
            self.durable = min(position, self.end)
            self._say_positions()

    def say(self, event: DestinationEvent) -> None:
        self._events.append(event)
        self._changed.set()

    def free(self, room_bytes: int | None) -> None:
        self.room_bytes = room_bytes
        self._changed.set()

    def cut(self, error: LogshipError | None = None) -> None:
        if self._connected:
            self._connected = False
            self.say(Lost(error or link_lost("the bucket went away")))

    def vanish(self) -> None:
        self.away = True
        self.cut()

    def forget_seed(self) -> None:
        self._fail_seed(LogshipError(Code.SEED_FAILED, "its beginning is lost"))

    # --- Destination ------------------------------------------------------------------------

    async def connect(self, facts: Facts) -> Accepted:
        self.connects += 1
        await asyncio.sleep(0)
        if self.away:
            raise LogshipError(Code.BUCKET_UNREACHABLE, "nobody answers", "wait", retryable=True)
        if self.refusals:
            raise self.refusals.pop(0)
        self._events = deque(e for e in self._events if isinstance(e, SeedFinished))
        self._connected = True
        self.end = self.durable  # what was not durable has to be sent again
        self._resumed = None
        if not facts.ships:
            return Accepted(None, frozenset(), False, 1 << 20)
        return Accepted(
            self.end,
            frozenset(self.histories),
            self.seed_wanted and self.seed is None,
            1 << 20,
            durable=self.durable,
            seeding=self.seed is not None,
        )

    def tell(self, facts: Facts) -> None:
        self.told.append(facts)

    async def room(self, size_bytes: int) -> None:
        while self._connected:
            if self.room_bytes is None or self.room_bytes >= size_bytes:
                return
            self._changed.clear()
            await self._changed.wait()
        raise link_lost("the bucket is away")

    def resume(self, position: Position) -> None:
        self._resumed = position

    def skip_to(self, position: Position, why: str) -> Position:
        """As a bucket, it begins at a segment's start."""
        assert self._connected and why
        start = Position(position.timeline, segment_start(position.lsn, SEGMENT_BYTES))
        self.skips.append(start)
        self.chain_start = self.end = self.durable = self._resumed = start
        return start

    def send_span(self, timeline: int, start_lsn: int, sealed: Sealed, flush_lsn: int) -> None:
        if not self._connected:
            raise link_lost("the bucket is away")
        raw = unseal(
            sealed.codec, sealed.crc32c, sealed.raw_bytes, sealed.payload, max_raw_bytes=1 << 22
        )
        assert self._resumed is not None, "nobody said where it goes on"
        assert self.end is not None, "WAL without a chain"
        opens = timeline > self.end.timeline and start_lsn <= self.end.lsn
        assert opens or (timeline, start_lsn) == self.end, f"{start_lsn:X} after {self.end}"
        assert timeline == 1 or timeline in self.histories, "WAL before its history"
        assert bytes(raw) == wal_bytes(timeline, start_lsn, len(raw)), "other bytes"
        if self.room_bytes is not None:
            self.room_bytes -= len(raw)
            assert self.room_bytes >= 0, "more than there is room for"
        self.end = Position(timeline, Lsn(start_lsn + len(raw)))
        if self.auto_durable:
            self.durable = self.end
        self._say_positions()

    def _say_positions(self) -> None:
        if self._connected and self.end is not None and self.durable is not None:
            self.say(Acked(self.end, self.durable, Lsn(0)))

    def send_history(self, timeline: int, content: bytes) -> None:
        self.histories.add(timeline)

    def send_gap(self, gap: GapFound) -> None:
        self.gaps.append(gap)

    async def send_seed(
        self, frame: SeedBegin | SeedChunk | SeedEnd | SeedAborted, payload: bytes | memoryview
    ) -> None:
        match frame:
            case SeedBegin():
                self._begin_seed(frame)
            case SeedAborted():
                self.seed = None
            case SeedChunk() | SeedEnd():
                if self._seed_failure is not None:
                    raise self._seed_failure
                assert self.seed is not None
                self.seed.append(frame)
                failures = self.end_failures if isinstance(frame, SeedEnd) else self.chunk_failures
                if failures:
                    self._fail_seed(failures.pop(0))
                elif isinstance(frame, SeedEnd):
                    self.seed, self.seed_wanted = None, False
                    self.seeds_done.append(frame.seed_id)
                    self.say(SeedFinished(frame.seed_id, ""))

    def _begin_seed(self, frame: SeedBegin) -> None:
        self._seed_id, self.seed, self._seed_failure = frame.seed_id, [], None
        if self.seed_refusals:
            error = self.seed_refusals.pop(0)
            self._fail_seed(error)
            self.cut(error)
            return
        start = Position(frame.timeline, segment_start(frame.start_lsn, SEGMENT_BYTES))
        self.chain_start = self.end = self.durable = start
        self._resumed = None
        if self._connected:
            self.say(Rewind(start, "a seed begins here"))

    def _fail_seed(self, error: LogshipError) -> None:
        if self.seed is not None:
            self.seed = None
            self._seed_failure = LogshipError(Code.SEED_FAILED, error.what, retryable=True)
            self.say(SeedFinished(self._seed_id, error.what))

    def want_seed(self, why: str) -> None:
        self.seed_wanted = True
        self.say(SeedWanted(why))

    async def next_event(self) -> DestinationEvent:
        while not self._events:
            self._changed.clear()
            await self._changed.wait()
        event = self._events.popleft()
        while isinstance(event, Acked) and self._events and isinstance(self._events[0], Acked):
            event = self._events.popleft()
        return event

    async def close(self, reason: str) -> None:
        self._connected = False
