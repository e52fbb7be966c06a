"""`begin` and `end` of a seed in a bucket, their checksum put right.

Input: flags (1: the checksum as it comes, 2: an `end`), the JSON of the inner document, or with
the first flag of the whole object.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import crc32c
import msgspec

from logship.bucket.keys import Keys, SeedName
from logship.bucket.seed_archive.documents import (
    MAX_PART_BYTES,
    ArchiveParts,
    BeginDocument,
    EndDocument,
    Part,
    encode_document,
    info_of,
    read_begin,
    read_end,
)
from logship.errors import Code, LogshipError
from logship.frames import SeedBegin, SeedEnd
from logship.identity import Incarnation
from logship.lsn import Lsn
from tests.fuzz.errors import check_refusal
from tests.fuzz.mutation import mutate_document
from tests.fuzz.target import MutateBytes
from tests.support.link_frames import profile

AS_IT_COMES, IS_END = 1, 2
KEYS = Keys("main", Incarnation(7301234567890123456, 17))
NAME = SeedName(Lsn(0x2000028), "ab12")
BEGIN = BeginDocument(
    instance="main",
    incarnation=str(KEYS.incarnation),
    begun_at=1e9,
    begin=SeedBegin(
        seed_id="ab12",
        timeline=1,
        start_lsn=0x2000028,
        estimated_bytes=7,
        tablespaces=[(16385, "/mnt/fast")],
    ),
    profile=profile(),
)
_, BEGIN_CRC32C = encode_document(BEGIN)


def run(data: bytes) -> bool:
    flags, body = data[0] if data else 0, data[1:]
    if not flags & AS_IT_COMES:
        body = b'{"crc32c":%d,"document":%s}' % (crc32c.crc32c(body.strip(b" \t\r\n")), body)
    try:
        if not flags & IS_END:
            begin, _ = read_begin(body, KEYS, NAME, "the seed")
            again, checksum = encode_document(begin)
            assert read_begin(again, KEYS, NAME, "the seed") == (begin, checksum)
            return True
        end = read_end(body, BEGIN_CRC32C, NAME, "the seed")
    except LogshipError as error:
        check_refusal(error, Code.OBJECT_DAMAGED)
        return False
    again, _ = encode_document(end)
    assert read_end(again, BEGIN_CRC32C, NAME, "the seed") == end
    info = info_of(NAME, BEGIN, end)
    for archive in info.archives:
        assert archive.name in ("base", "manifest") or archive.name.isdigit()
        assert all(0 < part.raw_bytes <= MAX_PART_BYTES for part in archive.parts)
    return True


def seeds() -> Iterator[bytes]:
    part = Part(raw_bytes=8 << 20, crc32c=1, stored_bytes=1000)
    end = EndDocument(
        begin_crc32c=BEGIN_CRC32C,
        finished_at=1e9,
        end=SeedEnd(seed_id="ab12", sequence=9, timeline=1, end_lsn=0x2000120),
        archives=[
            ArchiveParts(name="16385", parts=[part, part]),
            ArchiveParts(name="base", parts=[part]),
            ArchiveParts(name="manifest", parts=[]),
        ],
    )
    for flag, document in ((0, BEGIN), (IS_END, end)):
        whole, _ = encode_document(document)
        yield bytes([flag | AS_IT_COMES]) + whole
        yield bytes([flag]) + msgspec.json.encode(document)


def mutate(data: bytes, max_bytes: int, random: Random, other: MutateBytes) -> bytes:
    try:
        changed = mutate_document(msgspec.json.decode(data[1:]), random)
        return data[:1] + msgspec.json.encode(changed)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return other(data, max_bytes)
