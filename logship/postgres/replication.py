"""The client of PostgreSQL's physical replication protocol.

Source: "Streaming Replication Protocol" in PostgreSQL's documentation and
`src/backend/replication/walsender.c`.  A connection is in one of two states: it takes
commands, or it streams WAL (from `start_replication` until `receive` gives EndOfTimeline).

Every method raises LogshipError; after PRIMARY_UNREACHABLE the connection is of no more use:
close it and connect anew.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from functools import partial
from types import TracebackType

from psycopg import pq

from logship.errors import Code, LogshipError, UsageError
from logship.lsn import Lsn, Position
from logship.postgres.base_backup import (
    ArchiveStart,
    BackupEnd,
    BackupEvent,
    BackupStart,
    CopyPerArchiveReader,
    Data,
    ManifestStart,
    OneCopyReader,
    Progress,
    Row,
    Tablespace,
    backup_command,
    read_header,
    read_position,
)
from logship.postgres.libpq import LibpqConnection, result_rows
from logship.postgres.server_errors import Doing, not_in_history, primary_behind
from logship.postgres.stream_messages import (
    EndOfTimeline,
    Keepalive,
    StreamEvent,
    SystemIdentity,
    XLogData,
    read_message,
    status_message,
)

__all__ = [
    "ArchiveStart",
    "BackupEnd",
    "BackupEvent",
    "BackupStart",
    "Data",
    "EndOfTimeline",
    "Keepalive",
    "ManifestStart",
    "Progress",
    "ReplicationConnection",
    "StreamEvent",
    "SystemIdentity",
    "Tablespace",
    "XLogData",
]

_SLOT_NAME = re.compile(r"\A[a-z0-9_]{1,63}\Z")
_AT_ONCE_BYTES = 32 * 1024
_BACKUP_MESSAGES_PER_TURN = 32  # of 32 KiB: 1 MiB between two looks at the event loop


class ReplicationConnection:
    """A connection in physical replication mode; one task at a time may use it.

    `send_status` and `close` are the exceptions: any task of the event loop may call them.
    """

    def __init__(self, connection: LibpqConnection) -> None:
        self._connection = connection
        self._streaming = False
        self._copy_ended = False
        self._end: EndOfTimeline | None = None
        self._owes_turn = False
        self._taken: list[StreamEvent] = []
        """What was taken from libpq and not returned yet."""
        self._failure: Exception | None = None
        """What came up in `_offer`, for the reader."""
        self._start = Position(0, Lsn(0))
        self._status_waiting: tuple[int, int, int, bool] | None = None

    @classmethod
    async def connect(
        cls, conninfo: str, *, application_name: str, timeout_seconds: float = 10.0
    ) -> ReplicationConnection:
        """Connect to a server of `conninfo`: any libpq string, service and passfile included.

        With several hosts, the first that answers and satisfies `target_session_attrs` is
        taken; each is tried for at most `timeout_seconds`.  As in PostgreSQL's own tools, a
        passfile's database field must be `replication` or `*`.

        Raises LogshipError: PRIMARY_UNREACHABLE and PRIMARY_NOT_READY (retryable),
        PRIMARY_REFUSED, SETTINGS.
        """
        parameters = {
            "replication": "true",
            "dbname": "replication",
            "application_name": application_name,
        }
        return cls(await LibpqConnection.connect(conninfo, parameters, timeout_seconds))

    async def __aenter__(self) -> ReplicationConnection:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close at once; may be called twice, and while another task waits in `receive`."""
        self._streaming = False
        self._connection.close()

    @property
    def server_version_num(self) -> int:
        """As `server_version_num`: 170009 is 17.9."""
        return self._connection.pgconn.server_version

    @property
    def target(self) -> str:
        """The server we are connected to, for messages: `host:port` or a socket directory."""
        return self._connection.target

    @property
    def is_standby(self) -> bool:
        """Whether the server was in recovery when it last told (`in_hot_standby`)."""
        return self._connection.pgconn.parameter_status(b"in_hot_standby") == b"on"

    # --- commands -------------------------------------------------------------------------

    async def identify_system(self) -> SystemIdentity:
        """Which cluster this is, on which timeline, flushed up to where."""
        row = await self._row("IDENTIFY_SYSTEM", Doing.COMMAND)
        return SystemIdentity(int(row[0]), int(row[1]), Lsn.parse(row[2].decode()))

    async def show(self, parameter: str) -> str:
        """The value of a server setting, in SHOW's form (`wal_segment_size` gives `16MB`)."""
        if re.fullmatch(r"[a-z_][a-z0-9_.]*", parameter) is None:
            raise UsageError(Code.USAGE, f"{parameter!r} cannot name a server setting")
        return (await self._row(f"SHOW {parameter}", Doing.COMMAND))[0].decode()

    async def timeline_history(self, timeline: int) -> tuple[str, bytes]:
        """File name and content of a timeline's history.  HISTORY_MISSING if there is none.

        Timeline 1 has none.
        """
        row = await self._row(f"TIMELINE_HISTORY {timeline:d}", Doing.HISTORY)
        return row[0].decode(), row[1]

    async def create_physical_slot(self, name: str, *, reserve_wal: bool = True) -> bool:
        """Create a physical slot that holds WAL back from now on; False if it exists already."""
        slot = _quoted_slot(name)
        options = ""
        if reserve_wal:
            options = " (RESERVE_WAL)" if self.server_version_num >= 150000 else " RESERVE_WAL"
        try:
            await self._rows(f"CREATE_REPLICATION_SLOT {slot} PHYSICAL{options}", Doing.SLOT)
        except LogshipError as error:
            if error.code is Code.SLOT_EXISTS:
                return False
            raise
        return True

    async def drop_slot(self, name: str) -> bool:
        """Drop a slot; False if there is none of that name, SLOT_IN_USE if it is active."""
        try:
            await self._rows(f"DROP_REPLICATION_SLOT {_quoted_slot(name)}", Doing.SLOT)
        except LogshipError as error:
            if error.code is Code.SLOT_LOST:
                return False
            raise
        return True

    # --- streaming ------------------------------------------------------------------------

    async def start_replication(self, slot: str | None, lsn: int, timeline: int) -> None:
        """Stream `timeline` from `lsn`; then call `receive` or `receive_batch`.

        Raises SLOT_LOST, SLOT_IN_USE (retryable), NOT_IN_HISTORY.  That the server no longer
        has the WAL, or not yet, shows in the first `receive`.
        """
        self._check_not_streaming()
        self._start = Position(timeline, Lsn(lsn))
        use_slot = f"SLOT {_quoted_slot(slot)} " if slot is not None else ""
        connection = self._connection
        try:
            await connection.send(
                f"START_REPLICATION {use_slot}PHYSICAL {Lsn(lsn)} TIMELINE {timeline:d}"
            )
            try:
                result = await connection.next_result(Doing.STREAM)
            except LogshipError as error:
                raise await self._explained(error) from error
            if result is not None and result.status == pq.ExecStatus.COPY_BOTH:
                self._streaming = True
                self._copy_ended = False
                self._taken, self._failure, self._end = [], None, None
                return
            # The server has nothing of this timeline past `lsn`: it says at once what follows.
            rows = result_rows(result) if result is not None else []
            self._end = await self._drain_end(rows)
        except asyncio.CancelledError:
            self.close()
            raise

    async def _explained(self, error: LogshipError) -> LogshipError:
        """Make out a refusal that only its text tells, which may be in any language."""
        if self._connection.pgconn.status == pq.ConnStatus.BAD:
            return error
        while await self._connection.next_result(Doing.STREAM) is not None:
            pass
        if error.code is not Code.PRIMARY_NOT_READY:
            return error
        server = await self.identify_system()
        if self._start.timeline > server.timeline:
            return not_in_history(error.what)
        if self._start.timeline == server.timeline and self._start.lsn > server.flush_lsn:
            return primary_behind(error.what)
        return error

    async def receive(self) -> StreamEvent:
        """The next message of the stream; waits for it.

        Raises PRIMARY_UNREACHABLE (retryable) when the server stops or the connection
        breaks, WAL_REMOVED when it no longer has what comes next, PRIMARY_BEHIND when
        streaming was started past what it has.  May be cancelled.
        """
        return (await self.receive_batch(0))[0]

    async def receive_batch(
        self, max_bytes: int, at_once: Callable[[list[StreamEvent]], bool] | None = None
    ) -> list[StreamEvent]:
        """Everything that is there, at least one event: waits only if there is nothing.

        Stops after the message that reaches `max_bytes` of WAL.  EndOfTimeline comes last,
        and what fails after some events is raised by the next call.  Gives the event loop a
        turn between two calls that find something at once.  May be cancelled: nothing received
        is lost.

        at_once: given events that come while this waits, in the same step of the loop; true if
        it is done with them, and they are not returned.  It must not raise, and gets neither
        the stream's end nor a mere part of what is there.
        """
        if self._owes_turn:
            self._owes_turn = False
            await asyncio.sleep(0)
        if self._end is not None:
            end, self._end = self._end, None
            return [end]
        if not self._streaming:
            self._connection.check_open()  # it may have been closed just now
            raise RuntimeError("not streaming: call start_replication first")
        offer = None if at_once is None else partial(self._offer, at_once)
        while True:
            if not self._copy_ended:
                self._take_batch(max_bytes)
            if self._taken or self._copy_ended:
                break
            await self._connection.readable(offer)
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
        # A drained connection gives a turn by itself, as it waits.
        self._owes_turn = not self._connection.is_drained
        taken, self._taken = self._taken, []
        return taken or [await self._finish_stream()]

    def _offer(self, at_once: Callable[[list[StreamEvent]], bool]) -> bool:
        """In the loop: have `at_once` take what came.  False: the reader has to, and takes what
        comes until its turn as well."""
        try:
            self._take_batch(_AT_ONCE_BYTES)
            if not self._connection.is_drained or self._copy_ended:
                return False
            if not self._taken:
                return True  # a part of a message
            if at_once(self._taken):
                self._taken = []
                return True
        except Exception as error:
            self._failure = error  # the reader's, wherever it came up
        return False

    def _take_batch(self, max_bytes: int) -> None:
        """Take what is there beside what is taken, and note whether the COPY ended after it.  An
        error that comes after some events is left to the next call."""
        received_bytes = sum(len(one.data) for one in self._taken if isinstance(one, XLogData))
        while not self._taken or received_bytes < max_bytes:
            try:
                message = self._connection.take_copy_data()
            except LogshipError:
                if self._taken:
                    return
                raise
            if message is None:
                return
            if isinstance(message, str):
                # libpq says so once: asked again, it knows of no COPY.
                self._copy_ended = True
                return
            event = read_message(message)
            self._taken.append(event)
            if isinstance(event, XLogData):
                received_bytes += len(event.data)

    def send_status(
        self,
        written: int,
        flushed: int,
        applied: int,
        *,
        reply_requested: bool = False,
    ) -> None:
        """Tell the server how far we are; never waits, never fails.

        The slot moves to `flushed`; `synchronous_commit` waits for whichever of the three it
        is set to.  0 means: not known.  If the socket takes no more, only the newest status
        waits for it.  Does nothing when the stream has ended or the connection broke.
        """
        if not self._streaming:
            return
        status = (int(written), int(flushed), int(applied), reply_requested)
        if self._connection.is_writing:
            asked_before = self._status_waiting is not None and self._status_waiting[3]
            self._status_waiting = (*status[:3], reply_requested or asked_before)
            return
        self._put_status(status)

    def _put_status(self, status: tuple[int, int, int, bool]) -> None:
        # Whether the connection still stands, the next `receive` tells.
        with suppress(LogshipError):
            if not self._connection.put_copy_data(status_message(*status)):
                self._connection.start_writer(self._after_writing)

    def _after_writing(self) -> None:
        status, self._status_waiting = self._status_waiting, None
        if status is not None and self._streaming:
            self._put_status(status)

    async def _finish_stream(self) -> EndOfTimeline:
        """The server ended the COPY: learn why."""
        connection = self._connection
        self._streaming = False
        try:
            result = await connection.next_result(Doing.STREAM)
            if result is not None and result.status == pq.ExecStatus.COPY_IN:
                await connection.end_copy()
                result = await connection.next_result(Doing.STREAM)
            return await self._drain_end(result_rows(result) if result is not None else [])
        except LogshipError as error:
            raise await self._explained(error) from error
        except asyncio.CancelledError:
            self.close()
            raise

    async def _drain_end(self, rows: list[Row]) -> EndOfTimeline:
        while await self._connection.next_result(Doing.STREAM) is not None:
            pass
        if not rows:
            # walsender.c, WalSndDone: a server that shuts down ends the command and hangs up.
            raise LogshipError(
                Code.PRIMARY_UNREACHABLE,
                f"{self.target} ended the stream: it is shutting down",
                "the connection is made again when the server is back",
                retryable=True,
            )
        next_timeline, start = rows[0][0] or b"", rows[0][1] or b""
        return EndOfTimeline(int(next_timeline), Lsn.parse(start.decode()))

    # --- base backup ----------------------------------------------------------------------

    async def base_backup(
        self, label: str, *, fast: bool = True, max_rate_kb: int | None = None
    ) -> AsyncGenerator[BackupEvent, None]:
        """Take a base backup: BackupStart, then archives and the manifest, then BackupEnd.

        Only what ends with BackupEnd is a backup.  The server sends as fast as the events
        are taken.  Leaving the iteration early closes the connection.  `fast`: an immediate
        checkpoint rather than a spread one, which may take minutes before the first event.
        """
        self._check_not_streaming()
        complete = False
        try:
            async with aclosing(self._backup_events(label, fast, max_rate_kb)) as events:
                async for event in events:
                    complete = isinstance(event, BackupEnd)
                    yield event
        finally:
            if not complete:
                self.close()

    async def _backup_events(
        self, label: str, fast: bool, max_rate_kb: int | None
    ) -> AsyncGenerator[BackupEvent, None]:
        connection = self._connection
        version = self.server_version_num
        await connection.send(backup_command(version, label, fast=fast, max_rate_kb=max_rate_kb))
        timeline, start_lsn = read_position(await self._backup_rows())
        tablespaces, archives, estimated_bytes = read_header(await self._backup_rows())
        yield BackupStart(timeline, start_lsn, tablespaces, estimated_bytes)
        reader = OneCopyReader() if version >= 150000 else CopyPerArchiveReader(archives)
        while True:
            result = await connection.next_result(Doing.BASE_BACKUP)
            if result is None or result.status != pq.ExecStatus.COPY_OUT:
                break
            if isinstance(reader, CopyPerArchiveReader):
                yield reader.start()
            async with aclosing(self._copy_messages()) as messages:
                async for message in messages:
                    for event in reader.read(message):
                        yield event
        rows = result_rows(result) if result is not None else []
        end_timeline, end_lsn = read_position(rows)
        while await connection.next_result(Doing.BASE_BACKUP) is not None:
            pass
        yield BackupEnd(end_timeline, end_lsn)

    async def _backup_rows(self) -> list[Row]:
        result = await self._connection.next_result(Doing.BASE_BACKUP)
        return result_rows(result) if result is not None else []

    async def _copy_messages(self) -> AsyncGenerator[memoryview, None]:
        taken = 0
        while True:
            message = self._connection.take_copy_data()
            if message is None:
                await self._connection.readable()
                taken = 0
            elif isinstance(message, str):
                return
            else:
                yield message
                taken += 1
                if taken % _BACKUP_MESSAGES_PER_TURN == 0:
                    await asyncio.sleep(0)

    # --- inside ---------------------------------------------------------------------------

    def _check_not_streaming(self) -> None:
        if self._streaming:
            raise RuntimeError("the connection streams WAL: it takes no command")

    async def _rows(self, command: str, doing: Doing) -> list[Row]:
        self._check_not_streaming()
        return await self._connection.rows(command, doing)

    async def _row(self, command: str, doing: Doing) -> tuple[bytes, ...]:
        rows = await self._rows(command, doing)
        if not rows:
            raise LogshipError(
                Code.PRIMARY_REFUSED,
                f"{self.target} gave no answer to {command.split()[0]}",
                "check that this is a PostgreSQL server, not a connection pooler",
            )
        return tuple(value or b"" for value in rows[0])


def _quoted_slot(name: str) -> str:
    if _SLOT_NAME.match(name) is None:
        raise UsageError(
            Code.USAGE,
            f"{name!r} cannot name a replication slot",
            "use 1 to 63 of a-z, 0-9 and '_'",
        )
    return f'"{name}"'
