"""The shell around a cursor: fetches, opens, hands on.

What is started beside the loop (requests in threads, the one call of the intake that runs)
comes back as an event, so the cursor sees one thing after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

from applier.receivers.bucket.attachment import Attachment, Reading, StartOver
from applier.receivers.bucket.contents import Contents
from applier.receivers.bucket.cursor import (
    Arrived,
    Command,
    Cursor,
    Dry,
    Failed,
    Get,
    HandOn,
    Hole,
    Look,
    Open,
)
from logship.bucket.wal_objects import Head, Marker
from logship.errors import Code, LogshipError
from logship.frames import MAX_SPAN_BYTES, GapFound
from logship.lsn import Position

Event = Callable[[], list[Command]]


class Follower:
    """Follows the WAL of an instance, from where the intake is.  One `run`, then it is used up."""

    def __init__(self, contents: Contents, attachment: Attachment, reading: Reading) -> None:
        self.seed_marker: Marker | None = None
        """It names the seed that the WAL goes on with."""
        self.ran_dry = False
        """Whether all that was there has been handed on at least once."""
        self._contents = contents
        self._attachment = attachment
        self._intake = attachment.intake
        self._segment_bytes = attachment.hello.profile.wal_segment_size
        self._threads = reading.threads
        self._cursor = Cursor(
            contents.keys,
            self._segment_bytes,
            poll_seconds=reading.poll_seconds,
            window_bytes=reading.window_bytes,
        )
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, is_wanted: Callable[[], bool]) -> None:
        """Hand on what comes, as long as `is_wanted`, which is asked after each event.

        Raises what the intake raises, StartOver, and what is given to `throw`.
        """
        try:
            self._do([Look()])
            while is_wanted() and not self.seed_marker:
                event = await self._next_event()
                self._do(event() if event is not None else self._cursor.timer(now()))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def wake(self) -> None:
        """Something changed that `is_wanted` tells of."""
        self._events.put_nowait(list)

    def hurry(self) -> None:
        """Wait for no poll: look now whether there is more."""
        self._events.put_nowait(lambda: self._cursor.hurry(now()))

    def throw(self, error: BaseException) -> None:
        """End `run` with this."""

        def fail() -> list[Command]:
            raise error

        self._events.put_nowait(fail)

    async def _next_event(self) -> Event | None:
        """None: the cursor's time has come."""
        deadline = self._cursor.deadline
        seconds = None if deadline is None else max(0.0, deadline - now())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self._events.get()
        return None

    def _do(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Get():
                    self._spawn(self._fetch(command))
                case Open(arrived):
                    self._spawn(self._open(arrived))
                case HandOn():
                    self._spawn(self._hand_on(command))
                case Look():
                    self._spawn(self._look())
                case Dry():
                    self._spawn(self._dry())
                case Hole(start, available):
                    self._hole(start, available.lsn)
                case Failed(error):
                    self._attachment.failed(error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.throw(error)

    # --- in -------------------------------------------------------------------------------------

    async def _fetch(self, get: Get) -> None:
        cursor = self._cursor
        try:
            arrived = await self._aside(lambda: self._contents.fetch(get))
        except LogshipError as failure:
            error = failure
            self._events.put_nowait(lambda: cursor.failed(get.key, error, now()))
            return
        if arrived is None:
            self._events.put_nowait(lambda: cursor.absent(get, now()))
        else:
            self._events.put_nowait(lambda: cursor.came(get, arrived.head, arrived.body, now()))

    async def _open(self, arrived: Arrived) -> None:
        cursor, key = self._cursor, arrived.get.key
        try:
            raw = await self._aside(lambda: self._contents.open(arrived, self._segment_bytes))
        except LogshipError as failure:
            error = failure
            self._events.put_nowait(lambda: cursor.failed(key, error, now()))
        else:
            self._events.put_nowait(lambda: cursor.opened(key, raw, now()))

    async def _look(self) -> None:
        received = self._received()
        try:
            items = await self._aside(lambda: self._contents.look(received, self._segment_bytes))
        except LogshipError as failure:
            error = failure
            self._events.put_nowait(lambda: self._cursor.look_failed(error, now()))
            return
        self._attachment.position = received
        self._events.put_nowait(lambda: self._cursor.begin(received, items, now()))

    def _received(self) -> Position:
        positions = self._intake.positions()
        if positions is None:
            raise StartOver("the instance has no WAL")
        return positions.received

    async def _dry(self) -> None:
        await self._attachment.attach_again()
        self._attachment.answered()
        self.ran_dry = True
        self._intake.bucket_dry()
        self.wake()

    def _hole(self, start: Position, available_lsn: int) -> None:
        what = f"{self._contents.store.name} has no object that goes on from {start}"
        gap = GapFound(
            timeline=start.timeline,
            from_lsn=start.lsn,
            available_lsn=available_lsn,
            code=str(Code.WAL_REMOVED),
            what=what,
        )
        self._attachment.report_gap(gap)

    # --- on -------------------------------------------------------------------------------------

    async def _hand_on(self, given: HandOn) -> None:
        head = given.arrived.head
        await self._attachment.attach_again()
        self._attachment.answered()
        self._attachment.tell_heard(head)
        if head.marker is not None:
            await self._heed(head, head.marker)
            if self.seed_marker:
                self.wake()
                return
        elif given.raw is not None:
            await self._hand_on_wal(head, given.start_lsn, given.raw)
        self._attachment.position = received = self._received()
        self._events.put_nowait(lambda: self._cursor.handed_on(received, now()))

    async def _hand_on_wal(self, head: Head, start_lsn: int, raw: memoryview) -> None:
        if head.profile and head.profile != self._attachment.profile_digest:
            profile = await self._aside(lambda: self._contents.profile(head.profile))
            await self._intake.profile(profile)
            self._attachment.profile_digest = head.profile
        for offset in range(0, len(raw), MAX_SPAN_BYTES):
            part = raw[offset : offset + MAX_SPAN_BYTES]
            try:
                await self._intake.wal(head.timeline, start_lsn + offset, part)
            except LogshipError as error:
                if error.code is Code.WAL_GAP:
                    raise StartOver(error.what) from error
                raise
        self._attachment.wal_came()

    async def _heed(self, head: Head, marker: Marker) -> None:
        """A marker says how the WAL goes on; who is past it already knows."""
        held = self._attachment.position
        assert held is not None
        is_news = held <= (head.timeline, head.start_lsn)
        match marker.kind:
            case "timeline":
                if marker.timeline > held.timeline:
                    history = await self._aside(lambda: self._contents.history(marker.timeline))
                    await self._intake.history(marker.timeline, history)
            case "seed":
                if is_news:
                    self.seed_marker = marker
            case "gap":
                if is_news:
                    gap = GapFound(
                        timeline=head.timeline,
                        from_lsn=head.start_lsn,
                        available_lsn=marker.lsn,
                        code=marker.code or str(Code.WAL_GAP),
                        what=marker.what or "the shipper could not go on from here",
                    )
                    self._attachment.report_gap(gap)

    async def _aside(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def now() -> float:
    """Counts on while the machine sleeps: objects are compacted meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
