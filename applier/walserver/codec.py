"""PostgreSQL's frontend/backend protocol, version 3: the messages a walsender meets.

Source: PostgreSQL documentation, "Frontend/Backend Protocol", sections "Message Formats"
and "Streaming Replication Protocol"; limits from `src/include/libpq/pqcomm.h`.

`FrontendDecoder` turns bytes into messages and trusts nothing: every length is checked
before its bytes are awaited, so a peer can't make it hold more than the largest message.
The functions below it give the server's messages as bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

MAX_STARTUP_BYTES = 10_000
"""MAX_STARTUP_PACKET_LENGTH."""
MAX_QUERY_BYTES = 64 * 1024
MAX_COPY_BYTES = 10_000
"""A standby's reports have 34 (status) or 25 (feedback) bytes; PQ_SMALL_MESSAGE_LIMIT."""
MAX_SMALL_BYTES = 10_000

PROTOCOL_3_0 = 3 << 16
PROTOCOL_3_2 = 3 << 16 | 2
"""Differs from 3.0 in the length of the cancellation key only (PostgreSQL 18)."""

_CANCEL_REQUEST = 1234 << 16 | 5678
_SSL_REQUEST = 1234 << 16 | 5679
_GSSENC_REQUEST = 1234 << 16 | 5680

_INT32 = struct.Struct("!I")
_WAL_DATA = struct.Struct("!cIcQQq")  # 'd', length, 'w', start, end of WAL, time
_KEEPALIVE = struct.Struct("!cIcQqB")  # 'd', length, 'k', end of WAL, time, reply requested
_STATUS_UPDATE = struct.Struct("!QQQqB")
_FEEDBACK = struct.Struct("!qIIII")

_POSTGRES_EPOCH_SECONDS = 946_684_800
"""2000-01-01 00:00:00 UTC in Unix time: where PostgreSQL counts microseconds from."""

OID_INT8, OID_INT4, OID_TEXT = 20, 23, 25


class SqlError(Exception):
    """What goes to the client as an ErrorResponse.  `fatal` ends the connection too."""

    def __init__(
        self, sqlstate: str, message: str, *, detail: str = "", hint: str = "", fatal: bool = False
    ) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message
        self.detail = detail
        self.hint = hint
        self.fatal = fatal


def protocol_violation(message: str) -> SqlError:
    """The peer does not speak the protocol (08P01): nothing it says later can be trusted."""
    return SqlError("08P01", message, fatal=True)


class Startup(NamedTuple):
    protocol: int
    """Major in the high 16 bits, minor in the low."""
    parameters: dict[str, str]


class EncryptionRequest(NamedTuple):
    """SSLRequest or GSSENCRequest: answered with one byte, the startup follows."""

    kind: str


class CancelRequest(NamedTuple):
    pass


class Query(NamedTuple):
    text: str


class CopyData(NamedTuple):
    payload: bytes


class CopyDone(NamedTuple):
    pass


class CopyFail(NamedTuple):
    reason: str


class Sync(NamedTuple):
    pass


class Terminate(NamedTuple):
    pass


class Unserved(NamedTuple):
    """A message that is legal in the protocol and not for us: the extended query's."""

    kind: str


Message = (
    Startup
    | EncryptionRequest
    | CancelRequest
    | Query
    | CopyData
    | CopyDone
    | CopyFail
    | Sync
    | Terminate
    | Unserved
)

_LIMITS = {
    b"Q": MAX_QUERY_BYTES,
    b"d": MAX_COPY_BYTES,
    b"c": 0,
    b"f": MAX_SMALL_BYTES,
    b"S": 0,
    b"H": 0,
    b"X": 0,
    b"P": MAX_QUERY_BYTES,
    b"B": MAX_QUERY_BYTES,
    b"D": MAX_SMALL_BYTES,
    b"E": MAX_SMALL_BYTES,
    b"C": MAX_SMALL_BYTES,
    b"F": MAX_QUERY_BYTES,
}
"""Largest body (without type and length) of each message that a client may send us."""


