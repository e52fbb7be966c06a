"""When a bucket wants a seed though it has one: it is old, or an operator ordered one.

`shipper seed` leaves a file in the state directory; the running shipper finds it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from logship import durable

ORDER_NAME: Final = "seed-order"
LOOK_SECONDS: Final = 2.0
"""How often to look for an order."""
ASK_AGAIN_SECONDS: Final = 3600.0
"""Between two wishes for the same reason: a seed that fails is tried again by its maker."""


class SeedWishes:
    """`now`: seconds since the epoch.  Looks at one file's time; nothing else blocks."""

    def __init__(self, order_file: Path, every_seconds: float) -> None:
        """every_seconds: 0: never for its age."""
        self._order_file = order_file
        self._every_seconds = every_seconds
        self._seeded_at: float | None = None
        self._asked_at = 0.0
        self._order_asked = 0.0
        """The time of the order that was passed on."""

    def found(self, seeded_at: float | None) -> None:
        """A connection begins.  When the newest complete seed was finished; None: there is none,
        which its connection says itself."""
        self._seeded_at = seeded_at
        self._order_asked = 0.0  # what was said to the last one perhaps nobody heard

    def due(self, now: float, *, ordered_only: bool = False) -> str:
        """Why a seed is wanted, said once, or "".  ordered_only: none for its age."""
        ordered_at = self._ordered_at()
        if ordered_at and ordered_at != self._order_asked:
            self._order_asked = ordered_at
            return "`shipper seed` asked for one"
        if ordered_only or not self._every_seconds or self._seeded_at is None:
            return ""
        age_seconds = now - self._seeded_at
        if age_seconds < self._every_seconds or now - self._asked_at < ASK_AGAIN_SECONDS:
            return ""
        self._asked_at = now
        return f"the newest seed is {age_seconds / 3600:.1f} hours old"

    def begun(self) -> None:
        """A seed is on its way: whoever ordered one has it.  Raises OSError."""
        durable.remove(self._order_file)

    def finished(self, now: float) -> None:
        self._seeded_at = now
        self._asked_at = 0.0

    def _ordered_at(self) -> float:
        try:
            return self._order_file.stat().st_mtime
        except OSError:
            return 0.0
