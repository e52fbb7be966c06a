"""WAL page headers, however the WAL is cut into spans.

Input: seed of the cuts, patches (offset in 3 bytes, a chunk each) of good WAL.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from applier.store.pages import PageScan
from logship.errors import Code, LogshipError
from logship.wal import PAGE_MAGIC, WAL_PAGE_BYTES, check_pages
from tests.fuzz.errors import check_refusal
from tests.fuzz.target import Input, chunk, cut
from tests.support.wal_factory import MEGABYTE, WalFactory, wal_line

TIMELINE = 3
LINE = wal_line()
START = 17 * MEGABYTE - 2 * WAL_PAGE_BYTES
"""Two pages before a segment's end."""
WAL = WalFactory(LINE).wal(TIMELINE, START, START + 4 * WAL_PAGE_BYTES + 30)
EMPTY_PAGE = bytes(WAL_PAGE_BYTES)
SHORT_RUNS = 8000


def run(data: bytes) -> bool:
    fields = Input(data)
    cuts, size = fields.number(2), fields.number(3)
    content = bytearray(WAL)
    while fields:
        at, patch = fields.number(3) % len(content), fields.chunk()
        content[at : at + len(patch)] = patch
    wal = bytes(content[: size or None])
    whole = _refusal(wal, [wal])
    pieces = _refusal(wal, cut(wal, cuts))
    assert (whole is None) == (pieces is None), (whole, pieces)
    if whole is None:
        _check_headers(wal)
    return whole is None


def _refusal(wal: bytes, pieces: list[bytes]) -> LogshipError | None:
    scan, at = PageScan(), START
    try:
        if pieces == [wal]:
            check_pages(wal, START, TIMELINE, LINE)
        for piece in pieces:
            scan = scan.advance(piece, at, TIMELINE, LINE)
            at += len(piece)
    except LogshipError as error:
        check_refusal(error, Code.BAD_WAL_PAGE, Code.SYSTEM_IDENTIFIER_MISMATCH)
        return error
    begun = wal[len(wal) - (START + len(wal)) % WAL_PAGE_BYTES :]
    assert scan == PageScan.resume(begun)  # as a restart would find it
    return None


def _check_headers(wal: bytes) -> None:
    for at in range(0, len(wal) - 23, WAL_PAGE_BYTES):
        magic, _, timeline, address = struct.unpack_from("<HHIQ", wal, at)
        if magic == 0:
            page = wal[at : at + WAL_PAGE_BYTES]
            assert page == bytes(len(page))
            assert (START + at) % LINE.segment_bytes
            continue
        assert (magic, address) == (PAGE_MAGIC[LINE.major], START + at)
        assert 1 <= timeline <= TIMELINE
        if (START + at) % LINE.segment_bytes == 0 and len(wal) >= at + 40:
            identifier, segment_bytes, page_bytes = struct.unpack_from("<QII", wal, at + 24)
            assert identifier == LINE.system_identifier
            assert (segment_bytes, page_bytes) == (LINE.segment_bytes, WAL_PAGE_BYTES)


def _input(cuts: int, size: int, *patches: tuple[int, bytes]) -> bytes:
    patched = b"".join(at.to_bytes(3, "little") + chunk(patch) for at, patch in patches)
    return cuts.to_bytes(2, "little") + size.to_bytes(3, "little") + patched


def seeds() -> Iterator[bytes]:
    yield _input(1, 0)
    for size in (1, 23, 24, 39, 40, WAL_PAGE_BYTES, 2 * WAL_PAGE_BYTES + 30):
        yield _input(size, size)
    yield _input(7, 0, (WAL_PAGE_BYTES, EMPTY_PAGE))  # the padding after a switch
    yield _input(8, 0, (100, b"other bytes"), (4, (1).to_bytes(4, "little")))


MAX_BYTES = WAL_PAGE_BYTES + 1024
