"""An instance in memory, as receivers see it: keeps what it is given, breaks on command."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import zmq

from applier.receivers import FencedError, Held, IntakeListener, Positions, Resume, ShipperSign
from applier.receivers.seed.receiver import SeedOutOfOrderError
from logship.errors import Code, LogshipError
from logship.frames import GapFound, Hello, SeedBegin, SeedChunk, SeedEnd, ShipperHeartbeat
from logship.identity import Incarnation, Profile
from logship.link.keys import KeyPair
from logship.lsn import Lsn, Position
from logship.seal import unseal
from logship.wal import segment_start


def new_keys() -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


class FakeIntake:
    """See `applier.receivers.Intake`.

    `log`: every call, in order, as (name, what).  `fail[name]`: errors that the next calls of
    that name raise, one each, before they do anything.  `taking`: cleared, `wal` waits; `ending`:
    `seed_end` does.
    `auto_durable`: what is written counts as durable at once; else `harden` says when.
    """

    def __init__(self, start: Position | None, segment_bytes: int) -> None:
        self.segment_bytes = segment_bytes
        self.auto_durable = True
        self.seed_wanted = False
        self.taking = asyncio.Event()
        self.taking.set()
        self.ending = asyncio.Event()
        self.ending.set()
        self.log: list[tuple[str, Any]] = []
        self.fail: defaultdict[str, list[Exception]] = defaultdict(list)
        self.fenced_at: FencedError | None = None
        self.histories: dict[int, bytes] = {}
        self.applied_lsn = Lsn(0)
        self.listener: IntakeListener | None = None
        self.gone: list[tuple[IntakeListener, str]] = []
        self.busy = 0
        self.seed_id = ""
        self.seed_parts: list[tuple[SeedChunk, bytes]] = []
        self.placed_seed_id = ""
        self.when_seeded: Callable[[], None] | None = None
        self.chain_starts: list[Position] = []
        self._wal: dict[int, tuple[int, bytearray]] = {}
        self._durable: Position | None = None
        self._start(start)

    def _start(self, start: Position | None) -> None:
        if start is not None:
            self._wal = {start.timeline: (start.lsn, bytearray())}
            self._durable = start
            self.chain_starts.append(start)

    # --- what a test sees and does ----------------------------------------------------------

    def of_kind(self, name: str) -> list[Any]:
        return [what for kind, what in self.log if kind == name]

    def wal_of(self, timeline: int) -> bytes:
        return bytes(self._wal[timeline][1]) if timeline in self._wal else b""

    @property
    def written(self) -> Position | None:
        if not self._wal:
            return None
        timeline = max(self._wal)
        start, held = self._wal[timeline]
        return Position(timeline, Lsn(start + len(held)))

    def harden(self, position: Position) -> None:
        """From now on `position` is durable."""
        assert self.written is not None and position <= self.written
        self._durable = position
        if self.listener is not None:
            self.listener.positions_changed()

    def hold(self, start: Position, data: bytes) -> None:
        """A chain from `start` on, with this WAL, durable."""
        self._wal = {start.timeline: (start.lsn, bytearray(data))}
        self._durable = self.written

    def forget_from(self, position: Position) -> None:
        """As a store that was opened again: what was not durable is gone."""
        assert self._durable is not None and self._durable <= position
        start, held = self._wal[position.timeline]
        del held[position.lsn - start :]

    def forget_seed(self) -> None:
        """As an applier that was started again: what it had of a seed is gone."""
        self.seed_id = ""
        self.seed_parts.clear()

    def fence(self) -> None:
        self.fenced_at = FencedError(1700000000.0, 2, 0x3000028)
        if self.listener is not None:
            self.listener.fenced(self.fenced_at)

    def clear(self) -> None:
        self.log.clear()

    # --- Intake -----------------------------------------------------------------------------

    def _note(self, name: str, what: Any) -> None:
        self.log.append((name, what))
        if self.fenced_at is not None:
            raise self.fenced_at
        if self.fail[name]:
            raise self.fail[name].pop(0)

    async def hello(self, hello: Hello, listener: IntakeListener) -> Resume:
        self._note("hello", hello)
        await asyncio.sleep(0)
        self.listener = listener
        resumed = bool(self.seed_id) and self.seed_id == hello.seed_id
        if not resumed:
            self.forget_seed()
        return Resume(
            position=self._durable,
            known_timelines=tuple(self.histories),
            seed_wanted=self.seed_wanted and not resumed,
            seed_id=self.seed_id,
            seed_sequence=len(self.seed_parts),
            seed_done=bool(hello.seed_id) and hello.seed_id == self.placed_seed_id,
        )

    async def history(self, timeline: int, content: bytes) -> None:
        self._note("history", (timeline, content))
        self.histories[timeline] = content

    async def wal(self, timeline: int, start_lsn: int, data: bytes | memoryview) -> None:
        self.busy += 1
        assert self.busy == 1, "two calls at once"
        try:
            await self.taking.wait()
            self._note("wal", (timeline, start_lsn, bytes(data)))
            await asyncio.sleep(0)
            self._write(timeline, start_lsn, bytes(data))
        finally:
            self.busy -= 1

    def wal_at_once(self, timeline: int, start_lsn: int, data: bytes | memoryview) -> bool:
        assert self.busy == 0, "two calls at once"
        if not self.taking.is_set():
            return False
        self._note("wal", (timeline, start_lsn, bytes(data)))
        self._write(timeline, start_lsn, bytes(data))
        return True

    def _write(self, timeline: int, start_lsn: int, data: bytes) -> None:
        written = self.written
        if written is None or (timeline == written.timeline and start_lsn > written.lsn):
            raise LogshipError(Code.WAL_GAP, f"{Lsn(start_lsn)} does not fit")
        if timeline > 1 and timeline not in self.histories:
            raise LogshipError(Code.HISTORY_MISSING, f"no history of {timeline}")
        start, held = self._wal.setdefault(timeline, (start_lsn, bytearray()))
        known = held[start_lsn - start : start_lsn - start + len(data)]
        assert known == data[: len(known)], "other bytes"
        held += data[len(known) :]
        if self.auto_durable:
            self._durable = self.written

    def heard_from(self, timeline: int, flush_lsn: int) -> None:
        self.log.append(("heard", (timeline, flush_lsn)))

    def heard_with_span(self, timeline: int, flush_lsn: int, at: float = 0.0) -> None:
        self.log.append(("heard", (timeline, flush_lsn)))

    def heartbeat(self, heartbeat: ShipperHeartbeat) -> None:
        self.log.append(("heartbeat", heartbeat))

    async def profile(self, profile: Profile) -> None:
        self._note("profile", profile)

    def gap_found(self, gap: GapFound) -> None:
        self.log.append(("gap", gap))

    async def seed_begin(self, frame: SeedBegin) -> None:
        self._note("seed_begin", frame)
        self.forget_seed()
        self.seed_id = frame.seed_id
        start = segment_start(frame.start_lsn, self.segment_bytes)
        self._wal.clear()
        self._start(Position(frame.timeline, start))

    async def seed_chunk(self, frame: SeedChunk, payload: bytes | memoryview) -> None:
        self._note("seed_chunk", frame.sequence)
        assert frame.seed_id == self.seed_id
        if frame.sequence != len(self.seed_parts):
            raise SeedOutOfOrderError(len(self.seed_parts), frame.sequence)
        raw = unseal(frame.codec, frame.crc32c, frame.raw_bytes, payload, max_raw_bytes=1 << 23)
        self.seed_parts.append((frame, bytes(raw)))

    async def seed_end(self, frame: SeedEnd) -> None:
        self._note("seed_end", frame)
        await self.ending.wait()
        if frame.sequence != len(self.seed_parts):
            raise SeedOutOfOrderError(len(self.seed_parts), frame.sequence)
        self.placed_seed_id, self.seed_id = self.seed_id, ""
        if self.when_seeded is not None:
            self.when_seeded()

    async def seed_stopped(self, seed_id: str, code: str, what: str) -> None:
        self._note("seed_stopped", (seed_id, code, what))
        self.forget_seed()

    def positions(self) -> Positions | None:
        if self.written is None or self._durable is None:
            return None
        return Positions(self.written, self._durable, self.applied_lsn)

    def lost(self, listener: IntakeListener, why: str) -> None:
        self.gone.append((listener, why))
        if listener is self.listener:
            self.listener = None


class FakeBucketIntake(FakeIntake):
    """See `applier.receivers.BucketIntake`.  `wanted` False: the bucket is not wanted."""

    def __init__(self, start: Position | None, segment_bytes: int) -> None:
        super().__init__(start, segment_bytes)
        self.wanted = True
        self.incarnation: Incarnation | None = None
        self.accepted: Incarnation | None = None
        self.promoted_at: FencedError | None = None
        self.heard_at: list[tuple[int, int, float]] = []
        self.times_answered = 0
        self.sealed: LogshipError | None = None
        self.shipper: ShipperSign | None = None
        """What was last said of its sign of life."""

    def heard_with_span(self, timeline: int, flush_lsn: int, at: float = 0.0) -> None:
        super().heard_with_span(timeline, flush_lsn)
        self.heard_at.append((timeline, flush_lsn, at))

    def read_from(self) -> float | None:
        return 0.0 if self.wanted else None

    def promoted(self) -> FencedError | None:
        return self.promoted_at

    def held(self) -> Held | None:
        written = self.written
        if written is None:
            return None
        start = Lsn(self._wal[written.timeline][0])
        return Held(written.timeline, start, written.lsn, bool(self.placed_seed_id))

    def bucket_failed(self, error: LogshipError) -> None:
        self.log.append(("bucket_failed", error))

    def bucket_answers(self) -> None:
        self.times_answered += 1

    def bucket_sealed(self, error: LogshipError | None) -> None:
        self.sealed = error

    def signed(self, seen: ShipperSign | None) -> None:
        self.shipper = seen

    def bucket_dry(self) -> None:
        self.log.append(("bucket_dry", self.written))
