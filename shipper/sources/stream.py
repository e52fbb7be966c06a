"""Source `stream`: a physical replication connection with a slot.

Reports to the primary only what is durable at the applier, clipped to the primary's own
line of timelines, and keeps reporting while nobody reads (a stalled link must not look like
a dead standby to the walsender).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import msgspec
import structlog

from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from logship.postgres.replication import (
    EndOfTimeline,
    Keepalive,
    ReplicationConnection,
    StreamEvent,
    XLogData,
)
from logship.wal import History, parse_history, segment_end
from shipper.sources import HistoryFile, Observation, SourceEvent, SourceIdentity, WalBytes
from shipper.sources.environment import EnvironmentWatch
from shipper.sources.plan import StreamFrom, plan_start, plan_successor, reportable
from shipper.sources.primary import PrimaryQueries

log = structlog.get_logger(__name__)


class StreamSource:
    """See `shipper.sources.Source`.

    conninfo: any libpq connection string.  slot: a physical slot of ours; made when missing
    if `create_slot`.  application_name: what pg_stat_replication and
    synchronous_standby_names know us by.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        slot: str,
        application_name: str,
        create_slot: bool = True,
        connect_timeout_seconds: float = 10.0,
        status_interval_seconds: float = 10.0,
    ) -> None:
        self._conninfo = conninfo
        self._slot = slot
        self._application_name = application_name
        self._create_slot = create_slot
        self._connect_timeout_seconds = connect_timeout_seconds
        self._status_interval_seconds = status_interval_seconds
        self._queries = PrimaryQueries(
            conninfo,
            application_name=application_name,
            slot=slot,
            timeout_seconds=connect_timeout_seconds,
        )
        self._environment = EnvironmentWatch(self._queries)
        self._connection: ReplicationConnection | None = None
        self._status_task: asyncio.Task[None] | None = None
        self._identity: SourceIdentity | None = None
        self._history: History | None = None
        self._streaming: StreamFrom | None = None
        self._next_lsn = Lsn(0)
        self._flush_lsn = Lsn(0)
        self._pending: list[SourceEvent] = []
        self._reported = (Lsn(0), Lsn(0), Lsn(0))
        self._known_timelines: set[int] = set()
        self.on_wal: Callable[[WalBytes], bool] | None = None

    @property
    def flush_lsn(self) -> Lsn:
        return self._flush_lsn

    @property
    def reachable(self) -> bool:
        return True  # without the server it gives no WAL and raises

    async def open(self) -> SourceIdentity:
        # What was true of a primary that is gone must not pass for what comes next.
        self._identity = None
        self._history = None
        await self._disconnect()
        # With several hosts in conninfo the primary may be another one by now.
        await self._environment.stop()
        await self._queries.close()
        try:
            self._identity = await self._identify(await self._idle_connection())
        except BaseException:
            await self._disconnect()
            raise
        return self._identity

    async def reserve(self) -> None:
        slot = (await self._queries.primary_state()).slot
        if slot is not None and slot.wal_status != "lost":
            return
        if slot is None and not self._create_slot:
            raise self._slot_missing()
        if not self._create_slot:
            raise LogshipError(
                Code.SLOT_LOST,
                f"replication slot {self._slot} is lost and create_slot is off",
                f"make it anew: select pg_drop_replication_slot('{self._slot}'), "
                f"pg_create_physical_replication_slot('{self._slot}', true); then seed",
            )
        connection = await self._idle_connection()
        if slot is not None:
            log.warning("the primary invalidated our slot; making it anew", slot=self._slot)
            await connection.drop_slot(self._slot)
        await connection.create_physical_slot(self._slot, reserve_wal=True)
        log.info("made a replication slot", slot=self._slot)

    async def start(self, resume: Position, known_timelines: frozenset[int]) -> None:
        if self._identity is None:
            raise LogshipError(
                Code.PRIMARY_UNREACHABLE, "the primary has not told what it is", retryable=True
            )
        try:
            await self.reserve()
            connection = await self._idle_connection()
            identity = await self._same_as_opened(connection, self._identity)
            self._known_timelines = set(known_timelines)
            self._pending.clear()
            self._reported = (Lsn(0), Lsn(0), Lsn(0))
            segment_bytes = identity.profile.wal_segment_size
            plan = plan_start(resume, identity.timeline, self._history, segment_bytes)
            await self._announce_histories(connection)
            await self._begin(connection, plan)
        except BaseException:
            # A command that was cancelled half-way leaves no connection to go on with.
            await self._disconnect()
            raise

    async def read(self, max_bytes: int) -> list[SourceEvent]:
        if self._pending:
            pending, self._pending = self._pending, []
            return pending
        connection = self._connection
        if connection is None or self._streaming is None:
            raise LogshipError(
                Code.PRIMARY_UNREACHABLE, "not streaming from the primary", retryable=True
            )
        events: list[SourceEvent] = []
        run: list[XLogData] = []
        at_once = None if self.on_wal is None else self._push
        for message in await connection.receive_batch(max_bytes, at_once):
            if isinstance(message, XLogData):
                self._flush_lsn = Lsn(max(self._flush_lsn, message.wal_end))
                run.append(message)
            elif isinstance(message, Keepalive):
                self._flush_lsn = Lsn(max(self._flush_lsn, message.wal_end))
                if message.reply_requested:
                    self._send_status()
            else:
                events += self._spans(run)
                run = []
                await self._follow(message, connection)
        events += self._spans(run)
        if self._pending:
            events += self._pending
            self._pending = []
        return events

    def _push(self, messages: list[StreamEvent]) -> bool:
        """One commit's WAL, as a rule: hand it on if it is a span as it is."""
        message = messages[0]
        if len(messages) > 1 or not isinstance(message, XLogData):
            return False
        assert self._identity is not None and self._streaming is not None
        assert self.on_wal is not None
        start, size_bytes = message.start_lsn, len(message.data)
        segment_bytes = self._identity.profile.wal_segment_size
        if start != self._next_lsn or start + size_bytes > segment_end(start, segment_bytes):
            return False
        self._flush_lsn = Lsn(max(self._flush_lsn, message.wal_end))
        if not self.on_wal(WalBytes(self._streaming.timeline, start, [message.data], size_bytes)):
            return False
        self._next_lsn = Lsn(start + size_bytes)
        return True

    def acknowledge(self, received: Position, durable: Position, applied: Lsn) -> None:
        if self._identity is None or self._streaming is None:
            return
        timeline = self._identity.timeline
        positions = (
            reportable(received, timeline, self._history),
            reportable(durable, timeline, self._history),
            applied,
        )
        # What was reported stays true: a new timeline's first segment repeats its parent's
        # bytes, so positions there start below what was already durable on the same line.
        reported = tuple(
            Lsn(max(old, new or 0)) for old, new in zip(self._reported, positions, strict=True)
        )
        if reported != self._reported:
            self._reported = (reported[0], reported[1], reported[2])
            self._send_status()

    async def observe(self) -> Observation:
        state = await self._queries.state()
        profile = await self._queries.profile()
        self._flush_lsn = Lsn(max(self._flush_lsn, state.flush_lsn))
        return Observation(
            self._environment.refreshed(profile),
            state.sync_state,
            state.slot.wal_status if state.slot else "missing",
            state.slot.restart_lsn if state.slot else None,
        )

    async def close(self) -> None:
        await self._disconnect()
        await self._environment.stop()
        await self._queries.close()

    # --- what the primary is ------------------------------------------------------------

    async def _identify(self, connection: ReplicationConnection) -> SourceIdentity:
        """Ask all that `open` tells.

        `connection` comes first: a server that restarts breaks it, so the profile is never
        that of a server before the one that `connection` gives WAL of.
        """
        system = await connection.identify_system()
        state = await self._queries.primary_state()
        profile = await self._queries.profile()
        if system.system_identifier != profile.system_identifier:
            raise LogshipError(
                Code.PRIMARY_NOT_READY,
                "two connections with the same conninfo reached two different clusters",
                "give conninfo one cluster's hosts only",
                retryable=True,
            )
        await self._learn_history(connection, system.timeline)
        self._flush_lsn = Lsn(max(system.flush_lsn, state.flush_lsn))
        surrounded = await self._environment.open(profile)
        return SourceIdentity(surrounded, system.timeline, self._flush_lsn)

    async def _same_as_opened(
        self, connection: ReplicationConnection, opened: SourceIdentity
    ) -> SourceIdentity:
        """`opened`, if the server at `connection` is still that.  Raises PRIMARY_NOT_READY.

        The caller told others what `opened` is, and they decide by it what its WAL may do.
        """
        system = await connection.identify_system()
        profile = await self._queries.profile()
        # What surrounds it is told whenever it is news; that does not make it another server.
        same = msgspec.structs.replace(opened.profile, environment=None)
        before = (opened.profile.system_identifier, opened.timeline, same)
        if (system.system_identifier, system.timeline, profile) != before:
            self._identity = None
            raise LogshipError(
                Code.PRIMARY_NOT_READY,
                "the primary is not what it was when it was last asked",
                "it is asked again by itself",
                retryable=True,
            )
        self._flush_lsn = Lsn(max(self._flush_lsn, system.flush_lsn))
        return opened

    def _slot_missing(self) -> LogshipError:
        made_by_us = self._create_slot
        return LogshipError(
            Code.SLOT_MISSING,
            f"replication slot {self._slot} does not exist"
            + ("" if made_by_us else " and create_slot is off"),
            f"make it: select pg_create_physical_replication_slot('{self._slot}', true)",
            retryable=made_by_us,
        )

    # --- the connection -----------------------------------------------------------------

    async def _connect(self) -> None:
        self._connection = await ReplicationConnection.connect(
            self._conninfo,
            application_name=self._application_name,
            timeout_seconds=self._connect_timeout_seconds,
        )

    async def _idle_connection(self) -> ReplicationConnection:
        """A replication connection that is not in COPY: a streaming one is made anew."""
        if self._connection is None or self._streaming is not None:
            await self._disconnect()
            await self._connect()
        assert self._connection is not None
        return self._connection

    async def _disconnect(self) -> None:
        self._streaming = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        task, self._status_task = self._status_task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _begin(self, connection: ReplicationConnection, plan: StreamFrom) -> None:
        try:
            await connection.start_replication(self._slot, plan.lsn, plan.timeline)
        except LogshipError as error:
            # One code for a slot that was dropped and one that was invalidated: only the
            # second means that WAL is gone.
            if error.code == Code.SLOT_LOST and (await self._queries.primary_state()).slot is None:
                raise self._slot_missing() from error
            raise
        self._streaming = plan
        self._next_lsn = plan.lsn
        if self._status_task is None:
            self._status_task = asyncio.create_task(self._report_regularly())
        log.info("streaming from the primary", timeline=plan.timeline, lsn=str(plan.lsn))

    async def _report_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._status_interval_seconds)
            self._send_status()

    def _send_status(self) -> None:
        if self._connection is None or self._streaming is None:
            return
        try:
            self._connection.send_status(*self._reported)
        except LogshipError as error:
            # The reader meets the same broken connection and handles it there.
            log.debug("could not report our position", error=error.what)

    # --- timelines ----------------------------------------------------------------------

    async def _learn_history(self, connection: ReplicationConnection, server_timeline: int) -> None:
        self._history = None
        if server_timeline > 1:
            _, content = await connection.timeline_history(server_timeline)
            self._history = parse_history(server_timeline, content)

    async def _announce_histories(self, connection: ReplicationConnection) -> None:
        """Queue the history files that the store lacks, oldest first."""
        if self._history is None:
            return
        # Also of numbers that are not on our line: a walreceiver fetches every one between
        # its own and the newest (`WalRcvFetchTimeLineHistoryFiles`).
        for timeline in range(2, self._history.timeline + 1):
            if timeline in self._known_timelines:
                continue
            try:
                _, content = await connection.timeline_history(timeline)
            except LogshipError:
                # A primary that was itself restored lacks some; the newest one names all
                # switch points and is the one that must be there.
                if timeline == self._history.timeline:
                    raise
                continue
            self._known_timelines.add(timeline)
            self._pending.append(HistoryFile(timeline, content))

    async def _follow(self, end: EndOfTimeline, connection: ReplicationConnection) -> None:
        assert self._identity is not None and self._streaming is not None
        ended = self._streaming.timeline
        self._streaming = None
        system = await connection.identify_system()
        await self._learn_history(connection, system.timeline)
        assert self._history is not None
        self._identity = self._identity._replace(timeline=system.timeline)
        log.info("the primary's timeline ended", timeline=ended, next=end.next_timeline)
        await self._announce_histories(connection)
        segment_bytes = self._identity.profile.wal_segment_size
        await self._begin(connection, plan_successor(ended, self._history, segment_bytes))

    def _spans(self, run: list[XLogData]) -> list[SourceEvent]:
        """Join contiguous messages, split at segment ends."""
        assert self._identity is not None
        if not run:
            return []
        assert self._streaming is not None
        timeline = self._streaming.timeline
        segment_bytes = self._identity.profile.wal_segment_size
        spans: list[SourceEvent] = []
        chunks: list[bytes | memoryview] = []
        start, size = self._next_lsn, 0
        for message in run:
            if message.start_lsn != start + size:
                raise LogshipError(
                    Code.WAL_GAP,
                    f"the primary sent WAL from {message.start_lsn}, expected {Lsn(start + size)}",
                    retryable=True,
                )
            data = memoryview(message.data)
            while data:
                room = segment_end(start, segment_bytes) - start - size
                piece, data = data[:room], data[room:]
                chunks.append(piece)
                size += len(piece)
                if len(piece) == room:
                    spans.append(WalBytes(timeline, start, chunks, size))
                    start, chunks, size = Lsn(start + size), [], 0
        if size:
            spans.append(WalBytes(timeline, start, chunks, size))
        self._next_lsn = Lsn(start + size)
        return spans
