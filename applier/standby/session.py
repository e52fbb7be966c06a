"""The one session that we have with a standby's server: there while somebody asks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from applier.standby.probes import Connection

IDLE_SECONDS = 30.0
"""After so long without a question the session is ended: it is a process of the server's, which
has a good part of the memory of a standby that has nothing to do."""


class Session:
    """connect: opens it; what that raises, `connected` raises."""

    def __init__(
        self, connect: Callable[[], Awaitable[Connection]], clock: Callable[[], float]
    ) -> None:
        self._connect = connect
        self._clock = clock
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._users = 0
        self._used_at = 0.0

    async def connected(self) -> Connection:
        """Opened when first needed and again when it broke."""
        async with self._connecting:
            if self._connection is None or self._connection.closed:
                self._connection = await self._connect()
            return self._connection

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within it the session is not ended for being idle."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._used_at = self._clock()

    async def end_if_idle(self) -> None:
        if not self._users and self._clock() - self._used_at >= IDLE_SECONDS:
            await self.end()

    async def end(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
