"""Runs statements on a server.

Takes `conninfo` and `statements`, of which each runs by itself; one may be several commands with
semicolons between them.  Answers with `rows`, of the last statement that returned any; what JSON
has no word for is there as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg

from logship.errors import Code, LogshipError
from logship.rehearsal.inside.databases import session
from logship.rehearsal.inside.speaking import answer


def run(told: Mapping[str, Any]) -> dict[str, Any]:
    """Raises LogshipError(REHEARSAL_FAILED): a statement is refused, or the server is not there."""
    rows: list[tuple[Any, ...]] = []
    try:
        with session(told["conninfo"]) as connection:
            for statement in told["statements"]:
                rows = _rows(connection.execute(statement.encode())) or rows
    except psycopg.Error as error:
        raise LogshipError(Code.REHEARSAL_FAILED, str(error).strip()) from error
    return {"rows": rows}


def _rows(cursor: psycopg.Cursor[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Of the last command in a statement that returns any."""
    rows: list[tuple[Any, ...]] = []
    while True:
        if cursor.description is not None:
            rows = cursor.fetchall()
        if not cursor.nextset():
            return rows


if __name__ == "__main__":
    raise SystemExit(answer(run))
