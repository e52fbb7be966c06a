"""What stays registered with the event loop when libpq closes its socket by itself."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, cast

import psycopg
import pytest

from logship.errors import Code, LogshipError
from logship.postgres.libpq import LibpqConnection


class BrokenConnection:
    """A PGconn that takes no more for now, and closes its socket when it is read from."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()
        self.socket = self._ours.fileno()
        self.written: list[str] = []
        self._ours.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self._ours.send(bytes(1 << 16))

    def put_copy_data(self, message: bytes) -> None:
        pass

    def flush(self) -> int:
        return 0 if self._ours.fileno() == -1 else 1  # libpq drops what it can't send any more

    def get_copy_data(self, decode: int) -> tuple[int, None]:
        return 0, None

    def consume_input(self) -> None:
        self._ours.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    def finish(self) -> None:
        self._ours.close()
        self.theirs.close()


@pytest.fixture
async def broken() -> AsyncIterator[tuple[BrokenConnection, LibpqConnection]]:
    pgconn = BrokenConnection()
    connection = LibpqConnection(cast(Any, pgconn), "the primary")
    assert not connection.put_copy_data(b"a status")
    connection.start_writer(lambda: pgconn.written.append("a status"))
    yield pgconn, connection
    connection.close()


Broken = tuple[BrokenConnection, LibpqConnection]


def expect_forgotten(pgconn: BrokenConnection, connection: LibpqConnection) -> None:
    """The loop does not watch the socket's number any more: the next one gets it."""
    assert not connection.is_writing
    assert not pgconn.written
    loop = asyncio.get_running_loop()
    assert not loop.remove_writer(pgconn.socket)
    assert not loop.remove_reader(pgconn.socket)


async def test_a_status_that_waits_for_a_socket_is_forgotten_with_it(broken: Broken) -> None:
    with pytest.raises(LogshipError) as caught:
        broken[1].take_copy_data()
    assert caught.value.code is Code.PRIMARY_UNREACHABLE
    expect_forgotten(*broken)


@pytest.mark.parametrize("is_gone", [True, False])
async def test_so_it_is_when_whoever_waits_to_read_finds_it_closed(
    broken: Broken, is_gone: bool
) -> None:
    pgconn, connection = broken
    connection.is_drained = True
    reading = asyncio.create_task(connection.readable())
    await asyncio.sleep(0)  # it waits
    if is_gone:
        pgconn.theirs.close()  # the loop finds it ready to be written to at the same time
    else:
        pgconn.theirs.send(b"x")
    with pytest.raises(LogshipError) as caught:
        await asyncio.wait_for(reading, 10)
    assert caught.value.code is Code.PRIMARY_UNREACHABLE
    expect_forgotten(*broken)
