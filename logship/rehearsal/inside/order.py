"""How a server orders text: a large fixed sample, under each collation that is in use.

Takes `conninfo`.  Answers with `orders`: for each `DATABASE` and `DATABASE/COLLATION`
the version `recorded` in the catalogs, the `actual` one of the library, and the `order`: numbers
of the sample's texts, sorted.  Instead: `error`, where the database can't be entered or the
collation can't be used.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, LiteralString

import psycopg

from logship.rehearsal.inside.databases import connect, databases, first_line
from logship.rehearsal.inside.speaking import answer

DEFAULT = ""
"""The database's own collation."""

_LETTERS = (
    *"aAbBzZ019",
    *" -_.,'\"/+@#(",
    *("á", "à", "ä", "Ä", "å", "æ", "ç", "é", "ł", "ñ", "ö", "ø", "ß", "ss", "ž"),
    *("a\u0301", "ﬁ", "İ", "ı", "я", "Ё", "ω", "א", "ب", "あ", "ア", "漢", "字", "한", "𝒳", "😀"),
)
_WORDS = (
    *("co-op", "coop", "CO-OP", "co op", "Co-Op", "resume", "résumé", "Résumé", "résume"),
    *("1-1", "11", "1.1", "1 1", "10", "2", "cote", "côte", "coté", "côté", "Muller", "Müller"),
    *("Mueller", "Łódź", "Lodz", "chata", "cihla", "hora", "llama", "luz", "ny", "ñu", "nz"),
)
_LAST_CODE_POINT = 0x323AF
_CODE_POINT_STEP = 61
_SURROGATES = range(0xD800, 0xE000)


def sample() -> list[str]:
    """The same texts, always: pairs of letters, words, and every so manieth code point."""
    pairs = ["".join(pair) for pair in itertools.product(_LETTERS, repeat=2)]
    points = [
        chr(point)
        for point in range(0x21, _LAST_CODE_POINT, _CODE_POINT_STEP)
        if point not in _SURROGATES
    ]
    return list(dict.fromkeys([*_WORDS, *_LETTERS, *pairs, *points]))


# 14 records no version of a database's own collation.
_VERSIONS: LiteralString = """
select pg_catalog.to_jsonb(d) ->> 'datcollversion', {actual}
from pg_catalog.pg_database d where d.datname = pg_catalog.current_database()
"""
_ACTUAL = "pg_catalog.pg_database_collation_actual_version(d.oid)"

# What depends on a collation is in pg_depend, but for those that initdb pins ("unicode").
_COLLATIONS: LiteralString = """
select pg_catalog.format('%I.%I', n.nspname, c.collname), c.collversion,
       pg_catalog.pg_collation_actual_version(c.oid)
from pg_catalog.pg_collation c join pg_catalog.pg_namespace n on n.oid = c.collnamespace
where c.collprovider in ('c', 'i', 'b') and c.collname not in ('C', 'POSIX', 'ucs_basic')
      and c.oid in (
        select d.refobjid from pg_catalog.pg_depend d
        where d.refclassid = 'pg_catalog.pg_collation'::pg_catalog.regclass
        union select pg_catalog.unnest(i.indcollation::oid[]) from pg_catalog.pg_index i)
order by 1
"""

# Texts that are equal under the collation have the order of their bytes.
_ORDER = """
select array_agg(t.number::int order by t.text collate {collation}, t.text collate "C")
from unnest(%s::text[]) with ordinality t (text, number)
"""


def look(told: Mapping[str, Any]) -> dict[str, Any]:
    orders: dict[str, Any] = {}
    for database in databases(told):
        try:
            with connect(told, database) as connection:
                _look_into(connection, database, orders)
        except psycopg.Error as error:
            orders[database] = {"error": first_line(error)}
    return {"orders": orders}


def _look_into(
    connection: psycopg.Connection[tuple[Any, ...]], database: str, orders: dict[str, Any]
) -> None:
    actual = _ACTUAL if connection.info.server_version >= 150000 else "null::text"
    ((recorded, own),) = connection.execute(_VERSIONS.format(actual=actual).encode()).fetchall()
    collations = [(DEFAULT, recorded, own), *connection.execute(_COLLATIONS).fetchall()]
    ((encoding,),) = connection.execute("show server_encoding").fetchall()
    for name, recorded, actual in collations:
        key = f"{database}/{name}" if name else database
        try:
            order = _order(connection, name or 'pg_catalog."default"', encoding)
        except psycopg.DatabaseError as error:
            if connection.closed:
                raise
            orders[key] = {"error": first_line(error)}
        else:
            orders[key] = {"recorded": recorded or "", "actual": actual or "", "order": order}


def _order(
    connection: psycopg.Connection[tuple[Any, ...]], collation: str, encoding: str
) -> list[int]:
    texts = sample()
    # Other encodings don't have all of these characters; the numbers stay those of the sample.
    fitting = texts if encoding == "UTF8" else [text if text.isascii() else "" for text in texts]
    ((order,),) = connection.execute(
        _ORDER.format(collation=collation).encode(), (fitting,)
    ).fetchall()
    return [number - 1 for number in order]


if __name__ == "__main__":
    raise SystemExit(answer(look))
