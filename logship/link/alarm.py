"""The one timer of a session's shell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """Calls back at a deadline that moves.

    Set it to the session's `deadline` after each call of the session.  A deadline that came
    closer (a welcome, a delayed ack) is armed anew; one that moved away, as with every frame
    heard, costs nothing: the alarm goes off at the old time, `timer` does nothing, and the
    callback sets it again.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None

    def set(self, deadline: float | None) -> None:
        """None: nothing is due any more."""
        if deadline is None:
            self.cancel()
        elif self._handle is None or deadline < self._handle.when():
            self.cancel()
            self._handle = self._loop.call_at(deadline, self._ring)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ring(self) -> None:
        self._handle = None
        self._callback()
