"""What a primary sends: streamed WAL, and a base backup with its results.

Input: kind (streaming, base backup of 15 or later, of 14, a position, a header), content.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from logship.errors import Code, LogshipError
from logship.postgres import base_backup
from logship.postgres.base_backup import ArchiveStart, BackupEvent, Data, Progress
from logship.postgres.stream_messages import XLogData, read_message, status_message
from tests.fuzz.errors import check_refusal
from tests.fuzz.target import Input, chunk

STREAM, BACKUP, OLD_BACKUP, POSITION, HEADER = range(5)
SHORT_RUNS = 30_000


def run(data: bytes) -> bool:
    fields = Input(data)
    kind = fields.number() % 5
    try:
        if kind == STREAM:
            _stream(fields.rest())
        elif kind == BACKUP:
            reader = base_backup.OneCopyReader()
            while fields:
                _check(list(reader.read(memoryview(fields.chunk()))))
        elif kind == OLD_BACKUP:
            _old_backup(fields)
        elif kind == POSITION:
            timeline, lsn = base_backup.read_position(_rows(fields))
            assert 0 < timeline < 1 << 32
            assert 0 <= lsn < 1 << 64
        else:
            _header(fields)
    except LogshipError as error:
        check_refusal(error, Code.PRIMARY_REFUSED, Code.SEED_FAILED)
        return False
    return True


def _stream(message: bytes) -> None:
    found = read_message(memoryview(message))
    assert 0 <= found.wal_end < 1 << 64
    if isinstance(found, XLogData):
        assert len(found.data) == len(message) - 25 > 0
        assert 0 <= found.start_lsn < 1 << 64
        status_message(found.start_lsn, found.start_lsn, found.wal_end, True)


def _check(events: list[BackupEvent]) -> None:
    for event in events:
        if isinstance(event, ArchiveStart):
            assert event.oid == "" or 0 < int(event.oid) < 1 << 32
            assert event.oid.isascii()
        if isinstance(event, Progress):
            assert 0 <= event.done_bytes < 1 << 64


def _old_backup(fields: Input) -> None:
    reader = base_backup.CopyPerArchiveReader(["16384", ""])
    for _ in range(fields.number() % 5):
        reader.start()
        content = fields.chunk()
        (event, *_) = reader.read(memoryview(content))
        assert isinstance(event, Data)
        assert event.data == content


def _rows(fields: Input) -> list[tuple[bytes | None, ...]]:
    rows = []
    for _ in range(fields.number() % 4):
        row = [fields.chunk() or None for _ in range(fields.number() % 4)]
        rows.append(tuple(row))
    return rows


def _header(fields: Input) -> None:
    tablespaces, archives, estimated_bytes = base_backup.read_header(_rows(fields))
    assert estimated_bytes >= 0
    assert len(archives) == len(tablespaces) + archives.count("")
    for tablespace in tablespaces:
        assert 0 < tablespace.oid < 1 << 32
        assert tablespace.size_kb >= 0
        assert str(tablespace.oid) in archives


def _table(*rows: tuple[bytes, ...]) -> bytes:
    return bytes([len(rows)]) + b"".join(
        bytes([len(row)]) + b"".join(map(chunk, row)) for row in rows
    )


def seeds() -> Iterator[bytes]:
    yield bytes([STREAM]) + b"w" + struct.pack("!QQQ", 1 << 24, 1 << 25, 7) + b"wal"
    yield bytes([STREAM]) + b"k" + struct.pack("!QQB", 1 << 25, 7, 1)
    messages = (b"nbase.tar\0\0", b"dbytes", b"p" + bytes(8), b"n16384.tar\0/srv\0", b"m", b"d{}")
    yield bytes([BACKUP]) + b"".join(map(chunk, messages))
    yield bytes([OLD_BACKUP, 3]) + chunk(b"a") + chunk(b"b") + chunk(b"c")
    yield bytes([POSITION]) + _table((b"0/2000028", b"1"))
    yield bytes([HEADER]) + _table((b"16384", b"/srv/space", b"100"), (b"", b"", b"20000"))
