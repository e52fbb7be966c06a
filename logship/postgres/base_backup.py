"""What BASE_BACKUP sends, as typed events that are the same for every major.

Source: "Streaming Replication Protocol" in PostgreSQL's documentation, `BASE_BACKUP`, and
`src/backend/replication/basebackup.c` of 14, `src/backend/backup/basebackup_copy.c` of 15+.
Up to 14 each archive and the manifest is a COPY of its own, in the order of the tablespace
list; from 15 on there is one COPY whose messages start with a type byte.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from logship.errors import Code, LogshipError
from logship.lsn import Lsn


class Tablespace(NamedTuple):
    """A tablespace outside the data directory."""

    oid: int
    location: str
    """Absolute path on the primary, for people: bytes that are no UTF-8 are written \\xNN."""
    size_kb: int
    """Estimate."""


class BackupStart(NamedTuple):
    """First event.  WAL from `start_lsn` on `timeline` is needed to use the backup."""

    timeline: int
    start_lsn: Lsn
    tablespaces: tuple[Tablespace, ...]
    estimated_bytes: int
    """Data directory and tablespaces, as the server estimates them."""


class ArchiveStart(NamedTuple):
    """A tar archive starts: of the tablespace `oid` (decimal), or of the data directory ("").

    Servers up to 14 leave the two blocks of zeros off a tar archive's end.  Tablespaces are
    symbolic links in the data directory's archive, named with a slash at the end
    (`pg_tblspc/16384/`); their own archives have names relative to their location.
    """

    oid: str


class Data(NamedTuple):
    """Bytes of the archive, or of the manifest, that started last."""

    data: memoryview


class ManifestStart(NamedTuple):
    """The backup manifest starts.  It is the last thing sent."""


class Progress(NamedTuple):
    """Archive bytes that the server has sent so far, about once a second."""

    done_bytes: int


class BackupEnd(NamedTuple):
    """Last event: the backup is consistent once WAL up to `end_lsn` is replayed."""

    timeline: int
    end_lsn: Lsn


BackupEvent: TypeAlias = BackupStart | ArchiveStart | Data | ManifestStart | Progress | BackupEnd

_OLD_PROGRESS_BYTES = 8 * 1024 * 1024
_PROGRESS = struct.Struct("!Q")
_ARCHIVE = re.compile(rb"\A(?:base|([1-9][0-9]{0,9}))\.tar\Z")
_DIGITS = re.compile(rb"\A[0-9]{1,20}\Z")
_MAX_OID = 0xFFFFFFFF
_LARGEST_SIZE_KB = 1 << 53
Row: TypeAlias = tuple[bytes | None, ...]


def backup_command(
    server_version_num: int, label: str, *, fast: bool, max_rate_kb: int | None
) -> str:
    """The BASE_BACKUP command in the server's dialect.

    Without WAL, as that travels on its own road; without waiting for the archiver, for the
    same reason; without a tablespace map, so that the links in pg_tblspc are in the archive;
    with a manifest that has a CRC-32C of every file.  max_rate_kb: 32 to 1048576 kB/s.
    """
    quoted = "'" + label.replace("'", "''") + "'"
    if server_version_num < 150000:
        words = ["BASE_BACKUP", "LABEL", quoted, "PROGRESS", "NOWAIT"]
        if fast:
            words.append("FAST")
        if max_rate_kb is not None:
            words.append(f"MAX_RATE {max_rate_kb}")
        words.append("MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'")
        return " ".join(words)
    options = [f"LABEL {quoted}", "PROGRESS true", "WAIT false", "WAL false"]
    options.append(f"CHECKPOINT '{'fast' if fast else 'spread'}'")
    if max_rate_kb is not None:
        options.append(f"MAX_RATE {max_rate_kb}")
    options += ["TABLESPACE_MAP false", "MANIFEST 'yes'", "MANIFEST_CHECKSUMS 'CRC32C'"]
    return f"BASE_BACKUP ({', '.join(options)})"


def read_position(rows: Sequence[Row]) -> tuple[int, Lsn]:
    """(timeline, LSN) of the result that starts or ends a backup."""
    try:
        lsn, timeline = rows[0][0], rows[0][1]
        return _number(timeline, 1, 0xFFFFFFFF), Lsn.parse((lsn or b"").decode())
    except (ValueError, IndexError) as error:
        raise _unexpected(f"the position {str(rows)[:200]}") from error


def read_header(
    rows: Sequence[Row],
) -> tuple[tuple[Tablespace, ...], tuple[str, ...], int]:
    """Tablespaces, the archives' names in the order they come, and the estimated bytes."""
    tablespaces = []
    archives = []
    estimated_kb = 0
    try:
        for oid, location, size in rows:
            size_kb = _number(size or b"0", 0, _LARGEST_SIZE_KB)
            estimated_kb += size_kb
            archives.append("" if oid is None else str(_number(oid, 1, _MAX_OID)))
            if oid is not None:
                place = (location or b"").decode("utf-8", "backslashreplace")
                tablespaces.append(Tablespace(int(oid), place, size_kb))
    except ValueError as error:
        raise _unexpected(f"the tablespaces {str(rows)[:200]}") from error
    return tuple(tablespaces), tuple(archives), estimated_kb * 1024


