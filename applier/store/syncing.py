"""The thread in which a store syncs: one hop there, one hop back.

An executor's future takes three more turns of the event loop and two locks, which at the end
of a commit's way is as much time as all of the store's own work.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue

from logship.lsn import Position

Work = Callable[[], Position | None]
Done = Callable[[Position | None, Exception | None], None]


class SyncThread:
    """Does one piece of work after the other.  Belongs to one event loop."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._queue: SimpleQueue[tuple[Work, Done, asyncio.AbstractEventLoop] | None] = (
            SimpleQueue()
        )

    def submit(self, work: Work, done: Done) -> None:
        """Run `work` in the thread, then `done` with its result or its error in the loop."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._queue.put((work, done, asyncio.get_running_loop()))

    def close(self) -> None:
        """Wait until what was submitted has run.  A `done` may come after it, or, if the loop
        has ended, never."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            work, done, loop = item
            result: Position | None = None
            failure: Exception | None = None
            try:
                result = work()
            except Exception as error:
                failure = error
            try:
                loop.call_soon_threadsafe(done, result, failure)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more
