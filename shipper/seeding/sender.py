"""Base backup events in, seed frames out."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

import structlog

from logship.errors import Code, LogshipError
from logship.frames import SeedAborted, SeedBegin, SeedChunk, SeedEnd
from logship.postgres.replication import (
    ArchiveStart,
    BackupEnd,
    BackupEvent,
    BackupStart,
    Data,
    ManifestStart,
    Progress,
    ReplicationConnection,
)
from logship.seal import Sealed
from shipper.compression import Compression, Effort

CHUNK_BYTES: Final = 1024 * 1024
"""Raw bytes at which a chunk is full: the size at which the link is fastest (DESIGN.md)."""

_AHEAD_CHUNKS: Final = 4  # being sealed at a time; two cores are kept busy by fewer

SeedFrame = SeedBegin | SeedChunk | SeedEnd | SeedAborted
SendSeed = Callable[[SeedFrame, bytes | memoryview], Awaitable[None]]
"""Takes the next frame and its payload (b"" if it has none) and waits while there is no room.

Frames are numbered without a gap, so it may keep them to send them again after a cut.  A
LogshipError from it ends the seed."""

_log = structlog.get_logger(__name__)


class _Waiting(NamedTuple):
    """A chunk that is on its way out: numbered, perhaps still being sealed."""

    sequence: int
    kind: str
    archive: str
    sealed: asyncio.Task[Sealed] | None = None
    compressed: bool = False


class SeedSender:
    """One seed: make it, `run` it once, read its progress meanwhile.

    Needs of the primary: a role with REPLICATION and one free `max_wal_senders`.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        fast_checkpoint: bool = True,
        max_rate_kb_s: int | None = None,
        compress: bool = True,
        system_identifier: int | None = None,
        application_name: str = "logship_seed",
    ) -> None:
        """conninfo: any libpq string.  fast_checkpoint: else waits for a paced one.

        max_rate_kb_s: 32 to 1048576, kept by the primary.  compress: False never does, True
        does where it pays: data that turns out incompressible is sent as it is for a while,
        and it takes its time for it only where the road is what waits.
        system_identifier: refuse to seed from any other cluster (None: take what is there).
        """
        self.seed_id: Final = uuid.uuid4().hex
        self.done_bytes = 0
        """Raw bytes of archives and manifest taken from the primary so far."""
        self.estimated_bytes = 0
        """What the primary expects `done_bytes` to become; 0 before it has said so."""
        self._conninfo = conninfo
        self._fast_checkpoint = fast_checkpoint
        self._max_rate_kb_s = max_rate_kb_s
        self._system_identifier = system_identifier
        self._application_name = application_name
        self._compression = Compression(compress)
        self._waiting: deque[_Waiting] = deque()
        self._next_sequence = 0

    async def run(self, send: SendSeed) -> SeedEnd:
        """Take the base backup and send all of it; returns the last frame, sent as well.

        Raises LogshipError: what connecting, the primary or `send` raised,
        SYSTEM_IDENTIFIER_MISMATCH.  If the seed had begun, SeedAborted was sent then (if
        `send` still took it); a new seed starts from nothing.  When cancelled, it sends
        nothing any more: the far end learns from the next hello that this seed is gone.
        """
        begun = False

        async def send_noting(frame: SeedFrame, payload: bytes | memoryview) -> None:
            nonlocal begun
            begun = True
            await send(frame, payload)

        try:
            return await self._run(send_noting)
        except LogshipError as error:
            if begun:
                with contextlib.suppress(LogshipError):
                    await send(
                        SeedAborted(seed_id=self.seed_id, code=str(error.code), what=error.what),
                        b"",
                    )
            raise
        finally:
            for item in self._waiting:
                if item.sealed is not None:
                    item.sealed.cancel()
            self._waiting.clear()

    async def _run(self, send: SendSeed) -> SeedEnd:
        async with await ReplicationConnection.connect(
            self._conninfo, application_name=self._application_name
        ) as connection:
            await self._check_identity(connection)
            async with aclosing(
                connection.base_backup(
                    f"logship seed {self.seed_id}",
                    fast=self._fast_checkpoint,
                    max_rate_kb=self._max_rate_kb_s,
                )
            ) as events:
                return await self._send_all(events, send)

    async def _check_identity(self, connection: ReplicationConnection) -> None:
        if self._system_identifier is None:
            return
        found = (await connection.identify_system()).system_identifier
        if found != self._system_identifier:
            raise LogshipError(
                Code.SYSTEM_IDENTIFIER_MISMATCH,
                f"{connection.target} is the cluster {found}, WAL is shipped of "
                f"{self._system_identifier}",
                "make the connection string lead to one cluster only",
            )

    async def _send_all(self, events: AsyncGenerator[BackupEvent, None], send: SendSeed) -> SeedEnd:
        parts: list[memoryview] = []
        held_bytes = 0
        async for event in events:
            if isinstance(event, Data):
                parts.append(event.data)
                held_bytes += len(event.data)
                self.done_bytes += len(event.data)
                if held_bytes < CHUNK_BYTES:
                    continue
            elif isinstance(event, Progress):
                continue  # it only says what the server read, we count what arrived
            if parts:
                self._add_data(parts)
                parts, held_bytes = [], 0
                await self._send_waiting(send, _AHEAD_CHUNKS)
            if isinstance(event, BackupStart):
                await self._begin(event, send)
            elif isinstance(event, ArchiveStart):
                self._add("archive", archive=event.oid)
            elif isinstance(event, ManifestStart):
                self._add("manifest")
            elif isinstance(event, BackupEnd):
                await self._send_waiting(send, 0)
                return await self._end(event, send)
        raise LogshipError(
            Code.SEED_FAILED,
            "the base backup stopped before its end",
            "a new seed starts by itself",
            retryable=True,
        )

    async def _begin(self, event: BackupStart, send: SendSeed) -> None:
        self.estimated_bytes = event.estimated_bytes
        begin = SeedBegin(
            seed_id=self.seed_id,
            timeline=event.timeline,
            start_lsn=int(event.start_lsn),
            estimated_bytes=event.estimated_bytes,
            tablespaces=[(each.oid, each.location) for each in event.tablespaces],
        )
        _log.info(
            "base backup begins",
            seed=self.seed_id,
            timeline=event.timeline,
            start_lsn=str(event.start_lsn),
            estimated_bytes=event.estimated_bytes,
        )
        await send(begin, b"")

    async def _end(self, event: BackupEnd, send: SendSeed) -> SeedEnd:
        end = SeedEnd(
            seed_id=self.seed_id,
            sequence=self._next_sequence,
            timeline=event.timeline,
            end_lsn=int(event.end_lsn),
        )
        await send(end, b"")
        _log.info(
            "base backup sent",
            seed=self.seed_id,
            end_lsn=str(event.end_lsn),
            bytes=self.done_bytes,
            chunks=self._next_sequence,
        )
        return end

    def _add_data(self, parts: Sequence[memoryview]) -> None:
        effort = self._compression.next_chunk()
        sealed = asyncio.create_task(_seal_in_thread(parts, effort))
        self._add("data", sealed=sealed, compressed=effort is not Effort.NONE)

    def _add(
        self,
        kind: str,
        *,
        archive: str = "",
        sealed: asyncio.Task[Sealed] | None = None,
        compressed: bool = False,
    ) -> None:
        self._waiting.append(_Waiting(self._next_sequence, kind, archive, sealed, compressed))
        self._next_sequence += 1

    async def _send_waiting(self, send: SendSeed, left: int) -> None:
        """Send in order what is sealed, and wait for it where more than `left` would wait."""
        while self._waiting:
            item = self._waiting[0]
            if len(self._waiting) <= left and item.sealed is not None and not item.sealed.done():
                return
            sealed = Sealed("none", 0, 0, b"") if item.sealed is None else await item.sealed
            chunk = SeedChunk(
                seed_id=self.seed_id,
                sequence=item.sequence,
                kind=item.kind,
                archive=item.archive,
                raw_bytes=sealed.raw_bytes,
                crc32c=sealed.crc32c,
                codec=sealed.codec,
            )
            if item.compressed:
                self._compression.saw(sealed)
            asked_at = time.monotonic()
            await send(chunk, sealed.payload)
            self._compression.sent(len(sealed.payload), asked_at, time.monotonic())
            self._waiting.popleft()


async def _seal_in_thread(parts: Sequence[memoryview], effort: Effort) -> Sealed:
    return await asyncio.to_thread(lambda: effort.seal(b"".join(parts)))
