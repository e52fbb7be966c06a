"""Bytes that are offered again: compared with those stored, and kept aside if they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import crc32c
import structlog

from applier.store import layout
from applier.store.refusals import unreadable
from applier.store.segments import SegmentFiles
from logship.durable import Disk
from logship.errors import Code, LogshipError
from logship.lsn import Lsn

_log = structlog.get_logger(__name__)

_MAX_REFUSED_FILES: Final = 64
"""Spans kept aside as evidence; a sender that goes on must not fill the disk with them."""


class Evidence:
    """Of one store."""

    def __init__(self, disk: Disk, directory: Path, segments: SegmentFiles) -> None:
        self._disk = disk
        self._directory = directory
        self._segments = segments

    def compare(self, timeline: int, start: int, offered: memoryview, held_on: int) -> None:
        """Bytes of `timeline`, with those that are stored for that place as `held_on`'s.

        Raises LogshipError: WAL_CONFLICT, STORE_FAILED.
        """
        if not offered:
            return
        try:
            held = self._segments.stored(held_on, start, len(offered))
        except OSError as error:
            raise unreadable(held_on, start, error) from error
        if held == offered:
            return
        pairs = zip(held, offered, strict=False)
        same_bytes = next((i for i, (a, b) in enumerate(pairs) if a != b), len(held))
        checksum = crc32c.crc32c(offered)
        name = f"{timeline:08X}-{int(start):016X}-{checksum:08X}"
        self.keep_aside(name, bytes(offered))
        place = Lsn(start + same_bytes)
        _log.error(
            "WAL differs from what is stored",
            directory=str(self._directory),
            timeline=timeline,
            lsn=str(place),
            span_bytes=len(offered),
            kept_as=name,
        )
        raise LogshipError(
            Code.WAL_CONFLICT,
            f"the bytes at {place} of timeline {timeline} differ from those stored",
            "nothing was overwritten; the offered bytes are in the store's refused/ directory. "
            "Two servers write the same timeline, or the primary was set back: find out which",
        )

    def keep_aside(self, name: str, content: bytes) -> None:
        """As far as there is room; never raises."""
        directory = self._directory / layout.REFUSED_DIRECTORY
        try:
            self._disk.make_directory(directory)
            names = self._disk.list(directory)
            if name not in names and len(names) < _MAX_REFUSED_FILES:
                self._disk.write_file(directory / name, content)
        except OSError as error:
            _log.warning("refused bytes not kept", name=name, reason=error.strerror)
