"""Feeds a `MemorySource` or a real store from the pg_wal of a running server."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator

import psycopg

from applier.store.store import Store
from logship.lsn import Lsn
from logship.wal import history_name, parse_history, segment_end, segment_name, segment_start
from tests.support.servers import PrimaryServer
from tests.unit.applier.walserver.memory_source import MemorySource

_POLL_SECONDS = 0.005


def source_of(server: PrimaryServer, major: int) -> MemorySource:
    """An empty source of the server's identity."""
    [(identifier,)] = server.execute("select system_identifier from pg_control_system()")
    [(size,)] = server.execute("select pg_size_bytes(current_setting('wal_segment_size'))::bigint")
    return MemorySource(system_identifier=identifier, major=major, segment_bytes=size)


@contextlib.asynccontextmanager
async def feeding(server: PrimaryServer, source: MemorySource | Store) -> AsyncIterator[None]:
    """Copy all that `server` has flushed, and what it flushes while the block runs."""
    async with await psycopg.AsyncConnection.connect(server.dsn(), autocommit=True) as connection:
        await _copy(server, source, connection)
        task = asyncio.create_task(_follow(server, source, connection))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _follow(
    server: PrimaryServer, source: MemorySource | Store, connection: psycopg.AsyncConnection
) -> None:
    while True:
        await _copy(server, source, connection)
        await asyncio.sleep(_POLL_SECONDS)


async def _copy(
    server: PrimaryServer, source: MemorySource | Store, connection: psycopg.AsyncConnection
) -> None:
    cursor = await connection.execute(
        "select pg_current_wal_flush_lsn()::text,"
        " substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"
    )
    row = await cursor.fetchone()
    assert row is not None
    timeline, end = int(row[1], 16), Lsn.parse(row[0])
    pg_wal, size = server.data / "pg_wal", source.line.segment_bytes
    if timeline > 1 and source.history_content(timeline) is None:
        await _done(source.add_history(timeline, (pg_wal / history_name(timeline)).read_bytes()))
    at = source.end_of(timeline)
    if at is None:
        at = _first(server, source, timeline)
        if isinstance(source, Store) and source.start is None:
            await source.begin_chain(timeline, at)
    while at < end:
        stop = min(end, segment_end(at, size))
        with (pg_wal / segment_name(timeline, at, size)).open("rb") as file:
            file.seek(at % size)
            await _done(source.append(timeline, at, file.read(stop - at)))
        at = Lsn(stop)


async def _done(result: object) -> None:
    """A store's methods are to be awaited, those of a source in memory are not."""
    if inspect.isawaitable(result):
        await result


def _first(server: PrimaryServer, source: MemorySource | Store, timeline: int) -> Lsn:
    size = source.line.segment_bytes
    if timeline == 1:
        names = sorted(path.name for path in (server.data / "pg_wal").glob("00000001" + "?" * 16))
        return Lsn(int(names[0][8:16], 16) << 32 | int(names[0][16:], 16) * size)
    content = source.history_content(timeline)
    assert content is not None
    history = parse_history(timeline, content)
    return segment_start(history.ancestors[-1].end_lsn, size)
