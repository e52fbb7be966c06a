"""What the primary has removed, read from its own archive: a source around `StreamSource`.

The archive is a directory of WAL under PostgreSQL's own names, as `archive_command = 'cp …'`
or `basic_archive` fills it.  It is only read, and only where the primary refuses WAL that is
still needed: its slot was invalidated, dropped or never there.  When the archive ends the
primary is asked again, which by then has a slot that keeps what follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from logship.wal import WalLine, history_name, segment_start
from shipper.backoff import Reminder
from shipper.sources import HistoryFile, Observation, SourceEvent, SourceIdentity, WalBytes
from shipper.sources.archive import files
from shipper.sources.archive.line import Piece, next_piece
from shipper.sources.stream import StreamSource

log = structlog.get_logger(__name__)


class GapFillingSource:
    """See `shipper.sources.Source`.  archive: the directory, which may be away at times."""

    def __init__(self, source: StreamSource, archive: Path) -> None:
        self._source = source
        self._archive = archive
        self._identity: SourceIdentity | None = None
        self._position: Position | None = None
        """Where what was given out ends."""
        self._known_timelines: set[int] = set()
        self._acked: tuple[Position, Position, Lsn] | None = None
        self._is_filling = False
        self._file: files.SegmentFile | None = None
        self._opened: Piece | None = None
        self._reminder = Reminder()
        self._on_wal: Callable[[WalBytes], bool] | None = None

    # --- as the stream is -----------------------------------------------------------------

    @property
    def flush_lsn(self) -> Lsn:
        return self._source.flush_lsn

    @property
    def reachable(self) -> bool:
        return self._source.reachable

    @property
    def on_wal(self) -> Callable[[WalBytes], bool] | None:
        return self._on_wal

    @on_wal.setter
    def on_wal(self, take: Callable[[WalBytes], bool] | None) -> None:
        self._on_wal = take
        self._source.on_wal = None if take is None else self._push

    def _push(self, span: WalBytes) -> bool:
        assert self._on_wal is not None
        if not self._on_wal(span):
            return False
        self._position = Position(span.timeline, span.end_lsn)
        return True

    async def open(self) -> SourceIdentity:
        self._stop_filling()
        self._identity = None
        self._identity = await self._source.open()
        return self._identity

    async def reserve(self) -> None:
        await self._source.reserve()

    async def observe(self) -> Observation:
        return await self._source.observe()

    def acknowledge(self, received: Position, durable: Position, applied: Lsn) -> None:
        self._acked = (received, durable, applied)
        self._source.acknowledge(received, durable, applied)

    async def close(self) -> None:
        self._stop_filling()
        await self._source.close()

    # --- reading --------------------------------------------------------------------------

    async def start(self, resume: Position, known_timelines: frozenset[int]) -> None:
        self._stop_filling()
        self._position = resume
        self._known_timelines = set(known_timelines)
        self._acked = None
        try:
            await self._source.start(resume, known_timelines)
        except LogshipError as error:
            if not await self._can_fill(error):
                raise

    async def read(self, max_bytes: int) -> list[SourceEvent]:
        if self._is_filling:
            return await self._fill(max_bytes)
        try:
            events = await self._source.read(max_bytes)
        except LogshipError as error:
            if not await self._can_fill(error):
                raise
            return []
        for event in events:
            if isinstance(event, WalBytes):
                self._position = Position(event.timeline, event.end_lsn)
            else:
                self._known_timelines.add(event.timeline)
        return events

    async def _can_fill(self, error: LogshipError) -> bool:
        """Whether `error` means that WAL is gone which the archive has; it is read then."""
        if error.code is not Code.WAL_REMOVED or self._identity is None:
            return False
        piece = self._next_piece()
        if await self._open(piece) is None:
            return False
        log.warning(
            "the primary has removed WAL that is needed; its archive has it",
            archive=str(self._archive),
            missing_from=str(self._position),
            why=error.what,
        )
        self._is_filling = True
        return True

    async def _fill(self, max_bytes: int) -> list[SourceEvent]:
        piece = self._next_piece()
        if piece.timeline > 1 and piece.timeline not in self._known_timelines:
            history = await asyncio.to_thread(self._read_history, piece.timeline)
            if history is not None:
                self._known_timelines.add(piece.timeline)
                return [history]
        elif (data := await self._read(piece, max_bytes)) is not None:
            span = WalBytes(piece.timeline, piece.start_lsn, [data], len(data))
            self._position = Position(span.timeline, span.end_lsn)
            return [span]
        # It tells the histories that are still unknown, and gives what follows.
        self._stop_filling()
        assert self._position is not None
        await self._source.start(self._position, frozenset(self._known_timelines))
        if self._acked is not None:
            self._source.acknowledge(*self._acked)
        log.info("the archive has no more; going on at the primary", position=str(self._position))
        return []

    def _next_piece(self) -> Piece:
        assert self._position is not None
        return next_piece(self._position, self._source.history, self._line.segment_bytes)

    @property
    def _line(self) -> WalLine:
        assert self._identity is not None
        profile = self._identity.profile
        return WalLine(profile.system_identifier, profile.major, profile.wal_segment_size)

    async def _read(self, piece: Piece, max_bytes: int) -> bytes | None:
        """Some of the piece's WAL, from its start; None: the archive does not have it."""
        file = await self._open(piece)
        if file is None:
            return None
        offset = piece.start_lsn - segment_start(piece.start_lsn, self._line.segment_bytes)
        try:
            return await asyncio.to_thread(file.read, offset, max_bytes)
        except (OSError, files.NotWholeError) as error:
            self._not_usable(file.name, str(error))
            return None

    async def _open(self, piece: Piece) -> files.SegmentFile | None:
        opened = self._opened
        if opened is not None and (opened.names, opened.end_lsn) == (piece.names, piece.end_lsn):
            return self._file
        self._close_file()
        self._file = await asyncio.to_thread(self._find, piece)
        self._opened = piece if self._file is not None else None
        return self._file

    def _find(self, piece: Piece) -> files.SegmentFile | None:
        """The first file that has `piece`, whole and checked."""
        start = segment_start(piece.start_lsn, self._line.segment_bytes)
        for name in piece.names:
            try:
                checked = files.open_segment(
                    self._archive / name, start, piece.timeline, self._line, piece.end_lsn - start
                )
            except (files.NotWholeError, LogshipError, OSError) as error:
                self._not_usable(name, str(error))
                continue
            if checked is not None:
                return checked.file
        return None

    def _read_history(self, timeline: int) -> HistoryFile | None:
        name = history_name(timeline)
        try:
            found = files.read_history(self._archive / name)
        except (files.NotWholeError, OSError) as error:
            self._not_usable(name, str(error))
            return None
        return HistoryFile(timeline, found[0]) if found is not None else None

    def _not_usable(self, name: str, why: str) -> None:
        if self._reminder.due(f"{name}: {why}"):
            log.error("a file of the archive can't be used", name=name, why=why)

    def _stop_filling(self) -> None:
        self._is_filling = False
        self._close_file()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        self._opened = None
        if file is not None:
            file.close()
