"""Keeps the (LSN, time) index of an open store: a task that sleeps until a segment is finished."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
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
"""Of the time of one core, at most."""
_SHARE_BESIDE_WAL: Final = 0.01
"""... while segments are being finished, for those that have no commit in their end: bulk WAL,
each byte of which has to be looked at.  It comes as fast as an applier can take it, which has
better things to do then."""
_CALM_SECONDS: Final = 5.0
"""So long after the last finished segment no WAL comes."""
_THREAD: Final = IdleExecutor("commit-indexing")
"""One for all stores, as there may be hundreds: asyncio's own few threads are for work that
somebody waits for, a fence among it."""
_T = TypeVar("_T")


class _StoppedError(Exception):
    """Nothing more is to be done."""


class CommitIndexing:
    """Indexes the finished segments of `store`, those of before its start included.

    It takes little of one core's time, in a thread that all stores share, and writes without
    sync: while WAL comes fast it falls behind, but for segments that end with commits, and
    catches up later.  A restore walks what is not indexed yet.
    """

    def __init__(self, store: Store) -> None:
        self.index = CommitTimes(store.directory.parent / commit_times.FILE_NAME, store.line)
        self._store = store
        self._wake = asyncio.Event()
        self._looked_at: Segment | None = None
        self._finished_at = 0.0
        """When WAL last went on to another segment (monotonic)."""
        self._ends_seen: set[Segment] = set()
        """Of those that are not indexed: there is no commit in their end."""
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
            segment = self._segment()
            if self._looked_at is not None and segment != self._looked_at:
                self._finished_at = time.monotonic()
            self._looked_at = segment
            began = time.monotonic()
            wanted = self._finished_segments()
            await self._rest(time.monotonic() - began)
            try:
                await self._index(wanted)
            except _StoppedError:
                return
            except Exception as error:
                _log.error("a bug while indexing", exc_info=error)

    def _finished_segments(self) -> list[Segment]:
        """Newest first: that is what is asked for most."""
        segment_bytes = self._store.line.segment_bytes
        runs = self._store.runs()
        found = (commit_times.finished_segments(run.extents, segment_bytes) for run in runs)
        return sorted(itertools.chain.from_iterable(found), reverse=True)

    async def _index(self, wanted: list[Segment]) -> None:
        """The ends of all come before the rest of one, and when there are new ones, theirs do."""
        missing = [segment for segment in wanted if segment not in self.index.times]
        self._ends_seen.intersection_update(missing)
        for segment in missing:
            if segment not in self._ends_seen:
                await self._look(segment, only_end=True)
        for segment in missing:
            if segment in self._ends_seen and not self._wake.is_set():
                await self._look(segment, only_end=False)
        await self._in_thread(partial(self.index.keep_only, wanted))

    async def _look(self, segment: Segment, *, only_end: bool) -> None:
        took_seconds = await self._in_thread(partial(self._index_segment, segment, only_end))
        is_calm = time.monotonic() - self._finished_at > _CALM_SECONDS
        share = _SHARE if only_end or is_calm else _SHARE_BESIDE_WAL
        await self._rest(took_seconds, share)

    async def _rest(self, took_seconds: float, share: float = _SHARE) -> None:
        """Python code of two threads takes turns: leave the event loop nearly all of them.  No
        thread is kept meanwhile."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(took_seconds * (1 / share - 1)):
                await self._stopping.wait()

    def _index_segment(self, segment: Segment, only_end: bool) -> float:
        """Returns the seconds of a core that it took: waiting for others keeps nobody waiting."""
        began = time.thread_time()
        # One that is gone, or can't be read, is the reader's trouble, who says so.
        with contextlib.suppress(LogshipError):
            found = commit_times.last_commit(
                self._store.read, self._store.line, *segment, only_end=only_end
            )
            if found is None and only_end:
                self._ends_seen.add(segment)
            else:
                self.index.add(segment, found)
        return time.thread_time() - began

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
