"""The tables that a rehearsal generates: in several databases, with the kinds of index that can
break.  Pure: texts of SQL, the same for every rehearsal.

What is in the text columns is where orders of text differ: punctuation, cases, accents, digits.
"""

from __future__ import annotations

DATABASE = "rehearsal"
"""Where most of it is, and what the writer writes to."""
SECOND_DATABASE = "rehearsal_words"

WRITES_TABLE = "public.rehearsal_writes"

_WORDS = (
    *("o'brien", "O'Brien", "obrien", "co-op", "coop", "CO-OP", "Coöp", "a b", "a-b", "ab", "A_B"),
    *("Ähre", "ähre", "ahre", "Zürich", "zurich", "Straße", "strasse", "STRASSE", "ñandú", "nandu"),
    *("œuvre", "oeuvre", "Łódź", "lodz", "1-1", "11", "1 1", "1.1", '"quoted"', "éclair", "Eclair"),
    *("ångström", "Angstrom", "Iğdır", "ığdır", "日本", "にほん", "Ελλάδα", "ελλάδα", "Россия"),
)

# Not every PostgreSQL is built with ICU.
_ICU_INDEX = """
do $$ begin
    if exists (select from pg_catalog.pg_collation where collname = 'de-x-icu') then
        create index words_icu on words (word collate pg_catalog."de-x-icu");
    end if;
end $$
"""


def statements(rows: int, icu_index: bool) -> dict[str, list[str]]:
    """By database, in the order in which they are to be run."""
    words = ", ".join("'" + word.replace("'", "''") + "'" for word in _WORDS)
    text = f"(array[{words}])[1 + i % {len(_WORDS)}] || ' ' || left(md5(i::text), 6)"
    return {
        DATABASE: [*_people(rows, text), *_readings(rows), *_writes()],
        SECOND_DATABASE: [*_words(rows, text), *([_ICU_INDEX] if icu_index else [])],
    }


def _people(rows: int, text: str) -> list[str]:
    return [
        "create table people (id int primary key, name text not null, email text unique,"
        " document jsonb not null, tags text[] not null)",
        f"insert into people select i, {text}, md5(i::text) || '@example.com',"
        " jsonb_build_object('number', i, 'name', 'n' || i % 97, 'deep', jsonb_build_array(i % 7)),"
        f" array['t' || i % 13, 't' || i % 5] from generate_series(1, {rows}) i",
        "create index people_name on people (name)",
        "create index people_lower on people (lower(name))",
        "create index people_document on people using gin (document)",
        "create index people_tags on people using gin (tags)",
        "create index people_hash on people using hash (name)",
    ]


def _readings(rows: int) -> list[str]:
    return [
        "create table readings (at date not null, sensor int not null, value numeric not null)"
        " partition by range (at)",
        "create table readings_2024 partition of readings"
        " for values from ('2024-01-01') to ('2025-01-01')",
        "create table readings_2025 partition of readings"
        " for values from ('2025-01-01') to ('2026-01-01')",
        "create index readings_sensor on readings (sensor, at)",
        "create index readings_at on readings using brin (at)",
        "insert into readings select date '2024-01-01' + i % 700, i % 50, i / 7.0"
        f" from generate_series(1, {rows}) i",
    ]


def _writes() -> list[str]:
    return [
        f"create table {WRITES_TABLE} (id bigint generated always as identity primary key,"
        " at timestamptz not null default clock_timestamp(), note text not null)"
    ]


def _words(rows: int, text: str) -> list[str]:
    return [
        "create table words (word text primary key, number int not null)",
        f"insert into words select {text}, i from generate_series(1, {rows}) i"
        " on conflict do nothing",
        'create index words_c on words (word collate "C")',
        "create materialized view word_lengths as"
        " select length(word) as length, count(*) as words from words group by 1",
    ]
