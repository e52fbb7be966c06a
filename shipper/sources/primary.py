"""What the primary is, and what it thinks of us: plain SQL beside the replication stream.

A physical replication connection can't run queries, so this is a second, ordinary
connection.  It needs `pg_monitor` (ops/primary-role.sql); without it the other sessions'
columns of pg_stat_replication are null and the protection in effect is "not known".
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from typing import Any, NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from logship.errors import Code, LogshipError
from logship.identity import Profile
from logship.lsn import Lsn

_PROFILE_SQL = """
select s.system_identifier, s.pg_control_version, s.catalog_version_no,
       i.max_data_alignment, i.database_block_size, i.blocks_per_segment, i.wal_block_size,
       i.bytes_per_wal_segment, i.float8_pass_by_value, i.data_page_checksum_version,
       version(), (select rolname from pg_catalog.pg_roles where oid = 10)
  from pg_catalog.pg_control_system() s, pg_catalog.pg_control_init() i
"""

_SETTINGS = (
    "server_version_num",
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "track_commit_timestamp",
    "wal_level",
)

_SETTINGS_SQL = "select name, setting from pg_catalog.pg_settings where name = any(%s)"

_STATE_SQL = """
select pg_catalog.pg_is_in_recovery(),
       case when pg_catalog.pg_is_in_recovery()
            then pg_catalog.pg_last_wal_receive_lsn()
            else pg_catalog.pg_current_wal_flush_lsn() end::text,
       (select sync_state from pg_catalog.pg_stat_replication
         where application_name = %(application_name)s
         order by state = 'streaming' desc limit 1),
       case when pg_catalog.pg_is_in_recovery() then null
            else pg_catalog.left(pg_catalog.pg_walfile_name(
                pg_catalog.pg_current_wal_insert_lsn()), 8) end
"""

_SLOT_SQL = """
select active, active_pid, wal_status, restart_lsn::text
  from pg_catalog.pg_replication_slots
 where slot_name = %(slot)s and slot_type = 'physical'
