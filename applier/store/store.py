"""The store under asyncio: which thread does what, and who waits for which flush."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import structlog

from applier.store import layout
from applier.store.core import StoreCore, open_store
from applier.store.positions import Extent
from applier.store.reading import FileSlice
from applier.store.refusals import unusable
from applier.store.runs import Run
from applier.store.syncing import SyncThread
from logship.durable import Bytes, Disk, RealDisk
from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from logship.threads import IdleExecutor, run_to_the_end
from logship.wal import History, WalLine

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")

INLINE_BYTES = 64 * 1024
"""Spans below this are written in the event loop: a pwrite of 8 KiB takes about 10 µs, the
way to a thread and back 60 µs and more."""
_QUIET_SECONDS = 0.001


class Store:
    """The durable WAL of one incarnation.  Made by `open`; all methods but `open`, `close` and
    `read` belong to one event loop.

    The order of its positions: start ≤ durable ≤ written.  Standbys may be shown `written`;
    only `durable` may be acknowledged.
    """

    def __init__(self, core: StoreCore, disk: Disk, lock: int | None) -> None:
        self._core = core
        self._disk = disk
        self._lock = lock
        self._writing = asyncio.Lock()
        self._write_thread = IdleExecutor("store-write")
        self._sync_thread = SyncThread("store-sync")
        self._spare_thread = IdleExecutor("store-spare")
        self._spare_running = False
        self._flush_running = False
        self._flush_waiters: asyncio.Future[None] | None = None
        self._flush_wanted: asyncio.Handle | None = None
        self._flushed_at = 0.0
        self._flushed: Callable[[LogshipError | None], None] | None = None
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._next_callback = 0
        self._closed = False

    @classmethod
    def open(
        cls,
        directory: Path,
        line: WalLine | None,
        *,
        keep_free_bytes: int,
        disk: Disk | None = None,
        read_only: bool = False,
    ) -> Store:
        """Open the store in `directory`, made if missing, and recover it.  Blocks: it reads
        the partial segment, up to one segment's size.

        line: whose WAL it holds; None takes what chains.json says.  keep_free_bytes: what
        appends leave free on the file system.  read_only: look, change nothing, take no lock
        (beside a running applier `durable` then means "written and described by a slot").

        Raises LogshipError: STORE_LOCKED (another process has it open), STORE_DAMAGED (bytes
        once reported durable are gone), SYSTEM_IDENTIFIER_MISMATCH, MAJOR_MISMATCH or
        SEGMENT_SIZE_MISMATCH (it holds other WAL), DISK_FULL, STORE_FAILED.
        """
        disk = disk if disk is not None else RealDisk()
        lock = None if read_only else _lock(disk, directory)
        try:
            core = open_store(
                disk, directory, line, keep_free_bytes=keep_free_bytes, read_only=read_only
            )
        except BaseException:
            if lock is not None:
                disk.close(lock)
            raise
        return cls(core, disk, lock)

    # --- what it holds ----------------------------------------------------------------------

    @property
    def directory(self) -> Path:
        return self._core.directory

    @property
    def line(self) -> WalLine:
        return self._core.line

    @property
    def chains(self) -> list[layout.Chain]:
        """Oldest first; the last is the current one."""
        return list(self._core.chains)

    @property
    def start(self) -> Position | None:
        """Where the current chain starts, a segment's start; None: no chain, seed first."""
        chain = self._core.positions
        return None if chain is None else chain.start

    @property
    def written(self) -> Position | None:
        """End of the bytes that `read` serves."""
        chain = self._core.positions
        return None if chain is None else chain.written

    @property
    def durable(self) -> Position | None:
        """End of the bytes that no crash takes away."""
        chain = self._core.positions
        return None if chain is None else chain.durable

    def current_extent(self) -> tuple[int, Extent] | None:
        """The newest timeline of the current chain, and its written bytes there; None: no chain.
        A chain that begins in it, or right at its end, sets nothing aside."""
        chain = self._core.positions
        return None if chain is None else (chain.written.timeline, chain.growing)

    @property
    def current_seed_id(self) -> str:
        """The seed that began the current chain, "" if none did."""
        chains = self._core.chains
        return chains[-1].seed_id if chains else ""

    def durable_of(self, seed_id: str) -> Position | None:
        """End of the durable, contiguous WAL that a standby placed from that seed can be
        recovered to.

        `durable`, if the seed began the current chain or nothing is missing between its chain
        and that one; else where its chain ended for good, less what a later one set aside.
        None if no seed of that id ever began a chain here.
        """
        return self._core.durable_of(seed_id)

    def runs(self) -> list[Run]:
        """The WAL held in one piece, newest first: the first is the current chain, with the
        chains before that it continues; the others ended where WAL is missing.  [] while there
        is no chain."""
        return self._core.runs()

    def shape(self) -> object:
        """What `written`, `runs` and `histories` follow from: equal to an earlier one if they
        give what they gave then."""
        return self._core.shape()

    @property
    def failure(self) -> LogshipError | None:
        """Why nothing more is written until the store is reopened, if that is so."""
        return self._core.segments.failure

    def end_of(self, timeline: int) -> Lsn | None:
        """End of the written bytes of `timeline` in the current chain; None if it has none."""
        chain = self._core.positions
        return None if chain is None else chain.end_of(timeline)

    def histories(self) -> dict[int, History]:
        return dict(self._core.histories)

    def history_content(self, timeline: int) -> bytes | None:
        """The `.history` file, byte for byte as it came."""
        return self._core.history_contents.get(timeline)

    def read(self, timeline: int, lsn: int, max_bytes: int) -> bytes:
        """Written bytes from `lsn` on: at most `max_bytes`, never past the segment's end.

        b"": nothing there yet, or ever: the end of an earlier chain.  Raises LogshipError:
        WAL_REMOVED where no chain holds the place or its file is gone, STORE_FAILED where the
        disk gives an error, STORE_DAMAGED where the file is cut.
        """
        return self._core.read(timeline, lsn, max_bytes)

    def share(self, timeline: int, lsn: int, max_bytes: int) -> FileSlice | None:
        """What `read` would give, as a part of a file, to be closed by the caller; None where
        `read` gives nothing, or where there is no such file (a disk in memory).

        Raises LogshipError as `read`, but for a file that is cut.
        """
        if not isinstance(self._disk, RealDisk):
            return None
        return self._core.share(timeline, lsn, max_bytes)

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called, in the loop, after each change of `written` or `start`.

        It must not raise, nor change the store, and should be quick.  Returns what ends it.
        """
        number = self._next_callback
        self._next_callback += 1
        self._callbacks[number] = callback

        def unsubscribe() -> None:
            self._callbacks.pop(number, None)

        return unsubscribe

    # --- changing it ------------------------------------------------------------------------

    async def begin_chain(self, timeline: int, start_lsn: int, *, seed_id: str = "") -> None:
        """Start a chain at the segment start of `start_lsn`, because a seed starts there.

        Where the current chain holds that place on that timeline it is shortened from below
        and loses nothing above.  Otherwise `written` and `durable` fall back (or leap) to the
        new start; files at or above it move to superseded/, those below stay, readable, until
        retention removes them.  What the chain before durably held is noted (`durable_of`), as
        its standby is the one to promote until the seed is in place.  The same call again
        changes nothing.

        Raises LogshipError: DISK_FULL (nothing changed), STORE_FAILED.
        """
        async with self._writing:
            self._check_open()
            await self._flush()
            started_at = time.time()
            try:
                await run_to_the_end(
                    self._write_thread,
                    lambda: self._core.begin_chain(
                        timeline, start_lsn, seed_id=seed_id, started_at=started_at
                    ),
                )
            finally:
                self._changed()

    async def remove_below(self, floors: Mapping[int, int]) -> list[str]:
        """Give up WAL that nobody needs any more: of each timeline named, what lies below the
        LSN named, a segment's start.  Returns the names of the files that are gone.

        Nothing is taken out of the middle: where WAL of an older timeline is kept, what follows
        it is as well.  Neither is the segment of `durable`.  What the store says that it holds
        changes first, durably, then the files go; a crash in between leaves files for the next
        call.  What a standby, a seed or a person still needs is for the caller to know.

        Raises LogshipError: DISK_FULL (nothing changed), STORE_FAILED.
        """
        async with self._writing:
            self._check_open()
            await self._flush()
            try:
                return await run_to_the_end(
                    self._write_thread, lambda: self._core.remove_below(floors)
                )
            except OSError as error:
                raise LogshipError(
                    Code.STORE_FAILED,
                    f"WAL can't be removed from {self.directory}: {error.strerror or error}",
                    "it is not counted any more; its files are removed by the next try",
                    retryable=True,
                ) from error
            finally:
                self._changed()

    async def add_history(self, timeline: int, content: bytes) -> None:
        """Keep a timeline's history; durable when this returns.  The same again is fine.

        Raises LogshipError: BAD_HISTORY, HISTORY_CONFLICT, DISK_FULL, STORE_FAILED.
        """
        async with self._writing:
            self._check_open()
            await run_to_the_end(
                self._write_thread, lambda: self._core.add_history(timeline, content)
            )

    async def append(self, timeline: int, start_lsn: int, data: Bytes) -> Position:
        """Write a span; returns the written position afterwards.  Not durable yet: `flush`.

        The span must lie in one segment.  Bytes that are held already are compared and
        dropped; a span below the chain's start is dropped.  `data` must not change until this
        returns.

        Raises LogshipError, with nothing written: BAD_FRAME, WAL_GAP, WAL_CONFLICT,
        HISTORY_MISSING, SUPERSEDED (its timeline was left), TIMELINE_DIVERGED (its timeline
        does not descend from what is held), BAD_WAL_PAGE and what else
        `wal.check_pages` raises, DISK_FULL (retryable: send it again later), STORE_FAILED
        (retryable: close and reopen the store first).
        """
        async with self._writing:
            self._check_open()
            if self._is_quick(timeline, start_lsn, data):
                return self._write(timeline, start_lsn, data)
            before = self.written
            try:
                return await run_to_the_end(
                    self._write_thread, lambda: self._core.write(timeline, start_lsn, data)
                )
            finally:
                # Also when the caller was cancelled: what it wrote is there.
                if self.written != before:
                    self._changed()

    def append_at_once(self, timeline: int, start_lsn: int, data: Bytes) -> Position | None:
        """`append`, if that takes no waiting: of a small span right at the end of what the
        current segment has, while nobody else writes.  None: nothing was done, call `append`."""
        self._check_open()
        if self._writing.locked() or not self._is_quick(timeline, start_lsn, data):
            return None
        return self._write(timeline, start_lsn, data)

    def _is_quick(self, timeline: int, start_lsn: int, data: Bytes) -> bool:
        return len(data) < INLINE_BYTES and not self._core.segments.opens_segment(
            timeline, start_lsn
        )

    def _write(self, timeline: int, start_lsn: int, data: Bytes) -> Position:
        before = self.written
        position = self._core.write(timeline, start_lsn, data)
        if position != before:
            self._changed()
        return position

    def keep_flushing(self, flushed: Callable[[LogshipError | None], None]) -> None:
        """From now on make durable, without being asked, what is written.

        `flushed` is called in the loop whenever a flush has ended, until the store is closed:
        with None when `durable` has risen, else with why the store writes nothing more.  It
        must not raise.
        """
        self._flushed = flushed
        self._want_flush()

    async def flush(self) -> Position | None:
        """Make durable what was written before this call; returns the durable position.

        Callers that come while a flush runs share the next one.  Raises LogshipError
        (STORE_FAILED): the store writes nothing more until it is closed and reopened, and what
        was not durable before may or may not be afterwards.
        """
        self._check_open()
        return await self._flush()

    async def settle(self) -> None:
        """Let a running append end, and flush: `durable` is `written` when this returns.

        For whoever is about to resume at `durable`: a caller that was cut off may have left
        bytes written and not flushed, and with them a newer timeline begun, after which the
        one before is not taken any more.  Raises as `flush`.
        """
        async with self._writing:
            self._check_open()
            await self._flush()

    async def _flush(self) -> Position | None:
        self._core.segments.check_usable()
        if self._core.positions is None or self.durable == self.written:
            return self.durable
        if self._flush_waiters is None:
            self._flush_waiters = asyncio.get_running_loop().create_future()
            self._flush_waiters.add_done_callback(_retrieved)
        waiters = self._flush_waiters
        if not self._flush_running:
            self._start_flush()
        await asyncio.shield(waiters)
        return self.durable

    def _want_flush(self) -> None:
        """Start one: at once if the last has ended a while ago, else in the loop's next turn,
        for all that is written in this one."""
        if self._flush_wanted is not None or self._flush_running:
            return
        loop = asyncio.get_running_loop()
        if loop.time() - self._flushed_at < _QUIET_SECONDS:
            self._flush_wanted = loop.call_soon(self._flush_on)
        else:
            self._flush_on()

    def _flush_on(self) -> None:
        self._flush_wanted = None
        if self._flush_running or self._closed or self.failure is not None:
            return
        if self._core.positions is not None and self.durable != self.written:
            self._start_flush()

    def _start_flush(self) -> None:
        waiters, self._flush_waiters = self._flush_waiters, None
        self._flush_running = True
        plan = self._core.segments.prepare_flush()
        self._sync_thread.submit(
            lambda: self._core.segments.run_flush(plan),
            lambda position, error: self._flush_done(position, error, waiters),
        )

    def _flush_done(
        self,
        position: Position | None,
        error: Exception | None,
        waiters: asyncio.Future[None] | None,
    ) -> None:
        self._flush_running = False
        self._flushed_at = asyncio.get_running_loop().time()
        if error is None:
            self._core.hardened(position)
        if waiters is not None and not waiters.done():
            if error is None:
                waiters.set_result(None)
            else:
                waiters.set_exception(error)
        if self._flushed is not None and not self._closed:
            self._flushed(None if error is None else _told(error))
        if self._flush_waiters is not None:
            if self._closed:
                self._flush_waiters.set_exception(self._closed_error())
            else:
                self._start_flush()
        elif self._flushed is not None and error is None:
            self._flush_on()

    def _changed(self) -> None:
        for callback in list(self._callbacks.values()):
            callback()
        if self._flushed is not None:
            self._want_flush()
        wanted = self._core.segments.spare_wanted and not self._closed
        if wanted and not self._spare_running:
            loop = asyncio.get_running_loop()
            try:
                future = loop.run_in_executor(self._spare_thread, self._core.segments.make_spare)
            except RuntimeError:  # no thread could be started; without a spare it goes on as well
                return
            self._spare_running = True
            future.add_done_callback(self._spare_done)

    def _spare_done(self, done: asyncio.Future[None]) -> None:
        self._spare_running = False
        if not done.cancelled() and (error := done.exception()) is not None:
            _log.error("preparing a segment failed", exc_info=error)

    def _check_open(self) -> None:
        if self._closed:
            raise self._closed_error()

    def _closed_error(self) -> LogshipError:
        return LogshipError(
            Code.STORE_FAILED,
            f"the store {self.directory} is closed",
            "it is being opened again, or the applier stops: try again",
            retryable=True,
        )

    def close(self) -> None:
        """Wait for running I/O, close the files, let go of the lock.  Flushes nothing: what
        was not durable may be lost.  Closing again is fine."""
        if self._closed:
            return
        self._closed = True
        for thread in (self._write_thread, self._spare_thread):
            thread.shutdown(wait=True)
        self._sync_thread.close()
        self._core.close()
        if self._lock is not None:
            self._disk.close(self._lock)


def _lock(disk: Disk, directory: Path) -> int:
    try:
        disk.make_directory(directory)
        return disk.lock(directory / layout.LOCK_NAME)
    except BlockingIOError as error:
        raise LogshipError(
            Code.STORE_LOCKED,
            f"the store {directory} is in use by another process",
            "an applier is running on it: use that one, or stop it first",
        ) from error
    except OSError as error:
        raise unusable(error, directory) from error


def _told(error: Exception) -> LogshipError:
    if isinstance(error, LogshipError):
        return error
    _log.error("a bug while syncing", exc_info=error)
    return LogshipError(
        Code.STORE_FAILED,
        f"syncing failed: {type(error).__name__}",
        "the log has the details; please report them",
        retryable=True,
    )


def _retrieved(future: asyncio.Future[_T]) -> None:
    """Look at a future's error, so that asyncio does not call it forgotten."""
    if not future.cancelled():
        future.exception()
