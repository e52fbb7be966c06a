"""Receiver `bucket`: all instances that are attached to one bucket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from applier.receivers import BucketIntake
from applier.receivers.bucket.attachment import Reading
from applier.receivers.bucket.cursor import PARALLEL_GETS
from applier.receivers.bucket.reader import BucketReader, SeedOrder
from logship.bucket.seed_archive import PLAIN, Opens
from logship.objects import ObjectStore

_THREADS: Final = 2 * PARALLEL_GETS


class BucketReceiver:
    """Feeds the intakes from the objects under their names, each when it wants that.

    `start` and `stop` in an event loop.  The store is the caller's to close, after `stop`.
    """

    def __init__(
        self,
        intakes: Mapping[str, BucketIntake],
        store: ObjectStore | None,
        *,
        poll_seconds: float,
        prefetch_bytes: int,
        identities: Opens = PLAIN,
    ) -> None:
        """intakes: looked into when one is started, so that others may be added.  store: None
        if there is no bucket, and only `run_instead` is of use.  prefetch_bytes: what may be
        fetched ahead, of all instances together."""
        self.store = store
        self._intakes = intakes
        self._identities = identities
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="bucket")
        self._reading = Reading(poll_seconds, prefetch_bytes, intakes, self._threads)
        self.readers: dict[str, BucketReader] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, names: Iterable[str]) -> None:
        """Begin to read for the intakes of `names`."""
        for name in names:
            self._start(name)

    async def stop(self) -> None:
        """Stop reading; what was being handed on is handed on or is not there."""
        for name in list(self._tasks):
            await self._stop(name)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def leave(self, name: str) -> None:
        """Read for the intake of `name` no more; fine if it was not read for."""
        await self._stop(name)
        self.readers.pop(name, None)

    def wake(self, name: str) -> None:
        """What the intake of `name` says of the bucket changed."""
        reader = self.readers.get(name)
        if reader is not None:
            reader.wake()

    def hurry(self, name: str) -> None:
        """Look now whether there is more for `name`, rather than with the next poll."""
        reader = self.readers.get(name)
        if reader is not None:
            reader.hurry()

    def reader_of(self, name: str, store: ObjectStore, order: SeedOrder) -> BucketReader:
        """For `run_instead`: seeds `name` from another store, hands on the WAL that is there,
        and ends."""
        main = self.readers.get(name)
        elsewhere = main.leads if main is not None else None
        return BucketReader(
            name,
            self._intakes[name],
            store,
            self._identities,
            self._reading,
            order=order,
            elsewhere=elsewhere,
        )

    async def run_instead(self, name: str, reader: BucketReader) -> None:
        """Run a reader of another store to its end; the bucket is not read meanwhile."""
        was_read = name in self._tasks
        await self._stop(name)
        try:
            await reader.run()
        finally:
            if was_read:
                self._start(name)

    def _start(self, name: str) -> None:
        if self.store is None:
            return
        intake = self._intakes[name]
        reader = BucketReader(name, intake, self.store, self._identities, self._reading)
        self.readers[name] = reader
        self._tasks[name] = asyncio.create_task(reader.run())

    async def _stop(self, name: str) -> None:
        task = self._tasks.get(name)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            # Not before: who is cancelled here leaves the rest to `stop`.
            self._tasks.pop(name, None)
            if not task.cancelled():
                task.result()
