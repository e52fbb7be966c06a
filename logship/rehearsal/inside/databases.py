"""Sessions with a server on this machine, and which databases it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, LiteralString

import psycopg

_CONNECT_SECONDS = 10

_DATABASES: LiteralString = """
select datname from pg_catalog.pg_database where datallowconn and not datistemplate
order by datname collate "C"
"""


def session(conninfo: str, database: str = "") -> psycopg.Connection[tuple[Any, ...]]:
    """One in autocommit.  database: "": the one that `conninfo` names.  Raises psycopg.Error."""
    return psycopg.connect(
        conninfo,
        dbname=database or None,
        autocommit=True,
        client_encoding="utf8",
        connect_timeout=_CONNECT_SECONDS,
    )


def connect(told: Mapping[str, Any], database: str = "") -> psycopg.Connection[tuple[Any, ...]]:
    """A session in autocommit with the server that `told` names by its `conninfo`.

    database: "": one that every cluster has.  Raises psycopg.Error.
    """
    conninfo = str(told["conninfo"])
    if database:
        return session(conninfo, database)
    try:
        return session(conninfo, "postgres")
    except psycopg.OperationalError:
        # It may have been dropped, or have a locale that this machine has not.
        return session(conninfo, "template1")


def databases(told: Mapping[str, Any]) -> list[str]:
    """Those that are no templates."""
    with connect(told) as connection:
        return [name for (name,) in connection.execute(_DATABASES).fetchall()]


def first_line(error: psycopg.Error) -> str:
    """What the server said, without its details."""
    return str(error).strip().partition("\n")[0]


def one_line(error: psycopg.Error) -> str:
    """All that the server said, with its details, in one line."""
    return " ".join(str(error).split())
