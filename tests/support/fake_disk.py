"""A disk in memory that crashes, fails and fills up as real ones do: `logship.durable.Disk`.

Seeded, so that a failure repeats.  The model: every change is pending until its file is
synced; a crash keeps any subset of what is pending, and may tear a write at a 512-byte
sector's edge.  Names are pending until a directory sync.  A failed sync leaves any part on the
disk and calls the cache clean all the same, as Linux does.
"""

from __future__ import annotations

import errno
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from logship.durable import Bytes

_SECTOR_BYTES = 512


class Crashed(BaseException):
    """The machine stopped at this operation.  Nothing may catch it but the test."""


class _Inode:
    def __init__(self, data: bytes = b"") -> None:
        self.cache = bytearray(data)
        self.disk = bytearray(data)
        self.pending: list[tuple[int, bytes] | int] = []
        """Writes (offset, data) and new sizes, oldest first."""

    def change(self, change: tuple[int, bytes] | int) -> None:
        _apply(self.cache, change)
        self.pending.append(change)


def _apply(data: bytearray, change: tuple[int, bytes] | int) -> None:
    if isinstance(change, int):
        if change < len(data):
            del data[change:]
        else:
            data.extend(bytes(change - len(data)))
        return
    offset, new = change
    if offset > len(data):
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(new)] = new


