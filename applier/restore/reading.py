"""Every database of a recovered server is entered, and read."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import psycopg
from psycopg import sql

from applier.restore.restoring import Report
from applier.standby.layout import StandbyLayout
from applier.standby.probes import Connection, connect
from logship.errors import Code, LogshipError

# -2: a DROP DATABASE did not come to its end, and PostgreSQL lets nobody in
# (DATCONNLIMIT_INVALID_DB).
_DATABASES: Final = """
select datname from pg_database where datallowconn and datconnlimit <> -2 order by datname
"""
# Rows of a temporary table are in no WAL, and those of an unlogged one are gone by now.  A
# materialized view that was made WITH NO DATA refuses to be read.
_TABLES: Final = """
select n.nspname, c.relname, c.relkind = 't'
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'm', 't') and c.relpersistence = 'p' and c.relispopulated order by 1, 2
"""
# A role or a database may have other values of these, from the primary.
_READ_THE_HEAP: Final = (
    "set enable_seqscan = on; set enable_indexscan = off; set enable_indexonlyscan = off; "
    "set enable_bitmapscan = off; set zero_damaged_pages = off; "
    "set ignore_checksum_failure = off; set lock_timeout = '5s'"
)
# The first one in a database reads its catalog, while a checkpoint keeps the disk busy.
_CONNECT_SECONDS: Final = 60
# Since 17.
_WITHOUT_END: Final = """
select set_config(name, '0', false) from pg_settings where name = 'transaction_timeout'
"""


class Reading:
    """Every database of a server is entered and its catalog read; with `tables`, every row, that
    of a table that a prepared transaction keeps locked excepted.

    databases, tables: how many were read so far.
    """

    def __init__(
        self, layout: StandbyLayout, port: int, superuser: str, report: Report, *, tables: bool
    ) -> None:
        self.databases = 0
        self.tables = 0
        self._layout = layout
        self._port = port
        self._superuser = superuser
        self._report = report
        self._wants_tables = tables

    async def read_everything(self) -> None:
        """Raises LogshipError(DRILL_FAILED)."""
        async with self._session("postgres", "template1") as connection:
            names = [row[0] for row in await _rows(connection, sql.SQL(_DATABASES))]
        for database in names:
            async with self._session(database) as connection:
                tables = await _rows(connection, sql.SQL(_TABLES))
                # What a row has of long values lies in a table beside its own.
                count = sum(not is_toast for *_, is_toast in tables)
                shown = count if self._wants_tables else "not read"
                self._report("read", {"database": database, "tables": shown})
                if self._wants_tables:
                    await self._read_tables(connection, tables)
            self.databases += 1

    async def _read_tables(self, connection: Connection, tables: list[tuple[Any, ...]]) -> None:
        await connection.execute(_READ_THE_HEAP)
        await connection.execute(_WITHOUT_END)
        for *table, is_toast in tables:
            query = sql.SQL("select count(*) from only {}").format(sql.Identifier(*table))
            try:
                await connection.execute(query)
            except psycopg.errors.LockNotAvailable:
                # Nobody else is here: it came with the WAL, and stays until that is decided.
                self._report("locked by a prepared transaction", {"table": ".".join(table)})
            else:
                self.tables += not is_toast

    @contextlib.asynccontextmanager
    async def _session(self, *databases: str) -> AsyncIterator[Connection]:
        try:
            connection = await connect(
                self._layout, self._port, self._superuser, databases, _CONNECT_SECONDS
            )
            try:
                if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
                    # Its names are bytes of any kind, and go there and back as they are.
                    await connection.execute("set client_encoding = latin1")
                yield connection
            finally:
                await connection.close()
        except (psycopg.Error, LogshipError) as error:
            why = error.what if isinstance(error, LogshipError) else str(error).strip()
            raise LogshipError(
                Code.DRILL_FAILED,
                f"database {databases[0]} of the recovered server can't be read: {why}",
                f"see {self._layout.log_file}; if the primary can read it, have another seed made",
            ) from error


async def _rows(connection: Connection, query: sql.SQL) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query)).fetchall()
