"""The write-ahead log's files and pages, as PostgreSQL lays them out.

Sources: `src/include/access/xlog_internal.h` (segment names, page headers, magic numbers),
`src/backend/access/transam/timeline.c` (history files).  Segment size is always a parameter:
1 MiB to 1 GiB, a power of two, chosen by `initdb --wal-segsize`.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from logship.errors import Code, LogshipError
from logship.lsn import Lsn

WAL_PAGE_BYTES = 8192
"""XLOG_BLCKSZ as every packaged PostgreSQL is built; others are refused by the version check."""

MIN_SEGMENT_BYTES = 1 << 20
MAX_SEGMENT_BYTES = 1 << 30

PAGE_MAGIC = {14: 0xD10D, 15: 0xD110, 16: 0xD113, 17: 0xD116, 18: 0xD118}
"""XLOG_PAGE_MAGIC of each supported major (`xlog_internal.h` on each release branch)."""

_LONG_HEADER_FLAG = 0x0002  # XLP_LONG_HEADER
_SHORT_HEADER = struct.Struct("<HHIQI")  # magic, info, tli, pageaddr, rem_len
_LONG_HEADER = struct.Struct("<HHIQI4xQII")  # …, sysid, seg_size, xlog_blcksz

_SEGMENT_NAME = re.compile(r"\A([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})\Z")
_HISTORY_NAME = re.compile(r"\A([0-9A-F]{8})\.history\Z")
_HISTORY_LINE = re.compile(rb"([0-9]{1,10})\s+([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})(?:\s|\Z)")


def check_segment_size(segment_bytes: int) -> int:
    """Return `segment_bytes` if PostgreSQL can have it, else raise ValueError."""
    in_range = MIN_SEGMENT_BYTES <= segment_bytes <= MAX_SEGMENT_BYTES
    if not in_range or segment_bytes & (segment_bytes - 1):
        raise ValueError(f"not a WAL segment size: {segment_bytes}")
    return segment_bytes


def segment_start(lsn: int, segment_bytes: int) -> Lsn:
    """First position of the segment that holds `lsn`."""
    return Lsn(lsn - lsn % segment_bytes)


def segment_end(lsn: int, segment_bytes: int) -> Lsn:
    """First position after the segment that holds `lsn`."""
    return Lsn(segment_start(lsn, segment_bytes) + segment_bytes)


def segment_name(timeline: int, lsn: int, segment_bytes: int) -> str:
    """File name of the segment that holds `lsn` (`XLogFileName`)."""
    number = lsn // segment_bytes
    per_id = (1 << 32) // segment_bytes
    return f"{timeline:08X}{number // per_id:08X}{number % per_id:08X}"


def parse_segment_name(name: str, segment_bytes: int) -> tuple[int, Lsn]:
    """(timeline, start LSN) of a complete segment's file name.  Raises ValueError."""
    match = _SEGMENT_NAME.match(name)
    if match is None:
        raise ValueError(f"not a WAL segment name: {name!r}")
    timeline, high, low = (int(part, 16) for part in match.groups())
    per_id = (1 << 32) // segment_bytes
    if timeline == 0 or low >= per_id:
        raise ValueError(f"no such WAL segment with {segment_bytes}-byte segments: {name!r}")
    return timeline, Lsn((high * per_id + low) * segment_bytes)


def history_name(timeline: int) -> str:
    """File name of a timeline's history (`TLHistoryFileName`)."""
    return f"{timeline:08X}.history"


def parse_history_name(name: str) -> int:
    """Timeline of a history file's name.  Raises ValueError."""
    match = _HISTORY_NAME.match(name)
    if match is None:
        raise ValueError(f"not a timeline history name: {name!r}")
    return int(match[1], 16)


class WalLine(NamedTuple):
    """What every page of one incarnation's WAL must say of itself."""

    system_identifier: int
    major: int
    segment_bytes: int


def check_pages(
    data: bytes | bytearray | memoryview, start: int, timeline: int, line: WalLine
) -> None:
    """Check each page header that lies wholly in `data`, WAL bytes from LSN `start`.

    Compares magic, page address, timeline (a page may carry an older one: a new timeline's
    first segment begins as a copy of its parent's) and, on a segment's first page, system
    identifier, segment and page size.  A page header of zeros is legal after an
    XLOG_SWITCH record, whose padding PostgreSQL zeroes headers and all (`CopyXLogRecordToWAL`),
    but never on a segment's first page and only if what follows in that page is zero as well.

    Raises LogshipError(BAD_WAL_PAGE) that names the page.
    """
    view = memoryview(data)
    magic_wanted = PAGE_MAGIC.get(line.major)
    if magic_wanted is None:
        raise _bad_page(start, f"PostgreSQL {line.major} is not supported")
    offset = -start % WAL_PAGE_BYTES
    size = len(view)
    while offset + _SHORT_HEADER.size <= size:
        address = start + offset
        magic, info, page_timeline, page_address, _ = _SHORT_HEADER.unpack_from(view, offset)
        first_of_segment = address % line.segment_bytes == 0
        if magic == 0 and not first_of_segment:
            page = view[offset : offset + WAL_PAGE_BYTES]
            if page_address or page_timeline or info or bytes(page) != bytes(len(page)):
                raise _bad_page(address, "a page without a header is not empty")
        elif magic != magic_wanted:
            raise _bad_page(
                address, f"magic {magic:04X}, PostgreSQL {line.major} writes {magic_wanted:04X}"
            )
        elif page_address != address:
            raise _bad_page(address, f"it says it is page {Lsn(page_address)}")
        elif not 1 <= page_timeline <= timeline:
            raise _bad_page(address, f"it is of timeline {page_timeline}, not {timeline}")
        elif first_of_segment or info & _LONG_HEADER_FLAG:
            _check_long_header(view, offset, address, info, line)
        offset += WAL_PAGE_BYTES


