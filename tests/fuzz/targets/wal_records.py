"""WAL records: damaged anywhere, and however the WAL is cut.

Input: seed of the cuts, patches (offset in 3 bytes, a chunk each) of good WAL.
"""

from __future__ import annotations

from collections.abc import Iterator

from logship.wal import WAL_PAGE_BYTES
from logship.wal_records import Mark, RecordWalk
from tests.fuzz.target import Input, check_message, chunk, cut
from tests.support.record_factory import RecordFactory
from tests.support.wal_factory import MEGABYTE, wal_line

LINE = wal_line()
START = 17 * MEGABYTE - 3 * WAL_PAGE_BYTES
"""Three pages before a segment's end."""
SHORT_RUNS = 1500


def _wal() -> bytes:
    factory = RecordFactory(LINE, START)
    for number in range(40):
        factory.commit(number, more_bytes=number * 3)
        factory.filler(number * 13)
        factory.restore_point(number, f"point {number}")
    factory.crash_inside(9000)
    factory.commit(1)
    return bytes(factory.data)


WAL = _wal()


def run(data: bytes) -> bool:
    fields = Input(data)
    cuts, content = fields.number(2), bytearray(WAL)
    while fields:
        at, patch = fields.number(3) % len(content), fields.chunk()
        content[at : at + len(patch)] = patch
    wal = bytes(content)
    whole, marks = _walk([wal])
    pieces, same_marks = _walk(cut(wal, cuts))
    assert marks == same_marks
    assert (whole.end, whole.stopped) == (pieces.end, pieces.stopped)
    at = 0
    for mark in marks:
        assert at <= mark.start_lsn < mark.end_lsn
        assert len(mark.name) <= 64
        at = mark.end_lsn
    if whole.end is not None:
        assert START < whole.end <= START + len(wal) + LINE.segment_bytes
    if whole.stopped:
        check_message(whole.stopped)
    return not whole.stopped


def _walk(pieces: list[bytes]) -> tuple[RecordWalk, list[Mark]]:
    walk, marks = RecordWalk(LINE, START), []
    for piece in pieces:
        marks += walk.feed(piece)
    return walk, marks + walk.finish()


def _input(cuts: int, *patches: tuple[int, bytes]) -> bytes:
    patched = b"".join(at.to_bytes(3, "little") + chunk(patch) for at, patch in patches)
    return cuts.to_bytes(2, "little") + patched


def seeds() -> Iterator[bytes]:
    yield _input(1)
    yield _input(7)
    yield _input(8, (60, b"\x01"), (20_000 % len(WAL), b""))


MAX_BYTES = WAL_PAGE_BYTES + 1024
