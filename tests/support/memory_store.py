"""An object store in memory: for tests that make thousands of objects, or bend them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence

from logship.objects import (
    Bytes,
    ConditionFailedError,
    Described,
    Fetched,
    NotDeleted,
    ObjectInfo,
)
from logship.objects.keys import check_key


class MemoryStore:
    """See `logship.objects.ObjectStore`.  `now` is the time of what is put."""

    def __init__(self, objects: Mapping[str, bytes] | None = None) -> None:
        self.now = 1000.0
        self.locked: set[str] = set()
        """Keys that are not removed."""
        self._etags = itertools.count(1)
        self._lock = threading.Lock()
        self._objects: dict[str, Fetched] = {}
        for key, data in (objects or {}).items():
            self.put(key, data)

    @property
    def name(self) -> str:
        return "memory://"

    @property
    def objects(self) -> dict[str, bytes]:
        """What is there, by key."""
        return {key: each.data for key, each in sorted(self._objects.items())}

    def get(self, key: str, *, unless_etag: str = "") -> Fetched | None:
        there = self._objects.get(check_key(key))
        return None if there is None or there.etag == unless_etag else there

    def describe(self, key: str) -> Described | None:
        there = self.get(key)
        if there is None:
            return None
        return Described(len(there.data), there.metadata, there.etag, there.modified_at)

    def put(
        self,
        key: str,
        data: Bytes,
        metadata: Mapping[str, str] | None = None,
        *,
        only_if_absent: bool = False,
        only_if_etag: str = "",
    ) -> str:
        with self._lock:
            there = self.get(key)
            if only_if_absent and there is not None:
                raise ConditionFailedError(self.name, key)
            if only_if_etag and (there is None or there.etag != only_if_etag):
                raise ConditionFailedError(self.name, key)
            etag = str(next(self._etags))
            self._objects[key] = Fetched(bytes(data), dict(metadata or {}), etag, self.now)
            return etag

    def delete(self, keys: Sequence[str]) -> list[NotDeleted]:
        with self._lock:
            for key in set(keys) - self.locked:
                self._objects.pop(check_key(key), None)
        return [NotDeleted(key, "it is locked") for key in keys if key in self.locked]

    def listing(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        for key, each in sorted(self._objects.items()):
            if key.startswith(prefix) and key > start_after:
                yield ObjectInfo(key, len(each.data), each.modified_at, each.etag)

    def folders(self, prefix: str) -> list[str]:
        below = [key[len(prefix) :] for key in sorted(self._objects) if key.startswith(prefix)]
        return sorted({rest.partition("/")[0] for rest in below if "/" in rest})

    def close(self) -> None:
        pass
