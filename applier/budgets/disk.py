"""How much of the disk an instance may have, without looking at the disk all the time."""

from __future__ import annotations

MEASURE_SECONDS = 60.0
"""What an instance takes is measured anew this often at most, and only if something came."""
MEASURE_FULL_SECONDS = 5.0
"""... and while it has no room: somebody may have made some."""


class DiskQuota:
    """What was measured last, and what came since.

    That is an estimate: WAL that came is on the disk twice until the standby has replayed it, and
    what it changes in the data may be larger or smaller than the WAL.  The next measure mends it.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._measured_bytes: int | None = None
        self._measured_at = 0.0
        self._came_bytes = 0

    @property
    def used_bytes(self) -> int | None:
        """None: it was never measured."""
        return None if self._measured_bytes is None else self._measured_bytes + self._came_bytes

    def has_room(self, size_bytes: int) -> bool:
        """Whether so much more may come.  Nothing may before it was measured once."""
        used_bytes = self.used_bytes
        return used_bytes is not None and used_bytes + size_bytes <= self.limit_bytes

    def came(self, size_bytes: int) -> None:
        """So much was written."""
        self._came_bytes += size_bytes

    def is_measure_due(self, size_bytes: int, now: float) -> bool:
        """Whether it is time to look at the disk, as so much more is to come."""
        if self._measured_bytes is None:
            return True
        if not self.has_room(size_bytes):
            return now - self._measured_at >= MEASURE_FULL_SECONDS
        return self._came_bytes > 0 and now - self._measured_at >= MEASURE_SECONDS

    def measured(self, used_bytes: int, came_bytes_before: int, now: float) -> None:
        """The disk was looked at.  came_bytes_before: `came_bytes` when that began, as what came
        while it was under way may not have been seen."""
        self._measured_bytes = used_bytes
        self._measured_at = now
        self._came_bytes -= came_bytes_before

    @property
    def came_bytes(self) -> int:
        """What came since the last measure."""
        return self._came_bytes
