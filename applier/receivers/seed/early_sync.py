"""Has the disk write a seed while it arrives, so that the sync at its end finds little to do.

It makes no promise of its own: everything is synced again before the seed counts.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from logship.durable import RealDisk

STEP_BYTES: Final = 32 * 1024 * 1024
"""After so many bytes of one file it is worth another call."""


class EarlySync:
    """One sync at a time, in a thread of its own.  Belongs to the thread that writes.

    An error of the disk must not be lost here, as the sync at the end might not see it again:
    `offer` and `close` raise it (OSError).
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="seed-early-sync")
        self._running: Future[None] | None = None

    def offer(self, fd: int) -> None:
        """Sync what is written to `fd`, which may be closed meanwhile; not if another is
        being synced: the writer is never kept waiting."""
        if self._running is not None and not self._running.done():
            return
        self._finish()
        self._running = self._thread.submit(_sync, os.dup(fd))

    def close(self) -> None:
        """Wait for what runs.  Closing again is fine."""
        self._thread.shutdown(wait=True)
        self._finish()

    def _finish(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.result()


def _sync(fd: int) -> None:
    try:
        RealDisk().datasync(fd)
    finally:
        os.close(fd)
