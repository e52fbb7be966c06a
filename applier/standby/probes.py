"""What a standby says of itself, over SQL, through its private socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg.rows import tuple_row

from applier.standby.layout import StandbyLayout
from logship.errors import Code, LogshipError
from logship.lsn import Lsn

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

NOT_PAUSED = "not paused"
"""What `pg_get_wal_replay_pause_state` says when replay goes on."""

IDLE_WAIT_EVENTS = frozenset({"RecoveryWalStream", "RecoveryRetrieveRetryInterval"})
"""What the startup process waits for when it replayed all it has: more from the walreceiver,
or the next attempt to get any.  The same names in 14 to 18
(`src/backend/utils/activity/wait_event.c`, since 17 `wait_event_names.txt`)."""

_DATABASES = ("postgres", "template1")
_CONNECT_SECONDS = 5
_OPTIONS = (
    "-c synchronous_commit=local -c statement_timeout=0 -c lock_timeout=0 "
    "-c idle_session_timeout=0 -c default_transaction_read_only=off"
)
"""A role or database may have other values of these, replayed from the primary."""

_POSITIONS: LiteralString = """
select pg_is_in_recovery(),
       pg_last_wal_receive_lsn()::text,
       pg_last_wal_replay_lsn()::text,
       case when pg_is_in_recovery() then pg_get_wal_replay_pause_state() end,
       case when pg_is_in_recovery() then
           greatest((select received_tli from pg_stat_wal_receiver),
                    (select timeline_id from pg_control_checkpoint()),
                    (select min_recovery_end_timeline from pg_control_recovery()))
       end,
       case when not pg_is_in_recovery() then pg_walfile_name(pg_current_wal_lsn()) end,
       (select wait_event from pg_stat_activity where backend_type = 'startup')
"""


class Positions(NamedTuple):
    """How far a standby is.

    received: end of the WAL that its walreceiver has flushed (None: it received nothing since
    its start).  replayed: end of the last record it replayed (None before the first).
    replay_pause: NOT_PAUSED, or why replay stands still in PostgreSQL's words.
    replay_idle: at that moment, it had replayed every complete record it has.
    """

    in_recovery: bool
    received: Lsn | None
    replayed: Lsn | None
    replay_pause: str
    timeline: int
    replay_idle: bool


async def connect(
    layout: StandbyLayout,
    port: int,
    superuser: str,
    databases: tuple[str, ...] = _DATABASES,
    seconds: int = _CONNECT_SECONDS,
) -> Connection:
    """A session of the bootstrap superuser, in autocommit, in the first of `databases` that is.
    seconds: how long each may take to answer.

    Raises LogshipError(STANDBY_FAILED, retryable): not running, or not consistent yet.
    """
    failure: psycopg.Error | None = None
    for database in databases:
        try:
            return await psycopg.AsyncConnection.connect(
                host=str(layout.socket_directory),
                port=port,
                user=superuser,
                dbname=database,
                application_name="logship",
                connect_timeout=seconds,
                client_encoding="utf8",  # else SQL_ASCII gives bytes for text
                options=_OPTIONS,
                autocommit=True,
                row_factory=tuple_row,
            )
        except psycopg.OperationalError as error:
            failure = error
            # Not worth another database: the server itself does not let anybody in.
            if f'"{database}"' not in str(error):
                break
    raise LogshipError(
        Code.STANDBY_FAILED,
        f"no connection to the standby on port {port}: {str(failure).strip()}",
        "see the standby's log; a standby that replays to consistency lets nobody in yet",
        retryable=True,
    )


async def read_positions(connection: Connection) -> Positions:
    """Ask once.  Raises LogshipError(STANDBY_FAILED, retryable) if the connection is gone."""
    with standby_errors():
        row = await fetch_row(connection, _POSITIONS)
    in_recovery, received, replayed, pause, recovery_timeline, wal_file, wait_event = row
    return Positions(
        in_recovery=in_recovery,
        received=Lsn.parse(received) if received else None,
        replayed=Lsn.parse(replayed) if replayed else None,
        replay_pause=pause or NOT_PAUSED,
        timeline=int(wal_file[:8], 16) if wal_file else int(recovery_timeline),
        replay_idle=wait_event in IDLE_WAIT_EVENTS,
    )


async def read_shared_buffers(connection: Connection) -> str:
    """shared_buffers as in force, "128MB".  Raises as `read_positions`."""
    with standby_errors():
        return str((await fetch_row(connection, "show shared_buffers"))[0])


async def fetch_row(connection: Connection, query: LiteralString) -> tuple[Any, ...]:
    """The only row of a query that always has one.  Raises psycopg.Error."""
    cursor = await connection.execute(query)
    row = await cursor.fetchone()
    if row is None:
        raise psycopg.DataError(f"no row from {query!r}")
    return row


@contextmanager
def standby_errors() -> Iterator[None]:
    """Turns what psycopg raises into LogshipError(STANDBY_FAILED, retryable)."""
    try:
        yield
    except psycopg.Error as error:
        raise LogshipError(
            Code.STANDBY_FAILED,
            f"the standby did not answer: {str(error).strip()}",
            "see the standby's log",
            retryable=True,
        ) from error