class FrontendDecoder:
    """Bytes from a client to messages.

    `feed` what arrives, then call `next_message` until it gives None.  It raises SqlError
    (08P01, fatal) at bytes that are no message; the decoder is of no use after that.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._in_startup = True

    @property
    def buffered_bytes(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next_message(self) -> Message | None:
        """The next complete message, or None until more bytes come.  Raises SqlError."""
        if self._in_startup:
            return self._next_startup()
        if len(self._buffer) < 5:
            return None
        kind = bytes(self._buffer[:1])
        limit = _LIMITS.get(kind)
        if limit is None:
            raise protocol_violation(f"invalid frontend message type {kind[0]}")
        (length,) = _INT32.unpack_from(self._buffer, 1)
        if length < 4 or length - 4 > limit:
            raise protocol_violation(f"invalid length {length} of message {kind.decode()!r}")
        if len(self._buffer) < 1 + length:
            return None
        body = bytes(self._buffer[5 : 1 + length])
        del self._buffer[: 1 + length]
        return _message(kind, body)

    def _next_startup(self) -> Message | None:
        if len(self._buffer) < 4:
            return None
        (length,) = _INT32.unpack_from(self._buffer)
        if not 8 <= length <= MAX_STARTUP_BYTES:
            raise protocol_violation("invalid length of startup packet")
        if len(self._buffer) < length:
            return None
        body = bytes(self._buffer[4:length])
        del self._buffer[:length]
        (code,) = _INT32.unpack_from(body)
        if code == _SSL_REQUEST:
            return EncryptionRequest("ssl")
        if code == _GSSENC_REQUEST:
            return EncryptionRequest("gssenc")
        if code == _CANCEL_REQUEST:
            return CancelRequest()
        if code >> 16 != 3:
            raise SqlError(
                "0A000",
                f"unsupported frontend protocol {code >> 16}.{code & 0xFFFF}: "
                "server supports 3.0 and 3.2",
                fatal=True,
            )
        self._in_startup = False
        return Startup(code, _startup_parameters(body[4:]))


def _startup_parameters(body: bytes) -> dict[str, str]:
    """name NUL value NUL … NUL (Message Formats, StartupMessage)."""
    fields = body.split(b"\0")
    # A well-formed body ends in the last value's NUL and the list's own NUL.
    if len(fields) < 2 or fields[-1] or fields[-2] or len(fields) % 2:
        raise protocol_violation("invalid startup packet layout: expected terminator as last byte")
    texts = [field.decode("utf-8", "replace") for field in fields[:-2]]
    if not all(texts[::2]):
        raise protocol_violation("invalid startup packet layout: a parameter without a name")
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _message(kind: bytes, body: bytes) -> Message:
    if kind == b"d":
        return CopyData(body)
    if kind == b"Q":
        return Query(_string(body))
    if kind == b"c":
        return CopyDone()
    if kind == b"f":
        return CopyFail(_string(body))
    if kind == b"S":
        return Sync()
    if kind == b"X":
        return Terminate()
    return Unserved(kind.decode())


def _string(body: bytes) -> str:
    if not body.endswith(b"\0") or b"\0" in body[:-1]:
        raise protocol_violation("a string is not terminated where its message ends")
    return body[:-1].decode("utf-8", "replace")


class StatusUpdate(NamedTuple):
    """'r': where the standby is.  Each LSN is the last byte + 1; 0 where it has none."""

    write_lsn: int
    flush_lsn: int
    apply_lsn: int
    reply_requested: bool


class Feedback(NamedTuple):
    """'h': hot standby feedback.  There is no primary here whose vacuum could wait for it."""

    xmin: int
    catalog_xmin: int


def standby_report(payload: bytes) -> StatusUpdate | Feedback:
    """Read what a standby sends inside COPY.  Raises SqlError (08P01, fatal)."""
    kind, body = payload[:1], payload[1:]
    if kind == b"r" and len(body) == _STATUS_UPDATE.size:
        write, flush, apply, _, reply_requested = _STATUS_UPDATE.unpack(body)
        return StatusUpdate(write, flush, apply, bool(reply_requested))
    if kind == b"h" and len(body) == _FEEDBACK.size:
        _, xmin, _, catalog_xmin, _ = _FEEDBACK.unpack(body)
        return Feedback(xmin, catalog_xmin)
    raise protocol_violation(f"unexpected standby message {payload[:1]!r} of {len(payload)} bytes")


def postgres_time(unix_seconds: float) -> int:
    """Microseconds since 2000-01-01, as PostgreSQL's messages carry time."""
    return int((unix_seconds - _POSTGRES_EPOCH_SECONDS) * 1_000_000)


