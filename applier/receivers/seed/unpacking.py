"""Unpacks a seed's archives below `data.seeding` and `tablespaces.seeding/<oid>`.

Every path is walked from an open directory, component by component, with `O_NOFOLLOW`, and
everything is created exclusively: neither a link that an archive brings nor one that somebody
puts there meanwhile can lead a write out, and a name that comes twice is seen.  The links of
`pg_tblspc` are made by us and point to our final `tablespaces/<oid>`, whatever the primary
has there.

Blocking: belongs into one thread.  What is synced here is only to have less left for the
sync of the whole, after which alone `placement` swaps a seed in.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import crc32c
import msgspec

from applier.receivers.seed.early_sync import STEP_BYTES, EarlySync
from logship import durable
from logship.errors import Code, LogshipError
from logship.postgres.backup_manifest import MAX_MANIFEST_BYTES, ArrivedFile
from logship.postgres.backup_tar import Content, Entry, Kind, TarParser
from logship.postgres.run_as import RunAs

DATA: Final = "data"
TABLESPACES: Final = "tablespaces"
SEEDING_SUFFIX: Final = ".seeding"
MANIFEST_NAME: Final = b"backup_manifest"
LOCATIONS_NAME: Final = "locations.json"

_ROOM_CHECK_BYTES: Final = 64 * 1024 * 1024
_READ_BYTES: Final = 1024 * 1024
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BAD_PATH: Final = {
    errno.EEXIST: "it comes twice",
    errno.ENOENT: "the directory that it is in did not come before it",
    errno.ENOTDIR: "it is below something that is not a directory",
    errno.ELOOP: "it is below a symbolic link",
    errno.EISDIR: "it is a directory already",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EILSEQ: "the file system can't hold such a name",
}


class _Root:
    """A directory that things are created below, and never outside."""

    def __init__(self, path: Path, prefix: bytes, run_as: RunAs) -> None:
        self.prefix = prefix
        """What the manifest puts before the paths of this root."""
        self._run_as = run_as
        self._fd = os.open(path, _OPEN_DIRECTORY)
        # Archives come directory by directory, so the last one is nearly always the next.
        self._last: tuple[bytes, int] = (b"", self._fd)
        self._may_exist: set[bytes] = set()

    def make_directory(self, path: bytes, *, may_come_again: bool = False) -> None:
        """mkdir.  With `may_come_again` the archive may make the same one once more."""
        if path in self._may_exist:
            self._may_exist.discard(path)
            return
        parent_fd, name = self._parent(path)
        os.mkdir(name, 0o700, dir_fd=parent_fd)
        fd = os.open(name, _OPEN_DIRECTORY, dir_fd=parent_fd)
        try:
            _give(fd, self._run_as)
        finally:
            os.close(fd)
        if may_come_again:
            self._may_exist.add(path)

    def make_link(self, path: bytes, target: Path) -> None:
        parent_fd, name = self._parent(path)
        os.symlink(os.fsencode(target), name, dir_fd=parent_fd)

    def create(self, path: bytes) -> int:
        """A new, empty file, open for writing."""
        parent_fd, name = self._parent(path)
        fd = os.open(name, _CREATE_FILE, 0o600, dir_fd=parent_fd)
        try:
            _give(fd, self._run_as)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def open(self, path: bytes) -> int:
        """A file of this root, open for reading."""
        parent_fd, name = self._parent(path)
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)

    def free_bytes(self) -> int:
        """What unprivileged users can still write in this file system."""
        found = os.fstatvfs(self._fd)
        return found.f_bavail * found.f_frsize

    def close(self) -> None:
        self._forget_last()
        os.close(self._fd)

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        parent, _, name = path.rpartition(b"/")
        if parent != self._last[0]:
            self._forget_last()
            fd = self._fd
            for component in parent.split(b"/") if parent else []:
                try:
                    below = os.open(component, _OPEN_DIRECTORY, dir_fd=fd)
                finally:
                    if fd != self._fd:
                        os.close(fd)
                fd = below
            self._last = (parent, fd)
        return self._last[1], name

    def _forget_last(self) -> None:
        _, fd = self._last
        self._last = (b"", self._fd)
        if fd != self._fd:
            os.close(fd)


class _OpenFile:
    """The file that is being written."""

    def __init__(self, path: bytes, fd: int, early_sync: EarlySync) -> None:
        self.path = path
        self.size_bytes = 0
        self.crc32c = 0
        self._fd = fd
        self._early_sync = early_sync
        self._next_sync_bytes = STEP_BYTES

    def write(self, data: memoryview) -> None:
        self.crc32c = crc32c.crc32c(data, self.crc32c)
        self.size_bytes += len(data)
        durable.write_all(self._fd, data)
        if self.size_bytes >= self._next_sync_bytes:
            self._next_sync_bytes = self.size_bytes + STEP_BYTES
            self._early_sync.offer(self._fd)

    def close(self) -> None:
        os.close(self._fd)


class Unpacker:
    """One seed's files.  `start_archive`, `start_manifest`, `write` as its chunks say; then
    `finish`.  Always `close`.

    All raise LogshipError: BAD_TAR for what an archive must not have, DISK_FULL (retryable,
    with a new seed), SEED_FAILED for any other failure of the file system.  After an error
    only `close` may be called.
    """

    def __init__(
        self,
        directory: Path,
        tablespaces: Sequence[tuple[int, str]],
        run_as: RunAs,
        *,
        keep_free_bytes: int,
    ) -> None:
        """Makes the `.seeding` directories in `directory`, where there must be none yet.

        tablespaces: (oid, location on the primary) of each; a location `pg_tblspc/<oid>` is a
        directory inside the data directory (`allow_in_place_tablespaces`).
        """
        self.files: dict[bytes, ArrivedFile] = {}
        self.written_bytes = 0
        self.current = ""
        self._directory = directory
        self._keep_free_bytes = keep_free_bytes
        self._room_checked_bytes = 0
        self._roots: dict[str, _Root] = {}
        self._root: _Root | None = None
        self._tar: TarParser | None = None
        self._file: _OpenFile | None = None
        self._early_sync = EarlySync()
        self._awaited = {str(oid) for oid, _ in tablespaces} | {""}
        self._linked: set[bytes] = set()
        """The links of tablespaces that have still to come."""
        if len(self._awaited) != len(tablespaces) + 1:
            raise _bad("the list of its tablespaces has one twice")
        try:
            self._make_roots(tablespaces, run_as)
        except OSError as error:
            self.close()
            raise _os_failure(error, directory) from error

    def start_archive(self, archive: str) -> None:
        """The archive of the tablespace with the OID `archive` starts; "": the data's."""
        self._end_archive()
        if archive not in self._awaited:
            raise _bad(f"an archive of tablespace {archive or 'base'!r} was not announced")
        self._awaited.discard(archive)
        self._root = self._roots[archive]
        self._tar = TarParser(archive)

    def start_manifest(self) -> None:
        """The backup manifest starts."""
        self._end_archive()
        self._root = None
        if self._awaited:
            raise _bad(f"{len(self._awaited)} archives did not come before the manifest")
        try:
            self._file = self._create(self._roots[""], MANIFEST_NAME, MANIFEST_NAME)
        except OSError as error:
            raise _bad_path(error, MANIFEST_NAME) from error

    def write(self, data: bytes | memoryview) -> None:
        """Bytes of whatever started last."""
        view = memoryview(data).cast("B")
        self._check_room(len(view))
        if self._tar is None:
            self._write_manifest(view)
            return
        for event in self._tar.feed(view):
            path = event.path if isinstance(event, Entry) else b""
            try:
                if isinstance(event, Entry):
                    self._start(event)
                else:
                    self._continue(event)
            except OSError as error:
                raise _bad_path(error, path or (self._file.path if self._file else b"")) from error

    def finish(self) -> bytes:
        """Everything came: close the manifest and return its contents."""
        self._end_archive()
        try:
            self._early_sync.close()
        except OSError as error:
            raise _os_failure(error, self._directory) from error
        if self._file is None or self._file.path != MANIFEST_NAME:
            raise _bad("it has no backup manifest")
        self._file.close()
        self._file = None
        if self._linked:
            # The server would start without the tablespace, and miss its files later.
            missing = ", ".join(sorted(map(_shown, self._linked)))
            raise _bad(f"the link of an announced tablespace did not come: {missing}")
        try:
            return b"".join(self._contents(self._roots[""], MANIFEST_NAME))
        except OSError as error:
            raise _os_failure(error, self._directory) from error

    def digest(self, path: bytes, algorithm: str) -> bytes:
        """Read a file of the seed again: its digest by one of hashlib's algorithms."""
        root = next(
            (root for root in self._roots.values() if root.prefix and path.startswith(root.prefix)),
            self._roots[""],
        )
        hashed = hashlib.new(algorithm, usedforsecurity=False)
        try:
            for piece in self._contents(root, path[len(root.prefix) :]):
                hashed.update(piece)
        except OSError as error:
            raise _os_failure(error, self._directory) from error
        return hashed.digest()

    def close(self) -> None:
        """Close what is open.  May be called at any time, more than once."""
        with contextlib.suppress(OSError):
            self._early_sync.close()  # `finish` tells, and without it the seed is nothing
        if self._file is not None:
            self._file.close()
            self._file = None
        self._tar = None
        self._root = None
        for root in self._roots.values():
            root.close()
        self._roots.clear()

    def _make_roots(self, tablespaces: Sequence[tuple[int, str]], run_as: RunAs) -> None:
        data = self._directory / (DATA + SEEDING_SUFFIX)
        parent = self._directory / (TABLESPACES + SEEDING_SUFFIX)
        locations = {str(oid): location for oid, location in tablespaces}
        _make_private(data, run_as)
        _make_private(parent, run_as, {LOCATIONS_NAME: msgspec.json.encode(locations)})
        self._roots[""] = _Root(data, b"", run_as)
        in_place = [oid for oid, location in tablespaces if location == f"pg_tblspc/{oid}"]
        if in_place:
            self._roots[""].make_directory(b"pg_tblspc", may_come_again=True)
        for oid, _ in tablespaces:
            inside = b"pg_tblspc/%d" % oid
            if oid in in_place:
                self._roots[""].make_directory(inside, may_come_again=True)
                path = data / "pg_tblspc" / str(oid)
            else:
                path = parent / str(oid)
                _make_private(path, run_as)
                self._linked.add(inside)
            self._roots[str(oid)] = _Root(path, inside + b"/", run_as)

    def _start(self, entry: Entry) -> None:
        root = self._current_root()
        path = root.prefix + entry.path
        if entry.kind is Kind.DIRECTORY:
            root.make_directory(entry.path)
        elif entry.kind is Kind.SYMLINK:
            if path not in self._linked:
                raise _bad(f"a link to tablespace {_shown(path)} was not announced")
            oid = path.rpartition(b"/")[2].decode()
            root.make_link(path, self._directory / TABLESPACES / oid)
            self._linked.discard(path)
        else:
            _check_wanted(path)
            self.current = _shown(path)
            self._file = self._create(root, entry.path, path)
            if entry.size_bytes == 0:
                self._end_file()

    def _create(self, root: _Root, path: bytes, shown: bytes) -> _OpenFile:
        return _OpenFile(shown, root.create(path), self._early_sync)

    def _continue(self, content: Content) -> None:
        if self._file is None:
            raise _bad("contents without a file")
        self._file.write(content.data)
        self.written_bytes += len(content.data)
        if content.is_last:
            self._end_file()

    def _end_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
            self.files[file.path] = ArrivedFile(file.size_bytes, file.crc32c)

    def _end_archive(self) -> None:
        tar, self._tar = self._tar, None
        if tar is not None:
            tar.finish()

    def _write_manifest(self, view: memoryview) -> None:
        if self._file is None:
            raise _bad("bytes before its first archive")
        if self._file.size_bytes + len(view) > MAX_MANIFEST_BYTES:
            raise _bad(f"its manifest has more than {MAX_MANIFEST_BYTES} bytes")
        try:
            self._file.write(view)
        except OSError as error:
            raise _bad_path(error, MANIFEST_NAME) from error

    def _current_root(self) -> _Root:
        if self._root is None:
            raise _bad("an entry outside of every archive")
        return self._root

    def _check_room(self, size_bytes: int) -> None:
        self._room_checked_bytes -= size_bytes
        if self._room_checked_bytes >= 0:
            return
        free_bytes = self._roots[""].free_bytes()
        if free_bytes - size_bytes < self._keep_free_bytes:
            raise disk_full(self._directory, f"{free_bytes} bytes are left", self._keep_free_bytes)
        # Looked at again after 64 MiB, sooner when it gets near.
        spare_bytes = free_bytes - size_bytes - self._keep_free_bytes
        self._room_checked_bytes = min(_ROOM_CHECK_BYTES, spare_bytes)

    @staticmethod
    def _contents(root: _Root, path: bytes) -> Iterator[bytes]:
        fd = root.open(path)
        try:
            while piece := os.read(fd, _READ_BYTES):
                yield piece
        finally:
            os.close(fd)


