"""A base backup that passes by, compared with its own manifest.

The sending side has no files to look at, but it sees the tar streams: each file's size and
CRC-32C are taken on the way, and compared when the manifest has come.  So a seed that was
damaged in the primary's memory or on the way here is not called complete.
"""

from __future__ import annotations

from typing import Final

import crc32c

from logship.errors import Code, LogshipError
from logship.frames import SeedBegin, SeedEnd
from logship.postgres.backup_manifest import (
    MAX_MANIFEST_BYTES,
    ArrivedFile,
    check_identity,
    compare,
    parse_manifest,
)
from logship.postgres.backup_tar import Content, Entry, Kind, TarParser

_Bytes = bytes | memoryview


class BackupCheck:
    """One seed: `start_archive`, `start_manifest` and `write` as its chunks say, then `finish`.

    All raise LogshipError: BAD_TAR for what PostgreSQL does not send; after it only a new one
    helps.  Holds the manifest, and some bytes for each file.
    """

    def __init__(self, begin: SeedBegin, system_identifier: int) -> None:
        self._begin: Final = begin
        self._system_identifier: Final = system_identifier
        self._awaited = {str(oid) for oid, _ in begin.tablespaces} | {""}
        self._files: dict[bytes, ArrivedFile] = {}
        self._tar: TarParser | None = None
        self._prefix = b""
        self._path = b""
        self._size_bytes = self._crc32c = 0
        self._manifest: bytearray | None = None

    def start_archive(self, archive: str) -> None:
        """The archive of the tablespace with the OID `archive` starts; "": the data's."""
        self._end_archive()
        if archive not in self._awaited or self._manifest is not None:
            raise _bad(f"an archive of tablespace {archive or 'base'!r} was not announced")
        self._awaited.discard(archive)
        self._prefix = f"pg_tblspc/{archive}/".encode() if archive else b""
        self._tar = TarParser(archive)

    def start_manifest(self) -> None:
        self._end_archive()
        if self._awaited or self._manifest is not None:
            raise _bad(f"{len(self._awaited)} archives did not come before the manifest")
        self._manifest = bytearray()

    def write(self, data: _Bytes) -> None:
        """Bytes of whatever started last."""
        if self._tar is not None:
            for event in self._tar.feed(data):
                if isinstance(event, Entry):
                    self._start(event)
                else:
                    self._continue(event)
        elif self._manifest is not None:
            if len(self._manifest) + len(data) > MAX_MANIFEST_BYTES:
                raise _bad(f"its manifest has more than {MAX_MANIFEST_BYTES} bytes")
            self._manifest += data
        else:
            raise _bad("it starts with no archive")

    def finish(self, end: SeedEnd) -> None:
        """All came.  Raises SEED_MANIFEST_MISMATCH or SYSTEM_IDENTIFIER_MISMATCH as well.

        Takes about a second for a million files.
        """
        if self._manifest is None:
            raise _bad("it has no backup manifest")
        manifest = parse_manifest(bytes(self._manifest))
        check_identity(
            manifest,
            system_identifier=self._system_identifier,
            timeline=end.timeline,
            start_lsn=self._begin.start_lsn,
            end_lsn=end.end_lsn,
        )
        # Only CRC-32C is asked for; any other digest can be checked by the receiver alone,
        # which has the file.
        compare(manifest, self._files, lambda path, _: manifest.files[path].checksum)

    def _end_archive(self) -> None:
        if self._tar is not None:
            self._tar.finish()
            self._tar = None

    def _start(self, entry: Entry) -> None:
        if entry.kind is not Kind.FILE:
            return
        self._path = self._prefix + entry.path
        if self._path in self._files:
            raise _bad(f"{self._path.decode('utf-8', 'backslashreplace')!r} comes twice")
        self._size_bytes = entry.size_bytes
        self._crc32c = 0
        if entry.size_bytes == 0:
            self._end_file()

    def _continue(self, content: Content) -> None:
        self._crc32c = crc32c.crc32c(content.data, self._crc32c)
        if content.is_last:
            self._end_file()

    def _end_file(self) -> None:
        self._files[self._path] = ArrivedFile(self._size_bytes, self._crc32c)


def _bad(why: str) -> LogshipError:
    return LogshipError(
        Code.BAD_TAR,
        f"the seed is not what PostgreSQL sends: {why}",
        "nothing of it is kept; start a new seed, and if this repeats look at what stands "
        "between the shipper and its primary",
    )
