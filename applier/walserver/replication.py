"""The walsender's role: what a standby is told, and which bytes it may have.

Sources: `src/backend/replication/walsender.c` (what a standby is answered),
`walreceiver.c` and `libpqwalreceiver.c` (what it does with that); PostgreSQL documentation,
"Streaming Replication Protocol".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum, auto

from applier.walserver import codec
from applier.walserver.codec import SqlError
from applier.walserver.commands import (
    Command,
    IdentifySystem,
    ReadReplicationSlot,
    Show,
    StartReplication,
    TimelineHistory,
)
from applier.walserver.gate import OPEN_GATE, Gate
from applier.walserver.line import Fork, Line, Lines
from applier.walserver.session import Reply, WalRequest
from applier.walserver.source import WalSource
from applier.walserver.status import Refusal, StandbyState
from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from logship.wal import WAL_PAGE_BYTES, history_name, segment_name

MAX_SEND_BYTES = 1024 * 1024
"""The most that one CopyData message carries.  walsender.c has 128 kB (MAX_SEND_SIZE); a
walreceiver takes any, and syncs whenever no whole message is there (docs/performance.md)."""

SENDER_TIMEOUT_SECONDS = 60.0
"""`wal_sender_timeout`'s default: a client silent for so long is given up."""

_RESEED_HINT = "This standby can't go back: seed it again from the new primary's line."


class Phase(Enum):
    """Of a COPY.  OPEN → ENDING → DONE; a client's CopyDone or an error leads straight to DONE."""

    OPEN = auto()
    ENDING = auto()
    """We sent CopyDone as the timeline ended; the client's is awaited."""
    DONE = auto()


