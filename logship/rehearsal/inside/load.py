"""Runs a file of plain SQL without psql: `python3 -m logship.rehearsal.inside.load`.

In: {"conninfo": TEXT with a database, "file": PATH}.  Out: {}.  Of psql's own commands it knows
those that pg_dump and pg_dumpall write: `\\connect NAME`, `\\restrict`, `\\unrestrict`, and the end
of the data of a COPY.  A command that PostgreSQL takes only alone has a line of its own.  All that
stands between two of these is one text for the server, and so one transaction, if it does not say
otherwise.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from logship.rehearsal.inside.databases import session
from logship.rehearsal.inside.speaking import answer

_COPY = re.compile(r"^copy\s.*\sfrom\s+stdin\b.*;\s*$", re.IGNORECASE)
# A name that is more than letters stands in a connection string.
_CONNECT = re.compile(
    r"""^\\connect\s+(?:-reuse-previous=\w+\s+)?"?(?:dbname='(?P<odd>.*)'|(?P<plain>.*?))"?\s*$"""
)
_PASSED_OVER = re.compile(r"^\\(?:un)?restrict\b")
# PostgreSQL takes them in no text with others.
_ALONE = re.compile(
    r"""^\s*(?:
        (?:create|drop)\s+(?:database|tablespace|subscription)
        |alter\s+(?:system|subscription|database\s.*\bset\s+tablespace)
        |alter\s+table\s.*\bdetach\s+partition\s.*\bconcurrently
        |(?:commit|rollback)\s+prepared
        |cluster
        |vacuum
        |reindex\s*(?:\(.*\)\s*)?(?:database|schema|system)
        |(?:create\s+(?:unique\s+)?|drop\s+|re)index\b.*\bconcurrently
    )\b.*;\s*(?:--.*)?$""",
    re.IGNORECASE | re.VERBOSE,
)
_DOLLARS = re.compile(r"\$(?:[^\W\d]\w*)?\$")
_END_OF_DATA = "\\."


class Part(NamedTuple):
    """What is done at once.  connect: a database to go to first, or "".  data: of the COPY that
    `text` is."""

    text: str
    connect: str = ""
    data: str | None = None


def parts(lines: Iterable[str]) -> Iterator[Part]:
    """Pure.  What stands between two COPYs, connects or commands that stand alone is sent as it is,
    as one text."""
    text: list[str] = []
    quote = ""
    rest = iter(lines)
    for line in rest:
        connect = _CONNECT.match(line)
        alone = not quote and _ALONE.match(line)
        quote = _quote_after(line, quote)
        if connect is not None or _COPY.match(line) or alone:
            quote = ""
            if any(each.strip() for each in text):
                yield Part("".join(text))
            text = []
        if connect is not None:
            yield Part("", connect["plain"] or connect["odd"].replace("\\'", "'"))
        elif _COPY.match(line):
            data = iter(rest.__next__, f"{_END_OF_DATA}\n")
            yield Part(line, data="".join(data))
        elif alone:
            yield Part(line)
        elif not _PASSED_OVER.match(line):
            text.append(line)
    if any(each.strip() for each in text):
        yield Part("".join(text))


def _quote_after(line: str, quote: str) -> str:
    """Which dollar quote is open after a line; "": none.  quote: the one before it."""
    for dollars in _DOLLARS.findall(line):
        if not quote:
            quote = dollars
        elif dollars == quote:
            quote = ""
    return quote


def load(told: Mapping[str, Any]) -> dict[str, Any]:
    """Raises psycopg.Error, OSError."""
    conninfo = str(told["conninfo"])
    connection = session(conninfo)
    try:
        with Path(told["file"]).open(encoding="utf-8") as file:
            for part in parts(file):
                if part.connect:
                    connection.close()
                    connection = session(conninfo, part.connect)
                elif part.data is not None:
                    with connection.cursor().copy(part.text.encode()) as copy:
                        copy.write(part.data)
                else:
                    connection.execute(part.text.encode())
    finally:
        connection.close()
    return {}


if __name__ == "__main__":
    sys.exit(answer(load))
