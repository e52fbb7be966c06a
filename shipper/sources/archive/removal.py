"""Removes from an outbox what is durable at the far end, and remembers what it was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import structlog

from logship import durable
from logship.errors import LogshipError
from logship.lsn import Position
from logship.wal import WalLine
from shipper.backoff import REMIND_SECONDS, Reminder
from shipper.sources.archive import files
from shipper.sources.archive.line import removable
from shipper.sources.archive.memory import Memory
from shipper.sources.archive.names import Partial, Segment, parse
from shipper.sources.archive.watching import Outbox

log = structlog.get_logger(__name__)

_BATCH = 256
_TOO_YOUNG = "its archiver may not be done with it"
GRACE_SECONDS = 1.0
"""A file younger than that stays: an archiver opens it by its name once more to sync it
(`durable_rename`), and fails, and archives it again, if it is gone."""
PAUSE_SECONDS = 0.1
"""Between two rounds: acks come in plenty, and each round that removes syncs a file."""


def load_memory(path: Path) -> Memory:
    """Blocking.  An empty one if there is none, or none that can be read."""
    try:
        return Memory.decode(path.read_bytes())
    except FileNotFoundError:
        return Memory()
    except (OSError, ValueError) as error:
        log.warning("what was shipped from the outbox is not remembered", error=str(error))
        return Memory()


class Removal:
    """Runs while the source reads.  `keep`: remembers, and removes nothing."""

    def __init__(
        self,
        outbox: Outbox,
        line: WalLine,
        memory_file: Path,
        *,
        keep: bool,
        conflict: Callable[[], None],
    ) -> None:
        """conflict: called when one was found."""
        self._outbox = outbox
        self._line = line
        self._memory_file = memory_file
        self._keep = keep
        self._conflict = conflict
        self._durable: Position | None = None
        self._due = asyncio.Event()
        self._left: dict[str, float] = {}
        """What could not be removed, and until when (monotonic) it is not worth another try."""
        self._reminder = Reminder()

    def acknowledged(self, position: Position) -> None:
        if position != self._durable:
            self._durable = position
            self._due.set()

    def look_again(self) -> None:
        """Something came, and may be durable already."""
        if self._durable is not None:
            self._due.set()

    async def run(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self._round()
            except OSError as error:
                if self._reminder.due(str(error)):
                    log.error("can't note what was shipped", error=str(error))
            await asyncio.sleep(PAUSE_SECONDS)

    async def _round(self) -> None:
        """Remove all that may go.  What was given out is on disk before its file goes."""
        outbox, position = self._outbox, self._durable
        assert position is not None
        while True:
            names: list[str] = []
            if not self._keep:
                names = self._next_names(position)
            finishes_segment = position.lsn % self._line.segment_bytes == 0
            if outbox.memory.changed and (names or (self._keep and finishes_segment)):
                content = outbox.memory.encode()
                try:
                    await asyncio.to_thread(durable.write_file, self._memory_file, content)
                except BaseException:
                    outbox.memory.changed = True
                    raise
            if not names:
                return
            await self._remove(names)

    def _next_names(self, position: Position) -> list[str]:
        now = time.monotonic()
        self._left = {name: until for name, until in self._left.items() if until > now}
        outbox = self._outbox
        may_go = removable(outbox.index, position, outbox.histories, outbox.stops)
        return list(islice((name for name in may_go if name not in self._left), _BATCH))

    async def _remove(self, names: list[str]) -> None:
        outbox = self._outbox
        outcomes = await asyncio.to_thread(self._remove_files, names)
        if _TOO_YOUNG in outcomes:
            pause_seconds = GRACE_SECONDS + PAUSE_SECONDS
            asyncio.get_running_loop().call_later(pause_seconds, self._due.set)
        for name, outcome in zip(names, outcomes, strict=True):
            if outcome is None:
                outbox.discard(name)
                continue
            if outcome is _TOO_YOUNG:
                self._left[name] = time.monotonic() + GRACE_SECONDS
                continue
            self._left[name] = time.monotonic() + REMIND_SECONDS
            if isinstance(outcome, LogshipError):
                outbox.conflicts[name] = outcome
                self._conflict()
            elif self._reminder.due(outcome):
                log.error("can't remove a shipped file from the outbox", name=name, why=outcome)

    def _remove_files(self, names: list[str]) -> list[LogshipError | str | None]:
        return [self._remove_file(name) for name in names]

    def _remove_file(self, name: str) -> LogshipError | str | None:
        """None: it is gone."""
        path = self._outbox.directory / name
        try:
            seen = files.look(path)
            if seen is None:
                return None
            if 0 <= time.time() - seen.ctime_ns / 1e9 < GRACE_SECONDS:
                return _TOO_YOUNG
            given = self._outbox.memory.get(name)
            if given is not None:
                if files.same_again(path, given) is None:
                    return None
            elif not self._may_go(path, name):
                return "it is not WAL of this cluster"
            path.unlink(missing_ok=True)
        except LogshipError as error:
            return error
        except OSError as error:
            return error.strerror or str(error)
        except files.NotWholeError as error:
            return error.why
        return None

    def _may_go(self, path: Path, name: str) -> bool:
        """Of a file that is not remembered: it is at least what its name says."""
        file = parse(name, self._line.segment_bytes)
        if isinstance(file, Segment | Partial):
            return files.is_of_line(path, file.start_lsn, file.timeline, self._line)
        return True
