"""A span of WAL as an object, and the markers between spans.

The body is the span's bytes as zstd frames (`logship.objects.encryption` may seal it); the
metadata holds one entry, `logship`, the JSON of a `Head` behind its CRC-32C in hexadecimal.
A marker has no body.  docs/formats.md is the prose of this file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Annotated, Final

import crc32c
import msgspec
import zstandard

from logship.bucket.keys import Place
from logship.decoders import json_decoder
from logship.documents import UNREADABLE
from logship.errors import Code, LogshipError
from logship.lsn import Lsn, plain_lsn
from logship.seal import ZSTD_LEVEL, Sealed
from logship.wal import segment_end, segment_start

METADATA_KEY: Final = "logship"
FORMAT: Final = 1

KEEP_FRAME_BYTES: Final = 64 * 1024
"""Raw bytes from which a sealed span's own frame goes into the object as it is.  Smaller ones
are joined and compressed again: 100 commits in one frame are a fraction of 100 frames."""

_Timeline = Annotated[int, msgspec.Meta(ge=1, le=0xFFFFFFFF)]
_Lsn = Annotated[int, msgspec.Meta(ge=0)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class Marker(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the WAL goes on where it does not simply go on.

    kind "timeline": on `timeline`, from the start of the segment that holds `lsn` (0: this
    place's): a new timeline's first segment begins as a copy of its parent's, as PostgreSQL
    streams it; its history is in the bucket.  "gap": what comes next is missing (`code`, `what`)
    and can be had again from `lsn` (0: not known); look for the next marker of this place.
    "seed": on `timeline`, from the start of the segment that holds `lsn`, where the seed with
    the id `seed` starts.
    """

    kind: str
    timeline: int = 0
    lsn: int = 0
    seed: str = ""
    code: str = ""
    what: str = ""


class Head(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a reader needs to know of an object before, and besides, its bytes."""

    format: int = FORMAT
    timeline: _Timeline
    start_lsn: _Lsn
    raw_bytes: _Count = 0
    crc32c: int = 0
    """Of the raw bytes."""
    flush_lsn: _Lsn = 0
    """The primary's flush position when this was made, on `flush_timeline`."""
    flush_timeline: int = 0
    sent_at: float = 0.0
    """Seconds since the epoch, by the shipper's clock: when the object was made."""
    profile: str = ""
    """Digest of what the primary is (`Keys.profile`); all WAL up to here is its."""
    protection: str = "async"
    epoch: int = 0
    """Number of the writer's epoch."""
    marker: Marker | None = None

    @property
    def end_lsn(self) -> Lsn:
        return Lsn(self.start_lsn + self.raw_bytes)

    def following(self, place: Place, segment_bytes: int) -> Place:
        """Where the next object stands, when this one stands at `place`."""
        marker = self.marker
        if marker is None:
            return Place(self.timeline, self.end_lsn)
        if marker.kind in ("timeline", "seed"):
            return Place(marker.timeline, segment_start(marker.lsn or place.lsn, segment_bytes))
        return place._replace(step=place.step + 1)


_encoder = msgspec.json.Encoder(enc_hook=plain_lsn)
_decoder = json_decoder(Head)


def metadata_of(head: Head) -> dict[str, str]:
    body = _encoder.encode(head)
    return {METADATA_KEY: f"{crc32c.crc32c(body):08x} {body.decode('ascii')}"}


def read_head(metadata: Mapping[str, str], place: Place, where: str) -> Head:
    """Raises LogshipError(OBJECT_DAMAGED), naming `where`, for all that is not the head of an
    object at `place`."""
    text = metadata.get(METADATA_KEY, "")
    checksum, _, body = text.partition(" ")
    try:
        if f"{crc32c.crc32c(body.encode('ascii')):08x}" != checksum:
            raise ValueError("it does not match its checksum" if text else "it has none")
        head = _decoder.decode(body)
        if head.format != FORMAT:
            raise ValueError(f"format {head.format}")
        if (head.timeline, head.start_lsn) != (place.timeline, place.lsn):
            raise ValueError(f"it is of {head.timeline}:{Lsn(head.start_lsn)}")
        if (head.raw_bytes == 0) == (head.marker is None):
            raise ValueError("it is neither a span nor a marker")
    except (*UNREADABLE, ValueError) as error:
        raise damaged(where, f"its head can't be used: {error}") from error
    return head


def pack(spans: Iterable[Sealed]) -> tuple[bytes, int, int]:
    """The body for contiguous spans: (zstd frames, raw bytes, CRC-32C of the raw bytes).

    Takes its time: call it in a thread.
    """
    pieces: list[tuple[bytes | memoryview, bool]] = []
    raw_bytes = checksum = 0
    for span in spans:
        raw = opened(span)
        raw_bytes += len(raw)
        checksum = crc32c.crc32c(raw, checksum)
        keep = span.codec == "zstd" and span.raw_bytes >= KEEP_FRAME_BYTES
        pieces.append((span.payload if keep else raw, keep))
    return joined(pieces), raw_bytes, checksum


def joined(pieces: Iterable[tuple[bytes | memoryview, bool]]) -> bytes:
    """zstd frames one after the other: pieces that are one already (True) as they are, runs of
    raw ones (False) compressed together.  Takes its time: call it in a thread."""
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
    frames: list[bytes | memoryview] = []
    for is_frame, run in itertools.groupby(pieces, key=lambda piece: piece[1]):
        parts = [piece for piece, _ in run]
        frames.extend(parts if is_frame else [compressor.compress(b"".join(parts))])
    return b"".join(frames)


def opened(span: Sealed) -> bytes | memoryview:
    """The raw bytes of a span that this process sealed."""
    if span.codec == "none":
        return span.payload
    return zstandard.ZstdDecompressor().decompress(
        bytes(span.payload), max_output_size=span.raw_bytes
    )


def unpack(body: bytes, head: Head, segment_bytes: int, where: str) -> bytes:
    """The raw bytes of a WAL object's (decrypted) body.

    Raises LogshipError(OBJECT_DAMAGED).  Never allocates more than a segment.
    """
    if head.end_lsn > segment_end(head.start_lsn, segment_bytes):
        raise damaged(where, f"{head.raw_bytes} bytes from {Lsn(head.start_lsn)} cross a segment")
    raw = decompress(body, head.raw_bytes, where)
    if crc32c.crc32c(raw) != head.crc32c:
        raise damaged(where, "its bytes do not match their CRC-32C")
    return raw


def decompress(body: bytes, raw_bytes: int, where: str) -> bytes:
    """All frames of `body`, which must hold exactly `raw_bytes`.  Raises OBJECT_DAMAGED."""
    reader = zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True)
    try:
        raw = reader.read(raw_bytes)
        more = reader.read(1)
    except zstandard.ZstdError as error:
        raise damaged(where, f"it can't be decompressed: {error}") from error
    if len(raw) != raw_bytes or more:
        raise damaged(where, f"it holds other than the {raw_bytes} bytes that were announced")
    return raw


def damaged(where: str, what: str) -> LogshipError:
    return LogshipError(
        Code.OBJECT_DAMAGED,
        f"{where}: {what}",
        "it is not what was written: nothing of it was used; docs/formats.md tells how to look",
    )
