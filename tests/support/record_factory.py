"""WAL made of whole records: laid over pages and segments as PostgreSQL's insertion does it."""

from __future__ import annotations

import struct
from typing import NamedTuple

import crc32c

from logship.wal import PAGE_MAGIC, WAL_PAGE_BYTES, WalLine, segment_end
from logship.wal_records import POSTGRES_EPOCH_MICROSECONDS, Kind, Mark
from logship.wal_tablespaces import TablespaceCreated

RM_XLOG, RM_XACT, RM_TABLESPACE, RM_HEAP = 0, 1, 5, 10
_SHORT = struct.Struct("<HHIQI4x")
_LONG = struct.Struct("<HHIQI4xQII")
_RECORD = struct.Struct("<IIQBBxxI")
_CRC_OFFSET = 20


class Written(NamedTuple):
    start_lsn: int
    end_lsn: int


class RecordFactory:
    """Writes records one after the other from `start`, a page's start, on."""

    def __init__(self, line: WalLine, start: int, *, timeline: int = 1) -> None:
        self.line = line
        self.start = start
        self.data = bytearray()
        """All WAL from `start` on, up to the end of the last record."""
        self._timeline = timeline
        self._previous = 0

    @property
    def end(self) -> int:
        return self.start + len(self.data)

    def record(self, rmgr: int, info: int, body: bytes) -> Written:
        """Append a record; body: all that follows the record's own header."""
        self._align()
        if self.end % WAL_PAGE_BYTES == 0:
            self._page(0)
        start = self.end
        size = _RECORD.size + len(body)
        head = _RECORD.pack(size, 0, self._previous, info, rmgr, 0)
        # Of what follows the header, then of the header up to the CRC (`XLogRecordAssemble`).
        crc = crc32c.crc32c(head[:_CRC_OFFSET], crc32c.crc32c(body))
        left = head[:_CRC_OFFSET] + struct.pack("<I", crc) + body
        while left:
            if self.end % WAL_PAGE_BYTES == 0:
                self._page(len(left))
            taken = left[: WAL_PAGE_BYTES - self.end % WAL_PAGE_BYTES]
            self.data += taken
            left = left[len(taken) :]
        self._align()
        self._previous = start
        return Written(start, self.end)

    def filler(self, size_bytes: int) -> Written:
        """A record of a resource manager that tells nothing, with so many bytes of main data."""
        return self.record(RM_HEAP, 0, data_header(size_bytes) + bytes(size_bytes))

    def fill_to(self, position: int) -> None:
        """Have the next record begin at `position`, a multiple of 8 outside of page headers, at
        least 100 bytes ahead."""
        while position - self.end > 4 * WAL_PAGE_BYTES:
            self.filler(2 * WAL_PAGE_BYTES)
        first = -(-self.end // WAL_PAGE_BYTES) * WAL_PAGE_BYTES
        headers_bytes = sum(
            _SHORT.size if page % self.line.segment_bytes else _LONG.size
            for page in range(first, position, WAL_PAGE_BYTES)
        )
        size_bytes = position - self.end - headers_bytes
        more = size_bytes - _RECORD.size
        self.filler(more - 2 if more - 2 < 256 else more - 5)
        assert self.end == position

    def commit(self, time: int, *, before: bytes = b"", more_bytes: int = 0) -> Mark:
        """time: Unix microseconds.  before: headers in front of the main data's."""
        main = struct.pack("<q", time - POSTGRES_EPOCH_MICROSECONDS) + bytes(more_bytes)
        written = self.record(RM_XACT, 0x80, before + data_header(len(main)) + main)
        return Mark(Kind.COMMIT, written.start_lsn, written.end_lsn, time)

    def restore_point(self, time: int, name: str) -> Mark:
        fields = struct.pack("<q64s", time - POSTGRES_EPOCH_MICROSECONDS, name.encode())
        written = self.record(RM_XLOG, 0x70, data_header(len(fields)) + fields)
        return Mark(Kind.RESTORE_POINT, written.start_lsn, written.end_lsn, time, name)

    def create_tablespace(
        self, oid: int, location: bytes, *, before: bytes = b""
    ) -> TablespaceCreated:
        """before: headers in front of the main data's."""
        main = struct.pack("<I", oid) + location + b"\0"
        written = self.record(RM_TABLESPACE, 0x00, before + data_header(len(main)) + main)
        shown = location.decode("utf-8", "surrogateescape")
        return TablespaceCreated(written.start_lsn, oid, shown)

    def drop_tablespace(self, oid: int) -> None:
        self.record(RM_TABLESPACE, 0x10, data_header(4) + struct.pack("<I", oid))

    def switch(self) -> Mark:
        """End the segment, its padding zeros, page headers and all."""
        written = self.record(RM_XLOG, 0x40, b"")
        end = segment_end(written.end_lsn - 1, self.line.segment_bytes)
        self.data += bytes(end - self.end)
        return Mark(Kind.SWITCH, written.start_lsn, end)

    def crash_inside(self, size_bytes: int) -> None:
        """Begin a record that goes over a page's end, and overwrite its rest, as a server does
        after a crash (XLP_FIRST_IS_OVERWRITE_CONTRECORD)."""
        previous = self._previous
        begun = self.filler(size_bytes)
        page = begun.start_lsn - begun.start_lsn % WAL_PAGE_BYTES + WAL_PAGE_BYTES
        assert page < begun.end_lsn
        del self.data[page - self.start :]
        self._previous = previous
        self._page(0, flags=0x0008)

    def _align(self) -> None:
        self.data += bytes(-len(self.data) % 8)

    def _page(self, left_bytes: int, flags: int = 0) -> None:
        flags |= 0x0001 if left_bytes else 0
        magic, address = PAGE_MAGIC[self.line.major], self.end
        if address % self.line.segment_bytes == 0:
            tail = (self.line.system_identifier, self.line.segment_bytes, WAL_PAGE_BYTES)
            head = (magic, flags | 0x0002, self._timeline, address, left_bytes)
            self.data += _LONG.pack(*head, *tail)
        else:
            self.data += _SHORT.pack(magic, flags, self._timeline, address, left_bytes)


def data_header(size_bytes: int) -> bytes:
    """XLogRecordDataHeaderShort or Long."""
    return (
        struct.pack("<BB", 255, size_bytes)
        if size_bytes < 256
        else struct.pack("<BI", 254, size_bytes)
    )