"""

# version() starts "PostgreSQL 17.9 on x86_64-pc-linux-gnu, compiled by …"; some vendors put
# the package's name in parentheses before "on".
_ARCHITECTURE = re.compile(r" on ([A-Za-z0-9_]+?)-")


_Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class SlotState(NamedTuple):
    """pg_replication_slots of our slot.  wal_status: reserved, extended, unreserved, lost."""

    active: bool
    active_pid: int | None
    wal_status: str
    restart_lsn: Lsn | None


class PrimaryState(NamedTuple):
    """One look at a primary.  sync_state "" when not connected or not permitted to see.

    timeline: 0 in recovery.
    """

    in_recovery: bool
    flush_lsn: Lsn
    sync_state: str
    slot: SlotState | None
    timeline: int


class PrimaryQueries:
    """An SQL connection to the primary, opened on first use and again after an error.

    Several tasks may ask; they take turns.  A primary that does not answer within
    `timeout_seconds` counts as unreachable, and a cancelled question ends at once: psycopg
    alone would wait for a frozen server to confirm that it gave up the query.
    """

    def __init__(
        self, conninfo: str, *, application_name: str, slot: str, timeout_seconds: float
    ) -> None:
        parameters = conninfo_to_dict(conninfo)
        if "service" not in parameters:
            parameters.setdefault("dbname", "postgres")
        parameters["application_name"] = f"{application_name}_monitor"
        parameters.setdefault("connect_timeout", str(max(2, round(timeout_seconds))))
        # Else a server whose encoding is SQL_ASCII gives bytes for text.
        parameters["client_encoding"] = "utf8"
        self._conninfo = make_conninfo("", **parameters)
        self._application_name = application_name
        self._slot = slot
        self._timeout_seconds = timeout_seconds
        self._turn = asyncio.Lock()
        self._connection: _Connection | None = None

    def of_database(self, name: str) -> PrimaryQueries:
        """A connection to that database of the same server, opened on first use."""
        # Whatever the database's owner set for it, queries find PostgreSQL's own operators, and
        # one that nobody waits for any more ends.
        timeout_ms = round(self._timeout_seconds * 1000)
        options = f"-c search_path=pg_catalog -c statement_timeout={timeout_ms}"
        given = conninfo_to_dict(self._conninfo).get("options") or ""
        return PrimaryQueries(
            make_conninfo(self._conninfo, dbname=name, options=f"{given} {options}".strip()),
            application_name=self._application_name,
            slot=self._slot,
            timeout_seconds=self._timeout_seconds,
        )

    async def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of one query.  Raises as `profile`."""
        return await self._query(sql, None)

    async def profile(self) -> Profile:
        """Read the profile, but for its environment.

        Raises LogshipError: PRIMARY_UNREACHABLE, PRIMARY_REFUSED.
        """
        rows = await self._query(_PROFILE_SQL, {})
        settings = dict(await self._query(_SETTINGS_SQL, (list(_SETTINGS),)))
        (
            system_identifier, control_version, catalog_version, alignment, block_size,
            blocks_per_segment, wal_block_size, wal_segment_size, float8_by_value, checksums,
            version, bootstrap_superuser,
        ) = rows[0]  # fmt: skip
        architecture = _ARCHITECTURE.search(version)
        return Profile(
            # The SQL functions show the 64-bit identifier as a signed bigint.
            system_identifier=system_identifier % (1 << 64),
            server_version_num=int(settings["server_version_num"]),
            catalog_version=catalog_version,
            control_version=control_version,
            block_size=block_size,
            wal_block_size=wal_block_size,
            wal_segment_size=wal_segment_size,
            segment_size=blocks_per_segment * block_size,
            data_checksums=checksums != 0,
            architecture=architecture[1] if architecture else "",
            alignment=alignment,
            float8_by_value=float8_by_value,
            max_connections=int(settings["max_connections"]),
            max_worker_processes=int(settings["max_worker_processes"]),
            max_wal_senders=int(settings["max_wal_senders"]),
            max_prepared_transactions=int(settings["max_prepared_transactions"]),
            max_locks_per_transaction=int(settings["max_locks_per_transaction"]),
            track_commit_timestamp=settings["track_commit_timestamp"] == "on",
            wal_level=settings["wal_level"],
            bootstrap_superuser=bootstrap_superuser,
        )

    async def state(self) -> PrimaryState:
        """Look once.  Raises as `profile`."""
        ((in_recovery, flush, sync_state, timeline),) = await self._query(
            _STATE_SQL, {"application_name": self._application_name}
        )
        slots = await self._query(_SLOT_SQL, {"slot": self._slot})
        slot = None
        if slots:
            active, pid, wal_status, restart = slots[0]
            slot = SlotState(active, pid, wal_status or "", Lsn.parse(restart) if restart else None)
        return PrimaryState(
            in_recovery,
            Lsn.parse(flush) if flush else Lsn(0),
            sync_state or "",
            slot,
            int(timeline, 16) if timeline else 0,
        )

    async def primary_state(self) -> PrimaryState:
        """`state` of a primary.  Raises PRIMARY_NOT_READY (retryable) too: it is a standby."""
        state = await self.state()
        if state.in_recovery:
            raise LogshipError(
                Code.PRIMARY_NOT_READY,
                "the server that conninfo leads to is a standby",
                "name all hosts in conninfo with target_session_attrs=read-write, "
                "then Logship finds the primary by itself",
                retryable=True,
            )
        return state

    async def close(self) -> None:
        """Let go of the connection; a question that waits on it fails."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._turn.locked():
                _cut(connection)
            async with self._turn:
                await connection.close()

    async def _query(self, sql: str, parameters: Any) -> list[tuple[Any, ...]]:
        async with self._turn:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = await psycopg.AsyncConnection.connect(
                        self._conninfo, autocommit=True
                    )
                return await self._ask(self._connection, sql, parameters)
            except psycopg.Error as error:
                raise primary_error(error) from error

    async def _ask(self, connection: _Connection, sql: str, parameters: Any) -> list[Any]:
        asking = asyncio.create_task(_rows(connection, sql, parameters))
        try:
            await asyncio.wait({asking}, timeout=self._timeout_seconds)
            if asking.done():
                return asking.result()
            raise LogshipError(
                Code.PRIMARY_UNREACHABLE,
                f"the primary does not answer within {self._timeout_seconds:g} s",
                "check the server and the network; Logship tries again by itself",
                retryable=True,
            )
        finally:
            unanswered = not asking.done()
            if unanswered:
                _cut(connection)
                await asyncio.wait({asking})
            if asking.exception() is not None or unanswered:
                if self._connection is connection:
                    self._connection = None
                await connection.close()


async def _rows(connection: _Connection, sql: str, parameters: Any) -> list[Any]:
    cursor = await connection.execute(sql, parameters)
    return await cursor.fetchall()


def _cut(connection: _Connection) -> None:
    """Have whoever waits on it find it broken, at once and whatever the network does."""
    with (
        contextlib.suppress(psycopg.Error, OSError),
        socket.socket(fileno=os.dup(connection.fileno())) as same,
    ):
        same.shutdown(socket.SHUT_RDWR)


def primary_error(error: psycopg.Error) -> LogshipError:
    """What a failed query or connection means for the user.  Carries no password."""
    text = " ".join(str(error).split())
    state = error.sqlstate or ""
    refused = state.startswith("28") or state in ("42501", "3D000") or "authentication" in text
    # A connection that is refused comes without a code.
    if refused or "no pg_hba.conf entry" in text or "permission denied for database" in text:
        return LogshipError(
            Code.PRIMARY_REFUSED,
            f"the primary refuses us: {text}",
            "check user, password and pg_hba.conf; ops/primary-role.sql makes the role",
        )
    return LogshipError(
        Code.PRIMARY_UNREACHABLE,
        f"the primary can't be asked: {text}",
        "check that it runs and that conninfo leads to it; Logship tries again by itself",
        retryable=True,
    )
