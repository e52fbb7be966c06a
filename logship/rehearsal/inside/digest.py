"""What the tables and sequences of a server hold, to compare two servers by.

In: {"conninfo": TEXT without a database}.  Out: {"tables": {"database.schema.table": "ROWS MD5"},
"sequences": {"database.schema.sequence": {"last_value": N, "log_cnt": N, "increment": N,
"is_called": BOOL}}} of all tables, materialised views and sequences that survive a crash, in all
databases.  The digest does not depend on the order of rows, nor on an index or a collation.
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

_SEQUENCES: LiteralString = """
select n.nspname, c.relname, s.seqincrement from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
join pg_catalog.pg_sequence s on s.seqrelid = c.oid
where c.relpersistence = 'p' and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
order by 1, 2
"""

_STATE: LiteralString = "select last_value, log_cnt, is_called from {}"

# The sums of two halves of each row's digest: the order of rows has no part in them.
_DIGEST: LiteralString = """
select count(*), md5(concat_ws(' ', sum(('x' || left(d, 16))::bit(64)::bigint::numeric),
    sum(('x' || right(d, 16))::bit(64)::bigint::numeric)))
from (select md5(logship_row::text) as d from {} logship_row) rows
"""


def digest(told: Mapping[str, Any]) -> dict[str, Any]:
    """Raises psycopg.Error."""
    tables: dict[str, str] = {}
    sequences: dict[str, dict[str, Any]] = {}
    for database in databases(told):
        with connect(told, database) as connection:
            for setting in _SETTINGS:
                connection.execute(setting)
            tables |= {f"{database}.{name}": said for name, said in _tables(connection)}
            sequences |= {f"{database}.{name}": state for name, state in _sequences(connection)}
    return {"tables": tables, "sequences": sequences}


def _tables(connection: psycopg.Connection[tuple[Any, ...]]) -> Iterator[tuple[str, str]]:
    for schema, table in connection.execute(_TABLES).fetchall():
        yield f"{schema}.{table}", _table(connection, schema, table)


def _table(connection: psycopg.Connection[tuple[Any, ...]], schema: str, table: str) -> str:
    row = connection.execute(sql.SQL(_DIGEST).format(sql.Identifier(schema, table))).fetchone()
    rows, digest = row or (0, "")
    return f"{rows} {digest}"


def _sequences(
    connection: psycopg.Connection[tuple[Any, ...]],
) -> Iterator[tuple[str, dict[str, Any]]]:
    for schema, sequence, increment in connection.execute(_SEQUENCES).fetchall():
        state = sql.SQL(_STATE).format(sql.Identifier(schema, sequence))
        ((last_value, log_cnt, is_called),) = connection.execute(state).fetchall()
        yield (
            f"{schema}.{sequence}",
            {
                "last_value": last_value,
                "log_cnt": log_cnt,
                "increment": increment,
                "is_called": is_called,
            },
        )


if __name__ == "__main__":
    sys.exit(answer(digest))
