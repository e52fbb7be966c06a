"""Primaries: servers that write WAL, fork timelines, keep slots and answer replication commands.

`SimServer` is what of a PostgreSQL primary matters here.  `SimReplicationConnection` and
`SimPrimaryQueries` take the places of `logship.postgres.replication.ReplicationConnection` and
`shipper.sources.primary.PrimaryQueries`, so that the real `StreamSource` runs above them.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from functools import lru_cache
from random import Random
from typing import Any

from logship.errors import Code, LogshipError
from logship.identity import Profile
from logship.lsn import Lsn, Position
from logship.postgres.replication import EndOfTimeline, Keepalive, SystemIdentity, XLogData
from logship.postgres.server_errors import not_in_history, primary_behind
from logship.wal import PAGE_MAGIC, WAL_PAGE_BYTES, History, parse_history, segment_start
from shipper.sources.primary import PrimaryState, SlotState
from tests.simulation.loop import PROCESS, Process
from tests.support.link_frames import profile

SEGMENT_BYTES = 32 * 1024
"""Far below PostgreSQL's least: segments end all the time (`wiring` lowers the limit)."""
ORIGIN = 64 * SEGMENT_BYTES
MAJOR = 17

_SHORT = struct.Struct("<HHIQI4x")
_LONG = struct.Struct("<HHIQI4xQII")


@lru_cache(maxsize=20_000)
def _page(system_identifier: int, variant: int, timeline: int, address: int) -> bytes:
    magic = PAGE_MAGIC[MAJOR]
    if address % SEGMENT_BYTES == 0:
        header = _LONG.pack(
            magic, 2, timeline, address, 0, system_identifier, SEGMENT_BYTES, WAL_PAGE_BYTES
        )
    else:
        header = _SHORT.pack(magic, 0, timeline, address, 0)
    noise = Random(variant << 80 | timeline << 64 | address).randbytes(WAL_PAGE_BYTES)
    return header + noise[len(header) :]


class Wal:
    """One timeline's own files of one server: bytes from `start` on."""

    def __init__(self, start: int, data: bytes = b"") -> None:
        self.start = start
        self.data = bytearray(data)

    @property
    def end(self) -> int:
        return self.start + len(self.data)

    def read(self, start: int, end: int) -> bytes:
        return bytes(self.data[start - self.start : end - self.start])