class OneCopyReader:
    """Reads the messages of the one COPY of a server of 15 or later."""

    def read(self, message: memoryview) -> Iterator[BackupEvent]:
        """The events of one message.  Raises LogshipError(SEED_FAILED) for a strange one."""
        kind = message[0] if message else 0
        if kind == ord("d"):
            yield Data(message[1:])
        elif kind == ord("p") and len(message) == 1 + _PROGRESS.size:
            yield Progress(_PROGRESS.unpack_from(message, 1)[0])
        elif kind == ord("n"):
            name = bytes(message[1:]).split(b"\0", 1)[0]
            match = _ARCHIVE.match(name)
            if match is None or int(match[1] or b"0") > _MAX_OID:
                raise _unexpected(f"an archive named {name[:100]!r}")
            yield ArchiveStart((match[1] or b"").decode())
        elif kind == ord("m"):
            yield ManifestStart()
        else:
            raise _unexpected(f"a message of type {chr(kind)!r} and {len(message)} bytes")


class CopyPerArchiveReader:
    """Reads the COPYs of a server of 14: one for each archive, then one for the manifest."""

    def __init__(self, archives: Sequence[str]) -> None:
        self._archives = list(archives)
        self._in_manifest = False
        self._done_bytes = 0
        self._next_progress_bytes = _OLD_PROGRESS_BYTES

    def start(self) -> BackupEvent:
        """The event of the next COPY's start."""
        if self._archives:
            return ArchiveStart(self._archives.pop(0))
        if self._in_manifest:
            raise _unexpected("a COPY after the manifest")
        self._in_manifest = True
        return ManifestStart()

    def read(self, message: memoryview) -> Iterator[BackupEvent]:
        """The events of one message; such a server tells no progress, so we count."""
        yield Data(message)
        if self._in_manifest:
            return
        self._done_bytes += len(message)
        if self._done_bytes >= self._next_progress_bytes:
            self._next_progress_bytes = self._done_bytes + _OLD_PROGRESS_BYTES
            yield Progress(self._done_bytes)


def _number(text: bytes | None, smallest: int, largest: int) -> int:
    """A number as a server writes it, in these bounds.  Raises ValueError."""
    if text is None or _DIGITS.match(text) is None or not smallest <= int(text) <= largest:
        raise ValueError(f"not a number from {smallest} to {largest}: {text!r}")
    return int(text)


def _unexpected(what: str) -> LogshipError:
    return LogshipError(
        Code.SEED_FAILED,
        f"the base backup is not understood: the server sent {what}",
        "check that the server is a PostgreSQL of a supported major and report this",
    )
