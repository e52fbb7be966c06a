"""How bytes are prepared for the road: compressed where it pays, checksummed always.

`seal` and `unseal` are pure and may take milliseconds for a megabyte: callers run them in a
thread above `INLINE_BYTES` and inline below it, where the hop to a thread costs more than
the work.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import crc32c
import zstandard

from logship.errors import Code, LogshipError

INLINE_BYTES = 32 * 1024
_WORTH_COMPRESSING_BYTES = 512
ZSTD_LEVEL = 1
ZSTD_QUICK_LEVEL = -3
"""Half the work of level 1 to compress and a quarter to read again, for payloads that are up
to twice as large: where the road is not what waits (docs/performance.md)."""

_local = threading.local()

Bytes = bytes | bytearray | memoryview


class Sealed(NamedTuple):
    """codec: "none" or "zstd".  crc32c: of the raw bytes."""

    codec: str
    crc32c: int
    raw_bytes: int
    payload: bytes | memoryview


def seal(raw: Bytes, *, compress: bool = True, quick: bool = False) -> Sealed:
    """Checksum `raw` and compress it unless that does not make it smaller.

    quick: rather soon than small.
    """
    checksum = crc32c.crc32c(raw)
    if compress and len(raw) >= _WORTH_COMPRESSING_BYTES:
        packed = _compressor(ZSTD_QUICK_LEVEL if quick else ZSTD_LEVEL).compress(raw)
        if len(packed) < len(raw):
            return Sealed("zstd", checksum, len(raw), packed)
    return Sealed("none", checksum, len(raw), bytes(raw))


def unseal(
    codec: str, checksum: int, raw_bytes: int, payload: Bytes, *, max_raw_bytes: int
) -> bytes | memoryview:
    """The raw bytes again.

    Raises LogshipError: BAD_FRAME for an unknown codec or a length that lies (never
    allocates more than `max_raw_bytes`), CHECKSUM_MISMATCH if the bytes are not the ones
    that were sealed.
    """
    if not 0 <= raw_bytes <= max_raw_bytes:
        raise LogshipError(
            Code.BAD_FRAME, f"{raw_bytes} raw bytes announced, {max_raw_bytes} at most"
        )
    raw: bytes | memoryview
    if codec == "none":
        raw = payload if isinstance(payload, bytes) else memoryview(payload)
    elif codec == "zstd":
        raw = _decompress(payload, raw_bytes)
    else:
        raise LogshipError(Code.BAD_FRAME, f"unknown codec {codec!r}")
    if len(raw) != raw_bytes:
        raise LogshipError(Code.BAD_FRAME, f"{raw_bytes} raw bytes announced, {len(raw)} came")
    if crc32c.crc32c(raw) != checksum:
        raise LogshipError(
            Code.CHECKSUM_MISMATCH,
            f"{raw_bytes} bytes do not match their CRC-32C",
            "nothing of it was stored, it will be sent again; if this repeats, suspect memory",
            retryable=True,
        )
    return raw


def _decompress(payload: Bytes, raw_bytes: int) -> bytes:
    try:
        # The frame's own content size is untrusted: it is compared before it is believed.
        announced = zstandard.frame_content_size(payload)
        if announced != raw_bytes:
            raise LogshipError(
                Code.BAD_FRAME, f"zstd frame of {announced} bytes, {raw_bytes} announced"
            )
        return _decompressor().decompress(payload, max_output_size=raw_bytes)
    except zstandard.ZstdError as error:
        raise LogshipError(
            Code.CHECKSUM_MISMATCH,
            f"a zstd frame can't be read: {error}",
            "nothing of it was stored, it will be sent again",
            retryable=True,
        ) from error


def _compressor(level: int) -> zstandard.ZstdCompressor:
    # One per thread: a zstandard context must not be used by two threads at once.
    if not hasattr(_local, "compressors"):
        _local.compressors = {}
    compressors: dict[int, zstandard.ZstdCompressor] = _local.compressors
    if level not in compressors:
        compressors[level] = zstandard.ZstdCompressor(level=level, write_checksum=False)
    return compressors[level]


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor()
    decompressor: zstandard.ZstdDecompressor = _local.decompressor
    return decompressor
