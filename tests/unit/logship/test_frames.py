from __future__ import annotations

import crc32c
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logship.errors import Code, LogshipError
from logship.frames import (
    MAX_HEAD_BYTES,
    MAX_PAYLOAD_BYTES,
    Ack,
    Bye,
    Joined,
    SeedBegin,
    ShipperHeartbeat,
    decode_from_applier,
    decode_from_shipper,
    decode_join,
    decode_joined,
    encode,
    peek_versions,
)
from tests.support.enrolments import join_of
from tests.support.fake_intake import new_keys
from tests.support.link_frames import hello, span_frame, welcome


def framed(body: bytes) -> bytes:
    return crc32c.crc32c(body).to_bytes(4, "little") + body


def packed(**fields: object) -> bytes:
    return framed(msgspec.msgpack.encode(fields))


def error_of(*parts: bytes) -> LogshipError:
    with pytest.raises(LogshipError) as caught:
        decode_from_shipper(parts)
    return caught.value


@pytest.mark.parametrize(
    "frame",
    [
        hello(),
        Bye(reason="x"),
        SeedBegin(
            seed_id="s", timeline=1, start_lsn=1, estimated_bytes=2, tablespaces=[(16384, "/t")]
        ),
    ],
)
def test_frames_survive_the_wire(frame: object) -> None:
    assert decode_from_shipper(encode(frame)) == (frame, b"")  # type: ignore[arg-type]


def test_a_payload_travels_beside_its_frame() -> None:
    frame = span_frame(1, 8192, 10)
    assert decode_from_shipper(encode(frame, b"0123456789")) == (frame, b"0123456789")


def test_positions_use_all_of_64_bits() -> None:
    frame = Ack(timeline=0xFFFFFFFF, received_lsn=2**64 - 1, durable_lsn=2**64 - 1)
    assert decode_from_applier(encode(frame))[0] == frame


def test_a_join_and_its_answer_survive_the_wire_and_are_no_frames_of_a_session() -> None:
    join, answer = join_of(new_keys()), Joined(version=1, instance="main", notes=["a", "b"])
    assert decode_join(encode(join)) == join
    assert decode_joined(encode(answer)) == answer
    assert error_of(*map(bytes, encode(join))).code is Code.BAD_FRAME
    with pytest.raises(LogshipError):
        decode_from_applier(encode(answer))
    with pytest.raises(LogshipError):
        decode_join(encode(hello()))


def test_frames_of_the_other_direction_are_refused() -> None:
    (head,) = encode(welcome())
    assert error_of(bytes(head)).code is Code.BAD_FRAME


def test_keys_that_a_newer_version_added_are_ignored() -> None:
    assert decode_from_shipper([packed(t="bye", reason="x", mood="good")])[0] == Bye(reason="x")


def test_keys_that_an_older_version_lacks_have_defaults() -> None:
    head = packed(t="shipperheartbeat", timeline=1, flush_lsn=2, sent_at=0.0)
    beat = decode_from_shipper([head])[0]
    assert beat == ShipperHeartbeat(timeline=1, flush_lsn=2, sent_at=0.0)


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (b"", b"", b""),
        (b"",),
        (b"1234",),
        (framed(b"\xc1"),),
        (packed(t="nonsense"),),
        (packed(t="bye"),),
        (packed(t="bye", reason=5),),
        (packed(t="bye", reason="x"), b"payload"),
        (packed(t="shipperheartbeat", timeline=-1, flush_lsn=2, sent_at=0.0),),
        (packed(t="shipperheartbeat", timeline=2**32, flush_lsn=2, sent_at=0.0),),
        (packed(t="shipperheartbeat", timeline=1, flush_lsn=-2, sent_at=0.0),),
        (framed(bytes(MAX_HEAD_BYTES)),),
    ],
)
def test_what_is_no_frame_is_refused(parts: tuple[bytes, ...]) -> None:
    assert error_of(*parts).code is Code.BAD_FRAME


def test_a_payload_beyond_the_limit_is_refused() -> None:
    (head,) = encode(span_frame(1, 0, 10))
    assert error_of(bytes(head), bytes(MAX_PAYLOAD_BYTES + 1)).code is Code.BAD_FRAME


@given(st.data())
def test_a_flipped_bit_in_a_head_never_passes(data: st.DataObject) -> None:
    head = bytearray(encode(span_frame(1, 8192, 10))[0])
    head[data.draw(st.integers(0, len(head) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    error = error_of(bytes(head), b"0123456789")
    assert error.code is Code.CHECKSUM_MISMATCH
    assert error.retryable


@given(st.lists(st.binary(max_size=200), max_size=3), st.booleans())
def test_no_bytes_raise_anything_but_our_error(parts: list[bytes], checked: bool) -> None:
    if checked and parts:
        parts = [framed(parts[0]), *parts[1:]]
    for decode in (decode_from_applier, decode_from_shipper, decode_join, decode_joined):
        try:
            decode(parts)
        except LogshipError as error:
            assert error.code in (Code.BAD_FRAME, Code.CHECKSUM_MISMATCH)


@pytest.mark.parametrize(
    "body",
    [
        b"\x82\xa1t\xa3bye\xa6reason\xa2\xff\xfe",
        b"\x82\xa1t\xa3bye\xa1x" + b"\x91" * 100_000 + b"\xc0",
    ],
    ids=["text that is no UTF-8", "nesting without end"],
)
def test_what_msgspec_has_other_errors_for_is_a_bad_frame_too(body: bytes) -> None:
    assert error_of(framed(body)).code is Code.BAD_FRAME
    assert peek_versions(framed(body)) is None


def test_the_versions_of_any_hello_can_be_read() -> None:
    assert peek_versions(packed(t="hello", version_min=7, version_max=9, instance=[1])) == (7, 9)
    assert peek_versions(packed(t="join", version_min=7, version_max=9)) == (7, 9)
    assert peek_versions(packed(t="bye", version_min=7, version_max=9)) is None
    assert peek_versions(packed(t="hello")) is None
    assert peek_versions(b"") is None
