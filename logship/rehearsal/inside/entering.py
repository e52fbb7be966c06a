"""Which databases of a server let nobody in.

Takes `conninfo`.  Answers with `refused`: why, by database.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg

from logship.rehearsal.inside.databases import connect, databases, one_line
from logship.rehearsal.inside.speaking import answer


def look(told: Mapping[str, Any]) -> dict[str, Any]:
    refused: dict[str, str] = {}
    try:
        names = databases(told)
    except psycopg.OperationalError as error:
        return {"refused": {"postgres": one_line(error)}}
    for name in names:
        try:
            connect(told, name).close()
        except psycopg.OperationalError as error:
            refused[name] = one_line(error)
    return {"refused": refused}


if __name__ == "__main__":
    raise SystemExit(answer(look))