class FakeDisk:
    """`crash_at`: number of the operation, counted from 0, that raises Crashed.

    `operations` lists what was done.  After `crash()` or `kill()` it can be used again.
    """

    def __init__(
        self, seed: int = 0, *, crash_at: int | None = None, capacity_bytes: int = 1 << 40
    ) -> None:
        self.random = random.Random(seed)
        self.crash_at = crash_at
        self.capacity_bytes = capacity_bytes
        self.operations: list[str] = []
        self._files: dict[Path, _Inode] = {}
        self._durable_files: dict[Path, _Inode] = {}
        self._handles: dict[int, tuple[_Inode, Path]] = {}
        self._locks: dict[int, Path] = {}
        self._next_handle = 100
        self._failures: dict[str, tuple[int, int]] = {}
        self._counts: Counter[str] = Counter()
        self.on_operation: Callable[[str], None] | None = None

    # --- what a test does to it -------------------------------------------------------------

    def fail_next(self, operation: str, error: int, *, skip: int = 0) -> None:
        """Make the next `operation` (after `skip` more) fail with errno `error`, once."""
        self._failures[operation] = (self._counts[operation] + skip, error)

    def crash(self) -> None:
        """Power off and on: any subset of what was not synced survives."""
        if self.random.random() < 0.5:
            self._durable_files = dict(self._files)
        for inode in {id(inode): inode for inode in self._durable_files.values()}.values():
            keep = self.random.choice((0.0, 0.5, 1.0))
            for change in inode.pending:
                if self.random.random() < keep:
                    _apply(inode.disk, change)
                elif isinstance(change, tuple) and self.random.random() < 0.5:
                    self._tear(inode, change)
            inode.pending.clear()
            inode.cache = bytearray(inode.disk)
        self._files = dict(self._durable_files)
        self._stop()

    def kill(self) -> None:
        """Kill the process only: the cache survives, and nothing is synced by it."""
        self._stop()

    def _stop(self) -> None:
        self._handles.clear()
        self._locks.clear()
        self.crash_at = None

    def _tear(self, inode: _Inode, change: tuple[int, bytes]) -> None:
        offset, data = change
        edge = -offset % _SECTOR_BYTES
        cuts = [0, *range(edge, len(data), _SECTOR_BYTES), len(data)]
        for start, end in pairwise(cuts):
            if self.random.random() < 0.5:
                _apply(inode.disk, (offset + start, data[start:end]))

    def contents(self, path: Path) -> bytes:
        """What a process would read now."""
        return bytes(self._files[path].cache)

    def put(self, path: Path, data: bytes) -> None:
        """Lay a file there, durable."""
        self._files[path] = self._durable_files[path] = _Inode(data)

    def names(self, path: Path) -> set[str]:
        return {file.name for file in self._files if file.parent == path}

    # --- Disk -------------------------------------------------------------------------------

    def open(self, path: Path, *, create: bool = False, read_only: bool = False) -> int:
        self._step("open", path)
        if create:
            if path in self._files:
                raise FileExistsError(errno.EEXIST, "exists", str(path))
            self._files[path] = _Inode()
        if path not in self._files:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return self._handle(self._files[path], path)

    def close(self, fd: int) -> None:
        if fd in self._locks:
            del self._locks[fd]
        else:
            del self._handles[fd]

    def pread(self, fd: int, size_bytes: int, offset: int) -> bytes:
        return bytes(self._handles[fd][0].cache[offset : offset + size_bytes])

    def pwrite(self, fd: int, data: Bytes, offset: int) -> int:
        inode, path = self._handles[fd]
        content = bytes(data)
        try:
            self._step("pwrite", path)
        except Crashed:
            inode.change((offset, content))  # it was under way
            raise
        except OSError:
            inode.change((offset, content[: len(content) // 2]))
            raise
        if len(content) > 1 and self.random.random() < 0.1:
            content = content[: self.random.randrange(1, len(content))]
        inode.change((offset, content))
        return len(content)

    def datasync(self, fd: int) -> None:
        inode, path = self._handles[fd]
        try:
            self._step("datasync", path)
        except OSError:
            for change in inode.pending:
                if self.random.random() < 0.5:
                    _apply(inode.disk, change)
            inode.pending.clear()
            raise
        for change in inode.pending:
            _apply(inode.disk, change)
        inode.pending.clear()

    def truncate(self, fd: int, size_bytes: int) -> None:
        inode, path = self._handles[fd]
        self._step("truncate", path)
        inode.change(size_bytes)

    def allocate(self, fd: int, size_bytes: int, *, zero_fill: bool) -> None:
        inode, path = self._handles[fd]
        self._step("allocate", path)
        if size_bytes > self._free_bytes():
            inode.change(size_bytes // 2)
            raise OSError(errno.ENOSPC, "no space left on device", str(path))
        inode.change(size_bytes)

    def drop_cache(self, fd: int) -> None:
        inode, _ = self._handles[fd]
        inode.cache = bytearray(inode.disk)
        for change in inode.pending:
            _apply(inode.cache, change)

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename", source)
        self._files[target] = self._files.pop(source)
        self._sync_names(source.parent, target.parent)

    def remove(self, path: Path) -> None:
        if path in self._files:
            self._step("remove", path)
            del self._files[path]
            self._sync_names(path.parent)

    def make_directory(self, path: Path) -> None:
        self._step("make_directory", path)

    def sync_directory(self, path: Path) -> None:
        self._sync_names(path)

    def list(self, path: Path) -> dict[str, int]:
        return {
            file.name: len(inode.cache)
            for file, inode in self._files.items()
            if file.parent == path
        }

    def read_file(self, path: Path) -> bytes | None:
        inode = self._files.get(path)
        return None if inode is None else bytes(inode.cache)

    def write_file(self, path: Path, data: bytes) -> None:
        self._step("write_file", path)
        if len(data) > self._free_bytes():
            raise OSError(errno.ENOSPC, "no space left on device", str(path))
        self._files[path] = _Inode(data)  # synced before it is renamed to this
        self._sync_names(path.parent)

    def free_bytes(self, path: Path) -> int:
        return self._free_bytes()

    def lock(self, path: Path) -> int:
        if path in self._locks.values():
            raise BlockingIOError(errno.EAGAIN, "locked", str(path))
        self._next_handle += 1
        self._locks[self._next_handle] = path
        return self._next_handle

    # ----------------------------------------------------------------------------------------

    def _free_bytes(self) -> int:
        return self.capacity_bytes - sum(len(inode.cache) for inode in self._files.values())

    def _handle(self, inode: _Inode, path: Path) -> int:
        self._next_handle += 1
        self._handles[self._next_handle] = (inode, path)
        return self._next_handle

    def _sync_names(self, *directories: Path) -> None:
        for directory in dict.fromkeys(directories):
            self._step("sync_directory", directory)
            kept = {p: i for p, i in self._durable_files.items() if p.parent != directory}
            now = {p: i for p, i in self._files.items() if p.parent == directory}
            self._durable_files = {**kept, **now}

    def _step(self, operation: str, path: Path) -> None:
        number = len(self.operations)
        self.operations.append(f"{operation} {path.name}")
        if self.on_operation is not None:
            self.on_operation(operation)
        if number == self.crash_at:
            raise Crashed(self.operations[-1])
        at, error = self._failures.get(operation, (-1, 0))
        count = self._counts[operation]
        self._counts[operation] += 1
        if count == at:
            del self._failures[operation]
            raise OSError(error, errno.errorcode[error], str(path))
