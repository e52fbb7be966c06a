"""Page checks that no header escapes, however the spans are cut.

`wal.check_pages` sees only headers that lie whole in what it is given.  `PageScan` carries
over from span to span what it takes to check the others: the first bytes of the page that the
written bytes end in, and whether that page has been all zeros so far.
"""

from __future__ import annotations

from typing import NamedTuple

from logship import wal
from logship.durable import Bytes
from logship.errors import Code, LogshipError
from logship.lsn import Lsn

_SHORT_HEADER_BYTES = 24  # SizeOfXLogShortPHD, xlog_internal.h
_LONG_HEADER_BYTES = 40  # SizeOfXLogLongPHD


class PageScan(NamedTuple):
    """State at the end of checked bytes.  The default is right at any page's start."""

    head: bytes = b""
    """First bytes, 40 at most, of the page that the checked bytes end in."""
    empty: bool = True
    """Whether that page is zeros so far."""

    def advance(self, data: Bytes, start: int, timeline: int, line: wal.WalLine) -> PageScan:
        """Check `data`, the bytes at LSN `start` which follow what was checked before.

        Returns the state after them; raises LogshipError as `wal.check_pages` does.
        """
        view = memoryview(data).cast("B")
        page_offset = start % wal.WAL_PAGE_BYTES
        rest = view[: wal.WAL_PAGE_BYTES - page_offset] if page_offset else view[:0]
        first_page = (start - page_offset) % line.segment_bytes == 0
        header_bytes = _LONG_HEADER_BYTES if first_page else _SHORT_HEADER_BYTES
        if rest and page_offset < header_bytes:
            wal.check_pages(self.head + bytes(rest), start - page_offset, timeline, line)
        elif rest and self.empty and not is_zeros(rest):
            raise LogshipError(
                Code.BAD_WAL_PAGE,
                f"WAL page {Lsn(start - page_offset)} has no header and is not empty",
                "the bytes were refused and nothing was stored; "
                "check the primary's WAL with pg_waldump",
            )
        if len(view) > len(rest):
            wal.check_pages(view[len(rest) :], start + len(rest), timeline, line)
        return self._after(view, start)

    def _after(self, view: memoryview, start: int) -> PageScan:
        end = start + len(view)
        page = end - end % wal.WAL_PAGE_BYTES
        if page == end:
            return PageScan()
        if page >= start:
            begun = view[page - start :]
            return PageScan(bytes(begun[:_LONG_HEADER_BYTES]), is_zeros(begun))
        head = self.head + bytes(view[: _LONG_HEADER_BYTES - len(self.head)])
        return PageScan(head, self.empty and is_zeros(view))

    @classmethod
    def resume(cls, page: bytes) -> PageScan:
        """The state at the end of `page`, the bytes of the last page that were checked."""
        return cls(page[:_LONG_HEADER_BYTES], is_zeros(page))


def is_zeros(data: Bytes) -> bool:
    return bytes(data) == bytes(len(data))
