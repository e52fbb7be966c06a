"""Small objects that hold a document: histories and profiles.

The body is one zstd frame, sealed where recipients are configured; the metadata holds the
length and CRC-32C of the document, so that a writer who can't open it can tell whether it is
the one it would have written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

import crc32c
import msgspec
import zstandard

from logship.bucket.wal_objects import damaged, decompress
from logship.decoders import json_decoder
from logship.documents import UNREADABLE
from logship.identity import Profile

MAX_DOCUMENT_BYTES: Final = 16 << 20

_CHECKSUM: Final = "crc32c"
_RAW_BYTES: Final = "raw-bytes"


def pack_document(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


def document_metadata(content: bytes) -> dict[str, str]:
    return {_CHECKSUM: f"{crc32c.crc32c(content):08x}", _RAW_BYTES: str(len(content))}


def unpack_document(body: bytes, metadata: Mapping[str, str], where: str) -> bytes:
    """The document in a (decrypted) body.  Raises LogshipError(OBJECT_DAMAGED)."""
    try:
        raw_bytes = int(metadata.get(_RAW_BYTES, ""))
    except ValueError as error:
        raise damaged(where, "its length is not known") from error
    if not 0 <= raw_bytes <= MAX_DOCUMENT_BYTES:
        raise damaged(where, f"a document of {raw_bytes} bytes")
    content = decompress(body, raw_bytes, where)
    if document_metadata(content) != {name: metadata.get(name) for name in (_CHECKSUM, _RAW_BYTES)}:
        raise damaged(where, "its bytes do not match their CRC-32C")
    return content


def encode_profile(profile: Profile) -> tuple[str, bytes]:
    """(digest, document): what a primary is, and the name it goes by."""
    content = msgspec.json.encode(profile)
    return hashlib.sha256(content).hexdigest()[:32], content


def decode_profile(content: bytes, where: str) -> Profile:
    """Raises LogshipError(OBJECT_DAMAGED)."""
    try:
        return json_decoder(Profile).decode(content)
    except UNREADABLE as error:
        raise damaged(where, f"it is no profile: {error}") from error