def wal_data_header(start: int, wal_end: int, sent_at: int, data_bytes: int) -> bytes:
    """What stands before `data_bytes` of WAL from `start` in a CopyData message ('w')."""
    return _WAL_DATA.pack(b"d", 4 + 25 + data_bytes, b"w", start, wal_end, sent_at)


def keepalive(wal_end: int, sent_at: int, *, reply_requested: bool) -> bytes:
    return _KEEPALIVE.pack(b"d", 4 + 18, b"k", wal_end, sent_at, reply_requested)


def _framed(kind: bytes, body: bytes = b"") -> bytes:
    return kind + _INT32.pack(4 + len(body)) + body


def _cstring(text: str) -> bytes:
    return text.encode("utf-8", "replace").replace(b"\0", b"?") + b"\0"


def authentication_ok() -> bytes:
    return _framed(b"R", _INT32.pack(0))


def negotiate_protocol_version(version: int, unrecognized: Sequence[str]) -> bytes:
    """The newest version that we speak of what was asked, and the options that we don't.

    The documentation says "newest minor version"; the server (`SendNegotiateProtocolVersion`)
    sends the whole number, major included, and libpq reads it so.
    """
    names = b"".join(_cstring(name) for name in unrecognized)
    return _framed(b"v", _INT32.pack(version) + _INT32.pack(len(unrecognized)) + names)


def parameter_status(name: str, value: str) -> bytes:
    return _framed(b"S", _cstring(name) + _cstring(value))


def backend_key_data(process_id: int, secret: bytes) -> bytes:
    """`secret` has 4 bytes in protocol 3.0, up to 256 in 3.2."""
    return _framed(b"K", _INT32.pack(process_id & 0x7FFFFFFF) + secret)


def ready_for_query() -> bytes:
    return _framed(b"Z", b"I")


def empty_query_response() -> bytes:
    return _framed(b"I")


def command_complete(tag: str) -> bytes:
    return _framed(b"C", _cstring(tag))


def copy_both_response() -> bytes:
    return _framed(b"W", b"\0\0\0")


def copy_done() -> bytes:
    return _framed(b"c")


def one_row(columns: Sequence[tuple[str, int]], values: Sequence[str | bytes | None]) -> bytes:
    """RowDescription of (name, type OID) and one DataRow, all in text format."""
    description = [struct.pack("!H", len(columns))]
    for name, oid in columns:
        description.append(_cstring(name) + struct.pack("!IhIhih", 0, 0, oid, -1, -1, 0))
    row = [struct.pack("!H", len(values))]
    for value in values:
        if value is None:
            row.append(struct.pack("!i", -1))
        else:
            content = value.encode() if isinstance(value, str) else value
            row.append(_INT32.pack(len(content)) + content)
    return _framed(b"T", b"".join(description)) + _framed(b"D", b"".join(row))


def error_response(error: SqlError) -> bytes:
    severity = "FATAL" if error.fatal else "ERROR"
    fields = [("S", severity), ("V", severity), ("C", error.sqlstate), ("M", error.message)]
    fields += [(key, text) for key, text in (("D", error.detail), ("H", error.hint)) if text]
    body = b"".join(key.encode() + _cstring(text) for key, text in fields) + b"\0"
    return _framed(b"E", body)