class WalSender:
    """The role behind one standby's session (`session.Role`).

    gate: may be replaced at any time; call the session's `advance` afterwards.
    wall_clock: Unix time, only ever put into messages.
    revision: grows with everything that a status report shows, except `sent_lsn` alone.
    """

    def __init__(
        self,
        source: WalSource,
        server_version: str,
        *,
        gate: Gate = OPEN_GATE,
        timeout_seconds: float = SENDER_TIMEOUT_SECONDS,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.source = source
        self._lines = Lines(source)
        self.server_version = server_version
        self.gate = gate
        self.phase = Phase.DONE
        self.state = StandbyState.STARTUP
        self.timeline = 0
        self.sent_lsn = Lsn(0)
        self.write_lsn = Lsn(0)
        self.flush_lsn = Lsn(0)
        self.apply_lsn = Lsn(0)
        self.last_reply_at: float | None = None
        self.refusal: Refusal | None = None
        self.revision = 0
        self._timeout_seconds = timeout_seconds
        self._wall_clock = wall_clock
        self._heard_at = 0.0
        self._spoke_at = 0.0
        self._pinged = False
        self._reply_owed = False

    # Commands

    @property
    def copying(self) -> bool:
        return self.phase is not Phase.DONE

    @property
    def owes_reply(self) -> bool:
        """Whether the standby asked for an answer that `advance` has not given yet."""
        return self._reply_owed

    def execute(self, command: Command, now: float) -> Reply:
        """Answer a command.  Raises SqlError; a refusal of the standby is kept as well."""
        if isinstance(command, IdentifySystem):
            return self._identify_system(now)
        if isinstance(command, TimelineHistory):
            return self._timeline_history(command.timeline)
        if isinstance(command, StartReplication):
            return self._start_replication(command, now)
        if isinstance(command, ReadReplicationSlot):
            columns = [
                ("slot_type", codec.OID_TEXT),
                ("restart_lsn", codec.OID_TEXT),
                ("restart_tli", codec.OID_INT8),
            ]
            # The answer for a slot that does not exist: there are none here.
            row = codec.one_row(columns, [None, None, None])
            return Reply([row, codec.command_complete("READ_REPLICATION_SLOT")])
        if isinstance(command, Show):
            return self._show(command.name)
        raise AssertionError(f"no answer to {command!r}")

    def _identify_system(self, now: float) -> Reply:
        timeline, lsn = self._visible_end(now)
        # int4 before PostgreSQL 16; both are read as text.
        timeline_oid = codec.OID_INT8 if self.source.line.major >= 16 else codec.OID_INT4
        columns = [
            ("systemid", codec.OID_TEXT),
            ("timeline", timeline_oid),
            ("xlogpos", codec.OID_TEXT),
            ("dbname", codec.OID_TEXT),
        ]
        values = [str(self.source.line.system_identifier), str(timeline), str(lsn), None]
        row = codec.one_row(columns, values)
        return Reply([row, codec.command_complete("IDENTIFY_SYSTEM")])

    def _timeline_history(self, timeline: int) -> Reply:
        try:
            content = self.source.history_content(timeline)
        except LogshipError as error:
            raise SqlError("58030", error.what, hint=error.hint) from error
        name = history_name(timeline)
        if content is None:
            raise SqlError("58P01", f'could not open file "pg_wal/{name}": it never arrived here')
        columns = [("filename", codec.OID_TEXT), ("content", codec.OID_TEXT)]
        row = codec.one_row(columns, [name, content])
        return Reply([row, codec.command_complete("TIMELINE_HISTORY")])

    def _show(self, name: str) -> Reply:
        mebibytes = self.source.line.segment_bytes >> 20
        values = {
            "wal_segment_size": "1GB" if mebibytes == 1024 else f"{mebibytes}MB",
            "data_directory_mode": "0700",
            "server_version": self.server_version,
            "integer_datetimes": "on",
            "in_hot_standby": "on",
        }
        if name not in values:
            raise SqlError("42704", f'unrecognized configuration parameter "{name}"')
        row = codec.one_row([(name, codec.OID_TEXT)], [values[name]])
        return Reply([row, codec.command_complete("SHOW")])

    def _start_replication(self, command: StartReplication, now: float) -> Reply:
        newest = self._lines.newest()
        if newest is None:
            raise _no_wal()
        timeline = newest.end.timeline if command.timeline is None else command.timeline
        line = self._line_at(timeline, command.start, now)
        fork = line.fork_of(timeline)
        if fork is not None and command.start > fork.end_lsn:
            raise self._ahead_of_fork(timeline, command.start, fork, now)
        self.timeline, self.sent_lsn = timeline, command.start
        # Also when `start` is the timeline's end, where walsender.c answers at once: only its
        # report, which comes inside COPY, shows that a standby has replayed past a fork that
        # lies at a segment's end.  Without, it would ask for ever and nobody be told.
        self.write_lsn = self.flush_lsn = self.apply_lsn = Lsn(0)
        self.phase = Phase.OPEN
        self._heard_at = self._spoke_at = now
        self._pinged = self._reply_owed = False
        self.refusal = None
        self._show_state(line, now)
        self.revision += 1
        return Reply([codec.copy_both_response()], starts_copy=True)

    def _line_at(self, timeline: int, lsn: Lsn, now: float) -> Line:
        """The line that a standby at `lsn` of `timeline` follows.  Raises if there is none."""
        line = self._lines.at(timeline, lsn)
        if line is not None:
            return line
        newest = self._lines.newest()
        if newest is None:
            raise _no_wal()
        if not newest.has(timeline):
            newer = timeline > newest.end.timeline
            raise self._refuse(
                Code.HISTORY_MISSING if newer else Code.STANDBY_AHEAD_OF_FORK,
                SqlError(
                    "55000",
                    f"requested timeline {timeline} is not in this server's history",
                    detail=f"The WAL held here ends at {newest.end}.",
                    hint="It comes when the primary ships it." if newer else _RESEED_HINT,
                ),
                now,
            )
        name = segment_name(timeline, lsn, self.source.line.segment_bytes)
        raise self._refuse(
            Code.WAL_REMOVED,
            SqlError(
                "58P01",
                f"requested WAL segment {name} has already been removed",
                detail=self._held_of(timeline),
                hint="The standby needs WAL that is not here and will not come: seed it again.",
            ),
            now,
        )

    def _held_of(self, timeline: int) -> str:
        extents = [run.extent_of(timeline) for run in reversed(self.source.runs())]
        ranges = [f"{extent[0]} to {extent[1]}" for extent in extents if extent is not None]
        return f"Of timeline {timeline} there is {' and '.join(ranges) or 'nothing'} here."

    # COPY: what comes in

    def copy_data(self, payload: bytes, now: float) -> list[bytes]:
        """A report of the standby.  Raises SqlError when it shows that it can't follow."""
        report = codec.standby_report(payload)
        self._heard_at = now
        self._pinged = False
        if isinstance(report, codec.Feedback):
            return []
        self.write_lsn = Lsn(report.write_lsn)
        self.flush_lsn = Lsn(report.flush_lsn)
        applied_more = report.apply_lsn > self.apply_lsn
        self.apply_lsn = Lsn(report.apply_lsn)
        self.last_reply_at = now
        self.revision += 1
        # Answered by `advance`, once for any number of requests: a client that asks and
        # does not read must not fill our memory.
        self._reply_owed |= report.reply_requested
        # That its line has changed, `advance` finds out.
        line = self._lines.at(self.timeline, self.sent_lsn) if applied_more else None
        if line is not None:
            self._check_applied(line, now)
        return []

    def copy_done(self, now: float) -> list[bytes]:
        """The client ends the COPY, by itself or after our CopyDone."""
        line = self._lines.at(self.timeline, self.sent_lsn)
        fork = None if line is None else line.fork_of(self.timeline)
        messages = [] if self.phase is Phase.ENDING else [codec.copy_done()]
        told_end = self.phase is Phase.ENDING
        self.stop_copy()
        if told_end and fork is not None:
            return messages + self._next_timeline(fork)
        return [*messages, codec.command_complete("START_STREAMING")]

    def stop_copy(self) -> None:
        self.phase = Phase.DONE
        self.state = StandbyState.REFUSED if self.refusal is not None else StandbyState.STARTUP
        self.revision += 1

    # COPY: what goes out

    @property
    def deadline(self) -> float | None:
        if self.phase is Phase.DONE:
            return None
        half = self._timeout_seconds / 2
        if self.phase is Phase.ENDING:
            return self._heard_at + self._timeout_seconds
        if self._pinged:
            return min(self._heard_at + self._timeout_seconds, self._spoke_at + half)
        return min(self._heard_at, self._spoke_at) + half

    def advance(self, now: float) -> list[bytes]:
        """End of timeline, keepalives, and giving up on a silent client (SqlError, fatal)."""
        if now >= self._heard_at + self._timeout_seconds:
            raise SqlError("57P05", "terminating connection: the standby is silent", fatal=True)
        if self.phase is Phase.OPEN:
            line = self._line_at(self.timeline, self.sent_lsn, now)
            self._check_applied(line, now)
            fork = line.fork_of(self.timeline)
            if fork is not None and self.sent_lsn >= fork.end_lsn and self._may_pass(fork, now):
                self.phase = Phase.ENDING
                self.revision += 1
                self._spoke_at = now
                return [codec.copy_done()]
            self._show_state(line, now)
            return self._keepalives(line, now)
        # After our CopyDone there is no COPY to put a keepalive into.
        return []

    def wal_wanted(self, now: float) -> WalRequest | None:
        """The next bytes that the standby may have; None when there are none."""
        line = self._lines.at(self.timeline, self.sent_lsn)
        if self.phase is not Phase.OPEN or line is None:
            return None
        found = line.locate(self.timeline, self.sent_lsn)
        if found is None:
            return None
        timeline, end = found
        end = self.gate.limit(now, end)
        if end <= self.sent_lsn:
            return None
        if end - self.sent_lsn > MAX_SEND_BYTES:
            # As walsender.c does: a cut at a page boundary never splits a record's header.
            end = Lsn(self.sent_lsn + MAX_SEND_BYTES)
            end = Lsn(end - end % WAL_PAGE_BYTES)
        return WalRequest(timeline, self.sent_lsn, end - self.sent_lsn)

    def wal_read(self, request: WalRequest, size_bytes: int, now: float) -> list[bytes]:
        """The header of a message of the first `size_bytes` that `wal_wanted` asked for, which
        must follow it; [] if they are not to be sent any more."""
        line = self._lines.at(self.timeline, self.sent_lsn)
        if self.phase is not Phase.OPEN or request.lsn != self.sent_lsn or line is None:
            return []
        if size_bytes > request.max_bytes:
            raise AssertionError(f"{size_bytes} bytes read, {request.max_bytes} wanted")
        header = codec.wal_data_header(request.lsn, line.end.lsn, self._sent_at(), size_bytes)
        self.sent_lsn = Lsn(request.lsn + size_bytes)
        self._spoke_at = now
        self._show_state(line, now)
        return [header]

    def wal_failed(self, error: LogshipError, now: float) -> SqlError:
        """What to tell a standby whose WAL can't be read."""
        if error.code is Code.WAL_REMOVED:
            return self._refuse(error.code, SqlError("58P01", error.what, hint=error.hint), now)
        return SqlError("58030", error.what, hint=error.hint)

    def _keepalives(self, line: Line, now: float) -> list[bytes]:
        half = self._timeout_seconds / 2
        ping = now >= self._heard_at + half and not self._pinged
        if not (ping or self._reply_owed or now >= self._spoke_at + half):
            return []
        self._pinged |= ping
        self._reply_owed = False
        self._spoke_at = now
        return [codec.keepalive(line.end.lsn, self._sent_at(), reply_requested=ping)]

    def _sent_at(self) -> int:
        return codec.postgres_time(self._wall_clock())

    def _next_timeline(self, fork: Fork) -> list[bytes]:
        """The result set that ends a timeline, and two CommandCompletes.

        `libpqrcv_endstreaming` reads one for the row and one for the command, and
        `libpqrcv_startstreaming` takes the last as "no more WAL on this timeline".
        """
        columns = [("next_tli", codec.OID_INT8), ("next_tli_startpos", codec.OID_TEXT)]
        row = codec.one_row(columns, [str(fork.next_timeline), str(fork.end_lsn)])
        complete = [codec.command_complete(tag) for tag in ("START_STREAMING", "START_REPLICATION")]
        return [row, *complete]

    # What the gate shows of the line

    def _may_pass(self, fork: Fork, now: float) -> bool:
        """Whether the gate lets a standby leave the timeline that ends in `fork`."""
        return self.gate.limit(now, Lsn(fork.end_lsn + 1)) > fork.end_lsn

    def _visible_end(self, now: float) -> tuple[int, Lsn]:
        """Timeline and end as far as the gate lets them be seen (`Gate.limit`)."""
        line = self._lines.newest()
        if line is None:
            raise _no_wal()
        for timeline, fork in line.forks():
            if not self._may_pass(fork, now):
                return timeline, self.gate.limit(now, fork.end_lsn)
        return line.end.timeline, self.gate.limit(now, line.end.lsn)

    def _show_state(self, line: Line, now: float) -> None:
        fork = line.fork_of(self.timeline)
        end = line.end.lsn if fork is None else fork.end_lsn
        passes = fork is None or self._may_pass(fork, now)
        if self.sent_lsn > end or (self.sent_lsn == end and fork is None and not line.grows):
            state = StandbyState.WAITING
        elif self.sent_lsn == end and passes:
            state = StandbyState.STREAMING
        elif self.gate.limit(now, end) <= self.sent_lsn:
            state = StandbyState.HELD
        else:
            state = StandbyState.CATCHUP
        if state is not self.state:
            self.state = state
            self.revision += 1

    # Refusals

    def _check_applied(self, line: Line, now: float) -> None:
        """A standby that has replayed past the fork has another database than the line's.

        The requested start can't show it: walreceivers ask from the segment's start.  The
        first report does (`XLogWalRcvSendReply` sends the replay position).
        """
        fork = line.fork_of(self.timeline)
        if fork is not None and self.apply_lsn > fork.end_lsn:
            raise self._ahead_of_fork(self.timeline, self.apply_lsn, fork, now)

    def _ahead_of_fork(self, timeline: int, lsn: Lsn, fork: Fork, now: float) -> SqlError:
        error = SqlError(
            "55000",
            f"starting point {lsn} on timeline {timeline} is not in this server's history",
            detail=(
                f"This server's history forked from timeline {timeline} at {fork.end_lsn}; "
                f"the standby is {lsn - fork.end_lsn} bytes ahead of the fork."
            ),
            hint=_RESEED_HINT,
        )
        return self._refuse(Code.STANDBY_AHEAD_OF_FORK, error, now)

    def _refuse(self, code: Code, error: SqlError, now: float) -> SqlError:
        self.refusal = Refusal(code, f"{error.message}. {error.detail}".strip(), error.hint, now)
        self.state = StandbyState.REFUSED
        self.revision += 1
        return error


def _no_wal() -> SqlError:
    return SqlError("57P03", "no WAL is held here yet", hint="It comes with the first seed.")
