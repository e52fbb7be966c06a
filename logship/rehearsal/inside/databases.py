"""Connections to each database of a server on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, LiteralString

import psycopg

_CONNECT_SECONDS = 10

_DATABASES: LiteralString = """
select datname from pg_catalog.pg_database where datallowconn and not datistemplate
order by datname collate "C"
"""


def connect(told: Mapping[str, Any], database: str = "") -> psycopg.Connection[tuple[Any, ...]]:
    """A session in autocommit with the server that `told` names by its `conninfo`.

    database: "": one that every cluster has.  Raises psycopg.Error.
    """
    if database:
        return _connect(told, database)
    try:
        return _connect(told, "postgres")
    except psycopg.OperationalError:
        # It may have been dropped, or have a locale that this machine has not.
        return _connect(told, "template1")


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


def _connect(told: Mapping[str, Any], database: str) -> psycopg.Connection[tuple[Any, ...]]:
    return psycopg.connect(
        str(told["conninfo"]),
        dbname=database,
        autocommit=True,
        client_encoding="utf8",
        connect_timeout=_CONNECT_SECONDS,
    )
