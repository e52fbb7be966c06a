"""A recovered server is read: every database, and with `tables` every page of every table."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from applier.restore.reading import Reading
from applier.standby.layout import StandbyLayout
from logship.errors import Code, LogshipError
from tests.conftest import PrimaryFactory
from tests.support.servers import PrimaryServer

pytestmark = pytest.mark.integration


def reading_of(server: PrimaryServer, *, tables: bool) -> Reading:
    layout = StandbyLayout(server.directory, server.directory)
    return Reading(layout, server.port, "postgres", lambda _step, _details: None, tables=tables)


async def test_damaged_pages_are_found_where_tables_are_read(primary: PrimaryFactory) -> None:
    server = primary()
    server.execute('create schema "a b"')
    server.execute('create table "a b"."c""d" (id int primary key, v text)')
    server.execute(
        'insert into "a b"."c""d" select g, repeat($$v$$, 100) from generate_series(1, 1000) g'
    )
    server.execute("create unlogged table u (id int)")
    server.execute("create materialized view unmade as select 1 with no data")
    server.execute("create database closed allow_connections false")
    server.execute("create database other")
    server.execute("create database half_dropped")
    server.execute("update pg_database set datconnlimit = -2 where datname = 'half_dropped'")
    # The last of the two would have damaged pages read as empty ones.
    server.execute("alter role postgres set enable_seqscan = off")
    server.execute("alter role postgres set zero_damaged_pages = on")
    whole = reading_of(server, tables=True)
    await whole.read_everything()
    assert whole.databases == 3 and whole.tables > 3 * 50, "postgres, template1, other"

    damage(server, '"a b"."c""d"')
    catalogs = reading_of(server, tables=False)
    await catalogs.read_everything()
    assert (catalogs.databases, catalogs.tables) == (3, 0)
    with pytest.raises(LogshipError, match="database postgres of the recovered server") as caught:
        await reading_of(server, tables=True).read_everything()
    assert caught.value.code is Code.DRILL_FAILED and "invalid page" in caught.value.what


async def test_so_are_those_of_long_values(primary: PrimaryFactory) -> None:
    server = primary()
    server.execute("create table long (v text)")
    server.execute("alter table long alter v set storage external")
    server.execute("insert into long values (repeat('v', 100000))")
    ((toast,),) = server.execute(
        "select reltoastrelid::regclass::text from pg_class where relname = 'long'"
    )
    damage(server, toast)
    with pytest.raises(LogshipError, match="invalid page"):
        await reading_of(server, tables=True).read_everything()


def damage(server: PrimaryServer, table: str) -> None:
    """Its second page's header."""
    ((path,),) = server.execute(f"select pg_relation_filepath('{table}')")
    server.execute("checkpoint")
    server.stop()
    with (server.directory / "data" / path).open("r+b") as opened:
        opened.seek(8192)
        opened.write(b"\xff" * 24)
    server.start()


async def test_names_need_not_be_utf8(primary: PrimaryFactory) -> None:
    server = primary()
    server.execute("create database bytes encoding 'SQL_ASCII' template template0 locale 'C'")
    with psycopg.connect(server.dsn("bytes"), client_encoding="latin1") as connection:
        connection.execute('create table "é" as select 1')
    for tables in (False, True):
        reading = reading_of(server, tables=tables)
        await reading.read_everything()
        assert reading.databases == 3


async def test_a_server_that_does_not_answer_is_told(primary: PrimaryFactory) -> None:
    server = primary(start=False)
    with pytest.raises(LogshipError, match="can't be read: no connection") as caught:
        await reading_of(server, tables=False).read_everything()
    assert caught.value.code is Code.DRILL_FAILED and caught.value.hint


async def test_a_table_that_a_prepared_transaction_locks_is_left_out(
    primary: PrimaryFactory,
) -> None:
    server = primary(settings={"max_prepared_transactions": "1"})
    server.execute("create table open (id int)")
    server.execute("create table locked (id int)")
    first = reading_of(server, tables=True)
    await first.read_everything()
    server.execute("begin; lock table locked; prepare transaction 'forgotten'")
    told: list[tuple[str, dict[str, Any]]] = []
    layout = StandbyLayout(server.directory, server.directory)
    reading = Reading(layout, server.port, "postgres", lambda *each: told.append(each), tables=True)
    await reading.read_everything()
    assert reading.tables == first.tables - 1
    assert ("locked by a prepared transaction", {"table": "public.locked"}) in told
