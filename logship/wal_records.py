"""WAL records: where each begins and ends, and the few that tell a time or a name.

Sources: `src/include/access/xlogrecord.h` (XLogRecord, block and data headers),
`xlog_internal.h` (page headers, xl_restore_point, xl_end_of_recovery), `xact.h` (xl_xact_commit,
xl_xact_abort), `rmgrlist.h`, `src/include/catalog/pg_control.h` (XLOG_* and CheckPoint), and
`src/backend/access/transam/xlogreader.c`, which this follows.  All of it is the same from 14 to
18, but for the flags of a compressed block image.

Records are walked by their headers: nothing but the marks is looked into, and no record's CRC is
checked (a store's bytes have checksums of their own); that each record names the one before it
(`xl_prev`), and each page what is left of a record, is: no stale or damaged bytes are taken for
records.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from logship.lsn import Lsn
from logship.wal import PAGE_MAGIC, WAL_PAGE_BYTES, WalLine, segment_end

RECORD_HEADER_BYTES = 24
"""SizeOfXLogRecord."""
MAX_RECORD_BYTES = 1020 << 20
"""XLogRecordMaxSize (16 and later); earlier ones are bound by palloc's 1 GB, in practice less."""

_FIRST_IS_CONTRECORD = 0x0001  # XLP_FIRST_IS_CONTRECORD
_LONG_HEADER = 0x0002  # XLP_LONG_HEADER
_OVERWRITES_CONTRECORD = 0x0008  # XLP_FIRST_IS_OVERWRITE_CONTRECORD
_PAGE_HEADER = struct.Struct("<HHIQI")  # magic, info, tli, pageaddr, rem_len
_SHORT_HEADER_BYTES = 24  # SizeOfXLogShortPHD
_LONG_HEADER_BYTES = 40  # SizeOfXLogLongPHD

_RECORD = struct.Struct("<IIQBB")  # xl_tot_len, xl_xid, xl_prev, xl_info, xl_rmid
_LENGTH = struct.Struct("<I")

_RM_XLOG, _RM_XACT = 0, 1  # rmgrlist.h: RM_XLOG_ID, RM_XACT_ID

_ORIGIN = 253  # XLR_BLOCK_ID_ORIGIN
_TOPLEVEL_XID = 252  # XLR_BLOCK_ID_TOPLEVEL_XID
_DATA_LONG, _DATA_SHORT = 254, 255  # XLR_BLOCK_ID_DATA_LONG, _SHORT
_MAX_BLOCK_ID = 32  # XLR_MAX_BLOCK_ID
_HAS_IMAGE, _SAME_RELATION = 0x10, 0x80  # BKPBLOCK_HAS_IMAGE, BKPBLOCK_SAME_REL
_IMAGE_HAS_HOLE = 0x01  # BKPIMAGE_HAS_HOLE
_IMAGE_COMPRESSED_14 = 0x02  # BKPIMAGE_IS_COMPRESSED, 14
_IMAGE_COMPRESSED = 0x04 | 0x08 | 0x10  # BKPIMAGE_COMPRESS_PGLZ, _LZ4, _ZSTD: 15 and later

_PREFIX_BYTES = 2048
"""What is kept of a record that goes over a page's end: 33 block headers of 27 bytes, the other
headers, and the largest main data that is looked into (a restore point's, 72 bytes)."""

_TIME = struct.Struct("<q")
_CHECKPOINT_TIME_OFFSET = 64  # offsetof(CheckPoint, time), seconds; a server's 64-bit build
_NAME_BYTES = 64  # MAXFNAMELEN
POSTGRES_EPOCH_MICROSECONDS = 946_684_800_000_000
"""2000-01-01 00:00:00 UTC in Unix time, from where a TimestampTz counts."""


class Kind(Enum):
    """What a mark is."""

    COMMIT = "commit"
    ABORT = "abort"
    RESTORE_POINT = "restore point"
    SWITCH = "switch"
    CHECKPOINT = "checkpoint"
    END_OF_RECOVERY = "end of recovery"


class Mark(NamedTuple):
    """A record that tells something."""

    kind: Kind
    start_lsn: int
    end_lsn: int
    """Where the next record may start, after padding: `XLogReaderState.EndRecPtr`."""
    time: int | None = None
    """Microseconds since 1970-01-01 UTC, by the primary's clock; None: it can't be read."""
    name: str = ""
    """A restore point's."""


