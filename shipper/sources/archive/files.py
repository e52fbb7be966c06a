"""The files of an outbox: looking, checking, reading, removing.  Everything here blocks.

A segment is read twice: once whole, to check it before a byte of it is given out, and again
piece by piece, each compared with the checksum of the first reading.  So no bytes travel that
were not checked, and memory is bounded also with segments of 1 GiB.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import crc32c

from logship import durable
from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from logship.wal import (
    MAX_HISTORY_BYTES,
    WAL_PAGE_BYTES,
    WalLine,
    check_pages,
    was_never_written,
)
from shipper.sources.archive.memory import Given, Look

CHUNK_BYTES = 1 << 20
_MAX_MARKER_BYTES = 1 << 16
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_STOP = re.compile(rb"^STOP WAL LOCATION: ([0-9A-F]{1,8}/[0-9A-F]{1,8}) ", re.MULTILINE)


class NotWholeError(Exception):
    """The file is not, or not yet, what its name says.  `why` for a log."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Directory(NamedTuple):
    """An outbox from outside.  Another device or inode: something else is mounted there."""

    device: int
    inode: int
    mtime_ns: int


def directory(path: Path) -> Directory:
    """Raises OSError."""
    found = path.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(path))
    return Directory(found.st_dev, found.st_ino, found.st_mtime_ns)


def look(path: Path) -> Look | None:
    """None: there is no such file.  Raises OSError, and NotWholeError for what is no file."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise NotWholeError("it is not a regular file")
    return _look(found)


def _look(found: os.stat_result) -> Look:
    return Look(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


class SegmentFile:
    """An open segment whose first `size_bytes` were checked.  `close` it."""

    def __init__(self, path: Path, fd: int, seen: Look, checksums: list[int], given: Given) -> None:
        self.name = path.name
        self.given = given
        self.seen = seen
        self._fd = fd
        self._checksums = checksums
        self._lock = threading.Lock()
        """Of what follows, and never held while the disk is waited for: a reader that was given up
        may be in its thread for ever, and whoever closes the file is in the event loop."""
        self._readers = 0
        self._is_closed = False

    def read(self, offset: int, max_bytes: int) -> bytes:
        """What was checked, from `offset`, to the end of its chunk at most.

        Raises OSError, and NotWholeError if the bytes are not those that were checked.
        """
        number, inside = divmod(offset, CHUNK_BYTES)
        start = number * CHUNK_BYTES
        with self._lock:
            if self._is_closed:
                raise NotWholeError("it was closed")
            self._readers += 1
        try:
            chunk = _pread(self._fd, min(CHUNK_BYTES, self.given.size_bytes - start), start)
        finally:
            self._come_out()
        if crc32c.crc32c(chunk) != self._checksums[number]:
            raise NotWholeError("it was written to while it was read")
        return chunk[inside : inside + max_bytes]

    def _come_out(self) -> None:
        with self._lock:
            self._readers -= 1
            is_last = self._is_closed and self._readers == 0
        if is_last:
            os.close(self._fd)

    def close(self) -> None:
        """Waits for no reader: the last of those that are inside closes the descriptor."""
        with self._lock:
            is_last = not self._is_closed and self._readers == 0
            self._is_closed = True
        if is_last:
            os.close(self._fd)

    def __del__(self) -> None:
        # Whoever had it opened in a thread may have been cancelled: nobody got it then.
        self.close()


class Checked(NamedTuple):
    file: SegmentFile
    ends_in_zeros: bool
    """As after pg_switch_wal(), and as a file that was given its size before its contents."""


def open_segment(
    path: Path, start: Lsn, timeline: int, line: WalLine, size_bytes: int
) -> Checked | None:
    """Check the first `size_bytes` of the segment from `start`, all of it or up to a switch.

    None: it vanished.  Raises NotWholeError (other size, was written to), LogshipError for
    pages that are not this cluster's, OSError.
    """
    try:
        fd = _open(path)
    except FileNotFoundError:
        return None
    try:
        before = _look(os.fstat(fd))
        if before.size_bytes != line.segment_bytes:
            raise NotWholeError(f"it has {before.size_bytes} bytes, not {line.segment_bytes}")
        checksums: list[int] = []
        whole, chunk = 0, b""
        for offset in range(0, size_bytes, CHUNK_BYTES):
            chunk = _pread(fd, min(CHUNK_BYTES, size_bytes - offset), offset)
            check_pages(chunk, start + offset, timeline, line)
            checksums.append(crc32c.crc32c(chunk))
            whole = crc32c.crc32c(chunk, whole)
        if _look(os.fstat(fd)) != before:
            raise NotWholeError("it is being written to")
        given = Given(whole, size_bytes, before)
        page = chunk[-WAL_PAGE_BYTES:]
        return Checked(SegmentFile(path, fd, before, checksums, given), page == bytes(len(page)))
    except BaseException:
        os.close(fd)
        raise


def _open(path: Path) -> int:
    """A regular file, nothing else: a pipe would make its reader wait for ever."""
    fd = os.open(path, _FLAGS)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotWholeError("it is not a regular file")
    return fd


def _pread(fd: int, size_bytes: int, offset: int) -> bytes:
    data = durable.RealDisk().pread(fd, size_bytes, offset)
    if len(data) != size_bytes:
        raise NotWholeError("it became shorter while it was read")
    return data


def read_history(path: Path) -> tuple[bytes, Look] | None:
    """A timeline's history; None if it vanished.  Raises NotWholeError, OSError."""
    seen = look(path)
    if seen is None:
        return None
    if not 0 < seen.size_bytes <= MAX_HISTORY_BYTES:
        raise NotWholeError(f"it has {seen.size_bytes} bytes")
    with suppress(FileNotFoundError):
        content = path.read_bytes()
        # A part of a line may look like a whole one, with another switch point.
        if not content.endswith(b"\n") or look(path) != seen:
            raise NotWholeError("it does not end in a whole line")
        return content, seen
    return None