def disk_full(directory: Path, what: str, keep_free_bytes: int) -> LogshipError:
    """The error for too little room in the file system of `directory`."""
    return LogshipError(
        Code.DISK_FULL,
        f"no room for the seed in {directory}: {what}, {keep_free_bytes} are to stay free",
        "make room or move the applier's directory to a larger file system; the standby that "
        "is there, if any, is untouched, and a new seed starts by itself",
        retryable=True,
    )


def _make_private(path: Path, run_as: RunAs, files: Mapping[str, bytes] | None = None) -> None:
    """A new directory with `files` of ours; they are made before anybody else may write in it."""
    path.mkdir(0o700)
    fd = os.open(path, _OPEN_DIRECTORY)
    try:
        for name, content in (files or {}).items():
            file = os.open(name, _CREATE_FILE, 0o600, dir_fd=fd)
            try:
                durable.write_all(file, content)
            finally:
                os.close(file)
        _give(fd, run_as)
    finally:
        os.close(fd)


def _give(fd: int, run_as: RunAs) -> None:
    if run_as.changes:
        os.fchown(fd, run_as.uid, run_as.gid)


def _check_wanted(path: bytes) -> None:
    if path == b"tablespace_map":
        # At its first start the server would make the links anew as this file says: to the
        # primary's paths (read_tablespace_map, xlogrecovery.c).
        raise _bad("it has a tablespace_map, which our base backup does not ask for")
    if path.startswith(b"pg_wal/"):
        # WAL comes by the store, which checks it, and the manifest does not cover this.
        raise _bad(f"it has the file {_shown(path)}, but WAL does not come with a seed")
    if path == MANIFEST_NAME:
        raise _bad("its archive has a backup_manifest of its own")


def _bad_path(error: OSError, path: bytes) -> LogshipError:
    why = _BAD_PATH.get(error.errno or 0)
    if why is not None:
        return _bad(f"{_shown(path)} can't be made: {why}")
    return _os_failure(error, Path(os.fsdecode(path)))


def _os_failure(error: OSError, path: Path) -> LogshipError:
    if error.errno in durable.DISK_FULL_ERRNOS:
        return disk_full(path, "the file system is full", 0)
    return LogshipError(
        Code.SEED_FAILED,
        f"the seed can't be written to {path}: {error.strerror or error}",
        "look at the file system and its messages; a new seed starts by itself",
        retryable=True,
    )


def _bad(why: str) -> LogshipError:
    return LogshipError(
        Code.BAD_TAR,
        f"the seed is refused: {why}",
        "nothing of it is used; start a new seed, and if this repeats look at what stands "
        "between the shipper and its primary",
    )


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
