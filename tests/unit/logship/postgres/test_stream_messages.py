"""The stream's messages, well formed and not."""

from __future__ import annotations

import struct

import pytest

from logship.errors import LogshipError
from logship.lsn import Lsn
from logship.postgres.stream_messages import Keepalive, XLogData, read_message, status_message


def test_wal_data_is_passed_on_without_a_copy() -> None:
    message = struct.pack("!cQQQ", b"w", 0x1000000, 0x2000000, 1_000_000) + b"wal"
    view = memoryview(message)
    event = read_message(view)
    assert event == XLogData(Lsn(0x1000000), Lsn(0x2000000), memoryview(b"wal"), 946_684_801.0)
    assert isinstance(event, XLogData)
    assert event.data.obj is message


def test_a_keepalive_says_if_it_wants_an_answer() -> None:
    for wanted in (True, False):
        message = struct.pack("!cQQB", b"k", 0x2000000, 0, wanted)
        assert read_message(memoryview(message)) == Keepalive(Lsn(0x2000000), wanted, 946_684_800.0)


@pytest.mark.parametrize(
    "message", [b"", b"w", b"w" + bytes(24), b"k" + bytes(16), b"z" + bytes(40)]
)
def test_other_messages_are_refused(message: bytes) -> None:
    with pytest.raises(LogshipError, match="not understood"):
        read_message(memoryview(message))


def test_a_status_has_the_positions_in_the_protocols_order() -> None:
    kind, written, flushed, applied, _, reply = struct.unpack(
        "!cQQQQB", status_message(3, 2, 1, True)
    )
    assert (kind, written, flushed, applied, reply) == (b"r", 3, 2, 1, 1)