# By rmgr and info (`XLR_RMGR_INFO_MASK`, of transactions `XLOG_XACT_OPMASK`: without the bit
# that says whether more information follows).
_XLOG_KINDS = {
    0x00: Kind.CHECKPOINT,  # XLOG_CHECKPOINT_SHUTDOWN
    0x10: Kind.CHECKPOINT,  # XLOG_CHECKPOINT_ONLINE
    0x40: Kind.SWITCH,  # XLOG_SWITCH
    0x70: Kind.RESTORE_POINT,  # XLOG_RESTORE_POINT
    0x90: Kind.END_OF_RECOVERY,  # XLOG_END_OF_RECOVERY
}
_XACT_KINDS = {
    0x00: Kind.COMMIT,  # XLOG_XACT_COMMIT
    0x20: Kind.ABORT,  # XLOG_XACT_ABORT
    0x30: Kind.COMMIT,  # XLOG_XACT_COMMIT_PREPARED
    0x40: Kind.ABORT,  # XLOG_XACT_ABORT_PREPARED
}


def _kinds() -> list[list[Kind | None]]:
    return [
        [_XLOG_KINDS.get(info & 0xF0) for info in range(256)],
        [_XACT_KINDS.get(info & 0x70) for info in range(256)],
    ]


_KINDS = _kinds()


def transaction_kind(info: int) -> Kind | None:
    """What a record of transactions with that `xl_info` marks."""
    return _KINDS[_RM_XACT][info]


