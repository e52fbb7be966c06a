"""Frames of the link: what a peer that holds a key may send, before anything else is known.

Input: flags (1: to the shipper; 2: with a payload; 4: the head's checksum as it comes; 8: of a
join), body.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import crc32c
import msgspec

from logship.errors import Code, LogshipError
from logship.frames import (
    MAX_HEAD_BYTES,
    Frame,
    Hello,
    Join,
    Payload,
    decode_from_applier,
    decode_from_shipper,
    decode_join,
    decode_joined,
    encode,
    peek_versions,
)
from tests.fuzz import samples
from tests.fuzz.errors import check_refusal
from tests.fuzz.mutation import mutate_document
from tests.fuzz.target import MutateBytes

SHORT_RUNS = 30_000
TO_SHIPPER, PAYLOAD, RAW, JOIN = 1, 2, 4, 8


def decode(bits: int, parts: list[Payload]) -> tuple[Frame, Payload]:
    if bits & JOIN:
        return (decode_joined if bits & TO_SHIPPER else decode_join)(parts), b""
    return (decode_from_applier if bits & TO_SHIPPER else decode_from_shipper)(parts)


def run(data: bytes) -> bool:
    flags, body = data[:1], data[1:]
    bits = flags[0] if flags else 0
    head = body if bits & RAW else crc32c.crc32c(body).to_bytes(4, "little") + body
    payload = b"p" * (bits >> 4)
    versions = peek_versions(head)
    try:
        frame, got = decode(bits, [head, payload] if bits & PAYLOAD else [head])
    except LogshipError as error:
        check_refusal(error, Code.BAD_FRAME, Code.CHECKSUM_MISMATCH)
        return False
    assert bytes(got) == (payload if bits & PAYLOAD else b"")
    if isinstance(frame, Hello | Join):
        assert versions == (frame.version_min, frame.version_max)
    again = encode(frame, payload if bits & PAYLOAD else None)
    # Keys left out are written with their defaults: some hundred bytes more.
    assert len(again[0]) <= min(len(head) * 2 + 1000, MAX_HEAD_BYTES)
    frame_again, _ = decode(bits, again)
    assert encode(frame_again)[0] == again[0]  # not the frames: a NaN in one equals nothing
    return True


def seeds() -> Iterator[bytes]:
    for flags, frames in (
        (0, samples.from_shipper()),
        (TO_SHIPPER, samples.from_applier()),
        (JOIN, samples.of_a_join()),
        (JOIN | TO_SHIPPER, samples.of_its_answer()),
    ):
        for frame, payload in frames:
            with_payload = PAYLOAD if payload is not None else 0
            yield bytes([flags | with_payload]) + bytes(encode(frame)[0])[4:]


def mutate(data: bytes, max_bytes: int, random: Random, other: MutateBytes) -> bytes:
    try:
        document = msgspec.msgpack.decode(data[1:])
        changed = msgspec.msgpack.encode(mutate_document(document, random))
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError):
        return other(data, max_bytes)
    flags = data[0] if random.random() < 0.9 else random.randrange(256)
    return bytes([flags]) + changed