def backup_stop(path: Path) -> Lsn | None:
    """Where the base backup ended that a `.backup` file marks; None: it does not say."""
    try:
        with os.fdopen(_open(path), "rb") as file:
            match = _STOP.search(file.read(_MAX_MARKER_BYTES))
    except (OSError, NotWholeError):
        return None
    return Lsn.parse(match[1].decode()) if match else None


def same_again(path: Path, given: Given) -> Given | None:
    """`path` beside what was once given out under its name: `given` as of now, None if it is gone.

    Raises LogshipError(WAL_CONFLICT) if the bytes are others, OSError, NotWholeError (shorter:
    it may be on its way).
    """
    seen = look(path)
    if seen is None:
        return None
    if seen == given.look:
        return given
    if seen.size_bytes < given.size_bytes:
        raise NotWholeError(f"it has {seen.size_bytes} bytes, not {given.size_bytes}")
    checksum = 0
    try:
        with os.fdopen(_open(path), "rb") as file:
            left = given.size_bytes
            while left and (data := file.read(min(CHUNK_BYTES, left))):
                checksum = crc32c.crc32c(data, checksum)
                left -= len(data)
    except FileNotFoundError:
        return None
    if left or look(path) != seen:
        raise NotWholeError("it is being written to")
    if checksum != given.crc32c:
        raise conflict(path)
    return given._replace(look=seen)


def conflict(path: Path) -> LogshipError:
    return LogshipError(
        Code.WAL_CONFLICT,
        f"{path} has other bytes than those that were shipped under that name",
        "it was left where it is, and nothing more is shipped: find out which server wrote it. "
        "Two servers may use one outbox, or the primary was set back. Shipping goes on when it "
        "is moved away",
        retryable=True,
    )


def is_of_line(path: Path, start: Lsn, timeline: int, line: WalLine) -> bool:
    """Whether a file is a segment of this cluster, by its size and its first page."""
    try:
        check_pages(_first_page(path, line), start, timeline, line)
    except (OSError, NotWholeError, LogshipError):
        return False
    return True


def is_leftover(path: Path, start: Lsn, line: WalLine) -> bool:
    """Whether a file was to become the segment from `start`, and nothing was ever written to it.

    A promoted server archives such files of its old timeline, at a checkpoint after it
    (`XLogArchiveCheckDone` in xlogarchive.c asks for any name that is not marked as archived).
    """
    try:
        return was_never_written(_first_page(path, line), start, line)
    except (OSError, NotWholeError):
        return False


def _first_page(path: Path, line: WalLine) -> bytes:
    with os.fdopen(_open(path), "rb") as file:
        page = file.read(WAL_PAGE_BYTES)
        size_bytes = os.fstat(file.fileno()).st_size
    if size_bytes != line.segment_bytes or len(page) != WAL_PAGE_BYTES:
        raise NotWholeError(f"it has {size_bytes} bytes, not {line.segment_bytes}")
    return page