class RecordWalk:
    """Walks the records of contiguous WAL from a page's start on, in pieces of any size.

    It falls into step at the first record that begins in what it is given: where the first page
    starts with the rest of a record, or lies in the padding after a segment switch, that is
    passed over.
    """

    def __init__(self, line: WalLine, start: int, *, until: int = 1 << 64) -> None:
        """start: a page's start.  until: the first record that ends there or later is the last.

        Raises ValueError for another place, or an unknown major.
        """
        if start % WAL_PAGE_BYTES:
            raise ValueError(f"{Lsn(start)} is not the start of a WAL page")
        if line.major not in PAGE_MAGIC:
            raise ValueError(f"PostgreSQL {line.major} is not supported")
        self.first_start: Lsn | None = None
        """Where the first record begins, if any does: what lies before it is the rest of one."""
        self.end: Lsn | None = None
        """End of the last whole record, where the next one may start; None: none yet."""
        self.last_start: Lsn | None = None
        """Start of the last whole record."""
        self.stopped = ""
        """Why nothing more is read: no records follow here ("the end"), `until` was reached, or
        what is wrong."""
        self.stopped_at: Lsn | None = None
        """Where that is."""
        self._line = line
        self._until = until
        self._magic = PAGE_MAGIC[line.major]
        self._address = start
        """Of the first byte that was not walked: a page's start."""
        self._rest = b""
        """The bytes of an incomplete page from there."""
        self._skip_to = 0
        """Padding after a segment switch reaches to here."""
        self._pending: _Pending | None = None

    @property
    def is_in_record(self) -> bool:
        """Whether a record has begun of which more is to come."""
        return self._pending is not None and not self.stopped

    def feed(self, data: bytes | bytearray | memoryview) -> list[Mark]:
        """The marks in the next bytes, in order.  The whole pages are walked, what is left over
        waits for more."""
        marks: list[Mark] = []
        if self._rest:
            data = self._rest + bytes(data)
        size = len(data)
        whole = size - size % WAL_PAGE_BYTES
        offset = 0
        while offset < whole and not self.stopped:
            offset = self._page(data, offset, offset + WAL_PAGE_BYTES, marks)
        self._rest = b"" if self.stopped else bytes(data[whole:])
        return marks

    def finish(self) -> list[Mark]:
        """The marks in the last, incomplete page.  Nothing may be fed after this."""
        marks: list[Mark] = []
        rest, self._rest = self._rest, b""
        if len(rest) >= _SHORT_HEADER_BYTES and not self.stopped:
            self._page(rest, 0, len(rest), marks)
        return marks

    def _stop(self, why: str, address: int) -> None:
        self.stopped_at = Lsn(address)
        self.stopped = f"{why} at {self.stopped_at}"

    def _page(
        self, data: bytes | bytearray | memoryview, offset: int, limit: int, marks: list[Mark]
    ) -> int:
        """Walk the page at `offset`, of which the bytes below `limit` are there."""
        address = self._address
        self._address += WAL_PAGE_BYTES
        after = offset + WAL_PAGE_BYTES
        if address < self._skip_to:
            return after
        magic, info, _, page_address, left = _PAGE_HEADER.unpack_from(data, offset)
        first_of_segment = address % self._line.segment_bytes == 0
        if magic != self._magic or page_address != address:
            self._no_page(magic, address, first_of_segment)
            return after
        if bool(info & _LONG_HEADER) != first_of_segment:
            self._stop("a page header of the wrong length", address)
            return after
        begin = offset + (_LONG_HEADER_BYTES if first_of_segment else _SHORT_HEADER_BYTES)
        continues = info & _FIRST_IS_CONTRECORD != 0
        pending = self._pending
        if pending is not None and not continues and info & _OVERWRITES_CONTRECORD:
            # The server crashed in the middle of that record and wrote on here
            # (XLOG_OVERWRITE_CONTRECORD): it never was one.
            self._pending = pending = None
        if pending is not None:
            if not continues or left != pending.left_bytes:
                self._stop("a page that does not go on with the record before it", address)
                return after
            begin = self._go_on(pending, data, begin, limit, address - offset, marks)
        elif continues:
            if self.last_start is not None:
                self._stop("a page that goes on with no record", address)
                return after
            if begin + left > after:
                return after
            begin = (begin + left + 7) & ~7
        if 0 <= begin < limit and not self.stopped:
            self._records(data, begin, limit, after, address - offset, marks)
        return after

    def _no_page(self, magic: int, address: int, first_of_segment: bool) -> None:
        begun = self.last_start is not None or self._pending is not None
        if magic == 0 and not begun and not first_of_segment:
            return  # in a segment's padding
        if magic == 0:
            self._stop("the end", address)
        else:
            self._stop("a page that is none", address)

    def _records(
        self,
        data: bytes | bytearray | memoryview,
        begin: int,
        limit: int,
        page_end: int,
        base: int,
        marks: list[Mark],
    ) -> None:
        """Walk the records that begin in a page.  base + offset is an LSN."""
        unpack, kinds = _RECORD.unpack_from, _KINDS
        previous: int | None = self.last_start
        offset = begin
        if self.first_start is None:
            self.first_start = Lsn(base + begin)
        last_whole = min(limit - RECORD_HEADER_BYTES, self._until - base - 1)
        while offset <= last_whole:
            size, _, said, info, rmgr = unpack(data, offset)
            if not RECORD_HEADER_BYTES <= size <= MAX_RECORD_BYTES:
                self._bad_size(size, base + offset)
                break
            if said != previous and (previous is not None or said >= base + offset):
                self._stop("a record that does not follow the one before it", base + offset)
                break
            end = offset + size
            if end > limit:
                break
            previous = base + offset
            offset = (end + 7) & ~7  # MAXALIGN
            if rmgr < 2 and (kind := kinds[rmgr][info]) is not None:
                record = bytes(data[end - size : min(end, end - size + _PREFIX_BYTES)])
                self._keep(previous, base + offset)
                self._mark(kind, record, size, previous, marks)
                if kind is Kind.SWITCH:
                    return
        if offset != begin and previous is not None:
            self._keep(previous, base + offset)
        if base + offset >= self._until and not self.stopped:
            self._stop("as far as wanted", base + offset)
        if offset < page_end == limit and not self.stopped:
            self._begin(data, offset, page_end, base + offset)

    def _begin(
        self, data: bytes | bytearray | memoryview, offset: int, page_end: int, start: int
    ) -> None:
        """A record that begins in this page and goes on in the next."""
        (size,) = _LENGTH.unpack_from(data, offset)
        got = page_end - offset
        if not RECORD_HEADER_BYTES <= size <= MAX_RECORD_BYTES or got >= size:
            self._bad_size(size, start)
            return
        prefix = bytes(data[offset : min(page_end, offset + _PREFIX_BYTES)])
        self._pending = _Pending(start, size, size - got, prefix)

    def _bad_size(self, size: int, start: int) -> None:
        self._stop(f"a record of {size} bytes" if size else "the end", start)

    def _keep(self, start: int, end: int) -> None:
        self.last_start, self.end = Lsn(start), Lsn(end)

    def _go_on(
        self,
        pending: _Pending,
        data: bytes | bytearray | memoryview,
        begin: int,
        limit: int,
        base: int,
        marks: list[Mark],
    ) -> int:
        """Take what a page has of a record that began before it; returns where the next record
        begins, -1 if none does in these bytes."""
        wanted = _PREFIX_BYTES - len(pending.prefix)
        stop = min(begin + pending.left_bytes, limit)
        if wanted > 0:
            pending.prefix += bytes(data[begin : min(stop, begin + wanted)])
        if stop - begin < pending.left_bytes:
            pending.left_bytes -= stop - begin
            return -1
        self._pending = None
        _, _, previous_said, info, rmgr = _RECORD.unpack_from(pending.prefix)
        previous: int | None = self.last_start
        wrong = previous_said >= pending.start if previous is None else previous_said != previous
        if wrong:
            self._stop("a record that does not follow the one before it", pending.start)
            return -1
        offset = (stop + 7) & ~7
        self._keep(pending.start, base + offset)
        if rmgr < 2 and (kind := _KINDS[rmgr][info]) is not None:
            self._mark(kind, bytes(pending.prefix), pending.size, pending.start, marks)
            if kind is Kind.SWITCH:
                return -1
        return offset

    def _mark(self, kind: Kind, record: bytes, size: int, start: int, marks: list[Mark]) -> None:
        """Note a record of which at least the first _PREFIX_BYTES are there."""
        assert self.end is not None
        if kind is Kind.SWITCH:
            # What is left of the segment is padding; a record that ends with it needs none.
            self._skip_to = segment_end(self.end - 1, self._line.segment_bytes)
            self.end = Lsn(self._skip_to)
            marks.append(Mark(kind, start, self._skip_to))
            return
        time: int | None = None
        name = ""
        main = main_data(record, size, self._line.major)
        if main is None or len(main) < _TIME.size:
            pass
        elif kind is Kind.CHECKPOINT:
            if len(main) >= _CHECKPOINT_TIME_OFFSET + _TIME.size:
                time = _TIME.unpack_from(main, _CHECKPOINT_TIME_OFFSET)[0] * 1_000_000
        else:
            time = _TIME.unpack_from(main)[0] + POSTGRES_EPOCH_MICROSECONDS
            if kind is Kind.RESTORE_POINT:
                raw = main[_TIME.size : _TIME.size + _NAME_BYTES]
                name = raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        marks.append(Mark(kind, start, int(self.end), time, name))


