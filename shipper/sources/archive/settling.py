"""Whether a file is still being written.  No I/O: the caller gives what it saw, and when.

An `archive_command` of plain `cp` writes under the final name, so a file that is there may
not be whole.  It is taken as settled when inotify told that its writer closed it or renamed it
into place, when nothing has changed it for a while by its file system's clock, or when it
looked the same for that long by ours (the file system's clock may be another machine's).
"""

from __future__ import annotations

from shipper.sources.archive.memory import Look

SETTLE_SECONDS = 1.0
PADDED_SETTLE_SECONDS = 10.0
"""For a file that ends in zeros: one whose size was set before its contents came looks so."""


class Settling:
    """What was seen of files that are not taken yet."""

    def __init__(self) -> None:
        self._whole: set[str] = set()
        self._first_seen: dict[str, tuple[Look, float]] = {}

    def noticed_whole(self, name: str) -> None:
        """Its writer has closed it, or renamed it into place."""
        self._whole.add(name)

    def forget(self, name: str) -> None:
        """It is gone, or taken, or another one is being made."""
        self._whole.discard(name)
        self._first_seen.pop(name, None)

    def clear(self) -> None:
        self._whole.clear()
        self._first_seen.clear()

    def wait_seconds(
        self, name: str, seen: Look, *, padded: bool, now: float, clock: float
    ) -> float:
        """How long to wait before `name` may be taken as it looks; 0: it may now.

        now: monotonic.  clock: seconds since the epoch, as the file system's times are.
        """
        if name in self._whole:
            return 0.0
        needed = PADDED_SETTLE_SECONDS if padded else SETTLE_SECONDS
        first = self._first_seen.get(name)
        if first is None or first[0] != seen:
            first = self._first_seen[name] = (seen, now)
        unchanged = max(clock - seen.ctime_ns / 1e9, now - first[1])
        return max(0.0, needed - unchanged)