class SimServer:
    """One server of a cluster; flushes what it writes at once."""

    def __init__(self, name: str, system_identifier: int, variant: int) -> None:
        self.name = name
        self.system_identifier = system_identifier
        self.variant = variant
        self.timeline = 1
        self.wal = {1: Wal(ORIGIN)}
        self.histories: dict[int, bytes] = {}
        self.record_ends = [ORIGIN]
        """Of its current timeline, oldest first: where a promotion may come to stand."""
        self.removed_before = ORIGIN
        self.redo_lsn = ORIGIN
        self.slots: dict[str, int | None] = {}
        self.generation = 0
        self.up = True
        self.profile_number = 0
        self.changes: list[tuple[Position, int]] = []
        """(position, profile number) from which on its WAL is that of a changed server."""
        self.on_status: Callable[[SimServer, int], None] = lambda server, flushed: None
        self._connections: list[SimReplicationConnection] = []

    # --- what it is -------------------------------------------------------------------------

    @property
    def flush_lsn(self) -> Lsn:
        return Lsn(self.wal[self.timeline].end)

    @property
    def profile(self) -> Profile:
        return profile(
            system_identifier=self.system_identifier,
            wal_segment_size=SEGMENT_BYTES,
            max_connections=100 + self.profile_number,
        )

    def history(self, timeline: int) -> History:
        content = self.histories.get(timeline)
        return History(timeline, ()) if content is None else parse_history(timeline, content)

    @property
    def line(self) -> History:
        return self.history(self.timeline)

    # --- what it does -----------------------------------------------------------------------

    def write(self, size_bytes: int) -> None:
        wal = self.wal[self.timeline]
        start, end = wal.end, wal.end + size_bytes
        first = start - start % WAL_PAGE_BYTES
        pages = b"".join(
            _page(self.system_identifier, self.variant, self.timeline, address)
            for address in range(first, end, WAL_PAGE_BYTES)
        )
        wal.data += pages[start - first : end - first]
        self.record_ends.append(end)
        self._wake()

    def switch(self) -> None:
        """`pg_switch_wal`: the rest of the segment is zeros, page headers and all."""
        wal = self.wal[self.timeline]
        self.write(64)  # the record says so, and never ends within a page's header
        if wal.end % WAL_PAGE_BYTES < 64:
            self.write(64)
        wal.data += bytes(-wal.end % SEGMENT_BYTES)
        self.record_ends.append(wal.end)
        self._wake()

    def checkpoint(self) -> None:
        """Recycle the segments that neither replay nor a slot needs."""
        fork = self.line.ancestors[-1].end_lsn if self.line.ancestors else 0
        self.redo_lsn = max(self.redo_lsn, self.flush_lsn - SEGMENT_BYTES // 3, fork)
        keep = min([self.redo_lsn, *(lsn for lsn in self.slots.values() if lsn is not None)])
        self.removed_before = max(self.removed_before, segment_start(keep, SEGMENT_BYTES))

    def lose_slots(self) -> None:
        """max_slot_wal_keep_size is reached: the WAL goes, whoever needs it."""
        for name in self.slots:
            self.slots[name] = None
        self.redo_lsn = int(self.flush_lsn)
        self.disconnect()
        self.checkpoint()

    def stop(self) -> None:
        self.up = False
        self.generation += 1
        self.disconnect()

    def start(self) -> None:
        self.up = True

    def change(self) -> None:
        """Restarted with another setting, which a standby has to be checked against."""
        self.profile_number += 1
        self.changes.append((Position(self.timeline, self.flush_lsn), self.profile_number))

    def disconnect(self) -> None:
        for connection in list(self._connections):
            connection.broken = True
            connection.wake()
        self._connections.clear()

    def forked(
        self, name: str, variant: int, fork: int, *, rewritten_from: int | None = None
    ) -> SimServer:
        """A standby of this server that has received up to `fork`, to be promoted.

        rewritten_from: from there on it has other bytes, written after it was set back.
        """
        other = SimServer(name, self.system_identifier, variant)
        for number, wal in self.wal.items():
            end = min(wal.end, fork) if number == self.timeline else wal.end
            other.wal[number] = Wal(wal.start, wal.read(wal.start, end))
        other.timeline = self.timeline
        other.histories = dict(self.histories)
        other.removed_before = min(self.removed_before, segment_start(fork, SEGMENT_BYTES))
        other.profile_number = self.profile_number
        other.redo_lsn = max(other.removed_before, fork - SEGMENT_BYTES)
        if rewritten_from is not None:
            wal = other.wal[self.timeline]
            del wal.data[rewritten_from - wal.start :]
            other.write(fork - rewritten_from)
        return other

    def promote(self, timeline: int) -> None:
        """Open a new timeline where the WAL ends (`XLogInitNewTimeline`)."""
        old, fork = self.timeline, int(self.flush_lsn)
        before = self.histories.get(old, b"")
        self.histories[timeline] = before + f"{old}\t{Lsn(fork)}\tno target\n".encode()
        start = segment_start(fork, SEGMENT_BYTES)
        self.wal[timeline] = Wal(start, self.wal[old].read(start, fork))
        self.timeline = timeline
        self.record_ends = [fork]
        self._wake()

    def _wake(self) -> None:
        for connection in self._connections:
            connection.wake()


RESOLVE: dict[str, Callable[[str], SimServer | None]] = {}
"""Which server a conninfo leads to, under "now"."""


def _server_of(conninfo: str) -> SimServer:
    server = RESOLVE["now"](conninfo)
    if server is None or not server.up:
        raise _unreachable()
    return server


def _unreachable() -> LogshipError:
    return LogshipError(Code.PRIMARY_UNREACHABLE, "the primary is down", retryable=True)


class SimPrimaryQueries:
    def __init__(self, conninfo: str, *, application_name: str, slot: str, **_: Any) -> None:
        self._conninfo = conninfo
        self._slot = slot
        self._server: SimServer | None = None

    def _asked(self) -> SimServer:
        if self._server is None or not self._server.up:
            self._server = None
            self._server = _server_of(self._conninfo)
        return self._server

    async def state(self) -> PrimaryState:
        await asyncio.sleep(0.001)
        server = self._asked()
        slot = None
        if self._slot in server.slots:
            restart = server.slots[self._slot]
            status = "reserved" if restart is not None else "lost"
            slot = SlotState(False, None, status, None if restart is None else Lsn(restart))
        return PrimaryState(False, server.flush_lsn, "async", slot, server.timeline)

    async def primary_state(self) -> PrimaryState:
        return await self.state()  # no server here is ever a standby

    async def profile(self) -> Profile:
        await asyncio.sleep(0.001)
        return self._asked().profile

    async def ask(self, sql: str) -> Any:
        """What surrounds a server is not simulated: it tells nothing of that."""
        raise LogshipError(Code.PRIMARY_REFUSED, "permission denied")

    async def close(self) -> None:
        self._server = None


class SimReplicationConnection:
    """A connection in replication mode, as `ReplicationConnection` promises it."""

    def __init__(self, server: SimServer) -> None:
        self.broken = False
        self.process: Process | None = PROCESS.get()
        self._server = server
        self._changed = asyncio.Event()
        self._slot: str | None = None
        self._position: Position | None = None
        self._end: EndOfTimeline | None = None
        server._connections.append(self)

    @classmethod
    async def connect(cls, conninfo: str, **_: Any) -> SimReplicationConnection:
        await asyncio.sleep(0.001)
        return cls(_server_of(conninfo))

    def wake(self) -> None:
        self._changed.set()

    def close(self) -> None:
        self.broken = True
        self._position = None
        if self in self._server._connections:
            self._server._connections.remove(self)

    async def _asked(self) -> SimServer:
        await asyncio.sleep(0.001)
        if self.broken:
            raise _unreachable()
        return self._server

    async def identify_system(self) -> SystemIdentity:
        server = await self._asked()
        return SystemIdentity(server.system_identifier, server.timeline, server.flush_lsn)

    async def timeline_history(self, timeline: int) -> tuple[str, bytes]:
        server = await self._asked()
        content = server.histories.get(timeline)
        if content is None:
            raise LogshipError(Code.HISTORY_MISSING, f"no history of timeline {timeline}")
        return f"{timeline:08X}.history", content

    async def create_physical_slot(self, name: str, *, reserve_wal: bool = True) -> bool:
        server = await self._asked()
        if name in server.slots:
            return False
        server.slots[name] = max(server.redo_lsn, server.removed_before)
        return True

    async def drop_slot(self, name: str) -> bool:
        server = await self._asked()
        return server.slots.pop(name, -1) != -1

    async def start_replication(self, slot: str | None, lsn: int, timeline: int) -> None:
        server = await self._asked()
        if slot is not None:
            if server.slots.get(slot) is None:
                raise LogshipError(Code.SLOT_LOST, f"slot {slot} is not there or lost")
            if any(other._slot == slot and other.streams for other in server._connections):
                raise LogshipError(Code.SLOT_IN_USE, f"slot {slot} is active", retryable=True)
        if not server.line.contains(timeline):
            raise not_in_history(f"timeline {timeline} is not in this server's history")
        fork = server.line.end_of(timeline)
        if fork is not None and lsn > fork:
            raise not_in_history(f"{Lsn(lsn)} on timeline {timeline} is past {fork}")
        self._slot = slot
        if fork is not None and lsn == fork:
            self._end = self._end_of(timeline, fork)
        else:
            self._position = Position(timeline, Lsn(lsn))

    @property
    def streams(self) -> bool:
        alive = self.process is None or self.process.alive
        return alive and not self.broken and self._position is not None

    def _end_of(self, timeline: int, fork: int) -> EndOfTimeline:
        successor = self._server.line.successor_of(timeline)
        assert successor is not None
        return EndOfTimeline(successor, Lsn(fork))

    async def receive_batch(
        self, max_bytes: int, at_once: Callable[[list[Any]], bool] | None = None
    ) -> list[Any]:
        await asyncio.sleep(0)
        waited = False
        while True:
            if self.broken:
                raise _unreachable()
            if self._end is not None:
                end, self._end = self._end, None
                return [end]
            events = self._take(max_bytes, in_halves=not waited)
            if events:
                offered = at_once if waited and self._position is not None else None
                if offered is None or not offered(events):
                    return events
                continue
            self._changed.clear()
            await self._changed.wait()
            waited = True

    def _take(self, max_bytes: int, *, in_halves: bool) -> list[Any]:
        server = self._server
        assert self._position is not None, "not streaming"
        timeline, lsn = self._position
        fork = server.line.end_of(timeline)
        end = int(server.flush_lsn) if fork is None else int(fork)
        if lsn < server.removed_before:
            raise LogshipError(Code.WAL_REMOVED, f"WAL at {lsn} was removed")
        if fork is None and lsn > end:
            raise primary_behind(f"{lsn} is ahead of the flush position {Lsn(end)}")
        if lsn >= end:
            if fork is None:
                return []
            self._position = None
            return [self._end_of(timeline, fork)]
        events: list[Any] = []
        stop = min(end, lsn + max(1, max_bytes))
        data = memoryview(self._read(timeline, lsn, stop))
        half = len(data) // 2 + 1 if in_halves else len(data)
        for piece in (data[:half], data[half:]):
            if piece:
                events.append(XLogData(lsn, Lsn(end), piece, 0.0))
                lsn = Lsn(lsn + len(piece))
        self._position = Position(timeline, lsn)
        if stop == end and fork is None:
            events.append(Keepalive(Lsn(end), False, 0.0))
        return events

    def _read(self, timeline: int, start: int, end: int) -> bytes:
        return self._server.wal[timeline].read(start, end)

    def send_status(self, written: int, flushed: int, applied: int, **_: Any) -> None:
        if not self.streams or not self._server.up:
            return
        # PhysicalConfirmReceivedLocation: any valid position is taken, also a lower one.
        if flushed and self._slot is not None and self._server.slots.get(self._slot) is not None:
            self._server.slots[self._slot] = int(flushed)
            self._server.on_status(self._server, int(flushed))