class _Pending:
    """A record that goes on in the next page."""

    __slots__ = ("left_bytes", "prefix", "size", "start")

    def __init__(self, start: int, size: int, left_bytes: int, prefix: bytes) -> None:
        self.start = start
        self.size = size
        self.left_bytes = left_bytes
        self.prefix = bytearray(prefix)


def main_data(record: bytes, size: int, major: int) -> bytes | None:
    """The main data of a record of `size` bytes, of which `record` has the first ones.

    None where the headers say what can't be (`DecodeXLogRecord`), or it lies behind what is
    there; cut where `record` is.  b"": it has none.
    """
    offset = RECORD_HEADER_BYTES
    data_bytes = 0
    try:
        # Headers go on until what they announce fills the rest of the record.
        while offset + data_bytes < size:
            block = record[offset]
            if block in (_DATA_SHORT, _DATA_LONG):
                long = block == _DATA_LONG
                main_bytes = (
                    _LENGTH.unpack_from(record, offset + 1)[0] if long else record[offset + 1]
                )
                offset += 5 if long else 2
                if offset + data_bytes + main_bytes != size:
                    return None
                start = offset + data_bytes
                return None if start > len(record) else record[start:size]
            if block == _ORIGIN:
                offset += 3
            elif block == _TOPLEVEL_XID:
                offset += 5
            elif block <= _MAX_BLOCK_ID:
                header_bytes, block_bytes = _block_header(record, offset, major)
                offset += header_bytes
                data_bytes += block_bytes
            else:
                return None
    except (IndexError, struct.error):
        return None
    return b"" if offset + data_bytes == size else None


def _block_header(record: bytes, offset: int, major: int) -> tuple[int, int]:
    """(bytes of the block header at `offset`, bytes of the data and image that it announces)."""
    _, flags, data_bytes = struct.unpack_from("<BBH", record, offset)
    header_bytes = 4
    if flags & _HAS_IMAGE:
        image_bytes, _, image = struct.unpack_from("<HHB", record, offset + header_bytes)
        header_bytes += 5
        data_bytes += image_bytes
        compressed = image & (_IMAGE_COMPRESSED_14 if major < 15 else _IMAGE_COMPRESSED)
        if image & _IMAGE_HAS_HOLE and compressed:
            header_bytes += 2
    if not flags & _SAME_RELATION:
        header_bytes += 12  # RelFileLocator: three OIDs
    return header_bytes + 4, data_bytes  # BlockNumber


def marks_in(
    pieces: Iterable[bytes | memoryview], line: WalLine, start: int
) -> tuple[list[Mark], RecordWalk]:
    """All marks in contiguous WAL from `start`, a page's start, and the walk at its end."""
    walk = RecordWalk(line, start)
    marks: list[Mark] = []
    for piece in pieces:
        marks += walk.feed(piece)
        if walk.stopped:
            break
    marks += walk.finish()
    return marks, walk


def record_end(position: int, segment_bytes: int) -> Lsn:
    """Where the record before `position` ended, which may be the start of one: between the two
    lies a page's header if the record filled its page."""
    offset = position % WAL_PAGE_BYTES
    header_bytes = page_header_bytes(position - offset, segment_bytes)
    return Lsn(position - offset if offset == header_bytes else position)


def page_header_bytes(page: int, segment_bytes: int) -> int:
    """Size of the header of the page that begins at `page`: a segment's first has a long one."""
    return _SHORT_HEADER_BYTES if page % segment_bytes else _LONG_HEADER_BYTES
