"""The messages of streaming replication, and what they become.

Source: "Streaming Replication Protocol" in PostgreSQL's documentation, `START_REPLICATION`.
"""

from __future__ import annotations

import struct
import time
from typing import NamedTuple, TypeAlias

from logship.errors import Code, LogshipError
from logship.lsn import Lsn

_POSTGRES_EPOCH_SECONDS = 946_684_800  # 2000-01-01, what TimestampTz counts from
_XLOG_DATA = struct.Struct("!cQQQ")  # 'w', start, end of WAL on the server, sent at
_KEEPALIVE = struct.Struct("!cQQB")  # 'k', end of WAL on the server, sent at, reply requested
_STATUS = struct.Struct("!cQQQQB")  # 'r', written, flushed, applied, sent at, reply requested


class SystemIdentity(NamedTuple):
    """IDENTIFY_SYSTEM's answer."""

    system_identifier: int
    timeline: int
    flush_lsn: Lsn
    """Flushed on a primary; on a standby, replayed or received, whichever is further."""


class XLogData(NamedTuple):
    """WAL bytes [start_lsn, start_lsn + len(data)) of the streamed timeline; never empty.

    They follow the last one's without a gap.  Up to 128 KiB; ends on any byte, but never past
    a record's end that the server has not flushed.
    """

    start_lsn: Lsn
    wal_end: Lsn
    """The server's flush position when it sent this (on the timeline it streams)."""
    data: memoryview
    """Its memory is its own: keep it or slices of it as long as wanted."""
    sent_at: float
    """Seconds since the epoch by the server's clock."""


class Keepalive(NamedTuple):
    """The server has nothing (more) to send now.  If it asks, answer with `send_status`."""

    wal_end: Lsn
    reply_requested: bool
    sent_at: float


class EndOfTimeline(NamedTuple):
    """The streamed timeline ended in a promotion; the connection takes commands again.

    Fetch `timeline_history(next_timeline)`, then stream `next_timeline` from the start of the
    segment of `start_lsn`, which is the switch point.
    """

    next_timeline: int
    start_lsn: Lsn


StreamEvent: TypeAlias = XLogData | Keepalive | EndOfTimeline


def read_message(message: memoryview) -> XLogData | Keepalive:
    """A COPY message from the server.  Raises PRIMARY_REFUSED for one that isn't understood."""
    kind = message[0] if message else 0
    if kind == ord("w") and len(message) > _XLOG_DATA.size:
        _, start, wal_end, sent_us = _XLOG_DATA.unpack_from(message)
        return XLogData(
            Lsn(start), Lsn(wal_end), message[_XLOG_DATA.size :], _epoch_seconds(sent_us)
        )
    if kind == ord("k") and len(message) == _KEEPALIVE.size:
        _, wal_end, sent_us, reply = _KEEPALIVE.unpack(message)
        return Keepalive(Lsn(wal_end), bool(reply), _epoch_seconds(sent_us))
    raise LogshipError(
        Code.PRIMARY_REFUSED,
        f"the stream is not understood: a message of type {chr(kind)!r}, {len(message)} bytes",
        "check that the server is a PostgreSQL of a supported major",
    )


def _epoch_seconds(sent_us: int) -> float:
    return sent_us / 1_000_000 + _POSTGRES_EPOCH_SECONDS


def status_message(written: int, flushed: int, applied: int, reply_requested: bool) -> bytes:
    """The standby status update that tells the server our positions."""
    now_us = int((time.time() - _POSTGRES_EPOCH_SECONDS) * 1_000_000)
    return _STATUS.pack(b"r", written, flushed, applied, now_us, reply_requested)
