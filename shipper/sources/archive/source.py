"""Source `archive`: joins the outbox, the plan, and what the primary says over SQL.

WAL comes from the outbox alone, whether or not the primary answers.  What it is (the profile)
comes from the primary, and while that is away from what was last known of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import structlog

from logship.errors import Code, LogshipError
from logship.identity import Profile
from logship.lsn import Lsn, Position
from logship.postgres.replication import ReplicationConnection
from logship.wal import History, WalLine, history_name, segment_start
from shipper.backoff import Reminder
from shipper.sources import HistoryFile, Observation, SourceEvent, SourceIdentity, WalBytes
from shipper.sources.archive import files
from shipper.sources.archive.line import Piece, choose_line, is_later_there, next_piece
from shipper.sources.archive.removal import Removal, load_memory
from shipper.sources.archive.watching import Outbox
from shipper.sources.environment import EnvironmentWatch
from shipper.sources.plan import plan_start
from shipper.sources.primary import PrimaryQueries

log = structlog.get_logger(__name__)

GAP_SECONDS = 60.0
"""How long the next segment may be missing while later ones are there: archivers that work in
parallel finish out of order, but not by minutes."""
RESCAN_SECONDS = 5.0


class ArchiveSource:
    """See `shipper.sources.Source`.

    conninfo: where the primary is asked what it is.  memory_file: where is remembered what was
    shipped.  keep: remove nothing.  last_profile, last_timeline: the primary as it was when an
    earlier process reached it.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        outbox: Path,
        memory_file: Path,
        application_name: str,
        keep: bool = False,
        rescan_seconds: float = RESCAN_SECONDS,
        gap_seconds: float = GAP_SECONDS,
        connect_timeout_seconds: float = 10.0,
        last_profile: Profile | None = None,
        last_timeline: int = 0,
    ) -> None:
        self._memory_file = memory_file
        self._keep = keep
        self._rescan_seconds = rescan_seconds
        self._gap_seconds = gap_seconds
        self._conninfo = conninfo
        self._application_name = application_name
        self._connect_timeout_seconds = connect_timeout_seconds
        # It has no slot and never streams: the name is only in pg_stat_activity.
        self._queries = PrimaryQueries(
            conninfo,
            application_name=application_name,
            slot="",
            timeout_seconds=connect_timeout_seconds,
        )
        self._environment = EnvironmentWatch(self._queries)
        self._directory = outbox
        self._outbox: Outbox | None = None
        self._changed = asyncio.Event()
        self._reminder = Reminder()
        self._profile = last_profile
        self._timeline = last_timeline
        self._reachable = False
        self._is_back = False
        """The primary answers again, and nobody was told what it is since."""
        self._opened = False
        self._flush_lsn = Lsn(0)
        """The primary's, as last heard."""
        self._next: Position | None = None
        self._known_timelines: set[int] = set()
        self._file: files.SegmentFile | None = None
        self._piece: Piece | None = None
        self._missing_since: tuple[Piece, float] | None = None
        self._removal: Removal | None = None
        self._removing: asyncio.Task[None] | None = None

    # --- what the primary is ------------------------------------------------------------------

    @property
    def reachable(self) -> bool:
        return self._reachable

    @property
    def flush_lsn(self) -> Lsn:
        if self._reachable or self._outbox is None:
            return self._flush_lsn
        # It has written at least what it archived.
        newest = max(self._known_timelines, default=self._next.timeline if self._next else 1)
        return Lsn(max(self._flush_lsn, self._outbox.index.end_of(newest) or 0))

    async def open(self) -> SourceIdentity:
        self._opened = False
        await self._stop_reading()
        # With several hosts in conninfo the primary may be another one by now.
        await self._environment.stop()
        await self._queries.close()
        self._is_back = False
        try:
            state = await self._queries.primary_state()
            self._profile = await self._environment.open(await self._queries.profile())
        except LogshipError as error:
            self._reachable = False
            if self._profile is None:
                raise
            if self._reminder.due(error.what):
                log.warning(
                    "the primary does not answer; what is in the outbox is shipped all the same",
                    **error.as_dict(),
                )
        else:
            self._reachable = True
            self._timeline = state.timeline
            self._flush_lsn = state.flush_lsn
        profile = self._profile
        assert profile is not None
        outbox = await self._open_outbox()
        await outbox.begin(_line(profile))
        if self._reachable and self._timeline > 1 and self._timeline not in outbox.histories:
            await self._fetch_history(outbox, profile)
        self._opened = True
        timeline = self._timeline
        if not self._reachable:
            timeline = max(1, timeline, outbox.index.newest_timeline())
        return SourceIdentity(profile, timeline, self.flush_lsn)

    async def _fetch_history(self, outbox: Outbox, profile: Profile) -> None:
        """The primary's own: it was archived before there was this outbox, or was taken away."""
        try:
            async with (
                asyncio.timeout(self._connect_timeout_seconds),
                await ReplicationConnection.connect(
                    self._conninfo,
                    application_name=self._application_name,
                    timeout_seconds=self._connect_timeout_seconds,
                ) as connection,
            ):
                system = await connection.identify_system()
                if (system.system_identifier, system.timeline) == (
                    profile.system_identifier,
                    self._timeline,
                ):
                    _, content = await connection.timeline_history(system.timeline)
                    outbox.learn_history(system.timeline, content)
        except (LogshipError, TimeoutError) as error:
            why = str(error) or "no answer"
            if self._reminder.due(why):
                name = history_name(self._timeline)
                log.warning("the primary does not give its history", name=name, why=why)

    async def reserve(self) -> None:
        """An archiver keeps its WAL by itself; but a seed needs the primary."""
        await self._queries.primary_state()

    async def observe(self) -> Observation:
        try:
            state = await self._queries.primary_state()
            profile = self._environment.refreshed(await self._queries.profile())
        except LogshipError:
            self._reachable = False
            raise
        if not self._reachable and self._opened and not self._is_back:
            self._is_back = True
            self._changed.set()
        self._flush_lsn = Lsn(max(self._flush_lsn, state.flush_lsn))
        if state.timeline != self._timeline:
            self._timeline = state.timeline
            self._changed.set()
        return Observation(profile, "", "", None)

    async def _open_outbox(self) -> Outbox:
        if self._outbox is None:
            memory = await asyncio.to_thread(load_memory, self._memory_file)
            self._outbox = Outbox(self._directory, memory, self._changed.set, self._rescan_seconds)
        return self._outbox

    # --- reading ------------------------------------------------------------------------------

    async def start(self, resume: Position, known_timelines: frozenset[int]) -> None:
        profile, outbox = self._profile, self._outbox
        if not self._opened or profile is None or outbox is None:
            raise LogshipError(
                Code.PRIMARY_UNREACHABLE, "the primary has not told what it is", retryable=True
            )
        await self._stop_reading()
        outbox.doubt_conflicts()
        await outbox.refresh(())
        if self._reachable and (self._timeline == 1 or self._timeline in outbox.histories):
            # Else its history is not archived yet, and the outbox alone tells what follows.
            history = outbox.histories.get(self._timeline)
            plan_start(resume, self._timeline, history, profile.wal_segment_size)
        self._known_timelines = set(known_timelines)
        self._next = resume
        self._removal = Removal(
            outbox,
            _line(profile),
            self._memory_file,
            keep=self._keep,
            conflict=self._changed.set,
        )
        self._removing = asyncio.create_task(self._removal.run())
        log.info("reading from the outbox", outbox=str(self._directory), position=str(resume))

    async def read(self, max_bytes: int) -> list[SourceEvent]:
        outbox = self._outbox
        if self._next is None or outbox is None:
            raise LogshipError(
                Code.PRIMARY_UNREACHABLE, "not reading from the outbox", retryable=True
            )
        while True:
            self._changed.clear()
            piece = self._plan(self._next)
            if await outbox.refresh(piece.names) and self._removal is not None:
                self._removal.look_again()
            self._raise_trouble(outbox)
            if histories := await self._new_histories(outbox):
                return list(histories)
            piece = self._plan(self._next)
            span = await self._read_piece(outbox, piece, max_bytes)
            if span is not None:
                self._missing_since = None
                self._next = Position(span.timeline, span.end_lsn)
                return [span]
            wait_seconds = self._wait_for(piece, outbox)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(wait_seconds, outbox.retry_seconds)):
                    await self._changed.wait()

    def acknowledge(self, received: Position, durable: Position, applied: Lsn) -> None:
        if self._removal is not None:
            self._removal.acknowledged(durable)

    async def close(self) -> None:
        self._opened = False
        await self._stop_reading()
        if self._outbox is not None:
            await self._outbox.close()
        await self._environment.stop()
        await self._queries.close()

    async def _stop_reading(self) -> None:
        self._next = None
        self._missing_since = None
        self._close_file()
        self._removal = None
        task, self._removing = self._removing, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _raise_trouble(self, outbox: Outbox) -> None:
        if self._is_back:
            self._next = None
            raise LogshipError(
                Code.PRIMARY_NOT_READY,
                "the primary answers again, and is asked what it is",
                retryable=True,
            )
        for error in outbox.conflicts.values():
            raise error

    # --- what comes next ----------------------------------------------------------------------

    def _plan(self, position: Position) -> Piece:
        assert self._profile is not None
        line = self._line_through(position.timeline)
        return next_piece(position, line, self._profile.wal_segment_size)

    def _line_through(self, timeline: int) -> History | None:
        assert self._outbox is not None
        preferred = self._timeline if self._reachable else 0
        return choose_line(timeline, self._outbox.histories, preferred)

    async def _new_histories(self, outbox: Outbox) -> list[HistoryFile]:
        """The history files that the store lacks, oldest first; also of numbers that are not on
        our line, as a walreceiver fetches every one up to the newest."""
        assert self._next is not None
        line = self._line_through(self._next.timeline)
        newest = line.timeline if line is not None else 0
        missing = sorted(outbox.history_contents.keys() - self._known_timelines)
        missing = [timeline for timeline in missing if timeline <= newest]
        found = [HistoryFile(timeline, outbox.history_contents[timeline]) for timeline in missing]
        for history in found:
            await outbox.note_history(*history)
        self._known_timelines.update(history.timeline for history in found)
        return found

    async def _read_piece(self, outbox: Outbox, piece: Piece, max_bytes: int) -> WalBytes | None:
        if self._file is None or self._piece is None or not _continues(self._piece, piece):
            self._close_file()
            self._file = await outbox.open_piece(piece)
            self._piece = piece
            if self._file is None:
                return None
        profile = self._profile
        assert profile is not None
        offset = piece.start_lsn - segment_start(piece.start_lsn, profile.wal_segment_size)
        try:
            data = await asyncio.to_thread(self._file.read, offset, max_bytes)
        except (OSError, files.NotWholeError) as error:
            if self._reminder.due(f"{self._file.name}: {error}"):
                log.error(
                    "a file in the outbox can't be read",
                    name=self._file.name,
                    error=str(error),
                )
            self._close_file()
            return None
        end = Lsn(piece.start_lsn + len(data))
        if end >= piece.end_lsn:
            self._close_file()
        return WalBytes(piece.timeline, piece.start_lsn, [data], len(data))

    def _close_file(self) -> None:
        file, self._file = self._file, None
        self._piece = None
        if file is not None:
            file.close()

    def _wait_for(self, piece: Piece, outbox: Outbox) -> float:
        """How long to wait for `piece`.  Raises WAL_REMOVED when it is missing for too long."""
        now = time.monotonic()
        if self._missing_since is None or self._missing_since[0] != piece:
            self._missing_since = (piece, now)
        line = self._line_through(piece.timeline)
        there = any(name in outbox.index for name in piece.names)
        if there or not is_later_there(piece, line, outbox.index):
            self._missing_since = None
            return outbox.retry_seconds
        missing_seconds = now - self._missing_since[1]
        if missing_seconds < self._gap_seconds:
            return self._gap_seconds - missing_seconds
        self._missing_since = None
        raise LogshipError(
            Code.WAL_REMOVED,
            f"the outbox has no {piece.names[0]}, and later segments are there for "
            f"{missing_seconds:.0f} s",
            f"put that segment into {self._directory} if there is a copy, and shipping goes on; "
            "else a new seed continues protection",
            retryable=True,
        )


def _line(profile: Profile) -> WalLine:
    return WalLine(profile.system_identifier, profile.major, profile.wal_segment_size)


def _continues(opened: Piece, piece: Piece) -> bool:
    """Whether `piece` is the rest of `opened`: a history that came meanwhile may end it sooner."""
    same = (opened.timeline, opened.end_lsn, opened.names)
    return same == (piece.timeline, piece.end_lsn, piece.names)
