"""WAL-like bytes with page headers that pass every check, for any major and segment size.

What lies between the headers is random but a function of (timeline, page): the same position
always has the same bytes, and different timelines have different ones.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping
from functools import lru_cache

from logship.wal import PAGE_MAGIC, WAL_PAGE_BYTES, History, WalLine, segment_start

SYSTEM_IDENTIFIER = 7301234567890123456
MEGABYTE = 1 << 20

_SHORT = struct.Struct("<HHIQI4x")
_LONG = struct.Struct("<HHIQI4xQII")


def wal_line(major: int = 17, segment_bytes: int = MEGABYTE) -> WalLine:
    return WalLine(SYSTEM_IDENTIFIER, major, segment_bytes)


class WalFactory:
    """Makes the WAL of one cluster; timelines fork as `histories` says."""

    def __init__(self, line: WalLine, histories: Mapping[int, History] | None = None) -> None:
        self.line = line
        self.histories = dict(histories or {})

    def wal(self, timeline: int, start: int, end: int) -> bytes:
        """The bytes [start, end) of `timeline`'s own files."""
        first = start - start % WAL_PAGE_BYTES
        pages = [self._page(timeline, page) for page in range(first, end, WAL_PAGE_BYTES)]
        return b"".join(pages)[start - first : end - first]

    def _page(self, timeline: int, address: int) -> bytes:
        history = self.histories.get(timeline)
        if history is not None and history.ancestors:
            parent, fork = history.ancestors[-1]
            copied = min(max(fork - address, 0), WAL_PAGE_BYTES)
            if copied and address >= segment_start(fork, self.line.segment_bytes):
                own = self._own_page(timeline, address)
                return self._page(parent, address)[:copied] + own[copied:]
        return self._own_page(timeline, address)

    def _own_page(self, timeline: int, address: int) -> bytes:
        magic = PAGE_MAGIC[self.line.major]
        if address % self.line.segment_bytes == 0:
            header = _LONG.pack(
                magic,
                2,
                timeline,
                address,
                0,
                self.line.system_identifier,
                self.line.segment_bytes,
                WAL_PAGE_BYTES,
            )
        else:
            header = _SHORT.pack(magic, 0, timeline, address, 0)
        return header + _noise(timeline, address)[len(header) :]


@lru_cache(maxsize=4096)
def _noise(timeline: int, address: int) -> bytes:
    return random.Random(timeline << 64 | address).randbytes(WAL_PAGE_BYTES)
