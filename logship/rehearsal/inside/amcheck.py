"""Has amcheck look at every B-tree index and every table of every database of a server.

Takes `conninfo`; makes the extension where it is not there yet.  Answers with how
many `indexes` and `tables` were looked at, the `faults` found, and the databases where amcheck
is `lacking`, with why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, LiteralString

import psycopg

from logship.rehearsal.inside.databases import connect, databases, first_line
from logship.rehearsal.inside.speaking import answer

_MOST_FAULTS = 50

# Oid 403 is the access method btree, 2 is heap (pg_am.dat).
_INDEXES: LiteralString = """
select c.oid, format('%I.%I', n.nspname, c.relname)
from pg_catalog.pg_index i
     join pg_catalog.pg_class c on c.oid = i.indexrelid
     join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.relam = 403 and c.relkind = 'i' and c.relpersistence <> 't'
      and i.indisready and i.indisvalid
order by 2
"""
_TABLES: LiteralString = """
select c.oid, format('%I.%I', n.nspname, c.relname)
from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.relam = 2 and c.relkind in ('r', 'm', 't') and c.relpersistence <> 't'
order by 2
"""
_SCHEMA: LiteralString = """
select format('%I', n.nspname)
from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace
where e.extname = 'amcheck'
"""


def look(told: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"indexes": 0, "tables": 0, "faults": [], "lacking": []}
    for database in databases(told):
        try:
            with connect(told, database) as connection:
                _look_into(connection, database, found)
        except psycopg.Error as error:
            found["faults"].append(f"{database}: {first_line(error)}")
    found["faults"] = found["faults"][:_MOST_FAULTS]
    return found


def _look_into(
    connection: psycopg.Connection[tuple[Any, ...]], database: str, found: dict[str, Any]
) -> None:
    try:
        connection.execute("create extension if not exists amcheck")
    except psycopg.DatabaseError as error:
        if connection.closed:
            raise
        found["lacking"].append(f"{database}: {first_line(error)}")
        return
    ((schema,),) = connection.execute(_SCHEMA).fetchall()
    connection.execute("set statement_timeout = '10min'")
    for oid, name in connection.execute(_INDEXES).fetchall():
        found["indexes"] += 1
        check = f"select {schema}.bt_index_check(%s::oid::regclass, heapallindexed => true)"
        _check(connection, check, oid, f"{database}: index {name}", found["faults"])
    for oid, name in connection.execute(_TABLES).fetchall():
        found["tables"] += 1
        check = f"select blkno, offnum, msg from {schema}.verify_heapam(%s::oid::regclass) limit 3"
        rows = _check(connection, check, oid, f"{database}: table {name}", found["faults"])
        found["faults"] += [
            f"{database}: table {name}, block {block}, item {item}: {said}"
            for block, item, said in rows
        ]


def _check(
    connection: psycopg.Connection[tuple[Any, ...]],
    check: str,
    oid: int,
    what: str,
    faults: list[str],
) -> list[tuple[Any, ...]]:
    try:
        return connection.execute(check.encode(), (oid,)).fetchall()
    except psycopg.DatabaseError as error:
        if connection.closed:
            raise
        faults.append(f"{what}: {first_line(error)}")
        return []


if __name__ == "__main__":
    raise SystemExit(answer(look))
