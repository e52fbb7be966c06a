"""Fewer words about what goes on for long, of each of many files."""

from __future__ import annotations

import time

REMIND_SECONDS = 60.0
_MAX_REMINDERS = 256


class Words:
    """Says each thing when it is new, and once a minute."""

    def __init__(self) -> None:
        self._said_at: dict[str, float] = {}

    def due(self, what: str) -> bool:
        now = time.monotonic()
        if now - self._said_at.get(what, -REMIND_SECONDS) < REMIND_SECONDS:
            return False
        if len(self._said_at) >= _MAX_REMINDERS:
            self._said_at.clear()
        self._said_at[what] = now
        return True