def was_never_written(page: bytes, start: int, line: WalLine) -> bool:
    """Whether the segment from LSN `start`, whose first page this is, was only to be written.

    PostgreSQL renames old segments to names that are to come, and makes new ones of zeros
    (`InstallXLogFileSegment`, `XLogFileInitInternal` in xlog.c); a segment's first page is the
    first that is written of it.  False for whatever is not clearly one of the two.
    """
    if len(page) < WAL_PAGE_BYTES:
        return False
    if not any(page):
        return True
    _, _, timeline, address, _ = _SHORT_HEADER.unpack_from(page)
    try:
        check_pages(page, address, timeline, line)
    except LogshipError:
        return False
    return bool(address < start and address % line.segment_bytes == 0)


def _check_long_header(
    view: memoryview, offset: int, address: int, info: int, line: WalLine
) -> None:
    if not info & _LONG_HEADER_FLAG:
        raise _bad_page(address, "a segment's first page has no long header")
    if address % line.segment_bytes:
        raise _bad_page(address, "a long header in mid-segment")
    if offset + _LONG_HEADER.size > len(view):
        return
    *_, system_identifier, segment_bytes, page_bytes = _LONG_HEADER.unpack_from(view, offset)
    if system_identifier != line.system_identifier:
        raise LogshipError(
            Code.SYSTEM_IDENTIFIER_MISMATCH,
            f"WAL page {Lsn(address)} is of cluster {system_identifier}, "
            f"not {line.system_identifier}",
            "check which server this shipper reads from",
        )
    if segment_bytes != line.segment_bytes or page_bytes != WAL_PAGE_BYTES:
        raise _bad_page(
            address,
            f"segments of {segment_bytes} and pages of {page_bytes} bytes, "
            f"expected {line.segment_bytes} and {WAL_PAGE_BYTES}",
        )


def _bad_page(address: int, why: str) -> LogshipError:
    return LogshipError(
        Code.BAD_WAL_PAGE,
        f"WAL page {Lsn(address)} is not what was expected: {why}",
        "the bytes were refused and nothing was stored; check the primary's WAL with pg_waldump",
    )


class HistoryEntry(NamedTuple):
    """One ancestor in a history file: `timeline` ended at `end_lsn` (exclusive)."""

    timeline: int
    end_lsn: Lsn


class History(NamedTuple):
    """A parsed `.history` file: how `timeline` descends from its ancestors, oldest first."""

    timeline: int
    ancestors: tuple[HistoryEntry, ...]

    def end_of(self, timeline: int) -> Lsn | None:
        """Where `timeline` ended on this line of descent; None for the newest or a stranger."""
        for entry in self.ancestors:
            if entry.timeline == timeline:
                return entry.end_lsn
        return None

    def contains(self, timeline: int) -> bool:
        return timeline == self.timeline or self.end_of(timeline) is not None

    def successor_of(self, timeline: int) -> int | None:
        """The timeline that follows `timeline` on this line; None for the newest or a stranger."""
        line = [entry.timeline for entry in self.ancestors] + [self.timeline]
        if timeline not in line[:-1]:
            return None
        return line[line.index(timeline) + 1]

    def timeline_at(self, lsn: int) -> int:
        """Which timeline's bytes stand at `lsn` on this line (`tliOfPointInHistory`)."""
        for entry in self.ancestors:
            if lsn < entry.end_lsn:
                return entry.timeline
        return self.timeline


MAX_HISTORY_BYTES = 1 << 20


def parse_history(timeline: int, content: bytes) -> History:
    """Read a `.history` file's content (`readTimeLineHistory`): `TLI<tab>LSN<tab>reason` lines.

    Raises LogshipError(BAD_HISTORY) for anything PostgreSQL would not read: timelines out
    of order, not below `timeline`, a missing switch point.
    """
    if len(content) > MAX_HISTORY_BYTES:
        raise _bad_history(timeline, f"{len(content)} bytes")
    ancestors: list[HistoryEntry] = []
    # Of bytes: in a reason stands what an operator named a restore point, control characters
    # included, and a line ends at "\n" alone.
    for raw in content.split(b"\n"):
        text = raw.strip()
        if not text or text.startswith(b"#"):
            continue
        match = _HISTORY_LINE.match(text)
        if match is None:
            raise _bad_history(timeline, f"line {text[:80].decode('utf-8', 'replace')!r}")
        entry = HistoryEntry(int(match[1]), Lsn.parse(match[2].decode()))
        if ancestors and entry.timeline <= ancestors[-1].timeline:
            raise _bad_history(timeline, "timelines must grow")
        if ancestors and entry.end_lsn < ancestors[-1].end_lsn:
            raise _bad_history(timeline, "switch points must not go back")
        ancestors.append(entry)
    if ancestors and not 0 < ancestors[0].timeline <= ancestors[-1].timeline < timeline:
        raise _bad_history(timeline, f"ends in timeline {ancestors[-1].timeline}")
    return History(timeline, tuple(ancestors))


def _bad_history(timeline: int, why: str) -> LogshipError:
    return LogshipError(
        Code.BAD_HISTORY,
        f"the history of timeline {timeline} can't be read: {why}",
        "compare the file with the one in the primary's pg_wal",
    )
