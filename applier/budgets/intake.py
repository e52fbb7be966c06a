"""How fast WAL is taken in: a token bucket."""

from __future__ import annotations

BURST_SECONDS = 1.0
"""An instance that was quiet may bring so many seconds' worth at once."""


class IntakeRate:
    """Bytes a second, on average.  What comes in one piece may overdraw it, and is waited for
    afterwards: so a piece of any size gets in."""

    def __init__(self, bytes_per_second: float, now: float) -> None:
        self.bytes_per_second = bytes_per_second
        self._balance_bytes = bytes_per_second * BURST_SECONDS
        self._counted_at = now

    def wait_seconds(self, now: float) -> float:
        """How long the next piece has to wait; 0: it may come now."""
        self._count(now)
        return max(0.0, -self._balance_bytes / self.bytes_per_second)

    def take(self, size_bytes: int, now: float) -> None:
        """A piece comes in."""
        self._count(now)
        self._balance_bytes -= size_bytes

    def _count(self, now: float) -> None:
        earned_bytes = max(0.0, now - self._counted_at) * self.bytes_per_second
        most_bytes = self.bytes_per_second * BURST_SECONDS
        self._balance_bytes = min(self._balance_bytes + earned_bytes, most_bytes)
        self._counted_at = now
