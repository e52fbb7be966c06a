"""`begin` and `end` of a seed: JSON that says what the seed is, and what it consists of.

Each is `{"crc32c": N, "document": {...}}`, where N is the CRC-32C of the bytes of the inner
object: parts are checked by what `end` says, so `end` itself must not be taken on trust.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, NamedTuple, Protocol, TypeVar

import crc32c
import msgspec

from logship.bucket.keys import Keys, SeedName
from logship.bucket.wal_objects import damaged
from logship.decoders import json_decoder
from logship.documents import UNREADABLE
from logship.errors import Code, LogshipError
from logship.frames import SeedBegin, SeedEnd
from logship.identity import Profile
from logship.lsn import Lsn, plain_lsn

BEGIN: Final = "begin"
END: Final = "end"
BASE: Final = "base"
MANIFEST: Final = "manifest"
PART_BYTES: Final = 8 * 1024 * 1024
"""Raw bytes of a part, at most, as we write it."""
MAX_PART_BYTES: Final = 64 * 1024 * 1024
"""Refused above this, before anything is allocated for it."""

_ARCHIVE: Final = re.compile(r"\A(?:base|manifest|[1-9][0-9]{0,9})\Z")
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Checksum = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]


class Seals(Protocol):
    """Makes what only the owner of a secret can read (`logship.objects.encryption`)."""

    def seal(self, body: bytes) -> bytes: ...


class Opens(Protocol):
    """Reads what was made for it, and what was never sealed."""

    def open(self, body: bytes, where: str) -> bytes:
        """where: the object, for messages."""


class Plain:
    """Seals and opens nothing."""

    def seal(self, body: bytes) -> bytes:
        return body

    def open(self, body: bytes, where: str) -> bytes:
        return body


PLAIN: Final = Plain()


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One object of an archive."""

    raw_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_PART_BYTES)]
    crc32c: _Checksum
    """Of the raw bytes."""
    stored_bytes: _Count
    """Of the object, as it lies in the store."""


class ArchiveParts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of an archive, in order: number 0 first."""

    name: str
    parts: list[Part]


class BeginDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What a seed is of, known before its first byte."""

    format: Literal[1] = 1
    instance: str
    incarnation: str
    begun_at: float
    """Seconds since the epoch, by the writer's clock."""
    begin: SeedBegin
    profile: Profile | None = None
    """What the primary was, where the writer knows."""


class EndDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What a seed consists of."""

    format: Literal[1] = 1
    begin_crc32c: _Checksum
    """The checksum of the `begin` that belongs to it."""
    finished_at: float
    end: SeedEnd
    archives: list[ArchiveParts]
    """In the order in which they have to be read; the manifest is the last."""


class SeedInfo(NamedTuple):
    """A complete seed."""

    name: SeedName
    begin: SeedBegin
    end: SeedEnd
    timeline: int
    start_lsn: Lsn
    end_lsn: Lsn
    raw_bytes: int
    stored_bytes: int
    """Of its parts."""
    begun_at: float
    finished_at: float
    """Seconds since the epoch, by the writer's clock."""
    profile: Profile | None
    """What the primary was, where the writer knew."""
    archives: tuple[ArchiveParts, ...]


def seed_name(begin: SeedBegin) -> SeedName:
    """The folder of the seed.  Raises LogshipError(BAD_FRAME) for an id that can't name one."""
    name = SeedName(Lsn(begin.start_lsn), begin.seed_id)
    try:
        return SeedName.parse(str(name))
    except ValueError as error:
        raise LogshipError(
            Code.BAD_FRAME, f"a seed with the id {begin.seed_id!r}, which names no folder"
        ) from error


def archive_folder(archive: str) -> str:
    """The folder of the archive that a chunk of kind "archive" starts."""
    return archive or BASE


def part_key(keys: Keys, name: SeedName, archive: str, number: int) -> str:
    """archive: the folder."""
    return keys.seed(name, f"{archive}/{number:06X}")


class _Envelope(msgspec.Struct):
    crc32c: int
    document: msgspec.Raw


_Document = TypeVar("_Document", BeginDocument, EndDocument)
_encoder = msgspec.json.Encoder(enc_hook=plain_lsn)
_envelopes = json_decoder(_Envelope)


def encode_document(document: BeginDocument | EndDocument) -> tuple[bytes, int]:
    """(the object's bytes, the checksum of the document in it)."""
    body = _encoder.encode(document)
    checksum = crc32c.crc32c(body)
    return _encoder.encode(_Envelope(checksum, msgspec.Raw(body))), checksum


def read_begin(body: bytes, keys: Keys, name: SeedName, where: str) -> tuple[BeginDocument, int]:
    """The document and its checksum.  Raises LogshipError(OBJECT_DAMAGED)."""
    document, checksum = _decoded(body, BeginDocument, where)
    if (document.instance, document.incarnation) != (keys.instance, str(keys.incarnation)):
        raise damaged(where, f"it is of {document.instance} {document.incarnation}")
    if (document.begin.start_lsn, document.begin.seed_id) != name:
        raise damaged(where, f"it is of the seed {document.begin.seed_id}")
    return document, checksum


def read_end(body: bytes, begin_crc32c: int, name: SeedName, where: str) -> EndDocument:
    """Raises LogshipError(OBJECT_DAMAGED)."""
    document, _ = _decoded(body, EndDocument, where)
    if document.end.seed_id != name.seed_id or document.begin_crc32c != begin_crc32c:
        raise damaged(where, "it does not belong to the beginning of the seed")
    names = [each.name for each in document.archives]
    if not all(map(_ARCHIVE.match, names)) or len(set(names)) < len(names):
        raise damaged(where, f"its archives are {names[:10]}")
    if BASE not in names or names[-1] != MANIFEST:
        raise damaged(where, "it has no data directory or no manifest")
    return document


def info_of(name: SeedName, begin: BeginDocument, end: EndDocument) -> SeedInfo:
    parts = [part for archive in end.archives for part in archive.parts]
    return SeedInfo(
        name=name,
        begin=begin.begin,
        end=end.end,
        timeline=begin.begin.timeline,
        start_lsn=Lsn(begin.begin.start_lsn),
        end_lsn=Lsn(end.end.end_lsn),
        raw_bytes=sum(part.raw_bytes for part in parts),
        stored_bytes=sum(part.stored_bytes for part in parts),
        begun_at=begin.begun_at,
        finished_at=end.finished_at,
        profile=begin.profile,
        archives=tuple(end.archives),
    )


def _decoded(body: bytes, kind: type[_Document], where: str) -> tuple[_Document, int]:
    try:
        envelope = _envelopes.decode(body)
        checksum = crc32c.crc32c(envelope.document)
        if checksum != envelope.crc32c:
            raise damaged(where, "it does not match its checksum")
        return json_decoder(kind).decode(envelope.document), checksum
    except UNREADABLE as error:
        raise damaged(where, f"it can't be read: {error}") from error
