"""Concurrent writers that remember what the primary acknowledged, and nothing else."""

from __future__ import annotations

import asyncio

import psycopg

WRITERS = 4

CREATE_LEDGER = """
create table ledger (
    writer int not null, number int not null, note text not null,
    primary key (writer, number)
)
"""


class Writers:
    """Each commits small transactions one after the other until it is cut off.

    `acknowledged` holds (writer, number) of each commit that the primary confirmed.  A
    commit whose answer never came is in neither set: its outcome was never promised.
    `last_words`: why the last of them was cut off.
    """

    def __init__(self, conninfo: str, count: int = WRITERS) -> None:
        self._conninfo = conninfo
        self._count = count
        self._tasks: list[asyncio.Task[None]] = []
        self.acknowledged: set[tuple[int, int]] = set()
        self.last_words = ""

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._write(writer)) for writer in range(self._count)]

    async def wait_cut_off(self) -> None:
        """Return when every writer has lost its connection."""
        await asyncio.gather(*self._tasks)

    async def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _write(self, writer: int) -> None:
        try:
            async with await psycopg.AsyncConnection.connect(
                self._conninfo, autocommit=True
            ) as connection:
                number = 0
                while True:
                    await connection.execute(
                        "insert into ledger values (%s, %s, repeat('x', 100))", (writer, number)
                    )
                    self.acknowledged.add((writer, number))
                    number += 1
        except psycopg.Error as error:
            self.last_words = " ".join(str(error).split())


async def read_ledger(conninfo: str) -> set[tuple[int, int]]:
    """(writer, number) of every row there is."""
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        cursor = await connection.execute("select writer, number from ledger")
        return {(writer, number) for writer, number in await cursor.fetchall()}
