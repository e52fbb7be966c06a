"""Growing pauses between attempts, and fewer words about them."""

from __future__ import annotations

import random
import time

REMIND_SECONDS = 60.0
_MAX_REMEMBERED = 256


class Backoff:
    """Seconds to wait before each next try: doubling to a cap, with jitter.

    Jitter keeps a hundred shippers from coming back in step after the applier restarts.
    """

    def __init__(self, first_seconds: float = 0.1, cap_seconds: float = 5.0) -> None:
        self._next_seconds = first_seconds
        self._cap_seconds = cap_seconds

    def next_seconds(self) -> float:
        seconds = self._next_seconds
        self._next_seconds = min(self._cap_seconds, seconds * 2)
        return seconds * random.uniform(0.75, 1.25)


class Reminder:
    """Whether a failure is worth a line in the log: each when it is new, and once a minute."""

    def __init__(self, every_seconds: float = REMIND_SECONDS) -> None:
        self._every_seconds = every_seconds
        self._said_at: dict[str, float] = {}

    def due(self, what: str) -> bool:
        now = time.monotonic()
        said_at = self._said_at.get(what)
        if said_at is not None and now - said_at < self._every_seconds:
            return False
        if len(self._said_at) >= _MAX_REMEMBERED:
            self._said_at.clear()
        self._said_at[what] = now
        return True
