"""What the tables of a server hold, to compare two servers by.

In: {"conninfo": TEXT without a database}.  Out: {"tables": {"database.schema.table": "ROWS MD5"}}
of all tables and materialised views that survive a crash, in all databases.  The digest does not
depend on the order of rows, nor on an index or a collation.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from logship.rehearsal.inside.databases import connect, databases
from logship.rehearsal.inside.speaking import answer

_SETTINGS: tuple[LiteralString, ...] = (
    # What the text of a value depends on.
    "set search_path = pg_catalog",
    "set timezone = 'UTC'",
    "set datestyle = 'ISO, YMD'",
    "set intervalstyle = 'postgres'",
    "set extra_float_digits = 1",
    "set bytea_output = 'hex'",
    "set row_security = off",
    # A broken index must not decide what is there.
    "set enable_indexscan = off",
    "set enable_indexonlyscan = off",
    "set enable_bitmapscan = off",
)

_TABLES: LiteralString = """
select n.nspname, c.relname from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'm') and c.relpersistence = 'p' and (c.relkind = 'r' or c.relispopulated)
and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
union all select 'pg_catalog', 'pg_largeobject' where exists (
    select from pg_catalog.pg_largeobject_metadata)
order by 1, 2
"""

# The sums of two halves of each row's digest: the order of rows has no part in them.
_DIGEST: LiteralString = """
select count(*), md5(concat_ws(' ', sum(('x' || left(d, 16))::bit(64)::bigint::numeric),
    sum(('x' || right(d, 16))::bit(64)::bigint::numeric)))
from (select md5(logship_row::text) as d from {} logship_row) rows
"""


def digest(told: Mapping[str, Any]) -> dict[str, Any]:
    """Raises psycopg.Error."""
    return {"tables": {key: said for name in databases(told) for key, said in _of(told, name)}}


def _of(told: Mapping[str, Any], database: str) -> Iterator[tuple[str, str]]:
    with connect(told, database) as connection:
        for setting in _SETTINGS:
            connection.execute(setting)
        for schema, table in connection.execute(_TABLES).fetchall():
            yield f"{database}.{schema}.{table}", _table(connection, schema, table)


def _table(connection: psycopg.Connection[tuple[Any, ...]], schema: str, table: str) -> str:
    row = connection.execute(sql.SQL(_DIGEST).format(sql.Identifier(schema, table))).fetchone()
    rows, digest = row or (0, "")
    return f"{rows} {digest}"


if __name__ == "__main__":
    sys.exit(answer(digest))
