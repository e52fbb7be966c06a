"""A recovered server is read: every database, and with `tables` every page of every table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from applier.restore.drilling import Reading
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
    server.execute("create database closed allow_connections false")
    server.execute("create database other")
    whole = reading_of(server, tables=True)
    await whole.read_everything()
    assert whole.databases == 3 and whole.tables > 3 * 50, "postgres, template1, other"

    ((path,),) = server.execute('select pg_relation_filepath(\'"a b"."c""d"\')')
    server.execute("checkpoint")
    server.stop()
    damage(server.directory / "data" / path)
    server.start()
    catalogs = reading_of(server, tables=False)
    await catalogs.read_everything()
    assert (catalogs.databases, catalogs.tables) == (3, 0)
    with pytest.raises(LogshipError, match="database postgres of the recovered server") as caught:
        await reading_of(server, tables=True).read_everything()
    assert caught.value.code is Code.DRILL_FAILED and "invalid page" in caught.value.what


def damage(file: Path) -> None:
    """Its second page's header."""
    with file.open("r+b") as opened:
        opened.seek(8192)
        opened.write(b"\xff" * 24)


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
