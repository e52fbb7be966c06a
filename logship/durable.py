"""The one place that makes bytes and names survive a power cut.

Two layers.  The plain functions (`write_file`, `rename`, …) are for whole files and
directories: when one returns, its effect is on the disk, directory entries included.  `Disk`
is what the WAL store needs on top of that: positioned I/O on open files, so that the store's
logic can also run over a simulated disk that crashes; `RealDisk` is the operating system's.

Nothing here retries a failed fsync: Linux marks the pages clean after it reported the error,
so a second fsync "succeeds" without having written them (https://wiki.postgresql.org/wiki/
Fsync_Errors).  Whoever gets an error from a sync must treat the file's contents as unknown
and read it again with `Disk.drop_cache` first.

Everything raises OSError as the operating system gave it; callers know what it means for them.
All of it blocks: call it from a thread where a disk's milliseconds matter.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a write fails with for want of room; nothing is broken, room may return."""

_OPEN_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW
_ZEROES = bytes(1 << 20)

Bytes = bytes | bytearray | memoryview


def write_file(path: Path, data: Bytes, mode: int = 0o600) -> None:
    """Put `data` at `path`: afterwards, and after a crash at any moment, it is old or new.

    Writes `.NAME.tmp` beside it, which a crash may leave and the next write replaces.  Two
    writers of one path at a time are the caller's mistake.  `mode` is not cut by the umask.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with suppress(FileNotFoundError):
        temporary.unlink()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN_FLAGS, 0o600)
    try:
        try:
            write_all(fd, data)
            os.fchmod(fd, mode)
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.rename(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def write_all(fd: int, data: Bytes) -> None:
    """`os.write` until everything is written; a full disk raises ENOSPC part of the way."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view) :]


def make_directory(path: Path, mode: int = 0o700) -> None:
    """Make `path` and any missing parents, each with `mode` and each entry durable.

    An existing directory is left as it is, its mode too.  Raises FileExistsError if something
    else has that name.
    """
    missing = []
    current = path
    while not current.is_dir():
        missing.append(current)
        if current == current.parent:
            break
        current = current.parent
    for directory in reversed(missing):
        try:
            directory.mkdir(mode)
        except FileExistsError:
            if not directory.is_dir():
                raise
        else:
            directory.chmod(mode)
        sync_directory(directory.parent)


def rename(source: Path, target: Path) -> None:
    """Rename a file or directory, replacing `target` as rename(2) does, and make it durable.

    The contents must be durable already (`write_file`, `sync_tree`).
    """
    source.rename(target)
    sync_directory(target.parent)
    if source.parent != target.parent:
        sync_directory(source.parent)


def remove(path: Path) -> None:
    """Remove a file or a symbolic link; none there is fine."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    sync_directory(path.parent)


def remove_tree(path: Path) -> None:
    """Remove a directory and everything below it, following no link; none there is fine.

    A crash leaves some of it: call it again.
    """
    if path.is_symlink() or path.is_file():
        remove(path)
        return
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        if path.exists():  # something below it went away by itself: not ours to hide
            raise
        return
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Make a file's contents durable, whoever wrote them."""
    with _opened(path, os.O_RDONLY) as fd:
        os.fsync(fd)


def sync_directory(path: Path) -> None:
    """Make a directory's entries durable."""
    with _opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)


def _raise(error: OSError) -> None:
    raise error


def sync_tree(path: Path) -> None:
    """Make every file and directory below `path`, and `path`'s own entries, durable.

    Symbolic links are not followed (what a tablespace link points to is its owner's to
    sync).  `path`'s own name is durable only after its parent's sync: `rename` it into place.
    """
    for directory, _, names in os.walk(path, topdown=False, onerror=_raise):
        for name in names:
            file = Path(directory, name)
            if stat.S_ISREG(file.lstat().st_mode):
                sync_file(file)
        sync_directory(Path(directory))


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


