"""From a standby to a server that takes writes, as fast as PostgreSQL does it.

A bare `pg_promote` takes 20 to 30 ms, so nothing may be added that shows beside it: the
connection is open beforehand, and the answer is polled for every millisecond.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import LiteralString, NamedTuple

import psycopg
import structlog

from applier.standby.access import LEFT_OUT, render_opened
from applier.standby.layout import StandbyLayout
from applier.standby.placement import primary_file, write_ours
from applier.standby.probes import Connection, Positions, fetch_row
from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from logship.wal import history_name, parse_history

_log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.001
_IDLE_CONFIRM_SECONDS = 0.01
_FAR_BYTES = 1 << 20
_FAR_POLL_SECONDS = 0.02

_IN_RECOVERY: LiteralString = "select pg_is_in_recovery()"
_WRITE: LiteralString = "select pg_logical_emit_message(true, 'logship', 'promoted')"
_TIMELINE: LiteralString = "select pg_walfile_name(pg_current_wal_lsn())"


class Opened(NamedTuple):
    """A promotion that is done.

    timeline: the new one.  lsn: where it forked from the old one: everything below was
    recovered, nothing from there on.  promote_seconds, first_write_seconds: from the request
    until the server was out of recovery, and until a transaction was committed to its disk.
    """

    timeline: int
    lsn: Lsn
    promote_seconds: float
    first_write_seconds: float


class ReplayWatch:
    """Decides whether everything up to a position was replayed.  Pure.

    A WAL stream that was cut ends in mid-record as a rule, so replay never gets to its end.
    Done is therefore also when all of it was received and the startup process waited for more
    at two looks with the same replay position: one look alone could come between the arrival
    of WAL and the startup process noticing.
    """

    def __init__(self, end_lsn: Lsn) -> None:
        self._end_lsn = end_lsn
        self._idle_at: Lsn | None = None
        self._idle_since = 0.0

    def done(self, positions: Positions, now: float) -> bool:
        """Take a look at time `now` in.  A server out of recovery has replayed all it had."""
        if not positions.in_recovery:
            return True
        replayed = positions.replayed or Lsn(0)
        if replayed >= self._end_lsn:
            return True
        if not positions.replay_idle or (positions.received or 0) < self._end_lsn:
            self._idle_at = None
            return False
        if self._idle_at != replayed:
            self._idle_at, self._idle_since = replayed, now
            return False
        return now - self._idle_since >= _IDLE_CONFIRM_SECONDS

    def pause_seconds(self, positions: Positions) -> float:
        """When to look again: seldom while much is left, as looking takes CPU from replay."""
        left_bytes = self._end_lsn - (positions.replayed or 0)
        received = (positions.received or 0) >= self._end_lsn
        near = left_bytes < _FAR_BYTES or (received and positions.replay_idle)
        return 2 * _POLL_SECONDS if near else _FAR_POLL_SECONDS


async def promote(
    connection: Connection,
    data_directory: Path,
    signal_promotion: Callable[[], None],
    timeout_seconds: float,
) -> Opened:
    """Promote the standby behind `connection` and return once a write is on its disk.

    signal_promotion: does it without SQL, if SQL fails; blocks shortly.
    Replay is PostgreSQL's business: it replays all that it has received before it opens.
    A server that is open already (an earlier try was cut short) is only written to.

    Raises LogshipError(PROMOTE_FAILED); the caller must look at the server before it tries
    again, as the promotion may still come to its end.
    """
    started_at = time.monotonic()
    try:
        async with asyncio.timeout(timeout_seconds):
            if (await fetch_row(connection, _IN_RECOVERY))[0]:
                await _request(connection, signal_promotion)
                await _recovery_ended(connection)
            open_at = time.monotonic()
            await connection.execute(_WRITE)
            written_at = time.monotonic()
            wal_file = (await fetch_row(connection, _TIMELINE))[0]
    except TimeoutError as error:
        raise _failed(f"the server is not open after {timeout_seconds:.0f} s", True) from error
    except psycopg.Error as error:
        raise _failed(str(error).strip(), False) from error
    timeline = int(wal_file[:8], 16)
    return Opened(
        timeline=timeline,
        lsn=await asyncio.to_thread(fork_of, data_directory, timeline),
        promote_seconds=open_at - started_at,
        first_write_seconds=written_at - started_at,
    )


async def _request(connection: Connection, signal_promotion: Callable[[], None]) -> None:
    try:
        await connection.execute("select pg_promote(false)")
    except psycopg.DatabaseError as error:
        if connection.closed:
            raise
        _log.warning("pg_promote failed, signalling instead", error=str(error).strip())
        await asyncio.to_thread(signal_promotion)


async def _recovery_ended(connection: Connection) -> None:
    while True:
        (in_recovery,) = await fetch_row(connection, _IN_RECOVERY)
        if not in_recovery:
            return
        await asyncio.sleep(_POLL_SECONDS)


async def admit_clients(
    connection: Connection, layout: StandbyLayout, bootstrap_superuser: str
) -> tuple[str, ...]:
    """Put the primary's pg_hba.conf rules into force on a promoted server.

    Rules that this server can't read are left out, as a single one would make it ignore the
    whole file.  Returns those and why, for the operator.  Raises psycopg.Error.
    """
    rules = primary_file(layout, "pg_hba.conf")
    if rules is None:
        return ("the seed brought no pg_hba.conf: only the superuser on the unix socket gets in",)
    left_out: dict[int, str] = {}
    while True:
        text = render_opened(bootstrap_superuser, rules, layout.data, frozenset(left_out))
        await asyncio.to_thread(write_ours, layout.hba_file, text)
        # The view reads the file as it is now, in force or not.
        cursor = await connection.execute(
            "select line_number, error from pg_hba_file_rules where error is not null"
        )
        errors: dict[int, str] = dict(await cursor.fetchall())
        # What is left out already can only be an error in a file that a rule includes.
        if errors.keys() <= left_out.keys():
            break
        left_out |= errors
    await connection.execute("select pg_reload_conf()")
    lines = text.splitlines()
    complaints = tuple(
        f"left out of pg_hba.conf: {lines[number - 1].removeprefix(LEFT_OUT)} ({why})"
        for number, why in sorted(left_out.items())
        if number <= len(lines)
    )
    for complaint in complaints:
        _log.warning("a rule of the primary is not in force", rule=complaint)
    return complaints


def fork_of(data_directory: Path, timeline: int) -> Lsn:
    """Where `timeline` began, by its history file in the server's pg_wal.

    Raises LogshipError: PROMOTE_FAILED if it is not there, BAD_HISTORY if it can't be read.
    """
    path = data_directory / "pg_wal" / history_name(timeline)
    try:
        history = parse_history(timeline, path.read_bytes())
    except FileNotFoundError as error:
        raise _failed(f"timeline {timeline} has no history: {path} is missing", False) from error
    if not history.ancestors:
        raise _failed(f"timeline {timeline} has no parent in {path}", False)
    return history.ancestors[-1].end_lsn


def _failed(what: str, retryable: bool) -> LogshipError:
    return LogshipError(
        Code.PROMOTE_FAILED,
        f"the promotion did not come to its end: {what}",
        "see the standby's log; if its data directory has no standby.signal any more, it was "
        "promoted and only needs to be started",
        retryable=retryable,
    )
