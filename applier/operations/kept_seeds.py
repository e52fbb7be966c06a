"""A copy of every seed that arrives, kept beside the standby as an archive.

The seed comes first: whatever goes wrong with its copy ends the copy, with an alarm, and never
the seed.  What arrives is handed over at once, so that a chunk that was taken is copied even if
its sender goes away in that moment; then the sender waits while too much waits to be written.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from applier.retention.leases import running_restores, seeds_in_use
from applier.retention.plan import Seed
from applier.retention.report import Part
from applier.retention.seeds import retain_seeds
from logship import durable
from logship.bucket.keys import Keys
from logship.bucket.seed_archive import SeedArchiveWriter
from logship.errors import Code, LogshipError
from logship.frames import SeedBegin, SeedChunk, SeedEnd
from logship.objects.directory import DirectoryStore
from logship.threads import run_to_the_end

if TYPE_CHECKING:
    from applier.operations.instance import Instance

log = structlog.get_logger(__name__)

WAITING_CHUNKS: Final = 4

_Item = tuple[SeedBegin | SeedChunk | SeedEnd, bytes | memoryview]


class KeptSeeds:
    """The archive of an instance's kept seeds; at most one is being written."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._copy: _Copy | None = None

    @property
    def keep(self) -> int:
        """How many are kept; 0: none, and what is there is left alone."""
        return self._instance.host.settings.seeds.keep

    @property
    def store(self) -> DirectoryStore:
        return DirectoryStore(self._instance.host.settings.seeds_directory)

    @property
    def keys(self) -> Keys:
        """Of the current incarnation, which must be known."""
        incarnation = self._instance.record.incarnation
        assert incarnation is not None
        return Keys(self._instance.name, incarnation)

    async def begin(self, frame: SeedBegin) -> None:
        if not self.keep:
            return
        if self._copy is not None and self._copy.seed_id == frame.seed_id:
            return  # said again after a cut
        await self.give_up()
        writer = SeedArchiveWriter(self.store, self.keys, profile=self._instance.record.profile)
        self._copy = _Copy(self, self._instance, writer, frame)
        self._copy.hand_over((frame, b""))

    async def chunk(self, frame: SeedChunk, payload: bytes | memoryview) -> None:
        copy = self._copy
        if copy is not None and copy.seed_id == frame.seed_id:
            copy.hand_over((frame, payload))
            await copy.wait_for_room()

    def end(self, frame: SeedEnd) -> None:
        """The seed is in place; its copy is completed in the background."""
        copy = self._copy
        if copy is not None and copy.seed_id == frame.seed_id:
            copy.hand_over((frame, b""))

    async def give_up(self) -> None:
        """The seed will not come to its end; a copy that is complete stays."""
        copy, self._copy = self._copy, None
        if copy is not None:
            await copy.stop()

    async def apply_retention(self, now: float, *, dry_run: bool) -> tuple[Part, list[Seed]]:
        """Remove what is not to be kept any more; returns what was decided, and the seeds that
        are there afterwards.  Raises LogshipError."""
        if not self.keep:
            return Part(held="seeds.keep is 0: what is there is left alone"), []
        hours = self._instance.host.settings.retention.window_hours
        copy = self._copy
        leases = await asyncio.to_thread(running_restores, self._instance.directory)
        return await asyncio.to_thread(
            retain_seeds,
            self.store,
            self.keys,
            keep=self.keep,
            window_start=now - hours * 3600 if hours else None,
            now=now,
            writing=copy.seed_id if copy is not None else "",
            in_use=seeds_in_use(leases),
            dry_run=dry_run,
        )


class _Copy:
    """One seed on its way into the archive."""

    def __init__(
        self, kept: KeptSeeds, instance: Instance, writer: SeedArchiveWriter, begin: SeedBegin
    ) -> None:
        self.seed_id = begin.seed_id
        self._room = _Room(instance, begin.estimated_bytes)
        self._kept = kept
        self._instance = instance
        self._writer = writer
        self._waiting: list[_Item] = []
        self._changed = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._next_sequence = 0
        self._has_ended = False
        self._is_over = False
        """Nothing more is taken: from the failure on, though it takes a while to clean up."""
        self._task = instance.spawn(self._run())

    def hand_over(self, item: _Item) -> None:
        frame = item[0]
        if isinstance(frame, SeedChunk):
            if frame.sequence < self._next_sequence:
                return
            self._next_sequence = frame.sequence + 1
        self._has_ended = isinstance(frame, SeedEnd)
        if self._is_over:
            return
        self._waiting.append(item)
        self._changed.set()
        if len(self._waiting) > WAITING_CHUNKS:
            self._has_room.clear()

    async def wait_for_room(self) -> None:
        await self._has_room.wait()

    async def stop(self) -> None:
        """Returns when nothing is written any more.  What only lacks its end gets it."""
        if not self._has_ended:
            self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            await self._write()
        except Exception as error:  # a bug in the copy must not harm the seed either
            self._is_over = True
            self._failed(error)
        finally:
            self._is_over = True
            self._waiting.clear()
            try:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(self._writer.abort)
            finally:
                self._has_room.set()

    async def _write(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._waiting:
                frame, payload = self._waiting.pop(0)
                self._has_room.set()
                await run_to_the_end(None, partial(self._take, frame, payload))
                if isinstance(frame, SeedEnd):
                    self._instance.alarms.clear(Code.SEED_NOT_KEPT)
                    await self._kept.apply_retention(time.time(), dry_run=False)
                    return

    def _take(self, frame: SeedBegin | SeedChunk | SeedEnd, payload: bytes | memoryview) -> None:
        self._room.check(self._writer.raw_bytes)
        self._writer.take(frame, payload)

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, LogshipError | OSError):
            log.error("a bug while a seed was kept", exc_info=error)
        what = error.what if isinstance(error, LogshipError) else str(error)
        self._instance.alarms.raise_error(
            LogshipError(
                Code.SEED_NOT_KEPT,
                f"the seed {self.seed_id} could not be kept: {what}",
                "the seed itself goes on; make room in seeds.directory or look at the disk, and "
                f"have another one made: applier seed {self._instance.name}",
            )
        )


class _Room:
    """The copy must not take the place that the seed itself, or the WAL, still needs."""

    def __init__(self, instance: Instance, estimated_bytes: int) -> None:
        self._place = instance.host.settings.seeds_directory
        self._seed_place = instance.incarnation_directory
        self._keep_free_bytes = instance.host.keep_free_bytes
        self._estimated_bytes = estimated_bytes

    def check(self, arrived_bytes: int) -> None:
        """Raises LogshipError(DISK_FULL).  arrived_bytes: of the seed, so far."""
        durable.make_directory(self._place)
        needed_bytes = self._keep_free_bytes
        if self._place.stat().st_dev == self._seed_place.stat().st_dev:
            needed_bytes += max(self._estimated_bytes - arrived_bytes, 0)
        free_bytes = shutil.disk_usage(self._place).free
        if free_bytes < needed_bytes:
            raise LogshipError(
                Code.DISK_FULL,
                f"{self._place} has {free_bytes} bytes free, {needed_bytes} are needed for the "
                "seed itself and to stay free",
                retryable=True,
            )
