"""The thread in which a store syncs: one hop there, one hop back.

An executor's future takes three more turns of the event loop and two locks, which at the end
of a commit's way is as much time as all of the store's own work.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

from logship.lsn import Position
from logship.threads import IdleThread

Work = Callable[[], Position | None]
Done = Callable[[Position | None, Exception | None], None]


class SyncThread:
    """Does one piece of work after the other.  Belongs to one event loop."""

    def __init__(self, name: str) -> None:
        self._thread = IdleThread(name)

    def submit(self, work: Work, done: Done) -> None:
        """Run `work` in the thread, then `done` with its result or its error in the loop."""
        loop = asyncio.get_running_loop()
        try:
            self._thread.submit(partial(_do, work, done, loop))
        except RuntimeError as error:  # no thread could be started
            loop.call_soon(done, None, error)

    def close(self) -> None:
        """Wait until what was submitted has run.  A `done` may come after it, or, if the loop
        has ended, never."""
        self._thread.close()


def _do(work: Work, done: Done, loop: asyncio.AbstractEventLoop) -> None:
    result: Position | None = None
    failure: Exception | None = None
    try:
        result = work()
    except Exception as error:
        failure = error
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(done, result, failure)
