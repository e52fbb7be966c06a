"""A look into every database of a running standby, for what only a live server can tell.

Reads catalogs and loads libraries, in sessions of its own: nothing is written, and a query
that is in the way of replay is cancelled by PostgreSQL (`max_standby_streaming_delay` is 0).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from applier.compat import LiveFacts, OtherVersion, UnloadableLibrary
from applier.compat.live import MOST_NAMED
from applier.standby.layout import StandbyLayout
from applier.standby.probes import Connection, connect, standby_errors
from logship.errors import LogshipError

_DATABASE_SECONDS = 10.0
_LOOK_SECONDS = 60.0
"""After this no further database is looked into."""

# 14 records no version of a database's own collation.
_DATABASES: LiteralString = """
select datname, format('%I', datname), null::text, null::text from pg_database
where datallowconn and not datistemplate order by 1
"""
_DATABASES_15: LiteralString = """
select datname, format('%I', datname), datcollversion, pg_database_collation_actual_version(oid)
from pg_database
where datallowconn and not datistemplate order by 1
"""

_INDEXES: LiteralString = """
select format('%%I.%%I', n.nspname, c.relname)
from pg_index i
     join pg_class c on c.oid = i.indexrelid
     join pg_namespace n on n.oid = c.relnamespace
where %s = any (i.indcollation::oid[]) order by n.nspname, c.relname limit %s
"""
_DEFAULT_COLLATION_OID = 100  # DEFAULT_COLLATION_OID: the database's own

# Only what some index uses: there are hundreds of collations that nothing was ordered by.
_COLLATIONS: LiteralString = """
select c.oid, format('%I.%I', n.nspname, c.collname), c.collversion,
       pg_collation_actual_version(c.oid)
from pg_collation c join pg_namespace n on n.oid = c.collnamespace
where c.collversion is not null and c.oid in
      (select unnest(indcollation::oid[]) from pg_index)
order by n.nspname, c.collname
"""

# From 16384 on (FirstNormalObjectId): not what initdb made.  Names have the order of bytes, and
# so has this: by the database's own order nothing is sorted here, as that may be what is broken.
_LIBRARIES: LiteralString = """
select distinct p.probin collate "C" from pg_proc p join pg_language l on l.oid = p.prolang
where l.lanname = 'c' and p.oid >= 16384 and p.probin is not null order by 1
"""


async def inspect(
    layout: StandbyLayout,
    port: int,
    superuser: str,
    loaded: MutableMapping[str, str] | None = None,
    *,
    may_load: Callable[[], bool] = lambda: True,
) -> LiveFacts:
    """Look into every database that is no template.

    loaded: libraries tried before, each with why it did not load ("": it did); they are not
    tried again, for one that ends its session may take the server down with it.  Those tried
    now are added.  None: libraries are not looked at.  may_load: asked before each is tried, as
    the server may be about to serve clients by then.

    A database that can't be looked into is named in the answer.  Raises
    LogshipError(STANDBY_FAILED, retryable): the server lets nobody in.
    """
    databases = await _databases(layout, port, superuser)
    collations: list[OtherVersion] = []
    libraries: list[UnloadableLibrary] = []
    unread: list[str] = []
    looked = 0
    began_at = time.monotonic()
    for number, (database, name, recorded, actual) in enumerate(databases):
        if time.monotonic() - began_at > _LOOK_SECONDS:
            unread.append(f"{len(databases) - number} more ({_LOOK_SECONDS:.0f} s were over)")
            break
        try:
            async with asyncio.timeout(_DATABASE_SECONDS):
                connection = await connect(layout, port, superuser, databases=(database,))
                async with connection:
                    with standby_errors():
                        if recorded is not None and recorded != actual:
                            indexes = await _indexes(connection, _DEFAULT_COLLATION_OID)
                            collations += _other_version(name, "", recorded, actual, indexes)
                        collations += await _collations(connection, name)
                        if loaded is not None:
                            libraries += await _libraries(connection, name, loaded, may_load)
                looked += 1
        except LogshipError as error:
            unread.append(f"{name} ({error.what})")
        except TimeoutError:
            unread.append(f"{name} (no answer in {_DATABASE_SECONDS:.0f} s)")
    return LiveFacts(
        databases=looked,
        collations=tuple(collations),
        libraries=tuple(libraries),
        unread=tuple(unread),
    )


async def _databases(
    layout: StandbyLayout, port: int, superuser: str
) -> list[tuple[str, str, str | None, str | None]]:
    connection = await connect(layout, port, superuser)
    async with connection:
        with standby_errors():
            query = _DATABASES_15 if connection.info.server_version >= 150000 else _DATABASES
            cursor = await connection.execute(query)
            return [(row[0], row[1], row[2], row[3]) for row in await cursor.fetchall()]


async def _collations(connection: Connection, database: str) -> list[OtherVersion]:
    cursor = await connection.execute(_COLLATIONS)
    found: list[OtherVersion] = []
    for oid, name, recorded, actual in await cursor.fetchall():
        if recorded != actual:
            indexes = await _indexes(connection, oid)
            found += _other_version(database, name, recorded, actual, indexes)
    return found


def _other_version(
    database: str, collation: str, recorded: str, actual: str | None, indexes: tuple[str, ...]
) -> Iterable[OtherVersion]:
    if indexes:
        yield OtherVersion(
            database=database,
            collation=collation,
            recorded=recorded,
            actual=actual or "",
            indexes=indexes,
        )


async def _indexes(connection: Connection, collation_oid: int) -> tuple[str, ...]:
    cursor = await connection.execute(_INDEXES, (collation_oid, MOST_NAMED + 1))
    return tuple(name for (name,) in await cursor.fetchall())


async def _libraries(
    connection: Connection,
    database: str,
    loaded: MutableMapping[str, str],
    may_load: Callable[[], bool],
) -> list[UnloadableLibrary]:
    cursor = await connection.execute(_LIBRARIES)
    found: list[UnloadableLibrary] = []
    for (library,) in await cursor.fetchall():
        if library not in loaded:
            if not may_load():
                continue
            # Noted before: whatever comes of it, it is not tried a second time.
            loaded[library] = "its session ended"
            loaded[library] = await _load(connection, library)
        if loaded[library]:
            found.append(UnloadableLibrary(database=database, library=library, why=loaded[library]))
    return found


async def _load(connection: Connection, library: str) -> str:
    """Why the server can't load it; "": it can."""
    if "/" in library.removeprefix("$libdir/"):
        # By its path: some file of this host, which is none of PostgreSQL's own.
        cursor = await connection.execute("select pg_stat_file(%s, true) is null", (library,))
        row: Any = await cursor.fetchone()
        return "no such file" if row[0] else ""
    try:
        await connection.execute(sql.SQL("load {}").format(sql.Literal(library)))
    except psycopg.DatabaseError as error:
        if connection.closed:
            raise
        return str(error).strip().splitlines()[0]
    return ""
