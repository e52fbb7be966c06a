"""Removes from an outbox what is durable at the far end, and remembers what it was."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path

import structlog

from logship import durable
from logship.errors import LogshipError
from logship.lsn import Position
from logship.threads import run_to_the_end
from logship.wal import WalLine
from shipper.backoff import REMIND_SECONDS, Reminder
from shipper.sources.archive import files
from shipper.sources.archive.line import past_the_switch, removable
from shipper.sources.archive.memory import Memory
from shipper.sources.archive.names import Partial, Segment, parse
from shipper.sources.archive.settling import Settling
from shipper.sources.archive.watching import Outbox

log = structlog.get_logger(__name__)

_BATCH = 256
_Outcome = LogshipError | str | None
"""Of a removal; None: the file is gone."""
_TOO_YOUNG = "its archiver may not be done with it"
_PAST_THE_SWITCH = "it has WAL from past the end of its timeline"
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
        self._note_again_at = math.inf
        self._settling = Settling()
        """Of segments that look as if nothing was written to them."""
        self._past: set[str] = set()
        """Those with WAL that is on no line."""
        self._past_said = 0
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
            await self._wait()
            self._due.clear()
            self._note_again_at = math.inf
            try:
                await self._round()
            except (OSError, RuntimeError) as error:  # RuntimeError: no thread could be started
                self._note_again_at = time.monotonic() + REMIND_SECONDS
                if self._reminder.due(str(error)):
                    log.error("can't note what was shipped", error=str(error))
            await asyncio.sleep(PAUSE_SECONDS)

    async def _wait(self) -> None:
        """Until something is due, or what failed is worth another try."""
        until = min(self._left.values(), default=math.inf)
        seconds = min(until, self._note_again_at) - time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if seconds == math.inf else max(0.0, seconds)):
                await self._due.wait()

    async def _round(self) -> None:
        """Remove all that may go.  What was given out is on disk before its file goes."""
        outbox, position = self._outbox, self._durable
        assert position is not None
        while True:
            names: list[str] = []
            if not self._keep:
                names = self._not_left(
                    removable(outbox.index, position, outbox.histories, outbox.stops)
                )
            finishes_segment = position.lsn % self._line.segment_bytes == 0
            if outbox.memory.changed and (names or (self._keep and finishes_segment)):
                content = outbox.memory.encode()
                try:
                    # The next removal is begun once this one has ended, and writes there too.
                    await run_to_the_end(
                        None, partial(durable.write_file, self._memory_file, content)
                    )
                except BaseException:
                    outbox.memory.changed = True
                    raise
            if not names:
                break
            await self._remove(names, self._remove_shipped)
        if self._keep:
            return
        while names := self._not_left(past_the_switch(outbox.index, position, outbox.histories)):
            await self._remove(names, self._remove_leftover)
        self._say_past()

    def _say_past(self) -> None:
        self._past &= self._left.keys()
        if len(self._past) > self._past_said:
            log.warning(
                "WAL from past the end of its timeline stays in the outbox: it is on no line",
                count=len(self._past),
                example=min(self._past),
            )
        self._past_said = len(self._past)

    def _not_left(self, may_go: Iterable[str]) -> list[str]:
        now = time.monotonic()
        self._left = {name: until for name, until in self._left.items() if until > now}
        return list(islice((name for name in may_go if name not in self._left), _BATCH))

    async def _remove(self, names: list[str], remove: Callable[[Path], _Outcome]) -> None:
        going = self._outbox.going = set(names)
        outcomes = await asyncio.to_thread(lambda: [self._tried(remove, name) for name in names])
        for name, outcome in zip(names, outcomes, strict=True):
            if outcome is None:
                if name in going:
                    self._outbox.discard(name)
                else:  # It came again, or seemed to: the next round sees.
                    self._due.set()
                continue
            left_seconds = GRACE_SECONDS if outcome is _TOO_YOUNG else REMIND_SECONDS
            self._left[name] = time.monotonic() + left_seconds
            self._say(name, outcome)

    def _say(self, name: str, outcome: LogshipError | str) -> None:
        if isinstance(outcome, LogshipError):
            self._outbox.conflicts[name] = outcome
            self._conflict()
        elif outcome is _PAST_THE_SWITCH:
            self._past.add(name)
        elif outcome is not _TOO_YOUNG and self._reminder.due(outcome):
            log.error("can't remove a shipped file from the outbox", name=name, why=outcome)

    def _tried(self, remove: Callable[[Path], _Outcome], name: str) -> _Outcome:
        try:
            return remove(self._outbox.directory / name)
        except OSError as error:
            return error.strerror or str(error)
        except files.NotWholeError as error:
            return error.why

    def _remove_shipped(self, path: Path) -> _Outcome:
        seen = files.look(path)
        if seen is None:
            return None
        if 0 <= time.time() - seen.ctime_ns / 1e9 < GRACE_SECONDS:
            return _TOO_YOUNG
        given = self._outbox.memory.get(path.name)
        why: _Outcome = None
        try:
            if given is not None:
                if files.same_again(path, given) is None:
                    return None
            elif not self._may_go(path):
                why = "it is not WAL of this cluster"
        except LogshipError as error:
            why = error
        if why is not None:
            return self._remove_leftover(path) if self._outbox.is_leftover(path.name) else why
        path.unlink(missing_ok=True)
        return None

    def _remove_leftover(self, path: Path) -> _Outcome:
        """It may have been given its size before its contents."""
        now, clock = time.monotonic(), time.time()
        seen = files.look(path)
        if seen is None:
            return None
        if self._settling.wait_seconds(path.name, seen, padded=True, now=now, clock=clock):
            return _TOO_YOUNG
        if not self._outbox.is_leftover(path.name):
            return _PAST_THE_SWITCH
        path.unlink(missing_ok=True)
        self._settling.forget(path.name)
        return None

    def _may_go(self, path: Path) -> bool:
        """Of a file that is not remembered: it is at least what its name says."""
        file = parse(path.name, self._line.segment_bytes)
        if isinstance(file, Segment | Partial):
            return files.is_of_line(path, file.start_lsn, file.timeline, self._line)
        return True
