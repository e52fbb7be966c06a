"""What several tasks of one event loop wait for, each looking for itself afterwards."""

from __future__ import annotations

import asyncio


class Change:
    """Something may have become otherwise.  Who waits looks first, and waits without a pause in
    between: what happened before is not told."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiters: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def happened(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
