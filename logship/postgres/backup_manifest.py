"""PostgreSQL's backup manifest: parsed, and compared with the files that arrived.

Sources: "Backup Manifest Format" in PostgreSQL's documentation;
`src/backend/backup/backup_manifest.c` (writer), `src/common/parse_manifest.c` (reader),
`src/bin/pg_verifybackup/pg_verifybackup.c` (what is exempt).  Version 1 is written by 13 to
16; version 2, with the system identifier, from 17 on.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from logship.decoders import json_decoder
from logship.documents import UNREADABLE
from logship.errors import Code, LogshipError
from logship.lsn import Lsn

MAX_MANIFEST_BYTES: Final = 512 * 1024 * 1024
"""About three million files; refused above, as it is held in memory while compared."""

_NAMED_FILES: Final = 5
_FINAL_LINE: Final = re.compile(rb'\A"Manifest-Checksum": "([0-9a-f]{64})"\}\n\Z')
# pg_verifybackup's ignore list: these need not be the same files.  One that is in both
# places must still agree, as nobody has changed anything yet when we compare.
_EXEMPT_FILES: Final = frozenset(
    {b"backup_manifest", b"postgresql.auto.conf", b"recovery.signal", b"standby.signal"}
)
_EXEMPT_DIRECTORY: Final = b"pg_wal/"

Algorithm = Literal["NONE", "CRC32C", "SHA224", "SHA256", "SHA384", "SHA512"]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Timeline = Annotated[int, msgspec.Meta(ge=1, le=0xFFFFFFFF)]


class _File(msgspec.Struct):
    size: _Count = msgspec.field(name="Size")
    path: str | None = msgspec.field(name="Path", default=None)
    encoded_path: str | None = msgspec.field(name="Encoded-Path", default=None)
    algorithm: Algorithm = msgspec.field(name="Checksum-Algorithm", default="NONE")
    checksum: str = msgspec.field(name="Checksum", default="")


class _WalRange(msgspec.Struct):
    timeline: _Timeline = msgspec.field(name="Timeline")
    start_lsn: str = msgspec.field(name="Start-LSN")
    end_lsn: str = msgspec.field(name="End-LSN")


class _Document(msgspec.Struct):
    version: Literal[1, 2] = msgspec.field(name="PostgreSQL-Backup-Manifest-Version")
    files: list[_File] = msgspec.field(name="Files")
    wal_ranges: list[_WalRange] = msgspec.field(name="WAL-Ranges")
    checksum: str = msgspec.field(name="Manifest-Checksum")
    system_identifier: int | None = msgspec.field(name="System-Identifier", default=None)


_decoder: Final = json_decoder(_Document)


class ListedFile(NamedTuple):
    """What the manifest says of one file."""

    size_bytes: int
    algorithm: Algorithm
    checksum: bytes
    """Empty for NONE.  CRC32C: 4 bytes in the byte order of the primary's machine."""


class ArrivedFile(NamedTuple):
    """What was seen of one file while it was written."""

    size_bytes: int
    crc32c: int


class WalRange(NamedTuple):
    """WAL that a server must replay before the backup is consistent."""

    timeline: int
    start_lsn: Lsn
    end_lsn: Lsn


class Manifest(NamedTuple):
    """A manifest whose own checksum is right."""

    version: int
    system_identifier: int | None
    """None in version 1, which does not have it."""
    files: dict[bytes, ListedFile]
    """By path relative to the data directory; a tablespace's below `pg_tblspc/<oid>/`."""
    wal_ranges: list[WalRange]


def parse_manifest(content: bytes | memoryview) -> Manifest:
    """Read a whole manifest; takes about a second for 50 MB, so call it in a thread.

    Raises LogshipError (SEED_MANIFEST_MISMATCH) for anything that PostgreSQL does not write
    or whose SHA-256 at its end does not match.
    """
    _check_own_checksum(content)
    try:
        document = _decoder.decode(content)
    except UNREADABLE as error:
        raise _mismatch(f"it can't be read: {error}") from error
    files: dict[bytes, ListedFile] = {}
    for file in document.files:
        path = _path(file)
        if path in files:
            raise _mismatch(f"it lists {_shown(path)} twice")
        files[path] = ListedFile(file.size, file.algorithm, _checksum(file, path))
    if document.version >= 2 and document.system_identifier is None:
        raise _mismatch("it is of version 2 and has no system identifier")
    return Manifest(
        document.version,
        document.system_identifier,
        files,
        [_wal_range(each) for each in document.wal_ranges],
    )


def compare(
    manifest: Manifest,
    arrived: Mapping[bytes, ArrivedFile],
    digest: Callable[[bytes, str], bytes],
) -> None:
    """Check that the files that arrived are those that the manifest lists.

    digest(path, algorithm): reads the file again and returns the digest that hashlib's
    `algorithm` gives; called only for files listed with a SHA-2 checksum, which is not our
    sender's choice.  Raises LogshipError (SEED_MANIFEST_MISMATCH) naming the first files
    that are missing, unlisted, of another size or with another checksum.
    """
    wrong: list[str] = []
    count = 0
    for finding in _findings(manifest, arrived, digest):
        count += 1
        if len(wrong) < _NAMED_FILES:
            wrong.append(finding)
    if count:
        more = f" and {count - len(wrong)} more" if count > len(wrong) else ""
        raise _mismatch(f"{'; '.join(wrong)}{more}")


