"""Finds CREATE TABLESPACE in WAL as it arrives, without walking its records.

Sources: `src/include/access/xlogrecord.h` (XLogRecord), `src/include/commands/tablespace.h`
(xl_tblspc_create_rec), `rmgrlist.h`; the same from 14 to 18.

Hardly any WAL has what might be a record of that resource manager (`wal_search`).  Where it may
have, what precedes such a record's main data is nine bytes that hardly ever stand together by
chance, so they are searched for, and the record's own CRC proves the find.  Walking all records
would cost many times as much, of every byte that is shipped.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

import crc32c

from logship.wal import WAL_PAGE_BYTES, WalLine
from logship.wal_records import RECORD_HEADER_BYTES, main_data, page_header_bytes
from logship.wal_search import may_have

_RM_TABLESPACE = 5  # RM_TBLSPC_ID

# xl_rmid (RM_TBLSPC_ID), two bytes of padding, xl_crc, and the id of the first header after it:
# of the main data, short or long, or what may stand before those.  No record has blocks.
# Most of it is only looked at: bytes right before it (xl_prev) that happen to match take none of
# it away.
_SIGNATURE = re.compile(rb"\x05\x00\x00(?=.{4}[\xfc-\xff])", re.DOTALL)
_RMGR_OFFSET = 17  # offsetof(XLogRecord, xl_rmid)
_CREATE = 0x00  # XLOG_TBLSPC_CREATE, in xl_info right before it
_INFO_MASK = 0xF0
_RECORD = struct.Struct("<IIQBBxxI")  # xl_tot_len, xl_xid, xl_prev, xl_info, xl_rmid, xl_crc
_CRC_OFFSET = 20  # offsetof(XLogRecord, xl_crc)
_OID = struct.Struct("<I")
_MAX_RECORD_BYTES = RECORD_HEADER_BYTES + 3 + 5 + 5 + _OID.size + 1024  # a path of MAXPGPATH
LOOK_BACK_BYTES = 2 * _MAX_RECORD_BYTES
"""What must be known of the WAL before a place to find a record that began before it: such a
record, and the headers of the pages that it may lie on."""


class TablespaceCreated(NamedTuple):
    """A record that makes a tablespace, and where."""

    start_lsn: int
    oid: int
    location: str
    """The directory as the primary names it: absolute, or "" for one inside of the data
    directory (`allow_in_place_tablespaces`)."""


class TablespaceScan:
    """Looks through WAL that comes in pieces of any size.

    A record is found with the piece that completes it.  A piece that does not go on where the
    last one ended is looked at by itself: `prime` with what lies before it.
    """

    def __init__(self, line: WalLine) -> None:
        self._line = line
        self._next_lsn = -1
        self._end = b""
        """Of what was fed: a record that is not whole yet, or not all of its pages' headers,
        begins in it."""
        self._found_up_to = -1

    def follows(self, lsn: int) -> bool:
        """Whether WAL from `lsn` on goes on with what was fed last."""
        return lsn == self._next_lsn

    def prime(self, lsn: int, data: bytes) -> None:
        """Begin anew with WAL from `lsn` on, of which nothing is reported that is whole in it."""
        self._end, self._found_up_to = b"", -1
        self._next_lsn = lsn
        self.feed(lsn, data)

    def feed(self, lsn: int, data: bytes | bytearray | memoryview) -> list[TablespaceCreated]:
        """The records that are complete with these bytes, in order."""
        if lsn != self._next_lsn:
            self._end = b""
        before, new = self._end, bytes(data)
        before_lsn = lsn - len(before)
        found: list[TablespaceCreated] = []
        if may_have(_RM_TABLESPACE, lsn, new) or may_have(_RM_TABLESPACE, before_lsn, before):
            found = self._look(before_lsn, before + new)
        self._next_lsn = lsn + len(new)
        self._end = (before + new[-LOOK_BACK_BYTES:])[-LOOK_BACK_BYTES:]
        return found

    def _look(self, lsn: int, data: bytes) -> list[TablespaceCreated]:
        """Those among the records in `data` that were not found before."""
        places, pieces, size = [], [], 0
        for address, piece in _payloads(lsn, data, self._line.segment_bytes):
            places.append((size, address))
            pieces.append(piece)
            size += len(piece)
        records = self._records(b"".join(pieces), places)
        found = [record for record in records if record.start_lsn > self._found_up_to]
        if found:
            self._found_up_to = found[-1].start_lsn
        return found

    def _records(self, text: bytes, places: list[tuple[int, int]]) -> Iterator[TablespaceCreated]:
        """text: WAL without page headers.  places: (offset in it, LSN) where each page's bytes
        begin."""
        for match in _SIGNATURE.finditer(text):
            start = match.start() - _RMGR_OFFSET
            if start < 0 or text[match.start() - 1] & _INFO_MASK != _CREATE:
                continue
            record = self._whole_record(text, start)
            if record is None:
                continue
            main = main_data(record, len(record), self._line.major)
            if main is None or len(main) <= _OID.size:
                continue
            location = main[_OID.size :].partition(b"\0")[0]
            yield TablespaceCreated(
                _lsn_of(start, places),
                _OID.unpack_from(main)[0],
                location.decode("utf-8", "surrogateescape"),
            )

    def _whole_record(self, text: bytes, start: int) -> bytes | None:
        """The record at `start`, if it is there to its end and its CRC is right."""
        size, _, _, _, _, crc = _RECORD.unpack_from(text, start)
        if not RECORD_HEADER_BYTES < size <= _MAX_RECORD_BYTES or start + size > len(text):
            return None
        record = text[start : start + size]
        # COMP_CRC32C of what follows the header, then of the header up to the CRC.
        made = crc32c.crc32c(record[:_CRC_OFFSET], crc32c.crc32c(record[RECORD_HEADER_BYTES:]))
        return record if made == crc else None


def _lsn_of(offset: int, places: list[tuple[int, int]]) -> int:
    at, lsn = places[bisect_right(places, (offset, 1 << 64)) - 1]
    return lsn + offset - at


def _payloads(
    lsn: int, data: bytes | bytearray | memoryview, segment_bytes: int
) -> Iterator[tuple[int, memoryview]]:
    """(LSN, bytes) of what lies between the page headers."""
    view = memoryview(data)
    offset, end = 0, len(view)
    while offset < end:
        address = lsn + offset
        in_page = address % WAL_PAGE_BYTES
        header_bytes = page_header_bytes(address - in_page, segment_bytes)
        if in_page < header_bytes:
            offset += header_bytes - in_page
            continue
        stop = min(end, offset + WAL_PAGE_BYTES - in_page)
        yield address, view[offset:stop]
        offset = stop