class Disk(Protocol):
    """What the WAL store needs of a disk.  File handles are small integers.

    The contract that a simulation must keep: what was written but not synced may be lost, in
    part and in any order; a synced write stays; a name survives once the call that made it
    returned; a failed sync leaves any part of what it should have written.
    """

    def open(self, path: Path, *, create: bool = False, read_only: bool = False) -> int:
        """A handle for reading and writing.  `create`: it must not exist (FileExistsError);
        its name is durable only after `rename` or `sync_directory`."""
        ...

    def close(self, fd: int) -> None: ...

    def pread(self, fd: int, size_bytes: int, offset: int) -> bytes:
        """Up to `size_bytes`; fewer only at the file's end."""
        ...

    def pwrite(self, fd: int, data: Bytes, offset: int) -> int:
        """Write, and return how many bytes: fewer than asked is no error yet."""
        ...

    def datasync(self, fd: int) -> None:
        """Make the contents and the size durable (fdatasync).  Never call it again on error."""
        ...

    def truncate(self, fd: int, size_bytes: int) -> None: ...

    def allocate(self, fd: int, size_bytes: int, *, zero_fill: bool) -> None:
        """Reserve room for a new file of `size_bytes`, reading as zeros, so that writes into
        it can't run out of room.  `zero_fill` writes real zeros: later syncs then have no
        extents to convert (numbers: applier/store/segments.py)."""
        ...

    def drop_cache(self, fd: int) -> None:
        """Make the next read come from the disk, not from a cache that a failed sync left."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Durable when it returns."""
        ...

    def remove(self, path: Path) -> None:
        """Durable when it returns; none there is fine."""
        ...

    def make_directory(self, path: Path) -> None:
        """Durable when it returns, parents included."""
        ...

    def sync_directory(self, path: Path) -> None: ...

    def list(self, path: Path) -> dict[str, int]:
        """Names of the regular files in a directory, with their sizes in bytes."""
        ...

    def read_file(self, path: Path) -> bytes | None:
        """A small file's contents, None if there is none."""
        ...

    def write_file(self, path: Path, data: bytes) -> None:
        """Replace a small file; old or new after a crash, new when it returned."""
        ...

    def free_bytes(self, path: Path) -> int:
        """Room for an unprivileged writer on the file system that holds `path`."""
        ...

    def lock(self, path: Path) -> int:
        """Take an exclusive lock on file `path`, made if missing, until the handle is closed
        or the process dies.  Raises BlockingIOError if another holds it."""
        ...


class RealDisk:
    """`Disk` by system calls."""

    def open(self, path: Path, *, create: bool = False, read_only: bool = False) -> int:
        flags = os.O_RDONLY if read_only else os.O_RDWR
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        return os.open(path, flags | _OPEN_FLAGS, 0o600)

    def close(self, fd: int) -> None:
        os.close(fd)

    def pread(self, fd: int, size_bytes: int, offset: int) -> bytes:
        data = os.pread(fd, size_bytes, offset)
        if len(data) == size_bytes or not data:
            return data
        parts = [data]  # a signal or a file system may cut a read short before the end
        got = len(data)
        while got < size_bytes and (more := os.pread(fd, size_bytes - got, offset + got)):
            parts.append(more)
            got += len(more)
        return b"".join(parts)

    def pwrite(self, fd: int, data: Bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def datasync(self, fd: int) -> None:
        os.fdatasync(fd)

    def truncate(self, fd: int, size_bytes: int) -> None:
        os.ftruncate(fd, size_bytes)

    def allocate(self, fd: int, size_bytes: int, *, zero_fill: bool) -> None:
        os.posix_fallocate(fd, 0, size_bytes)
        offset = 0
        while zero_fill and offset < size_bytes:
            offset += os.pwrite(fd, _ZEROES[: size_bytes - offset], offset)

    def drop_cache(self, fd: int) -> None:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def rename(self, source: Path, target: Path) -> None:
        rename(source, target)

    def remove(self, path: Path) -> None:
        remove(path)

    def make_directory(self, path: Path) -> None:
        make_directory(path)

    def sync_directory(self, path: Path) -> None:
        sync_directory(path)

    def list(self, path: Path) -> dict[str, int]:
        with os.scandir(path) as entries:
            return {
                entry.name: entry.stat(follow_symlinks=False).st_size
                for entry in entries
                if entry.is_file(follow_symlinks=False)
            }

    def read_file(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def write_file(self, path: Path, data: bytes) -> None:
        write_file(path, data)

    def free_bytes(self, path: Path) -> int:
        figures = os.statvfs(path)
        return figures.f_bavail * figures.f_frsize

    def lock(self, path: Path) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | _OPEN_FLAGS, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return fd
