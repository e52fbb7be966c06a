"""Has a server load the libraries that its databases call, and those that its primary preloads.

Takes `conninfo` and `preload`, a list of names as `shared_preload_libraries` has
them.  Answers with how many `libraries` were tried, and those that are `unloadable`, with why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from logship.rehearsal.inside.databases import connect, databases, first_line
from logship.rehearsal.inside.speaking import answer

# From 16384 on (FirstNormalObjectId): not what initdb made.
_LIBRARIES: LiteralString = """
select distinct p.probin collate "C"
from pg_catalog.pg_proc p join pg_catalog.pg_language l on l.oid = p.prolang
where l.lanname = 'c' and p.oid >= 16384 and p.probin is not null order by 1
"""

# What dfmgr.c says of the file itself.  A library that wants to be preloaded may say anything
# else when it is loaded later.
_NOT_THERE = ("could not access file", "could not load library", "incompatible library")


def look(told: Mapping[str, Any]) -> dict[str, Any]:
    tried = 0
    unloadable: list[str] = []
    for library in told["preload"]:
        tried += 1
        with connect(told) as connection:
            why = _load(connection, library)
        if why.startswith(_NOT_THERE):
            unloadable.append(f"preloaded by the primary: {why}")
    for database in databases(told):
        try:
            with connect(told, database) as connection:
                names = [name for (name,) in connection.execute(_LIBRARIES).fetchall()]
        except psycopg.Error as error:
            unloadable.append(f"{database}: {first_line(error)}")
            continue
        for name in names:
            tried += 1
            # A session of its own each: a library may end the one that loads it.
            try:
                with connect(told, database) as connection:
                    why = _load(connection, name)
            except psycopg.Error as error:
                why = first_line(error)
            if why:
                unloadable.append(f"{database}: {why}")
    return {"libraries": tried, "unloadable": unloadable}


def _load(connection: psycopg.Connection[tuple[Any, ...]], library: str) -> str:
    """Why the server can't load it; "": it can."""
    try:
        connection.execute(sql.SQL("load {}").format(sql.Literal(library)))
    except psycopg.DatabaseError as error:
        return first_line(error)
    return ""


if __name__ == "__main__":
    raise SystemExit(answer(look))
