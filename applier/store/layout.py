"""What stands on the disk: names, the tail of a partial segment, chains.json.

docs/store-format.md is the prose of this file, for whoever writes another reader.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import NamedTuple

import crc32c
import msgspec

from applier.store.positions import Extent
from logship.decoders import json_decoder
from logship.documents import UNREADABLE
from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from logship.wal import (
    WalLine,
    check_segment_size,
    parse_segment_name,
    segment_end,
    segment_name,
)

PARTIAL_SUFFIX = ".partial"
NEW_SUFFIX = ".new"
SPARE_NAME = "spare"
CHAINS_NAME = "chains.json"
LOCK_NAME = "lock"
REFUSED_DIRECTORY = "refused"
SUPERSEDED_DIRECTORY = "superseded"

SLOT_BYTES = 4096
"""One slot, the block size of common file systems: a write to one never touches the other."""
TAIL_BYTES = 2 * SLOT_BYTES

_MAGIC = b"LOGSHIPT"
_VERSION = 1
_SLOT = struct.Struct("<8sIIQQQQII")
_OWN_CHECKSUM = struct.Struct("<I")
_DECIMAL = re.compile(r"\A[0-9]{1,20}\Z")


class Slot(NamedTuple):
    """A claim: the segment's bytes [segment start, end_lsn) are held, with this CRC-32C."""

    timeline: int
    start_lsn: Lsn
    end_lsn: Lsn
    sequence: int
    data_crc32c: int


def encode_slot(slot: Slot, line: WalLine) -> bytes:
    """SLOT_BYTES bytes."""
    body = _SLOT.pack(
        _MAGIC,
        _VERSION,
        slot.timeline,
        line.system_identifier,
        slot.start_lsn,
        slot.end_lsn,
        slot.sequence,
        line.segment_bytes,
        slot.data_crc32c,
    )
    return (body + _OWN_CHECKSUM.pack(crc32c.crc32c(body))).ljust(SLOT_BYTES, b"\0")


def decode_slot(data: bytes, timeline: int, start_lsn: int, line: WalLine) -> Slot | None:
    """The slot, or None if it is torn, never written, or not of this segment."""
    if len(data) < _SLOT.size + _OWN_CHECKSUM.size:
        return None
    body = data[: _SLOT.size]
    (checksum,) = _OWN_CHECKSUM.unpack_from(data, _SLOT.size)
    if crc32c.crc32c(body) != checksum:
        return None
    fields = _SLOT.unpack(body)
    magic, version, slot_timeline, system_identifier, start, end, sequence, size, data_crc = fields
    if (magic, version) != (_MAGIC, _VERSION):
        return None
    if (slot_timeline, start) != (timeline, start_lsn):
        return None
    if (system_identifier, size) != (line.system_identifier, line.segment_bytes):
        return None
    if not start <= end <= segment_end(start, line.segment_bytes):
        return None
    return Slot(timeline, Lsn(start), Lsn(end), sequence, data_crc)


def partial_name(timeline: int, lsn: int, segment_bytes: int) -> str:
    return segment_name(timeline, lsn, segment_bytes) + PARTIAL_SUFFIX


