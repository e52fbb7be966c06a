"""Noticing the end of a process that is not our child, without polling for it."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable


class ProcessEnd:
    """Watches one process: calls `on_end` in the event loop once it has ended.

    With a pidfd (Linux 5.3), which is also safe against reuse of the process id.  Where there
    is none, `known` is False: the caller has to look by itself.
    """

    def __init__(self, pid: int, on_end: Callable[[], None]) -> None:
        self.pid = pid
        self._fd: int | None = None
        self._ended = False
        self._loop = asyncio.get_running_loop()
        try:
            self._fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._ended = True
            self._loop.call_soon(on_end)
            return
        except (AttributeError, OSError):
            return
        self._loop.add_reader(self._fd, self._readable, on_end)

    @property
    def known(self) -> bool:
        return self._ended or self._fd is not None

    @property
    def ended(self) -> bool:
        """Whether the process has ended, as far as is known without asking anybody else."""
        if self._fd is not None and not self._ended:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            self._ended = bool(poll.poll(0))
        return self._ended

    def close(self) -> None:
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None

    def _readable(self, on_end: Callable[[], None]) -> None:
        self._ended = True
        # Level-triggered: it would be called for ever.
        self.close()
        on_end()
