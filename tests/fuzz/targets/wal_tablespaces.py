"""The search for CREATE TABLESPACE: damaged WAL, however it is cut.

Input: seed of the cuts, patches (offset in 3 bytes, a chunk each) of good WAL.
"""

from __future__ import annotations

from collections.abc import Iterator

from logship.wal import WAL_PAGE_BYTES
from logship.wal_tablespaces import TablespaceCreated, TablespaceScan
from tests.fuzz.target import Input, chunk, cut
from tests.support.record_factory import RecordFactory
from tests.support.wal_factory import MEGABYTE, wal_line

LINE = wal_line()
START = 17 * MEGABYTE - 3 * WAL_PAGE_BYTES
"""Three pages before a segment's end."""
SHORT_RUNS = 1500


def _wal() -> tuple[bytes, list[TablespaceCreated]]:
    factory = RecordFactory(LINE, START)
    made = []
    for number in range(40):
        factory.filler(number * 13)
        made.append(factory.create_tablespace(16384 + number, b"/" + b"mnt/" * number))
        factory.drop_tablespace(16384 + number)
    return bytes(factory.data), made


WAL, MADE = _wal()


def run(data: bytes) -> bool:
    fields = Input(data)
    cuts, content = fields.number(2), bytearray(WAL)
    while fields:
        at, patch = fields.number(3) % len(content), fields.chunk()
        content[at : at + len(patch)] = patch
    wal = bytes(content)
    found = _scan([wal])
    assert found == _scan(cut(wal, cuts))
    # What a record's CRC does not prove is none: damage takes some, and makes no other.
    assert [record for record in MADE if record in found] == found
    return found == MADE


def _scan(pieces: list[bytes]) -> list[TablespaceCreated]:
    scan, found, at = TablespaceScan(LINE), [], START
    for piece in pieces:
        found += scan.feed(at, piece)
        at += len(piece)
    return found


def _input(cuts: int, *patches: tuple[int, bytes]) -> bytes:
    patched = b"".join(at.to_bytes(3, "little") + chunk(patch) for at, patch in patches)
    return cuts.to_bytes(2, "little") + patched


def seeds() -> Iterator[bytes]:
    yield _input(1)
    yield _input(7)
    yield _input(8, (60, b""), (20_000 % len(WAL), b""))


MAX_BYTES = WAL_PAGE_BYTES + 1024
