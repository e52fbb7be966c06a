"""CREATE TABLESPACE as it arrives: noted before it is stored, held until its standby can do it.

The hold is a gate before the record, so that a standby is never given what it would replay into
a directory that is not its own.  The primary does not notice: its WAL is stored all the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import structlog

from applier.standby.tablespaces import Note, TablespaceNotes, path_error
from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from logship.postgres import private_paths
from logship.postgres.run_as import RunAs
from logship.wal import WalLine
from logship.wal_tablespaces import LOOK_BACK_BYTES, TablespaceCreated, TablespaceScan

if TYPE_CHECKING:
    from applier.operations.instance import Instance
    from applier.store import Store

log = structlog.get_logger(__name__)

RETRY_SECONDS = 2.0
"""How often a standby that is held looks whether it can go on."""
ASK_AGAIN_SECONDS = 30.0


class PathPermission:
    """Whether servers may have private paths on this machine.  Thread-safe; blocks."""

    def __init__(
        self,
        run_as: RunAs,
        *,
        wanted: bool = True,
        ask: Callable[[RunAs], str] = private_paths.why_not,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_as = run_as
        self._wanted = wanted
        self._ask = ask
        self._clock = clock
        self._answer: str | None = None
        self._asked_at = 0.0

    def why_not(self) -> str:
        """Why not; "" if they may.  A no is asked for again, now and then."""
        if not self._wanted:
            return 'standby.private_paths is "never"'
        now = self._clock()
        if self._answer is None or (self._answer and now - self._asked_at >= ASK_AGAIN_SECONDS):
            self._answer, self._asked_at = self._ask(self._run_as), now
        return self._answer


class Tablespaces:
    """Of one instance.  `unready`: records that its standby may not be given yet."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.notes: TablespaceNotes | None = None
        self.unready: tuple[Note, ...] = ()
        self._scan: TablespaceScan | None = None
        self._looked_at: tuple[int, int, int] | None = None
        self._found: tuple[TablespaceCreated, ...] = ()
        self._noting = asyncio.Lock()
        self._waiter: asyncio.Task[None] | None = None

    def open(self, line: WalLine) -> None:
        """Before the store is served: take up what is noted.  Blocks; raises LogshipError
        (STANDBY_FAILED)."""
        self._scan = TablespaceScan(line)
        self._looked_at = None
        directory = self._instance.incarnation_directory
        if self.notes is None or self.notes.directory != directory:
            self.notes = TablespaceNotes(directory)
            # Whether the standby that may be running can do them is not known yet.
            self.unready = self.notes.all()

    @property
    def hold_lsn(self) -> Lsn | None:
        """The standby gets nothing from here on."""
        return Lsn(self.unready[0].start_lsn) if self.unready else None

    # --- what arrives -----------------------------------------------------------------------

    def created_in(
        self, timeline: int, start_lsn: int, data: bytes | memoryview
    ) -> tuple[TablespaceCreated, ...]:
        """The records that these bytes, the next to be stored, complete: `note` them first."""
        store, scan = self._instance.store, self._scan
        piece = (timeline, start_lsn, len(data))
        if store is None or scan is None:
            return ()
        if piece != self._looked_at:
            if not scan.follows(start_lsn):
                scan.prime(*_before(store, timeline, start_lsn))
            self._looked_at, self._found = piece, tuple(scan.feed(start_lsn, data))
        return self._found

    async def note(self, found: tuple[TablespaceCreated, ...]) -> None:
        """Remember durably what `created_in` found, and hold the standby before it.  A cancelled
        caller does so too.

        Raises LogshipError (STANDBY_FAILED, retryable).
        """
        await self._instance.host.to_the_end(self._note(found), self._instance.name)

    async def _note(self, found: tuple[TablespaceCreated, ...]) -> None:
        # One after the other: who comes again with the same bytes must find them held.
        async with self._noting:
            assert self.notes is not None
            new = await asyncio.to_thread(self.notes.add, found)
            for note in new:
                log.info(
                    "the primary makes a tablespace",
                    instance=self._instance.name,
                    location=note.shown_location,
                    lsn=str(Lsn(note.start_lsn)),
                )
            if new:
                self.unready = _ordered((*self.unready, *new))
                self._instance.following.serving.set_gate()
                self.keep_looking()

    # --- until it can be replayed -----------------------------------------------------------

    async def found_unready(self, before: tuple[Note, ...], now: tuple[Note, ...]) -> None:
        """A look that began when `before` was unready found `now`; what was noted since then
        was not looked at.  Raises the alarm, or clears it."""
        since = [note for note in self.unready if note not in before]
        self.unready = _ordered({*now, *since})
        if self.unready:
            await asyncio.to_thread(self._instance.host.path_permission.why_not)
            self._instance.alarms.raise_error(self._error())
        else:
            self._instance.alarms.clear(Code.TABLESPACE_PATH)

    def refuse_unready(self, end_lsn: int) -> None:
        """Raise LogshipError (TABLESPACE_PATH) while the standby has to be held below `end_lsn`.
        What was noted and not stored any more is in nobody's way."""
        if self.unready and self.unready[0].start_lsn < end_lsn:
            raise self._error()

    def _error(self) -> LogshipError:
        host = self._instance.host
        why = host.path_permission.why_not() or "its server does not see it"
        return path_error(self.unready[0], why, host.run_as)

    def keep_looking(self) -> None:
        """Have the standby made ready in the background, for as long as it takes."""
        if self._waiter is None or self._waiter.done():
            self._waiter = self._instance.spawn(self._until_ready())

    async def _until_ready(self) -> None:
        while True:
            if not await self._instance.following.take_up_tablespaces():
                return
            await asyncio.sleep(RETRY_SECONDS)


def _ordered(notes: Iterable[Note]) -> tuple[Note, ...]:
    return tuple(sorted(notes, key=lambda note: note.start_lsn))


def _before(store: Store, timeline: int, lsn: int) -> tuple[int, bytes]:
    """(LSN, bytes) of what the store has right before `lsn`, as far as it matters."""
    start = lsn
    data = b""
    try:
        start = at = max(0, lsn - LOOK_BACK_BYTES)
        while at < lsn and (piece := store.read(timeline, at, lsn - at)):
            data += piece
            at += len(piece)
    except LogshipError:
        at = start
    return (start, data) if start + len(data) == lsn else (lsn, b"")
