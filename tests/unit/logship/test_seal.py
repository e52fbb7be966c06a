from __future__ import annotations

import os

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from logship.errors import Code, LogshipError
from logship.seal import Sealed, seal, unseal

MAX = 1 << 20


def opened(sealed: Sealed, *, max_raw_bytes: int = MAX) -> bytes:
    return bytes(
        unseal(
            sealed.codec,
            sealed.crc32c,
            sealed.raw_bytes,
            sealed.payload,
            max_raw_bytes=max_raw_bytes,
        )
    )


def failure(sealed: Sealed, *, max_raw_bytes: int = MAX) -> LogshipError:
    with pytest.raises(LogshipError) as caught:
        opened(sealed, max_raw_bytes=max_raw_bytes)
    return caught.value


@given(st.binary(max_size=5000), st.booleans())
def test_what_was_sealed_opens_again(raw: bytes, compress: bool) -> None:
    assert opened(seal(raw, compress=compress)) == raw
    assert opened(seal(memoryview(raw), compress=compress)) == raw


def test_compression_is_used_where_it_pays_only() -> None:
    assert seal(bytes(10_000)).codec == "zstd"
    assert seal(os.urandom(10_000)).codec == "none"
    assert seal(bytes(100)).codec == "none"
    assert seal(bytes(10_000), compress=False).codec == "none"


def test_a_sealed_payload_does_not_change_with_its_source() -> None:
    source = bytearray(b"before")
    sealed = seal(source)
    source[:] = b"after!"
    assert opened(sealed) == b"before"


@pytest.mark.parametrize("raw", [b"plain" * 20, b"packed" * 2000])
def test_any_flipped_bit_is_found_and_may_be_tried_again(raw: bytes) -> None:
    sealed = seal(raw)
    payload = bytearray(sealed.payload)
    for index in range(0, len(payload), 7):
        payload[index] ^= 0x10
        error = failure(sealed._replace(payload=bytes(payload)))
        payload[index] ^= 0x10
        assert error.code in (Code.CHECKSUM_MISMATCH, Code.BAD_FRAME)
    payload[-1] ^= 1
    assert failure(sealed._replace(payload=bytes(payload))).code is Code.CHECKSUM_MISMATCH


@pytest.mark.parametrize("raw_bytes", [-1, MAX + 1, 2**62])
def test_a_length_beyond_the_limit_is_refused_before_anything_is_allocated(raw_bytes: int) -> None:
    assert failure(seal(bytes(1000))._replace(raw_bytes=raw_bytes)).code is Code.BAD_FRAME


def test_lengths_that_lie_are_refused() -> None:
    assert failure(seal(b"abc")._replace(raw_bytes=4)).code is Code.BAD_FRAME
    assert failure(seal(bytes(9999))._replace(raw_bytes=9998)).code is Code.BAD_FRAME


def test_a_bomb_is_refused_by_what_it_announces() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    assert failure(Sealed("zstd", 0, 1000, bomb)).code is Code.BAD_FRAME


def test_a_bomb_that_announces_nothing_is_refused() -> None:
    compressor = zstandard.ZstdCompressor(write_content_size=False)
    bomb = compressor.compress(bytes(64 << 20))
    assert failure(Sealed("zstd", 0, 1000, bomb)).code is Code.BAD_FRAME


def test_an_unknown_codec_is_refused() -> None:
    assert failure(seal(b"abc")._replace(codec="lz5")).code is Code.BAD_FRAME