def check_identity(
    manifest: Manifest,
    *,
    system_identifier: int | None,
    timeline: int,
    start_lsn: int,
    end_lsn: int,
) -> None:
    """Check that the manifest is of the cluster and the backup that was announced.

    system_identifier: None if not known.  Raises LogshipError: SYSTEM_IDENTIFIER_MISMATCH,
    SEED_MANIFEST_MISMATCH.
    """
    named = manifest.system_identifier
    if None not in (named, system_identifier) and named != system_identifier:
        raise LogshipError(
            Code.SYSTEM_IDENTIFIER_MISMATCH,
            f"the seed is of the cluster {named}, expected was {system_identifier}",
            "look where the shipper's connection string leads",
        )
    ranges = manifest.wal_ranges
    if not ranges:
        raise _mismatch("it names no WAL")
    start = min(each.start_lsn for each in ranges)
    last = max(ranges, key=lambda each: each.end_lsn)
    if (start, last.end_lsn, last.timeline) != (start_lsn, end_lsn, timeline):
        raise _mismatch(
            f"it is of WAL {start} to {last.end_lsn} on timeline {last.timeline}, the seed of "
            f"{Lsn(start_lsn)} to {Lsn(end_lsn)} on timeline {timeline}"
        )


def _findings(
    manifest: Manifest,
    arrived: Mapping[bytes, ArrivedFile],
    digest: Callable[[bytes, str], bytes],
) -> list[str]:
    findings = []
    for path, listed in manifest.files.items():
        got = arrived.get(path)
        if got is None:
            if not _is_exempt(path):
                findings.append(f"{_shown(path)} is missing")
        elif got.size_bytes != listed.size_bytes:
            findings.append(
                f"{_shown(path)} has {got.size_bytes} bytes instead of {listed.size_bytes}"
            )
        elif not _agrees(path, listed, got, digest):
            findings.append(f"{_shown(path)} does not match its checksum")
    findings += [
        f"{_shown(path)} is not listed"
        for path in arrived
        if path not in manifest.files and not _is_exempt(path)
    ]
    return findings


def _agrees(
    path: bytes, listed: ListedFile, got: ArrivedFile, digest: Callable[[bytes, str], bytes]
) -> bool:
    if listed.algorithm == "NONE":
        return True
    if listed.algorithm == "CRC32C":
        # pg_checksum_final copies the integer as it lies in memory.  Seeds between machines
        # of different byte order never run: the version check blocks them.
        return got.crc32c.to_bytes(4, sys.byteorder) == listed.checksum
    return digest(path, listed.algorithm.lower()) == listed.checksum


def _is_exempt(path: bytes) -> bool:
    return path in _EXEMPT_FILES or path.startswith(_EXEMPT_DIRECTORY)


def _check_own_checksum(content: bytes | memoryview) -> None:
    view = memoryview(content)
    if len(view) > MAX_MANIFEST_BYTES:
        raise _mismatch(f"it has {len(view)} bytes, {MAX_MANIFEST_BYTES} at most")
    # verify_manifest_checksum: over everything up to and with the last newline but one.
    tail = bytes(view[-256:])
    line_start = tail.rfind(b"\n", 0, max(len(tail) - 1, 0)) + 1
    last_line = _FINAL_LINE.match(tail[line_start:])
    if line_start == 0 or last_line is None:
        raise _mismatch("it is incomplete: it does not end in its checksum")
    covered = view[: len(view) - len(tail) + line_start]
    if hashlib.sha256(covered).hexdigest() != last_line[1].decode():
        raise _mismatch("it does not match its own checksum")


def _path(file: _File) -> bytes:
    if (file.path is None) == (file.encoded_path is None):
        raise _mismatch("it lists a file without one path")
    try:
        # A path is encoded (as hex) only when it is not valid UTF-8.
        path = (
            file.path.encode() if file.path is not None else bytes.fromhex(file.encoded_path or "")
        )
    except ValueError as error:
        raise _mismatch(f"it lists a path that can't be read: {error}") from None
    if not path or b"\0" in path:
        raise _mismatch("it lists a file without a name")
    return path


def _checksum(file: _File, path: bytes) -> bytes:
    try:
        checksum = bytes.fromhex(file.checksum)
    except ValueError:
        raise _mismatch(f"the checksum of {_shown(path)} is no hex") from None
    if file.algorithm != "NONE" and not checksum:
        raise _mismatch(f"{_shown(path)} has no checksum")
    return checksum


def _wal_range(each: _WalRange) -> WalRange:
    try:
        return WalRange(each.timeline, Lsn.parse(each.start_lsn), Lsn.parse(each.end_lsn))
    except ValueError as error:
        raise _mismatch(str(error)) from None


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def _mismatch(why: str) -> LogshipError:
    return LogshipError(
        Code.SEED_MANIFEST_MISMATCH,
        f"the seed is not what its backup manifest says: {why}",
        "nothing of it is used; start a new seed, and if this repeats suspect the memory or "
        "the disk of the primary's machine or of this one",
        retryable=True,
    )
