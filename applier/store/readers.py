"""The few segment files that are open to be read."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Final

from applier.store import segments
from applier.store.refusals import removed
from logship.durable import Disk
from logship.wal import WalLine

_MAX_READERS: Final = 8


class Readers:
    """Of one store; the caller holds its lock."""

    def __init__(self, disk: Disk, directory: Path, line: WalLine) -> None:
        self._disk = disk
        self._directory = directory
        self._line = line
        self._open: OrderedDict[tuple[int, int], int] = OrderedDict()
        """File descriptors, the one used last at the end."""

    def of(self, timeline: int, start: int) -> int:
        """Of the segment that begins at `start`.  Raises LogshipError(WAL_REMOVED), OSError."""
        key = (timeline, start)
        fd = self._open.get(key)
        if fd is None:
            opened = segments.open_stored(self._disk, self._directory, self._line, timeline, start)
            if opened is None:
                raise removed(timeline, start)
            fd = self._open[key] = opened
            if len(self._open) > _MAX_READERS:
                self._disk.close(self._open.popitem(last=False)[1])
        else:
            self._open.move_to_end(key)
        return fd

    def close(self) -> None:
        for fd in self._open.values():
            self._disk.close(fd)
        self._open.clear()
