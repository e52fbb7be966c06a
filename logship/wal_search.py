"""Where in WAL records of one resource manager may be, without walking the records.

Sources: `src/include/access/xlogrecord.h` (XLogRecord), `xlog_internal.h` (XLogPageHeaderData);
the same from 14 to 18.

Records begin at multiples of 8, and so does what a page's end cuts off of one, as page headers
are multiples of 8 too: every eighth byte is taken out of the WAL, and only those are searched.
That costs a fifth of what searching all bytes for a few costs, and hardly a twentieth of walking
small records.  The few finds are then held to what stands before them on their page.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from logship.wal import WAL_PAGE_BYTES

_RMGR_OFFSET: Final = 17  # offsetof(XLogRecord, xl_rmid); two bytes of zeros follow it
_PREVIOUS_OFFSET: Final = 8  # offsetof(XLogRecord, xl_prev)
_PREVIOUS = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")  # xl_tot_len
_PAGE_HEADER = struct.Struct("<2xHIQI")  # xlp_info, xlp_tli, xlp_pageaddr, xlp_rem_len
_FIRST_IS_CONTRECORD: Final = 0x0001  # XLP_FIRST_IS_CONTRECORD
_LONG_HEADER: Final = 0x0002  # XLP_LONG_HEADER
_LONG_HEADER_BYTES: Final = 40  # SizeOfXLogLongPHD
_SHORT_HEADER_BYTES: Final = 24  # SizeOfXLogShortPHD

_FEW: Final = 64
_BYTES_PER_FIND: Final = 1 << 10
"""Where there are more finds than one in so many bytes, they cost more than a search of all of
them for a text."""


def places_of(rmgr: int, lsn: int, data: bytes) -> Iterator[int]:
    """Offsets in `data`, which is WAL from `lsn` on, of what may be the `xl_rmid` of a record of
    resource manager `rmgr`.

    All that there are are among them, those whose record began before `data` or ends behind it
    too.  Of the others there are few: the bytes around have to look like a record's header.
    """
    first = (_RMGR_OFFSET - lsn) % 8
    column = data[first::8]
    at = column.find(rmgr)
    while at >= 0:
        offset = first + 8 * at
        if _is_plausible(lsn, data, offset):
            yield offset
        at = column.find(rmgr, at + 1)


def may_have(rmgr: int, lsn: int, data: bytes) -> bool:
    """Whether `places_of` has any.  True also where so many have to be held to what is around
    them, as with rows of small integers, that looking for what is wanted is cheaper."""
    first = (_RMGR_OFFSET - lsn) % 8
    if data[first::8].count(rmgr) > max(_FEW, len(data) // _BYTES_PER_FIND):
        return True
    return next(places_of(rmgr, lsn, data), None) is not None


def _is_plausible(lsn: int, data: bytes, offset: int) -> bool:
    in_page = (lsn + offset) % WAL_PAGE_BYTES
    if in_page < _SHORT_HEADER_BYTES or any(data[offset + 1 : offset + 3]):
        return False
    page = offset - in_page
    if page < 0 or in_page < _LONG_HEADER_BYTES + _RMGR_OFFSET:
        return True
    start = offset - _RMGR_OFFSET
    previous: int = _PREVIOUS.unpack_from(data, start + _PREVIOUS_OFFSET)[0] - lsn
    before_end: int
    if page <= previous < start:
        before_end = previous + _LENGTH.unpack_from(data, previous)[0]
    else:
        # The first that begins on its page: what is left of the one before ends before it.
        info, _, _, left_bytes = _PAGE_HEADER.unpack_from(data, page)
        before_end = page + (_LONG_HEADER_BYTES if info & _LONG_HEADER else _SHORT_HEADER_BYTES)
        before_end += left_bytes if info & _FIRST_IS_CONTRECORD else 0
    return 0 <= start - before_end < 8  # MAXALIGN
