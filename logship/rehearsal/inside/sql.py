"""Runs statements on a server: `python3 -m logship.rehearsal.inside.sql`.

In: {"conninfo": TEXT, "statements": [TEXT, …]}.  A statement may be several commands with
semicolons between them.  Each runs by itself.

Out: {"rows": [[…], …]}, of the last statement that returned any; what JSON has no word for is
there as text.  A refused statement: exit 1, and {"error": TEXT} on stdout.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import psycopg

from logship.rehearsal.inside.databases import session


def main() -> int:
    asked = json.load(sys.stdin)
    rows: list[tuple[Any, ...]] = []
    try:
        with session(asked["conninfo"]) as connection:
            for statement in asked["statements"]:
                rows = _rows(connection.execute(statement.encode())) or rows
    except psycopg.Error as error:
        print(json.dumps({"error": str(error).strip()}))
        return 1
    print(json.dumps({"rows": rows}, default=str))
    return 0


def _rows(cursor: psycopg.Cursor[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Of the last command in a statement that returns any."""
    rows: list[tuple[Any, ...]] = []
    while True:
        if cursor.description is not None:
            rows = cursor.fetchall()
        if not cursor.nextset():
            return rows


if __name__ == "__main__":
    sys.exit(main())
