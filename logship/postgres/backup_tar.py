"""A push parser of the tar archives that `BASE_BACKUP` sends: bytes in, events out.

Sources: `src/port/tar.c` (`tarCreateHeader`, `print_tar_number`, `tarChecksum`) and
`src/backend/backup/basebackup.c` (`sendDir`, `_tarWriteHeader`; before 15
`src/backend/replication/basebackup.c`).  PostgreSQL writes POSIX ustar with names of at most
99 bytes and no name prefix, regular files, directories, and symbolic links for tablespaces
only; directories and links end in a slash.  From 15 on two zero blocks end an archive;
before 15 it simply ends.  Only that dialect is accepted: whatever else stands in an archive
was not written by a PostgreSQL server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import Final, NamedTuple

from logship.errors import Code, LogshipError

BLOCK_BYTES: Final = 512
MAX_FILE_BYTES: Final = 1 << 46
"""64 TiB.  No relation segment comes near; a size above it is a lie, not a file."""

_MAGIC: Final = b"ustar\x0000"
_OCTAL: Final = re.compile(rb"\A *([0-7]+)[ \x00]*\Z")
_TABLESPACE_LINK: Final = re.compile(rb"\Apg_tblspc/([1-9][0-9]{0,9})\Z")
_ZERO_BLOCK: Final = bytes(BLOCK_BYTES)
_MAX_OID: Final = 0xFFFFFFFF


class Kind(Enum):
    """What an entry is."""

    FILE = b"0"
    SYMLINK = b"2"
    DIRECTORY = b"5"


class Entry(NamedTuple):
    """A header.  `size_bytes` of `Content` follow if that is more than 0."""

    kind: Kind
    path: bytes
    """Relative, without a final slash, no empty, `.` or `..` component."""
    size_bytes: int
    """0 for all but files."""
    link: bytes
    """A symbolic link's target on the primary, else empty.  Never to be followed."""


class Content(NamedTuple):
    """A piece of the contents of the file whose entry came last."""

    data: memoryview
    """A view of what was fed: use it or copy it before that buffer is reused."""
    is_last: bool


