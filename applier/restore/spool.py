"""A bounded place on the local disk for objects that were fetched from a bucket.

Used by several threads: each object is fetched once, however many ask for it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from applier.restore.bucket_wal import BucketWal, WalObject
from applier.store.reading import FileSlice
from logship import durable


class Spool:
    """Files of fetched objects in `directory`, which is ours and may be removed at any time.

    limit_bytes: beyond it those go that were not used for longest.  Nothing here is synced: it
    is fetched again after a crash.
    """

    def __init__(self, wal: BucketWal, directory: Path, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._wal = wal
        self._directory = directory
        self._lock = threading.Lock()
        self._held: OrderedDict[str, int] = OrderedDict()
        """Bytes by key, the one used last at the end."""
        self._fetching: dict[str, threading.Lock] = {}

    def fetch(self, one: WalObject) -> None:
        """Have it here.  Blocks; raises LogshipError as `BucketWal.fetch`, and OSError."""
        with self._lock:
            turn = self._fetching.setdefault(one.key, threading.Lock())
        with turn:
            with self._lock:
                if one.key in self._held:
                    self._held.move_to_end(one.key)
                    return
            raw = self._wal.fetch(one)
            durable.make_directory(self._directory)
            path = self._path(one)
            with path.open("wb") as file:
                file.write(raw)
            with self._lock:
                self._held[one.key] = len(raw)
                self._make_room(one.key)

    def read(self, one: WalObject, lsn: int, max_bytes: int) -> bytes:
        """Bytes from `lsn` on, fetched first if need be.  Blocks; raises as `fetch`."""
        while True:
            self.fetch(one)
            size_bytes = min(max_bytes, one.end - lsn)
            try:
                with self._path(one).open("rb") as file:
                    file.seek(lsn - one.start)
                    return file.read(size_bytes)
            except FileNotFoundError:
                continue  # it just had to make room

    def share(self, one: WalObject, lsn: int, max_bytes: int) -> FileSlice | None:
        """The same as a part of a file; None if it is not here.  Never fetches."""
        try:
            with self._path(one).open("rb") as file:
                size_bytes = min(max_bytes, one.end - lsn)
                return FileSlice(file.fileno(), lsn - one.start, size_bytes)
        except FileNotFoundError:
            return None

    def drop(self, one: WalObject) -> None:
        """It is not needed any more."""
        with self._lock:
            if self._held.pop(one.key, None) is not None:
                self._path(one).unlink(missing_ok=True)

    def close(self) -> None:
        durable.remove_tree(self._directory)

    def _make_room(self, but: str) -> None:
        while sum(self._held.values()) > self.limit_bytes:
            oldest = next(iter(self._held))
            if oldest == but:
                return
            del self._held[oldest]
            (self._directory / _file_name(oldest)).unlink(missing_ok=True)

    def _path(self, one: WalObject) -> Path:
        return self._directory / _file_name(one.key)


def _file_name(key: str) -> str:
    # One incarnation's keys differ in their last two parts.
    return "-".join(key.split("/")[-3:])
