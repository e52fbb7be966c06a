"""The WAL of one restore as the WAL server takes it, fetched ahead from the bucket.

What the store has is there at once.  What only the bucket has appears in order, as it is
fetched, just as WAL appears that is still being received.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from applier.restore.kept import Kept, Part
from applier.restore.spool import Spool
from applier.store.positions import Extent
from applier.store.reading import FileSlice
from applier.store.runs import Run
from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from logship.wal import History, WalLine, segment_start

FETCHES_AT_A_TIME = 4


class ServedWal:
    """See `applier.walserver.source.WalSource`; for one event loop.

    Serves the parts of [start, end) along `history`, those that are there.
    """

    def __init__(
        self, kept: Kept, history: History, spool: Spool | None, start: int, end: int
    ) -> None:
        """Blocks shortly.  Raises LogshipError(WAL_GAP) where not all of it is held."""
        self.fetched_bytes = 0
        """Raw, from the bucket."""
        self._kept = kept
        self._history = history
        self._spool = spool
        self._parts = list(kept.served_parts(history, start, end))
        self._by_segment: dict[tuple[int, int], list[Part]] = {}
        """Of those that are there, by timeline and the segment's start."""
        self._there = 0
        """How many of the parts are."""
        self._dropped = 0
        self._extents: dict[int, Extent] = {}
        self._callbacks: list[Callable[[], None]] = []
        self._room = asyncio.Event()
        self._advance()

    # --- WalSource ------------------------------------------------------------------------

    @property
    def line(self) -> WalLine:
        return self._kept.line

    @property
    def written(self) -> Position | None:
        runs = self.runs()
        return runs[0].end if runs else None

    def runs(self) -> Sequence[Run]:
        return [Run(self._extents)] if self._extents else []

    def shape(self) -> object:
        return self._extents  # replaced when it changes, and the histories stay the same

    def histories(self) -> Mapping[int, History]:
        known = self._kept.histories
        wanted = {self._history.timeline, *(entry.timeline for entry in self._history.ancestors)}
        return {timeline: known[timeline] for timeline in wanted if timeline in known}

    def history_content(self, timeline: int, /) -> bytes | None:
        return self._kept.history_content(timeline)

    def read(self, timeline: int, lsn: int, max_bytes: int, /) -> bytes:
        part = self._part_at(timeline, lsn)
        if part is None:
            return b""
        if part.fetched is None:
            return self._kept.read(part, lsn, max_bytes)
        with self._shared(part, lsn, max_bytes) as slice_:
            return slice_.read()

    def share(self, timeline: int, lsn: int, max_bytes: int, /) -> FileSlice | None:
        part = self._part_at(timeline, lsn)
        if part is None:
            return None
        size_bytes = min(max_bytes, part.end - lsn)
        if part.fetched is None:
            assert self._kept.store is not None
            return self._kept.store.share(timeline, lsn, size_bytes)
        return self._shared(part, lsn, size_bytes)

    def subscribe(self, callback: Callable[[], None], /) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    # --- fetching -------------------------------------------------------------------------

    @property
    def end(self) -> int:
        """Up to where it is there."""
        return self._parts[self._there - 1].end if self._there else 0

    async def fetch_all(self) -> None:
        """Fetch what is not there, in order and a few at a time, as far ahead of the standby as
        the spool has room for.  Raises LogshipError: of the bucket, DISK_FULL."""
        running: dict[int, asyncio.Task[None]] = {}
        try:
            while self._there < len(self._parts):
                await self._wait_for_room()
                for number in range(self._there, len(self._parts)):
                    part = self._parts[number]
                    if len(running) >= FETCHES_AT_A_TIME or not self._has_room_for(number):
                        break
                    if part.fetched is not None and number not in running:
                        running[number] = asyncio.create_task(self._fetch(part))
                await running[self._there]
                del running[self._there]
                self._count()
                self._advance()
                for callback in list(self._callbacks):
                    callback()
        finally:
            for task in running.values():
                task.cancel()
            await asyncio.gather(*running.values(), return_exceptions=True)

    def replayed(self, lsn: int) -> None:
        """The standby has everything below `lsn` in its own pg_wal, for good.  It may ask once
        more for the segment that it is in."""
        done = segment_start(lsn, self.line.segment_bytes)
        while self._dropped < self._there and self._parts[self._dropped].end <= done:
            fetched = self._parts[self._dropped].fetched
            still = any(
                part.fetched == fetched
                for part in self._parts[self._dropped + 1 : self._dropped + 3]
            )
            if fetched is not None and self._spool is not None and not still:
                self._spool.drop(fetched)
            self._dropped += 1
        self._room.set()

    # --- inside ---------------------------------------------------------------------------

    async def _fetch(self, part: Part) -> None:
        assert part.fetched is not None and self._spool is not None
        try:
            await asyncio.to_thread(self._spool.fetch, part.fetched)
        except OSError as error:
            raise LogshipError(
                Code.DISK_FULL,
                f"the WAL from the bucket can't be put down: {error}",
                "make room where the restore goes to, and begin again",
            ) from error
        self.fetched_bytes += part.end - part.start

    async def _wait_for_room(self) -> None:
        while not self._has_room_for(self._there):
            self._room.clear()
            await self._room.wait()

    def _has_room_for(self, number: int) -> bool:
        """Half of the spool is for what is ahead; the first one always has room."""
        if self._spool is None or number <= self._dropped:
            return True
        limit_bytes = self._spool.limit_bytes // 2
        ahead = self._parts[self._dropped : number + 1]
        wanted = sum(part.end - part.start for part in ahead if part.fetched is not None)
        return bool(wanted <= max(limit_bytes, ahead[-1].end - ahead[-1].start))

    def _advance(self) -> None:
        """Count what follows and is in the store."""
        while self._there < len(self._parts) and self._parts[self._there].fetched is None:
            self._count()

    def _count(self) -> None:
        """The next part is there."""
        part = self._parts[self._there]
        self._there += 1
        held = self._extents.get(part.timeline)
        begin = part.start if held is None else held.start
        self._extents = {**self._extents, part.timeline: Extent(Lsn(begin), Lsn(part.end))}
        segment = segment_start(part.start, self.line.segment_bytes)
        self._by_segment.setdefault((part.timeline, segment), []).append(part)

    def _part_at(self, timeline: int, lsn: int) -> Part | None:
        segment = segment_start(lsn, self.line.segment_bytes)
        parts = self._by_segment.get((timeline, segment), ())
        return next((part for part in parts if part.start <= lsn < part.end), None)

    def _shared(self, part: Part, lsn: int, max_bytes: int) -> FileSlice:
        assert part.fetched is not None and self._spool is not None
        found = self._spool.share(part.fetched, lsn, min(max_bytes, part.end - lsn))
        if found is None:
            raise LogshipError(
                Code.WAL_REMOVED, f"the standby asks for {Lsn(lsn)} again, which it had already"
            )
        return found
