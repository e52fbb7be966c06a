"""A bucket in a directory: files under their keys, metadata beside them.

`KEY` holds the bytes, `KEY@` the metadata as JSON (not made when there is none).  The metadata
is written first and removed last, so an object that is there has its own.  `@` is in no key.
Writers of one machine exclude each other by a lock file; over a network file system that has no
locks two writers may both believe that they made a key, so the one-writer rule is the operator's
there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from logship import durable
from logship.decoders import json_decoder
from logship.documents import UNREADABLE
from logship.errors import Code, LogshipError
from logship.objects import Bytes, ConditionFailedError, Described, Fetched, NotDeleted, ObjectInfo
from logship.objects.keys import check_key

METADATA_SUFFIX: Final = "@"
LOCK_NAME: Final = ".lock@"


class DirectoryStore:
    """See `logship.objects.ObjectStore`."""

    def __init__(self, directory: Path) -> None:
        """directory: made with the first object."""
        self._directory = directory

    @property
    def name(self) -> str:
        return f"file://{self._directory}"

    def get(self, key: str, *, unless_etag: str = "") -> Fetched | None:
        path = self._path(key)
        with self._errors(key):
            try:
                with path.open("rb") as file:
                    status = os.fstat(file.fileno())
                    if unless_etag and _etag(status) == unless_etag:
                        return None
                    data = file.read()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None
            metadata = self._metadata(path)
            if not metadata and not path.exists():
                return None  # removed meanwhile, with what was said of it
            return Fetched(data, metadata, _etag(status), status.st_mtime)

    def describe(self, key: str) -> Described | None:
        path = self._path(key)
        with self._errors(key):
            try:
                status = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            if not path.is_file():
                return None
            metadata = self._metadata(path)
            if not metadata and not path.exists():
                return None
            return Described(status.st_size, metadata, _etag(status), status.st_mtime)

    def put(
        self,
        key: str,
        data: Bytes,
        metadata: Mapping[str, str] | None = None,
        *,
        only_if_absent: bool = False,
        only_if_etag: str = "",
    ) -> str:
        path = self._path(key)
        with self._errors(key):
            durable.make_directory(path.parent)
            with self._locked():
                there = self.describe(key)
                if only_if_absent and there is not None:
                    raise ConditionFailedError(self.name, key)
                if only_if_etag and (there is None or there.etag != only_if_etag):
                    raise ConditionFailedError(self.name, key)
                beside = path.with_name(path.name + METADATA_SUFFIX)
                if metadata:
                    durable.write_file(beside, msgspec.json.encode(dict(metadata)))
                elif there is not None:
                    durable.remove(beside)
                durable.write_file(path, data)
                return _etag(path.stat())

    def delete(self, keys: Sequence[str]) -> list[NotDeleted]:
        kept = []
        for key in keys:
            path = self._path(key)
            try:
                with suppress(FileNotFoundError, NotADirectoryError):
                    path.unlink()
                    path.with_name(path.name + METADATA_SUFFIX).unlink(missing_ok=True)
            except OSError as error:
                kept.append(NotDeleted(key, error.strerror or str(error)))
        return kept

    def listing(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        folder, _, _ = prefix.rpartition("/")
        with self._errors(prefix):
            keys = sorted(self._walk(self._directory / folder if folder else self._directory))
        for key in keys:
            if key.startswith(prefix) and key > start_after:
                # Removed since: inside, as _errors would make an error of it.
                with self._errors(key), suppress(FileNotFoundError):
                    status = self._path(key).stat()
                    yield ObjectInfo(key, status.st_size, status.st_mtime, _etag(status))

    def folders(self, prefix: str) -> list[str]:
        folder = self._directory / prefix
        with self._errors(prefix):
            try:
                return sorted(each.name for each in folder.iterdir() if each.is_dir())
            except (FileNotFoundError, NotADirectoryError):
                return []

    def close(self) -> None:
        pass

    # --- inside -----------------------------------------------------------------------------

    def _path(self, key: str) -> Path:
        return self._directory / check_key(key)

    def _walk(self, folder: Path) -> Iterator[str]:
        try:
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path))
            elif METADATA_SUFFIX not in entry.name and not entry.name.startswith("."):
                yield str(Path(entry.path).relative_to(self._directory))

    def _metadata(self, path: Path) -> Mapping[str, str]:
        beside = path.with_name(path.name + METADATA_SUFFIX)
        try:
            return json_decoder(dict[str, str]).decode(beside.read_bytes())
        except FileNotFoundError:
            return {}
        except UNREADABLE as error:
            raise LogshipError(
                Code.OBJECT_DAMAGED,
                f"{beside} can't be read: {error}",
                "it is not what was written; look at the disk",
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self._directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise LogshipError(
                Code.BUCKET_REFUSED,
                f"{self.name}: {key or 'it'} may not be used: {error.strerror}",
                "check the owner and mode of the directory",
            ) from error
        except OSError as error:
            full = error.errno in durable.DISK_FULL_ERRNOS
            raise LogshipError(
                Code.BUCKET_UNREACHABLE,
                f"{self.name}: {key or 'it'} can't be used: {error.strerror or error}",
                "make room there" if full else "look at the disk, or at the mount",
                retryable=True,
            ) from error


def _etag(status: os.stat_result) -> str:
    text = f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]
