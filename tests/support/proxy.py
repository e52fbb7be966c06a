"""A TCP proxy that passes, stalls, slows, cuts, resets and refuses: real sockets' bad days."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Self

_PIECE_BYTES = 64 * 1024


class TcpProxy:
    """Listens on a free port of 127.0.0.1 and forwards to (host, port).

    Use as an async context manager.  `stall` stops reading and writing while connections
    stay up, as SIGSTOP of the far process or a dead router does; `resume` ends it; `slow`
    limits the rate until `resume`; `cut` closes what is connected now, `reset` does so with
    RST; `refuse` also closes each new connection until `accept`.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._passing = asyncio.Event()
        self._passing.set()
        self._refusing = False
        self._bytes_per_second = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.connections = 0
        """How many were ever accepted."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def endpoint(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def stall(self) -> None:
        self._passing.clear()

    def resume(self) -> None:
        self._bytes_per_second = 0
        self._passing.set()

    def slow(self, bytes_per_second: int) -> None:
        """Pass no more than that in each direction of each connection."""
        self._bytes_per_second = bytes_per_second

    def cut(self) -> None:
        for writer in list(self._writers):
            # Aborted, not closed: what is buffered here is lost with it.
            writer.transport.abort()

    def reset(self) -> None:
        """As a firewall that forgot the connection or a host that starts again."""
        for writer in list(self._writers):
            connection = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                # Lingering for no time at all: close(2) sends RST instead of FIN.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def refuse(self) -> None:
        self._refusing = True
        self.cut()

    def accept(self) -> None:
        self._refusing = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            if self._refusing:
                return
            self.connections += 1
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            self._writers.add(far_writer)
            try:
                forward = asyncio.ensure_future(self._copy(reader, far_writer))
                back = asyncio.ensure_future(self._copy(far_reader, writer))
                pair = (forward, back)
                try:
                    await asyncio.wait(pair, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for half in pair:
                        half.cancel()
                    await asyncio.gather(*pair, return_exceptions=True)
            finally:
                self._writers.discard(far_writer)
                far_writer.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass  # the target refuses, or the proxy ends: the client sees a closed connection
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE_BYTES):
                await self._passing.wait()
                if self._bytes_per_second:
                    await asyncio.sleep(len(piece) / self._bytes_per_second)
                writer.write(piece)
                await writer.drain()
