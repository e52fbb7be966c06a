"""Keeps an `Index` in step with its directory, and opens what is whole.

Notices come by inotify.  A look every `rescan_seconds` makes up for those that are missed: it
asks for the names that are wanted next and for the directory itself.  The whole directory is
listed at the start, when notices were lost, and rarely (`FULL_SCAN_SECONDS`) when its time of
change says that something happened.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import crc32c
import structlog

from logship.errors import LogshipError
from logship.lsn import Lsn
from logship.wal import History, WalLine, history_name, parse_history, segment_start
from shipper.backoff import Reminder
from shipper.sources.archive import files
from shipper.sources.archive.index import Index
from shipper.sources.archive.line import Piece
from shipper.sources.archive.memory import Given, Look, Memory
from shipper.sources.archive.names import Segment, parse
from shipper.sources.archive.notices import Notices
from shipper.sources.archive.settling import Settling

log = structlog.get_logger(__name__)

FULL_SCAN_SECONDS = 900.0
UNNOTICED_SCAN_SECONDS = 60.0
"""Between two listings of a directory that changes without notices (a network file system)."""
_HISTORIES_AHEAD = 16


class Outbox:
    """One directory.  Used in one event loop; everything that touches the disk is in threads."""

    def __init__(
        self, directory: Path, memory: Memory, wake: Callable[[], None], rescan_seconds: float
    ) -> None:
        self.directory = directory
        self.memory = memory
        self.index = Index(1 << 24)
        self.histories: dict[int, History] = {}
        self.history_contents: dict[int, bytes] = {}
        self.stops: dict[str, Lsn] = {}
        """Where the base backups ended that `.backup` files mark."""
        self.going: set[str] = set()
        """Being removed, and not found since that began."""
        self.conflicts: dict[str, LogshipError] = {}
        self.full_scans = 0
        self._line = WalLine(0, 0, 1 << 24)
        self._notices = Notices(wake)
        self._settling = Settling()
        self._rescan_seconds = rescan_seconds
        self._reminder = Reminder()
        self._strangers_said = 0
        self._doubtful: set[str] = set()
        """Given out once, and written or made again since."""
        self._unread: set[int] = set()
        """Timelines whose history is there and could not be read yet."""
        self._unread_backups: set[str] = set()
        self._directory_seen: files.Directory | None = None
        self._stale = True
        """The index is not what a listing said, and no notices make it so."""
        self._listing = threading.Lock()
        """A listing that was given up may still be in its thread when the next begins."""
        self._scanned: tuple[float, int] = (0.0, 0)
        self._noticed_any = False
        self._look_at = 0.0
        self._turn = asyncio.Lock()
        self.retry_seconds = rescan_seconds
        """How long nothing will change unless a notice comes."""

    async def begin(self, line: WalLine) -> None:
        """The files that count are `line`'s.  Takes stock if that is not done yet."""
        async with self._turn:
            if line != self._line:
                self._line = line
                self.index = Index(line.segment_bytes)
                self.histories, self.history_contents, self.stops = {}, {}, {}
                self._stale = True
            if self._stale:
                await self._take_stock()
            await self._read_small_files()

    async def close(self) -> None:
        await asyncio.to_thread(self._notices.stop)
        self._stale = True

    async def refresh(self, wanted: Iterable[str]) -> bool:
        """Heed what was noticed, and look for `wanted` when that is due.  True: something came."""
        async with self._turn:
            before = self.full_scans
            self.retry_seconds = self._rescan_seconds
            if self._notices.lost and not self._stale:
                log.info("notices of the outbox were lost", outbox=str(self.directory))
                await self._take_stock()
            noticed = self._notices.take()
            for name, state in noticed.items():
                self._noticed_any = True
                self._heed(name, state)
            now = time.monotonic()
            if now >= self._look_at:
                self._look_at = now + self._rescan_seconds
                await self._look_for(list(wanted))
            await self._read_small_files()
            await self._settle_doubts()
            self._say_strangers()
            return bool(noticed) or self.full_scans != before

    def doubt_conflicts(self) -> None:
        """Look at them again: somebody may have mended them."""
        self._doubtful.update(self.conflicts)
        self.conflicts.clear()

    def discard(self, name: str) -> None:
        """It is not there any more."""
        self.index.discard(name)
        self.conflicts.pop(name, None)
        self.stops.pop(name, None)
        self._doubtful.discard(name)
        self._unread_backups.discard(name)
        self._settling.forget(name)

    # --- notices and looks --------------------------------------------------------------------

    def _heed(self, name: str, state: bool | None) -> None:
        if state is None:
            self.discard(name)
            return
        if state:
            self._settling.noticed_whole(name)
        else:
            self._settling.forget(name)
        self._found(name)

    def _found(self, name: str) -> None:
        self.going.discard(name)
        if not self.index.add(name):
            return
        if self.memory.get(name) is not None:
            self._doubtful.add(name)
        if name in self.index.backups:
            self._unread_backups.add(name)

    async def _look_for(self, wanted: list[str]) -> None:
        newest = max(self.histories, default=1)
        wanted += [history_name(newest + 1 + ahead) for ahead in range(_HISTORIES_AHEAD)]
        missing = [name for name in wanted if name not in self.index]
        try:
            seen, there = await asyncio.to_thread(_look_for, self.directory, missing)
        except OSError as error:
            self._out_of_reach(error)
            return
        before = self._directory_seen
        if (
            self._stale
            or before is None
            or (before.device, before.inode) != (seen.device, seen.inode)
        ):
            await self._take_stock()
            return
        for name in there:
            log.info("found a file that was not noticed", name=name)
            self._found(name)
        noticed, self._noticed_any = self._noticed_any, False
        scanned_at, mtime_ns = self._scanned
        unnoticed = seen.mtime_ns != before.mtime_ns and not noticed
        wait_seconds = UNNOTICED_SCAN_SECONDS if unnoticed else FULL_SCAN_SECONDS
        self._directory_seen = seen
        if seen.mtime_ns != mtime_ns and time.monotonic() - scanned_at >= wait_seconds:
            await self._take_stock()

    async def _take_stock(self) -> None:
        """List everything, noticing what comes meanwhile."""
        self._stale = True
        try:
            seen, index = await asyncio.to_thread(self._watch_and_list)
        except OSError as error:
            self._out_of_reach(error)
            return
        self.full_scans += 1
        self._stale = False
        self._directory_seen = seen
        self._scanned = (time.monotonic(), seen.mtime_ns)
        self._settling.clear()
        self.going.clear()
        self.index = index
        log.info(
            "listed the outbox",
            outbox=str(self.directory),
            segments=len(self.index.segments),
            strangers=len(self.index.strangers),
        )
        self._doubtful.update(name for name in self.memory.names() if name in self.index)
        self._unread_backups = set(self.index.backups)
        self.conflicts.clear()

    def _watch_and_list(self) -> tuple[files.Directory, Index]:
        with self._listing:
            seen = files.directory(self.directory)
            try:
                self._notices.watch(self.directory)
            except OSError as error:
                # No inotify instances left, or a file system without: looking has to do.
                log.warning(
                    "the outbox can't be watched", outbox=str(self.directory), error=str(error)
                )
            index = Index(self._line.segment_bytes)
            index.replace(os.listdir(self.directory))
            return seen, index

    def _out_of_reach(self, error: OSError) -> None:
        if self._reminder.due(f"outbox: {error.strerror}"):
            log.error(
                "the outbox can't be used",
                outbox=str(self.directory),
                error=error.strerror or str(error),
                hint="see whether it is mounted, and who may read and write it; "
                "`shipper outbox-command` shows how it is made. It is tried again by itself",
            )
        self._stale = True
        self.index.replace(())

    def _say_strangers(self) -> None:
        count = len(self.index.strangers)
        if count > self._strangers_said:
            example = next(iter(self.index.strangers))
            log.warning("names that are not WAL are left alone", count=count, example=example)
        self._strangers_said = count

    # --- histories, markers, and files that were given out ------------------------------------

    async def _read_small_files(self) -> None:
        self._unread = self.index.histories - self.history_contents.keys()
        for timeline in sorted(self._unread):
            await self._read_history(timeline)
        for name in sorted(self._unread_backups):
            stop = await asyncio.to_thread(files.backup_stop, self.directory / name)
            if stop is not None:
                self.stops[name] = stop
        self._unread_backups.clear()

    async def _read_history(self, timeline: int) -> None:
        name = history_name(timeline)
        try:
            read = await asyncio.to_thread(files.read_history, self.directory / name)
            if read is None:
                self.discard(name)
                return
            content, seen = read
            if self._must_wait(name, seen, padded=False):
                return
            self.histories[timeline] = parse_history(timeline, content)
        except (files.NotWholeError, LogshipError, OSError) as error:
            self._not_usable(name, error)
            return
        self.history_contents[timeline] = content
        self._settling.forget(name)
        log.info("a timeline's history is in the outbox", timeline=timeline)

    def learn_history(self, timeline: int, content: bytes) -> None:
        """Of a timeline whose history is not in the directory.  Raises BAD_HISTORY."""
        self.histories[timeline] = parse_history(timeline, content)
        self.history_contents[timeline] = content

    async def note_history(self, timeline: int, content: bytes) -> None:
        """It is about to be given out."""
        name = history_name(timeline)
        try:
            seen = await asyncio.to_thread(files.look, self.directory / name)
        except (OSError, files.NotWholeError):
            seen = None
        if seen is not None:
            self.memory.note(name, Given(crc32c.crc32c(content), len(content), seen))

    async def _settle_doubts(self) -> None:
        for name in sorted(self._doubtful):
            if await self._is_same(name) is not None:
                self._doubtful.discard(name)

    async def _is_same(self, name: str) -> bool | None:
        """Whether `name` may be used, as far as it was given out before.  None: not yet known."""
        given = self.memory.get(name)
        if given is None:
            return True
        try:
            again = await asyncio.to_thread(files.same_again, self.directory / name, given)
        except LogshipError as error:
            if not await asyncio.to_thread(self.is_leftover, name):
                self.conflicts[name] = error
            return False
        except (OSError, files.NotWholeError) as error:
            self._not_usable(name, error)
            return None
        if again is None:
            self.discard(name)
            return False
        self.conflicts.pop(name, None)
        self.memory.note(name, again)
        return True

    def is_leftover(self, name: str) -> bool:
        """Blocking.  See `files.is_leftover`; false for what is no segment."""
        file = parse(name, self._line.segment_bytes)
        return isinstance(file, Segment) and files.is_leftover(
            self.directory / name, file.start_lsn, self._line
        )

    # --- segments -----------------------------------------------------------------------------

    async def open_piece(self, piece: Piece) -> files.SegmentFile | None:
        """The first file that has `piece`, whole and checked; None while there is none."""
        for name in piece.names:
            if name in self.index and (found := await self._open(name, piece)) is not None:
                return found
        return None

    async def _open(self, name: str, piece: Piece) -> files.SegmentFile | None:
        start = segment_start(piece.start_lsn, self._line.segment_bytes)
        try:
            seen = await asyncio.to_thread(files.look, self.directory / name)
            if seen is None:
                self.discard(name)
                return None
            if self._must_wait(name, seen, padded=False):
                return None
            checked = await asyncio.to_thread(
                files.open_segment,
                self.directory / name,
                start,
                piece.timeline,
                self._line,
                piece.end_lsn - start,
            )
        except (files.NotWholeError, LogshipError, OSError) as error:
            elsewhere = any(other in self.index for other in piece.names if other != name)
            # A history that is still being written may tell that nothing of it is wanted.
            not_due = elsewhere or bool(self._unread)
            if not (not_due and await asyncio.to_thread(self.is_leftover, name)):
                self._not_usable(name, error)
            return None
        if checked is None:
            self.discard(name)
            return None
        file = checked.file
        if self._must_wait(name, file.seen, padded=checked.ends_in_zeros):
            file.close()
            return None
        if not await self._is_same(name):
            file.close()
            return None
        self._settling.forget(name)
        self.memory.note(name, file.given)
        return file

    def _must_wait(self, name: str, seen: Look, *, padded: bool) -> bool:
        now, clock = time.monotonic(), time.time()
        seconds = self._settling.wait_seconds(name, seen, padded=padded, now=now, clock=clock)
        if seconds > 0:
            self.retry_seconds = min(self.retry_seconds, seconds)
        return seconds > 0

    def _not_usable(self, name: str, error: Exception) -> None:
        """It may be on its way; if not, somebody should know."""
        if isinstance(error, LogshipError):
            if self._reminder.due(f"{name}: {error.code}"):
                log.error("a file in the outbox can't be used", name=name, **error.as_dict())
        elif isinstance(error, OSError):
            if self._reminder.due(f"{name}: {error.strerror}"):
                log.error(
                    "a file in the outbox can't be read",
                    name=name,
                    error=error.strerror or str(error),
                    hint="the shipper has to run as the server's account, or in its group",
                )
        elif self._reminder.due(f"{name}: {error}"):
            log.warning("a file in the outbox is not what its name says", name=name, why=str(error))


class _Looked(NamedTuple):
    directory: files.Directory
    there: list[str]


def _look_for(directory: Path, names: list[str]) -> _Looked:
    seen = files.directory(directory)
    return _Looked(seen, [name for name in names if (directory / name).exists()])
