"""The seed that is on its way into a bucket: queued, written by a task of its own.

The writer works in threads.  While the bucket is away it waits, so a seed survives that as WAL
does; how much is queued is bounded, and the maker of the seed waits for room.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar

import structlog

from logship.bucket.epoch import Epoch
from logship.errors import Code, LogshipError
from logship.frames import (
    SEED_WINDOW_BYTES,
    Payload,
    SeedAborted,
    SeedBegin,
    SeedChunk,
    SeedEnd,
)
from logship.objects import Bytes, Described, Fetched, NotDeleted, ObjectInfo, ObjectStore
from shipper.backoff import Backoff
from shipper.destinations.changes import Change

log = structlog.get_logger(__name__)

SeedFrame = SeedBegin | SeedChunk | SeedEnd | SeedAborted

_T = TypeVar("_T")


class SeedTaker(Protocol):
    """`logship.bucket.seed_archive.SeedArchiveWriter`, as far as it is used here."""

    def take(self, frame: SeedFrame, payload: Payload = b"") -> None: ...

    def abort(self) -> None: ...


class BucketSeeds:
    """At most one seed at a time.  `on_finished(seed_id, error)` tells how it ended."""

    def __init__(
        self,
        run_blocking: Callable[[Callable[[], None]], Awaitable[None]],
        on_finished: Callable[[str, str], None],
        *,
        window_bytes: int = SEED_WINDOW_BYTES,
    ) -> None:
        self._run_blocking = run_blocking
        self._on_finished = on_finished
        self._window_bytes = window_bytes
        self._queue: deque[tuple[SeedFrame, Payload]] = deque()
        self._queued_bytes = 0
        self._changed = Change()
        self._task: asyncio.Task[None] | None = None
        self._at_work: asyncio.Future[None] | None = None
        """What a thread does; it goes on when its task is cancelled."""
        self._taker: SeedTaker | None = None
        self._replaced: deque[SeedTaker] = deque()
        """Those of earlier seeds, until each is aborted."""
        self._failure: LogshipError | None = None
        self.seed_id = ""
        """The seed on its way, or ""."""

    def begin(self, frame: SeedBegin, taker: SeedTaker, stop: Callable[[], None]) -> None:
        """A new seed; one that was on its way is forgotten.  stop: ends the taker's waiting."""
        previous, self._task = self._task, None
        if previous is not None:
            previous.cancel()
        self._queue.clear()
        self._queued_bytes = 0
        self._failure = None
        self.seed_id = frame.seed_id
        self._queue.append((frame, b""))
        if self._taker is not None:
            self._replaced.append(self._taker)
        self._taker = taker
        self._task = asyncio.create_task(self._write(previous, taker, stop))

    async def add(self, frame: SeedChunk | SeedEnd, payload: Payload) -> None:
        """The next part, once there is room.  Raises LogshipError(SEED_FAILED)."""
        while self._queued_bytes >= self._window_bytes and self._is_current(frame.seed_id):
            await self._changed.wait()
        if not self._is_current(frame.seed_id):
            raise self._failure or LogshipError(
                Code.SEED_FAILED, "the seed was given up", retryable=True
            )
        self._queue.append((frame, payload))
        self._queued_bytes += len(payload)
        self._changed.happened()

    def abort(self, frame: SeedAborted) -> None:
        """Its maker gives it up."""
        if self._is_current(frame.seed_id):
            self._queue.clear()
            self._queued_bytes = 0
            self._queue.append((frame, b""))
            self._changed.happened()

    # --- inside -----------------------------------------------------------------------------

    def _is_current(self, seed_id: str) -> bool:
        return bool(seed_id) and seed_id == self.seed_id

    async def _write(
        self,
        previous: asyncio.Task[None] | None,
        taker: SeedTaker,
        stop: Callable[[], None],
    ) -> None:
        seed_id = self.seed_id
        try:
            if previous is not None:
                await asyncio.gather(previous, return_exceptions=True)
            if self._at_work is not None:
                await asyncio.wait({self._at_work})
            while self._replaced:
                await self._in_thread(self._replaced[0].abort)
                self._replaced.popleft()
            ended = await self._write_all(taker)
        except asyncio.CancelledError:
            stop()
            raise
        except LogshipError as error:
            self._fail(error)
            await self._in_thread(taker.abort)
        except Exception as error:
            log.exception("a bug ended a seed")
            self._fail(LogshipError(Code.INTERNAL, f"the shipper failed: {type(error).__name__}"))
        else:
            self.seed_id = ""
            if ended:
                self._on_finished(seed_id, "")

    async def _write_all(self, taker: SeedTaker) -> bool:
        """Until the seed's end, or (False) until its maker gives it up."""
        while True:
            while not self._queue:
                await self._changed.wait()
            frame, payload = self._queue.popleft()
            await self._in_thread(partial(taker.take, frame, payload))
            self._queued_bytes -= len(payload)
            self._changed.happened()
            if isinstance(frame, SeedEnd | SeedAborted):
                return isinstance(frame, SeedEnd)

    async def _in_thread(self, action: Callable[[], None]) -> None:
        self._at_work = asyncio.ensure_future(self._run_blocking(action))
        await asyncio.shield(self._at_work)

    def _fail(self, error: LogshipError) -> None:
        seed_id, self.seed_id = self.seed_id, ""
        self._queue.clear()
        self._queued_bytes = 0
        self._failure = LogshipError(Code.SEED_FAILED, error.what, error.hint, retryable=True)
        self._changed.happened()
        self._on_finished(seed_id, error.what)


class PatientStore:
    """An `ObjectStore` for a seed's writer: waits while the bucket is away, and writes only
    while the epoch is ours.  After `stop` a call that waits raises."""

    def __init__(self, store: ObjectStore, epoch: Epoch) -> None:
        self._store = store
        self._epoch = epoch
        self._stopped = threading.Event()

    @property
    def name(self) -> str:
        return self._store.name

    def stop(self) -> None:
        self._stopped.set()

    def get(self, key: str, *, unless_etag: str = "") -> Fetched | None:
        return self._patiently(lambda: self._store.get(key, unless_etag=unless_etag))

    def describe(self, key: str) -> Described | None:
        return self._patiently(lambda: self._store.describe(key))

    def put(
        self,
        key: str,
        data: Bytes,
        metadata: Mapping[str, str] | None = None,
        *,
        only_if_absent: bool = False,
        only_if_etag: str = "",
    ) -> str:
        def put() -> str:
            self._epoch.confirm()
            return self._store.put(
                key, data, metadata, only_if_absent=only_if_absent, only_if_etag=only_if_etag
            )

        return self._patiently(put)

    def delete(self, keys: Sequence[str]) -> list[NotDeleted]:
        self._epoch.confirm()
        return self._store.delete(keys)

    def listing(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        return self._store.listing(prefix, start_after=start_after)

    def folders(self, prefix: str) -> list[str]:
        return self._store.folders(prefix)

    def close(self) -> None:
        """The store is not ours to close."""

    def _patiently(self, action: Callable[[], _T]) -> _T:
        backoff = Backoff()
        while True:
            try:
                return action()
            except LogshipError as error:
                if error.code != Code.BUCKET_UNREACHABLE:
                    raise
                log.debug("the bucket is away", what=error.what)
                if self._stopped.wait(backoff.next_seconds()):
                    raise
