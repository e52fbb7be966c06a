"""Opening the spans that came: large ones in threads, a few before it is their turn."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from logship.frames import MAX_SPAN_BYTES, Payload
from logship.link.events import SpanReceived
from logship.seal import INLINE_BYTES, unseal

_AHEAD: Final = 4
"""Spans that are unsealed before they are asked for.  A whole window of them would wait in memory
for a store that is slower, and keep no more cores busy."""


class Unsealing:
    """A span that is unsealed in a thread."""

    def __init__(self, received: SpanReceived) -> None:
        self.done: asyncio.Future[Payload]
        """There once it is its turn."""
        self._received = received

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self.done = loop.run_in_executor(None, unsealed, self._received)
        # Dropped work must not be reported as a forgotten error.
        self.done.add_done_callback(lambda done: done.cancelled() or done.exception())


class UnsealingAhead:
    """Of one connection, whose spans are asked for in the order in which they came."""

    def __init__(self) -> None:
        self.begun = 0
        """Those that were begun, and not handled yet."""
        self.waiting: deque[Unsealing] = deque()
        self._loop = asyncio.get_running_loop()

    def add(self, received: SpanReceived) -> Unsealing | None:
        """A span came.  None: it is small, to be unsealed where it is wanted."""
        if received.span.raw_bytes <= INLINE_BYTES:
            return None
        added = Unsealing(received)
        self.waiting.append(added)
        self._begin()
        return added

    def handled(self) -> None:
        """The first of those that were begun is not needed any more."""
        self.begun -= 1
        self._begin()

    def _begin(self) -> None:
        while self.waiting and self.begun < _AHEAD:
            self.waiting.popleft().begin(self._loop)
            self.begun += 1


def unsealed(received: SpanReceived) -> Payload:
    """The WAL of a span.  Raises LogshipError, as `unseal`."""
    span = received.span
    return unseal(
        span.codec, span.crc32c, span.raw_bytes, received.payload, max_raw_bytes=MAX_SPAN_BYTES
    )
