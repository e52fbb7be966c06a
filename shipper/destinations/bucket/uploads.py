"""Uploads: several at once, done in order.

An upload that comes *alone* waits until all before it are done, and those after it wait until
it is: markers, histories and profiles, and the first object of a chain.  So whatever stands in
the bucket beyond a hole is WAL of the timeline and chain that the hole is in.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from logship.errors import Code, LogshipError
from shipper.backoff import Backoff

log = structlog.get_logger(__name__)

RunBlocking = Callable[[Callable[[], None]], Awaitable[None]]


@dataclass(eq=False)
class Upload:
    """One object on its way.  `run` blocks and may be called again after it raised."""

    run: Callable[[], None]
    alone: bool = False
    done: Callable[[], None] = field(default=lambda: None)
    """Called once everything up to and with this one is stored."""
    stored: bool = False


class Uploads:
    """Of one connection.  `on_done`: a slot may be free.  `on_failed` comes once, at the end."""

    def __init__(
        self,
        run_blocking: RunBlocking,
        *,
        at_once: int,
        patience_seconds: float,
        on_done: Callable[[], None],
        on_failed: Callable[[LogshipError], None],
    ) -> None:
        """patience_seconds: for so long an upload is tried again while the bucket is away."""
        self._run_blocking = run_blocking
        self._at_once = at_once
        self._patience_seconds = patience_seconds
        self._on_done = on_done
        self._on_failed = on_failed
        self._queue: deque[Upload] = deque()
        self._running: deque[Upload] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    @property
    def has_slot(self) -> bool:
        """Whether an upload that came now would start at once."""
        return not self._queue and len(self._running) < self._at_once and not self._one_alone

    def put(self, upload: Upload) -> None:
        self._queue.append(upload)
        self._go_on()

    def stop(self) -> None:
        """Start nothing more.  What a thread is doing already may still be stored."""
        self._stopped = True
        self._queue.clear()
        for task in self._tasks:
            task.cancel()

    # --- inside -----------------------------------------------------------------------------

    @property
    def _one_alone(self) -> bool:
        return bool(self._running) and self._running[-1].alone

    def _go_on(self) -> None:
        while self._queue and len(self._running) < self._at_once and not self._stopped:
            if self._one_alone or (self._running and self._queue[0].alone):
                return
            upload = self._queue.popleft()
            self._running.append(upload)
            task = asyncio.create_task(self._carry(upload))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, upload: Upload) -> None:
        try:
            await patiently(self._run_blocking, upload.run, self._patience_seconds)
            self._stored(upload)
        except LogshipError as error:
            self._fail(error)
        except Exception as error:
            log.exception("a bug ended an upload")
            self._fail(LogshipError(Code.INTERNAL, f"the shipper failed: {type(error).__name__}"))

    def _stored(self, upload: Upload) -> None:
        upload.stored = True
        while self._running and self._running[0].stored and not self._stopped:
            first = self._running.popleft()
            first.done()
        if not self._stopped:
            self._go_on()
            self._on_done()

    def _fail(self, error: LogshipError) -> None:
        if not self._stopped:
            self._stopped = True
            self._queue.clear()
            self._on_failed(error)


async def patiently(
    run_blocking: RunBlocking, action: Callable[[], None], patience_seconds: float | None
) -> None:
    """Do it, again and again while the bucket is away.  None: for ever.

    Raises LogshipError: LINK_LOST once patience is over, and what trying again does not mend.
    """
    began_at = time.monotonic()
    backoff = Backoff()
    while True:
        try:
            await run_blocking(action)
        except LogshipError as error:
            if not error.retryable or error.code == Code.LINK_LOST:
                raise
            waited = time.monotonic() - began_at
            if patience_seconds is not None and waited >= patience_seconds:
                raise LogshipError(
                    Code.LINK_LOST, error.what, error.hint, retryable=True
                ) from error
            log.debug("the bucket is away", what=error.what)
        else:
            return
        await asyncio.sleep(backoff.next_seconds())
