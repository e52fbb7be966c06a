"""Bytes of a client of the WAL server, before and after its startup packet.

Input: seed of the cuts (2 bytes), bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from applier.walserver import codec
from applier.walserver.codec import FrontendDecoder, SqlError
from tests.fuzz.target import Input, check_message, cut
from tests.unit.applier.walserver import transcript

SHORT_RUNS = 30_000
LARGEST_BYTES = 1 + 4 + codec.MAX_QUERY_BYTES


def run(data: bytes) -> bool:
    fields = Input(data)
    cuts, stream = fields.number(2), fields.rest()
    whole = _messages([stream])
    assert _messages(cut(stream, cuts)) == whole
    return not isinstance(whole[-1], str)


def _messages(pieces: list[bytes]) -> list[object]:
    """What was decoded, then what is left over (a number of bytes), or the error (text)."""
    decoder, found = FrontendDecoder(), list[object]()
    for piece in pieces:
        decoder.feed(piece)
        try:
            while (message := decoder.next_message()) is not None:
                _check(message)
                found.append(message)
        except SqlError as error:
            check_message(error.message)
            assert error.fatal
            return [*found, f"{error.sqlstate} {error.message}"]
        assert decoder.buffered_bytes < LARGEST_BYTES + len(piece)
    assert decoder.buffered_bytes < LARGEST_BYTES
    return [*found, decoder.buffered_bytes]


def _check(message: codec.Message) -> None:
    if isinstance(message, codec.Startup):
        assert all(name for name in message.parameters)
        assert not any("\0" in text for pair in message.parameters.items() for text in pair)
    if isinstance(message, codec.Query):
        assert "\0" not in message.text
    if isinstance(message, codec.CopyData):
        assert len(message.payload) <= codec.MAX_COPY_BYTES
        try:
            report = codec.standby_report(message.payload)
        except SqlError as error:
            check_message(error.message)
            assert error.fatal
        else:
            assert all(number >= 0 for number in report)


def seeds() -> Iterator[bytes]:
    hello = transcript.startup(**transcript.STANDBY)
    later = [
        transcript.query("IDENTIFY_SYSTEM"),
        transcript.query('START_REPLICATION SLOT "s" 0/100000 TIMELINE 1'),
        transcript.report(1 << 20, 1 << 20, 1 << 19, asks=True),
        transcript.feedback(),
        transcript.copy_done(),
        transcript.message("f", b"why\0"),
        transcript.message("S"),
        transcript.message("P", b"\0select 1\0\0\0"),
        transcript.message("X"),
    ]
    for number, one in enumerate(later):
        yield bytes([number, 0]) + hello + one
    yield b"\1\0" + struct.pack("!II", 8, 80877103) + hello + b"".join(later)
    yield b"\2\0" + struct.pack("!IIII", 16, 80877102, 7, 7)
    yield b"\3\0" + transcript.startup(codec.PROTOCOL_3_2, user="\xe9", replication="on")
