"""From source to destination: join, seal, send, in order.

Big spans are sealed in threads, several at once, and sent in the order they were read.  A
small one that meets an empty pipeline is sealed and sent at once in the caller's own step:
that is the commit latency of an idle system.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from logship.errors import LogshipError
from logship.lsn import Lsn, Position
from logship.seal import INLINE_BYTES, Sealed
from shipper.compression import Compression, Effort
from shipper.destinations import Destination
from shipper.sources import Source, WalBytes

SEAL_THREADS = 2
MAX_SEALING_SPANS = 4
"""Read ahead of the sender by at most so many spans: bounds memory."""


class SealPipeline:
    """Ships what `put` is given.  An error of the sending side is raised by `put`/`drain`."""

    def __init__(self, source: Source, destination: Destination, *, compress: bool) -> None:
        self._source = source
        self._destination = destination
        self._compression = Compression(compress)
        self._inline = Effort.QUICK if compress else Effort.NONE
        self._executor = ThreadPoolExecutor(SEAL_THREADS, thread_name_prefix="seal")
        self._queue: asyncio.Queue[tuple[WalBytes, Effort, asyncio.Future[Sealed]]] = asyncio.Queue(
            MAX_SEALING_SPANS
        )
        self._in_pipeline = 0
        self._drained = asyncio.Event()
        self._drained.set()
        self.sender = asyncio.create_task(self._send_in_order())
        """Ends only by failing, or by `close`."""
        self.sent: Position | None = None
        """End of what was handed to the destination."""

    async def put(self, span: WalBytes) -> None:
        """Ship `span`; returns when there is room for the next one to be read."""
        self._raise_failure()
        if self._in_pipeline == 0 and span.size_bytes <= INLINE_BYTES:
            await self._destination.room(span.size_bytes)
            self._send(span, _seal_span(span.chunks, self._inline))
            return
        effort = self._compression.next_chunk()
        future = asyncio.get_running_loop().run_in_executor(
            self._executor, _seal_span, span.chunks, effort
        )
        # One that is dropped must not be reported as a forgotten error.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._in_pipeline += 1
        self._drained.clear()
        item = (span, effort, future)
        if not self._queue.full():
            self._queue.put_nowait(item)
            return
        putting = asyncio.ensure_future(self._queue.put(item))
        try:
            await asyncio.wait({putting, self.sender}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()
        self._raise_failure()

    def put_at_once(self, span: WalBytes) -> bool:
        """`put` of a small span, if that takes no waiting; false if it does, and nothing was
        done."""
        if self._in_pipeline or span.size_bytes > INLINE_BYTES or self.sender.done():
            return False
        room = self._destination.room(span.size_bytes)
        try:
            room.send(None)
        except StopIteration:
            self._send(span, _seal_span(span.chunks, self._inline))
            return True
        except LogshipError:
            return False  # `put` meets the same
        room.close()
        return False

    async def drain(self) -> None:
        """Return when all that was put is sent."""
        waiting = asyncio.ensure_future(self._drained.wait())
        try:
            await asyncio.wait({waiting, self.sender}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        self._raise_failure()

    async def close(self) -> list[BaseException]:
        """Stop; what was not sent is dropped (its sender will be asked for it again).

        Returns why the sender had failed, if it had: nobody may have asked it since.
        """
        self.sender.cancel()
        outcomes = await asyncio.gather(self.sender, return_exceptions=True)
        while not self._queue.empty():
            self._queue.get_nowait()[-1].cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)
        return [each for each in outcomes if isinstance(each, BaseException)]

    async def _send_in_order(self) -> None:
        while True:
            span, effort, future = await self._queue.get()
            sealed = await future
            if effort is not Effort.NONE:
                self._compression.saw(sealed)
            asked_at = time.monotonic()
            await self._destination.room(span.size_bytes)
            self._send(span, sealed)
            self._compression.sent(len(sealed.payload), asked_at, time.monotonic())
            self._in_pipeline -= 1
            if self._in_pipeline == 0:
                self._drained.set()

    def _send(self, span: WalBytes, sealed: Sealed) -> None:
        flush_lsn = self._source.flush_lsn
        self._destination.send_span(span.timeline, span.start_lsn, sealed, flush_lsn)
        self.sent = Position(span.timeline, span.end_lsn)

    def _raise_failure(self) -> None:
        if self.sender.done() and not self.sender.cancelled():
            error = self.sender.exception()
            if error is not None:
                raise error


def split(span: WalBytes, max_bytes: int) -> Iterator[WalBytes]:
    """`span` in pieces of at most `max_bytes`; a source's last message may overshoot."""
    if span.size_bytes <= max_bytes:
        yield span
        return
    whole = memoryview(b"".join(span.chunks))
    for start in range(0, span.size_bytes, max_bytes):
        piece = whole[start : start + max_bytes]
        yield WalBytes(span.timeline, Lsn(span.start_lsn + start), [piece], len(piece))


def _seal_span(chunks: Sequence[bytes | memoryview], effort: Effort) -> Sealed:
    return effort.seal(chunks[0] if len(chunks) == 1 else b"".join(chunks))
