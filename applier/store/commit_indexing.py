"""Keeps the (LSN, time) index of an open store: a task that sleeps until a segment is finished."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, TypeVar

import structlog

from applier.store import commit_times
from applier.store.commit_times import CommitTimes, Segment
from applier.store.store import Store
from logship.errors import LogshipError
from logship.threads import IdleExecutor
from logship.wal import segment_start

_log = structlog.get_logger(__name__)

_SHARE: Final = 0.1
"""Of the time of one core.  A segment of bulk WAL has thousands of records, each walked in
Python: at half a core that took a third of what an applier can do while it catches up."""
_THREAD: Final = IdleExecutor("commit-indexing")
"""One for all stores, as there may be hundreds: asyncio's own few threads are for work that
somebody waits for, a fence among it."""
_T = TypeVar("_T")


class _StoppedError(Exception):
    """Nothing more is to be done."""


class CommitIndexing:
    """Indexes the finished segments of `store`, those of before its start included.

    It takes little of one core's time, in a thread that all stores share, and writes without
    sync: while WAL comes fast it falls behind, and catches up later.  A restore walks what is
    not indexed yet.
    """

    def __init__(self, store: Store) -> None:
        self.index = CommitTimes(store.directory.parent / commit_times.FILE_NAME, store.line)
        self._store = store
        self._wake = asyncio.Event()
        self._looked_at: Segment | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._piece: Future[Any] | None = None
        """What is done in the thread, or waits for it."""

    def start(self) -> None:
        self._unsubscribe = self._store.subscribe(self._changed)
        self._wake.set()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Returns when nothing of it runs any more: the store may be closed then."""
        self._unsubscribe()
        self._stopping.set()
        self._wake.set()
        if self._piece is not None:
            self._piece.cancel()  # one that has begun comes to its end
        if self._task is not None:
            await self._task
            self._task = None

    def _changed(self) -> None:
        if self._segment() != self._looked_at:
            self._wake.set()

    def _segment(self) -> Segment | None:
        """The segment that is being written."""
        written = self._store.written
        if written is None:
            return None
        return written.timeline, segment_start(written.lsn, self._store.line.segment_bytes)

    async def _run(self) -> None:
        await asyncio.to_thread(self.index.load)
        while not self._stopping.is_set():
            await self._wake.wait()
            self._wake.clear()
            self._looked_at = self._segment()
            wanted = [
                segment
                for run in self._store.runs()
                for segment in commit_times.finished_segments(
                    run.extents, self._store.line.segment_bytes
                )
            ]
            try:
                await self._index(wanted)
            except _StoppedError:
                return
            except Exception as error:
                _log.error("a bug while indexing", exc_info=error)

    async def _index(self, wanted: list[Segment]) -> None:
        """Newest first: that is what is asked for most."""
        for timeline, start in sorted(wanted, reverse=True):
            if (timeline, start) in self.index.times:
                continue
            took_seconds = await self._in_thread(partial(self._index_segment, timeline, start))
            # Python code of two threads takes turns: leave the event loop nearly all of them.
            # No thread is kept meanwhile.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(took_seconds * (1 / _SHARE - 1)):
                    await self._stopping.wait()
        await self._in_thread(partial(self.index.keep_only, wanted))

    def _index_segment(self, timeline: int, start: int) -> float:
        """Returns the seconds that it took."""
        began = time.monotonic()
        # One that is gone, or can't be read, is the reader's trouble, who says so.
        with contextlib.suppress(LogshipError):
            found = commit_times.last_commit(self._store.read, self._store.line, timeline, start)
            self.index.add((timeline, start), found)
        return time.monotonic() - began

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        """In the thread of all stores, when it is free.  Raises _StoppedError: `stop` was called
        before that."""
        if self._stopping.is_set():
            raise _StoppedError
        self._piece = piece = _THREAD.submit(work)
        try:
            return await asyncio.wrap_future(piece)
        except asyncio.CancelledError:
            if self._stopping.is_set() and piece.cancelled():
                raise _StoppedError from None
            raise
        finally:
            self._piece = None
