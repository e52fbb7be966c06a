"""The tail of a partial segment, and chains.json: what a disk may have made of them.

Input: kind (0: a slot, 1: a slot whose checksum is put right, 2: chains.json), content.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from random import Random

import crc32c
import msgspec

from applier.store import layout
from applier.store.layout import Chain, Held, Slot
from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from tests.fuzz.errors import check_refusal
from tests.fuzz.mutation import mutate_document
from tests.fuzz.target import Input, MutateBytes
from tests.support.wal_factory import MEGABYTE, wal_line

LINE = wal_line()
START = 16 * MEGABYTE
SLOT_FIELDS_BYTES = layout._SLOT.size
SLOT, MENDED_SLOT, CHAINS = range(3)


def run(data: bytes) -> bool:
    fields = Input(data)
    kind, content = fields.number(), fields.rest()
    if kind == CHAINS:
        return _run_chains(content)
    if kind == MENDED_SLOT:
        body = content[:SLOT_FIELDS_BYTES]
        content = body + struct.pack("<I", crc32c.crc32c(body)) + content[len(body) + 4 :]
    slot = layout.decode_slot(content, 1, START, LINE)
    if slot is None:
        return False
    assert START <= slot.end_lsn <= START + LINE.segment_bytes
    assert (
        layout.encode_slot(slot, LINE)[: SLOT_FIELDS_BYTES + 4] == content[: SLOT_FIELDS_BYTES + 4]
    )
    assert layout.decode_slot(layout.encode_slot(slot, LINE), 1, START, LINE) == slot
    return True


def _run_chains(content: bytes) -> bool:
    try:
        record = layout.decode_chains(content, "chains.json")
    except LogshipError as error:
        check_refusal(error, Code.STORE_DAMAGED)
        return False
    line = record.line
    assert MEGABYTE <= line.segment_bytes <= 1024 * MEGABYTE
    for chain in record.chains:
        assert 0 <= chain.lsn < 1 << 64
        assert all(extent.start >= 0 for extent in chain.extents.values())
    again = layout.decode_chains(layout.encode_chains(line, record.chains), "again")
    assert layout.encode_chains(line, again.chains) == layout.encode_chains(line, record.chains)
    # A line that can be claimed can be written: the slot's fields hold it.
    if record.chains:
        chain = record.chains[-1]
        slot = Slot(chain.timeline, Lsn(0), Lsn(0), 1, 0)
        assert len(layout.encode_slot(slot, line)) == layout.SLOT_BYTES
    return True


def seeds() -> Iterator[bytes]:
    for end in (START, START + 100, START + MEGABYTE):
        slot = layout.encode_slot(Slot(1, Lsn(START), Lsn(end), 7, 0xDEADBEEF), LINE)
        yield bytes([SLOT]) + slot[:100]
        yield bytes([MENDED_SLOT]) + slot[:60]
    chain = Chain(timeline=1, start_lsn="0/1000028", started_at=1e9, seed_id="s1")
    held = Held(timeline=1, start_lsn="0/1000000", end_lsn="0/1400000")
    later = Chain(timeline=2, start_lsn="0/9000028", started_at=1e9, set_aside=["00000002.history"])
    for chains in ([], [chain], [msgspec.structs.replace(chain, held=[held]), later]):
        yield bytes([CHAINS]) + layout.encode_chains(LINE, chains)


def mutate(data: bytes, max_bytes: int, random: Random, other: MutateBytes) -> bytes:
    if data[:1] != bytes([CHAINS]):
        return other(data, max_bytes)
    try:
        document = msgspec.json.decode(data[1:])
        return data[:1] + msgspec.json.encode(mutate_document(document, random))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return other(data, max_bytes)
