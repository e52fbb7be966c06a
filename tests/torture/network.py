"""The link's proxy in a thread of its own: rounds are plain sequential code."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future

from tests.support.proxy import TcpProxy


class Network:
    """A `TcpProxy` to (127.0.0.1, port).  Every method may be called from any thread."""

    def __init__(self, port: int) -> None:
        self._proxy = TcpProxy("127.0.0.1", port)
        self._stop = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._ready: Future[str] = Future()
        self._thread = threading.Thread(target=self._run, name="network")
        self._thread.start()
        self.endpoint = self._ready.result(30)

    def do(self, kind: str, amount: float) -> None:
        """Begin one of the faults of `plan`."""
        actions: dict[str, Callable[[], None]] = {
            "cut": self._proxy.cut,
            "reset": self._proxy.reset,
            "stall": self._proxy.stall,
            "slow": lambda: self._proxy.slow(int(amount)),
            "refuse": self._proxy.refuse,
        }
        self._loop.call_soon_threadsafe(actions[kind])

    def heal(self) -> None:
        self._loop.call_soon_threadsafe(self._proxy.resume)
        self._loop.call_soon_threadsafe(self._proxy.accept)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self._loop.close()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        async with self._proxy:
            self._ready.set_result(self._proxy.endpoint)
            await self._stop.wait()
