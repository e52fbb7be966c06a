"""Frames to begin a link session with, and WAL that tells where it belongs."""

from __future__ import annotations

from typing import Any

from logship.frames import Hello, Span, Welcome
from logship.identity import Profile
from logship.lsn import Lsn, Position
from logship.seal import Sealed, seal

SEGMENT_BYTES = 1 << 20


def profile(**changes: Any) -> Profile:
    fields: dict[str, Any] = {
        "system_identifier": 7301234567890123456,
        "server_version_num": 170009,
        "catalog_version": 202406281,
        "control_version": 1300,
        "block_size": 8192,
        "wal_block_size": 8192,
        "wal_segment_size": SEGMENT_BYTES,
        "segment_size": 1 << 30,
        "data_checksums": True,
        "architecture": "x86_64",
    }
    return Profile(**{**fields, **changes})


def hello(**changes: Any) -> Hello:
    fields: dict[str, Any] = {
        "version_min": 1,
        "version_max": 1,
        "instance": "orders",
        "shipper_id": "shipper-a",
        "boot_id": "boot-1",
        "software": "0.1.0",
        "profile": profile(),
        "timeline": 1,
        "flush_lsn": 5 * SEGMENT_BYTES,
    }
    return Hello(**{**fields, **changes})


def welcome(**changes: Any) -> Welcome:
    fields: dict[str, Any] = {
        "version": 1,
        "window_bytes": 64 * 1024,
        "max_span_bytes": 16 * 1024,
        "heartbeat_seconds": 2.0,
        "resume_timeline": 1,
        "resume_lsn": SEGMENT_BYTES,
    }
    return Welcome(**{**fields, **changes})


def wal_bytes(timeline: int, start_lsn: int, size_bytes: int) -> bytes:
    """Bytes that differ by timeline and position, so that a misplaced one shows."""
    return bytes(
        (lsn * 31 + (lsn >> 8) * 7 + timeline) & 0xFF
        for lsn in range(start_lsn, start_lsn + size_bytes)
    )


def sealed_wal(timeline: int, start_lsn: int, size_bytes: int) -> Sealed:
    return seal(wal_bytes(timeline, start_lsn, size_bytes))


def span_frame(timeline: int, start_lsn: int, size_bytes: int, **changes: Any) -> Span:
    sealed = sealed_wal(timeline, start_lsn, size_bytes)
    fields: dict[str, Any] = {
        "timeline": timeline,
        "start_lsn": start_lsn,
        "raw_bytes": sealed.raw_bytes,
        "crc32c": sealed.crc32c,
        "codec": sealed.codec,
    }
    return Span(**{**fields, **changes})


def at(timeline: int, lsn: int) -> Position:
    return Position(timeline, Lsn(lsn))
