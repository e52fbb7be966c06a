from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from applier.walserver import codec
from applier.walserver.codec import FrontendDecoder, SqlError
from tests.unit.applier.walserver import transcript


def decoder_after_startup() -> FrontendDecoder:
    decoder = FrontendDecoder()
    decoder.feed(transcript.startup(user="orders"))
    assert decoder.next_message() == codec.Startup(codec.PROTOCOL_3_0, {"user": "orders"})
    return decoder


def messages_of(decoder: FrontendDecoder) -> list[codec.Message]:
    found = []
    while (message := decoder.next_message()) is not None:
        found.append(message)
    return found


def test_messages_are_the_same_however_the_bytes_are_cut() -> None:
    stream = (
        struct.pack("!II", 8, 80877103)
        + struct.pack("!II", 8, 80877104)
        + transcript.startup(user="orders", replication="true")
        + transcript.query("IDENTIFY_SYSTEM")
        + transcript.report(1, 2, 3)
        + transcript.copy_done()
        + transcript.message("X")
    )
    decoder, found = FrontendDecoder(), []
    for byte in stream:
        decoder.feed(bytes([byte]))
        found += messages_of(decoder)
    whole = FrontendDecoder()
    whole.feed(stream)
    assert found == messages_of(whole)
    assert [type(message).__name__ for message in found] == [
        "EncryptionRequest",
        "EncryptionRequest",
        "Startup",
        "Query",
        "CopyData",
        "CopyDone",
        "Terminate",
    ]
    assert whole.buffered_bytes == 0


@pytest.mark.parametrize("length", [0, 7, codec.MAX_STARTUP_BYTES + 1, 0xFFFFFFFF])
def test_a_startup_packet_of_impossible_length_is_refused_before_it_is_awaited(length: int) -> None:
    decoder = FrontendDecoder()
    decoder.feed(struct.pack("!I", length))
    with pytest.raises(SqlError, match="length of startup packet") as caught:
        decoder.next_message()
    assert caught.value.fatal


@pytest.mark.parametrize(
    ("kind", "length"),
    [("Q", 3), ("Q", codec.MAX_QUERY_BYTES + 5), ("d", codec.MAX_COPY_BYTES + 5), ("c", 5)],
)
def test_a_message_of_impossible_length_is_refused_before_it_is_awaited(
    kind: str, length: int
) -> None:
    decoder = decoder_after_startup()
    decoder.feed(kind.encode() + struct.pack("!I", length))
    with pytest.raises(SqlError, match=f"invalid length {length}") as caught:
        decoder.next_message()
    assert caught.value.sqlstate == "08P01"


def test_another_major_of_the_protocol_is_refused() -> None:
    decoder = FrontendDecoder()
    decoder.feed(transcript.startup(2 << 16, user="orders"))
    with pytest.raises(SqlError, match=r"unsupported frontend protocol 2\.0"):
        decoder.next_message()


@pytest.mark.parametrize("body", [b"", b"\0\0\0", b"user\0", b"user\0orders\0", b"user\0orders"])
def test_a_startup_packet_without_its_terminators_is_refused(body: bytes) -> None:
    packet = struct.pack("!I", codec.PROTOCOL_3_0) + body
    decoder = FrontendDecoder()
    decoder.feed(struct.pack("!I", 4 + len(packet)) + packet)
    with pytest.raises(SqlError, match="startup packet layout"):
        decoder.next_message()


def test_an_unknown_message_type_is_refused_at_once() -> None:
    decoder = decoder_after_startup()
    decoder.feed(b"\xff\0\0\0\x04")
    with pytest.raises(SqlError, match="invalid frontend message type 255"):
        decoder.next_message()


@pytest.mark.parametrize("payload", [b"", b"r", b"r" + b"\0" * 34, b"h" + b"\0" * 23, b"z1"])
def test_a_report_that_is_none_is_refused(payload: bytes) -> None:
    with pytest.raises(SqlError, match="unexpected standby message"):
        codec.standby_report(payload)


def test_wal_and_keepalives_are_framed_as_the_documentation_says() -> None:
    data = b"x" * 100
    header = codec.wal_data_header(0x1_0000_0000, 0x2_0000_0000, 5, len(data))
    assert header + data == (
        b"d" + struct.pack("!I", 4 + 25 + 100) + b"w"
        + struct.pack("!QQq", 0x1_0000_0000, 0x2_0000_0000, 5) + data
    )  # fmt: skip
    assert codec.keepalive(7, 5, reply_requested=True) == (
        b"d" + struct.pack("!I", 4 + 18) + b"k" + struct.pack("!QqB", 7, 5, 1)
    )
    assert codec.postgres_time(946_684_801.5) == 1_500_000


def test_an_error_s_text_can_not_break_its_frame() -> None:
    frame = codec.error_response(SqlError("XX000", "a\0b", detail="c", hint="d", fatal=True))
    assert transcript.answers([frame]) == ["FATAL XX000 a?b"]


@given(chunks=st.lists(st.binary(max_size=200), max_size=20), started=st.booleans())
def test_garbage_gives_messages_or_one_error_and_holds_no_more_than_a_message(
    chunks: list[bytes], started: bool
) -> None:
    decoder = decoder_after_startup() if started else FrontendDecoder()
    for chunk in chunks:
        decoder.feed(chunk)
        try:
            messages_of(decoder)
        except SqlError as error:
            assert error.fatal
            return
        assert decoder.buffered_bytes <= codec.MAX_QUERY_BYTES + 5
