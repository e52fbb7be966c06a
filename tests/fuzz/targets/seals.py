"""Sealed payloads: zstd from a peer that holds a key.  No bomb may unfold.

Input: flags (1: codec "none"; 2: the announced length and checksum as they come), length (4
bytes), checksum (4), payload.
"""

from __future__ import annotations

from collections.abc import Iterator

import crc32c
import zstandard

from logship.errors import Code, LogshipError
from logship.frames import MAX_SPAN_BYTES
from logship.seal import seal, unseal
from tests.fuzz.errors import check_refusal
from tests.fuzz.target import Input

MAX_MEMORY_BYTES = 5 * MAX_SPAN_BYTES
PLAIN, AS_ANNOUNCED = 1, 2
MAX_BYTES = 70_000


def run(data: bytes) -> bool:
    fields = Input(data)
    flags, raw_bytes, checksum = fields.number(), fields.number(4), fields.number(4)
    payload = fields.rest()
    codec = "none" if flags & PLAIN else "zstd"
    if not flags & AS_ANNOUNCED:
        # What it would unfold to, bounded here by reading piece by piece.
        raw = payload if flags & PLAIN else _unfolded(payload)
        if raw is not None:
            raw_bytes, checksum = len(raw), crc32c.crc32c(raw)
    try:
        got = unseal(codec, checksum, raw_bytes, payload, max_raw_bytes=MAX_SPAN_BYTES)
    except LogshipError as error:
        check_refusal(error, Code.BAD_FRAME, Code.CHECKSUM_MISMATCH)
        return False
    assert len(got) == raw_bytes <= MAX_SPAN_BYTES
    assert crc32c.crc32c(got) == checksum
    sealed = seal(got)
    assert unseal(*sealed, max_raw_bytes=MAX_SPAN_BYTES) == got
    return True


def _unfolded(payload: bytes) -> bytes | None:
    reader = zstandard.ZstdDecompressor(max_window_size=1 << 23).stream_reader(payload)
    try:
        return reader.read(MAX_SPAN_BYTES + 1)
    except (zstandard.ZstdError, MemoryError):
        return None


def _input(flags: int, raw_bytes: int, checksum: int, payload: bytes) -> bytes:
    return (
        bytes([flags]) + raw_bytes.to_bytes(4, "little") + checksum.to_bytes(4, "little") + payload
    )


def seeds() -> Iterator[bytes]:
    for raw in (b"", b"wal" * 300, bytes(range(256)) * 8, bytes(MAX_SPAN_BYTES)):
        sealed = seal(raw)
        flags = AS_ANNOUNCED | (PLAIN if sealed.codec == "none" else 0)
        yield _input(flags, len(raw), sealed.crc32c, bytes(sealed.payload))
    yield _input(0, 0, 0, zstandard.ZstdCompressor(level=19).compress(b"one" * 1000))


def bombs() -> Iterator[bytes]:
    """Payloads that unfold to much more than they may: never accepted."""
    zeros = zstandard.ZstdCompressor(level=3, write_content_size=True)
    for raw_bytes in (MAX_SPAN_BYTES + 1, 1 << 30):
        packer = zeros.chunker(size=raw_bytes, chunk_size=1 << 16)
        payload = b""
        left = raw_bytes
        while left:
            piece = min(left, 1 << 20)
            payload += b"".join(packer.compress(bytes(piece)))
            left -= piece
        payload += b"".join(packer.finish())
        for announced in (1, MAX_SPAN_BYTES, raw_bytes):
            yield _input(AS_ANNOUNCED, announced, 0, payload)