def parse_wal_name(name: str, segment_bytes: int) -> tuple[int, Lsn] | None:
    """(timeline, start LSN) of a segment's file, finished or not; None: it is another file."""
    try:
        return parse_segment_name(name.removesuffix(PARTIAL_SUFFIX), segment_bytes)
    except ValueError:
        return None


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes [start, end) of one timeline."""

    timeline: int
    start_lsn: str
    end_lsn: str


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of chains.json."""

    timeline: int
    start_lsn: str
    """As asked for, or where retention moved it; the chain's bytes start at the start of its
    segment."""
    started_at: float
    """Seconds since the epoch, for people."""
    seed_id: str = ""
    set_aside: list[str] = msgspec.field(default_factory=list)
    """Files of before, still to be moved to superseded/<number of this entry>/.  Not empty
    only between the two writes of this file that begin a chain."""
    held: list[Held] = msgspec.field(default_factory=list)
    """Of a chain that is not the last: what it durably held when the next one began, less what
    a later one set aside; by timeline, oldest first.  Of the last: empty, its files tell."""

    @property
    def lsn(self) -> Lsn:
        return Lsn.parse(self.start_lsn)

    @property
    def extents(self) -> dict[int, Extent]:
        """`held`, parsed."""
        return {
            held.timeline: Extent(Lsn.parse(held.start_lsn), Lsn.parse(held.end_lsn))
            for held in self.held
        }

    def starting(self, timeline: int, lsn: Lsn) -> Chain:
        """The same entry, of which what is below is gone."""
        return msgspec.structs.replace(self, timeline=timeline, start_lsn=str(lsn))

    def holding(self, extents: Mapping[int, Extent]) -> Chain:
        """The same entry with `extents` as what it held."""
        held = [
            Held(timeline=timeline, start_lsn=str(extent.start), end_lsn=str(extent.end))
            for timeline, extent in sorted(extents.items())
        ]
        return msgspec.structs.replace(self, held=held)


class Chains(msgspec.Struct, frozen=True, kw_only=True):
    """chains.json: whose WAL this directory holds and since when.  The last entry counts."""

    format: int = 1
    system_identifier: str
    """Decimal text: it does not fit a double, which many JSON readers make of a number."""
    major: int
    segment_bytes: int
    chains: list[Chain]

    @property
    def line(self) -> WalLine:
        return WalLine(int(self.system_identifier), self.major, self.segment_bytes)


_encoder = msgspec.json.Encoder()
_decoder = json_decoder(Chains)


def encode_chains(line: WalLine, chains: list[Chain]) -> bytes:
    record = Chains(
        system_identifier=str(line.system_identifier),
        major=line.major,
        segment_bytes=line.segment_bytes,
        chains=chains,
    )
    return msgspec.json.format(_encoder.encode(record), indent=2) + b"\n"


def decode_chains(data: bytes, where: object) -> Chains:
    """Read chains.json.  Raises LogshipError(STORE_DAMAGED) naming `where`."""
    try:
        record = _decoder.decode(data)
        if record.format != 1:
            raise ValueError(f"format {record.format}")
        _check(record)
    except (*UNREADABLE, ValueError) as error:
        raise LogshipError(
            Code.STORE_DAMAGED,
            f"{where} can't be read: {error}",
            "restore it, or move the directory aside and seed again",
        ) from error
    return record


def _check(record: Chains) -> None:
    """Raise ValueError for what a slot and the names of files could not hold."""
    if _DECIMAL.match(record.system_identifier) is None:
        raise ValueError(f"system identifier {record.system_identifier[:80]!r}")
    if record.line.system_identifier >= 1 << 64:
        raise ValueError(f"system identifier {record.system_identifier}")
    check_segment_size(record.line.segment_bytes)
    for chain in record.chains:
        Lsn.parse(chain.start_lsn)
        for timeline in (chain.timeline, *chain.extents):
            if not 0 < timeline < 1 << 32:
                raise ValueError(f"timeline {timeline}")


def check_line(found: WalLine, wanted: WalLine, where: object) -> None:
    """Refuse to mix clusters in one directory."""
    for code, what, have, want in (
        (
            Code.SYSTEM_IDENTIFIER_MISMATCH,
            "system identifier",
            found.system_identifier,
            wanted.system_identifier,
        ),
        (Code.MAJOR_MISMATCH, "major", found.major, wanted.major),
        (Code.SEGMENT_SIZE_MISMATCH, "segment size", found.segment_bytes, wanted.segment_bytes),
    ):
        if have != want:
            raise LogshipError(
                code,
                f"{where} holds WAL of {what} {have}, not {want}",
                "each incarnation of a cluster has a directory of its own",
            )