class TarParser:
    """One archive.  `feed` it in pieces of any size, then `finish`.

    Holds at most one block between calls, whatever is fed.  After an error it is of no more
    use: every later call raises.  Duplicate names are for the consumer to refuse, which sees
    them by creating exclusively.
    """

    def __init__(self, archive: str) -> None:
        """`archive` names it in error messages; "" is the main data directory's.

        Links are accepted in that one only: nowhere else does PostgreSQL send any.
        """
        self._archive = archive
        self._held = bytearray()
        self._content_left_bytes = 0
        self._padding_left_bytes = 0
        self._ended = False
        self._broken = False

    def feed(self, data: bytes | memoryview) -> Iterator[Entry | Content]:
        """The events in `data`, to be consumed to the end.  Raises LogshipError (BAD_TAR)."""
        if self._broken:
            raise self._bad("it was already found to be damaged")
        self._broken = True  # until this call has been through
        view = memoryview(data).cast("B")
        while view:
            if self._content_left_bytes:
                piece = view[: self._content_left_bytes]
                self._content_left_bytes -= len(piece)
                yield Content(piece, self._content_left_bytes == 0)
                view = view[len(piece) :]
            elif self._padding_left_bytes:
                skipped = min(self._padding_left_bytes, len(view))
                self._padding_left_bytes -= skipped
                view = view[skipped:]
            else:
                block, view = self._next_block(view)
                if block is not None:
                    entry = self._header(block)
                    if entry is not None:
                        yield entry
        self._broken = False

    def finish(self) -> None:
        """Say that the archive is complete.  Raises LogshipError (BAD_TAR) if it can't be."""
        if self._broken:
            raise self._bad("it was already found to be damaged")
        if self._content_left_bytes or self._padding_left_bytes or self._held:
            missing = self._content_left_bytes + self._padding_left_bytes
            raise self._bad(f"it ends in the middle of an entry, {missing} bytes short")

    def _next_block(self, view: memoryview) -> tuple[bytes | None, memoryview]:
        if not self._held and len(view) >= BLOCK_BYTES:
            return bytes(view[:BLOCK_BYTES]), view[BLOCK_BYTES:]
        taken = min(BLOCK_BYTES - len(self._held), len(view))
        self._held += view[:taken]
        view = view[taken:]
        if len(self._held) < BLOCK_BYTES:
            return None, view
        block = bytes(self._held)
        self._held.clear()
        return block, view

    def _header(self, block: bytes) -> Entry | None:
        if block == _ZERO_BLOCK:
            self._ended = True
            return None
        if self._ended:
            raise self._bad("something follows the zero block that ends it")
        if self._number(block[148:156], "checksum") != _checksum(block):
            raise self._bad("a header does not match its checksum")
        if block[257:265] != _MAGIC:
            raise self._bad(f"a header is not of the ustar format but {block[257:265]!r}")
        if block[345:500].strip(b"\x00"):
            raise self._bad("a header has a name prefix, which PostgreSQL never writes")
        try:
            kind = Kind(block[156:157])
        except ValueError:
            raise self._bad(
                f"an entry of type {block[156:157]!r} is no file, directory or symbolic link"
            ) from None
        return self._entry(kind, block)

    def _entry(self, kind: Kind, block: bytes) -> Entry:
        path = self._path(kind, self._text(block[:100], "name"))
        size_bytes = self._number(block[124:136], "size")
        link = self._text(block[157:257], "link")
        if size_bytes > MAX_FILE_BYTES:
            raise self._bad(f"{_shown(path)} claims to have {size_bytes} bytes")
        if kind is not Kind.FILE and size_bytes:
            raise self._bad(f"{_shown(path)} is not a file but has {size_bytes} bytes")
        if kind is Kind.SYMLINK:
            self._check_link(path, link)
        elif link:
            raise self._bad(f"{_shown(path)} is not a link but has a target")
        self._content_left_bytes = size_bytes
        self._padding_left_bytes = -size_bytes % BLOCK_BYTES
        return Entry(kind, path, size_bytes, link)

    def _path(self, kind: Kind, name: bytes) -> bytes:
        path = name.removesuffix(b"/") if kind is not Kind.FILE else name
        path = path.removeprefix(b"./")  # sendDir writes "./pg_wal/archive_status/" literally
        if any(component in (b"", b".", b"..") for component in path.split(b"/")):
            raise self._bad(f"the name {_shown(name)} is not one below the directory")
        return path

    def _check_link(self, path: bytes, link: bytes) -> None:
        match = _TABLESPACE_LINK.match(path)
        if self._archive or match is None or int(match[1]) > _MAX_OID or not link:
            raise self._bad(f"a symbolic link {_shown(path)} that is not a tablespace's")

    def _text(self, field: bytes, what: str) -> bytes:
        text, _, rest = field.partition(b"\x00")
        if len(text) == len(field) or rest.strip(b"\x00"):
            raise self._bad(f"a {what} {_shown(field)} is not ended by zero bytes")
        return text

    def _number(self, field: bytes, what: str) -> int:
        if field[0] == 0x80:  # print_tar_number: base-256 for what octal digits can't hold
            return int.from_bytes(field[1:], "big")
        match = _OCTAL.match(field)
        if match is None:
            raise self._bad(f"a {what} of {field!r} is no number")
        return int(match[1], 8)

    def _bad(self, why: str) -> LogshipError:
        archive = f"of tablespace {self._archive}" if self._archive else "of the data directory"
        return LogshipError(
            Code.BAD_TAR,
            f"the seed's archive {archive} is damaged: {why}",
            "nothing of it is used; start a new seed, and if this repeats look at what stands "
            "between the shipper and its primary",
        )


def _checksum(block: bytes) -> int:
    # tarChecksum: the checksum's own eight bytes count as spaces.
    return sum(block[:148]) + 8 * 0x20 + sum(block[156:])


def _shown(name: bytes) -> str:
    return repr(name.rstrip(b"\x00").decode("utf-8", "backslashreplace"))
