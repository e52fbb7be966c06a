"""Object stores that count what they are asked for, and fail on command."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from logship.errors import Code, LogshipError
from logship.objects import Bytes, Described, Fetched, NotDeleted, ObjectInfo, ObjectStore


def unreachable(store: str = "the store") -> LogshipError:
    return LogshipError(
        Code.BUCKET_UNREACHABLE, f"{store} can't be reached", "wait", retryable=True
    )


class WatchedStore:
    """`requests`: how often each operation was called; `keys`: with which, in order.

    `fail`: called with (operation, key) before each; raises what the caller is to get.  `away`:
    nobody answers.
    """

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self.requests: Counter[str] = Counter()
        self.keys: list[tuple[str, str]] = []
        self.fail: Callable[[str, str], None] = lambda operation, key: None
        self.away = False
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self.inner.name

    def forget(self) -> None:
        with self._lock:
            self.requests.clear()
            self.keys.clear()

    def _asked(self, operation: str, key: str) -> None:
        with self._lock:
            self.requests[operation] += 1
            self.keys.append((operation, key))
        if self.away:
            raise unreachable(self.name)
        self.fail(operation, key)

    def get(self, key: str, *, unless_etag: str = "") -> Fetched | None:
        self._asked("get", key)
        return self.inner.get(key, unless_etag=unless_etag)

    def describe(self, key: str) -> Described | None:
        self._asked("describe", key)
        return self.inner.describe(key)

    def put(
        self,
        key: str,
        data: Bytes,
        metadata: Mapping[str, str] | None = None,
        *,
        only_if_absent: bool = False,
        only_if_etag: str = "",
    ) -> str:
        self._asked("put", key)
        return self.inner.put(
            key, data, metadata, only_if_absent=only_if_absent, only_if_etag=only_if_etag
        )

    def delete(self, keys: Sequence[str]) -> list[NotDeleted]:
        self._asked("delete", " ".join(keys))
        return self.inner.delete(keys)

    def listing(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        self._asked("list", prefix)
        return self.inner.listing(prefix, start_after=start_after)

    def folders(self, prefix: str) -> list[str]:
        self._asked("list", prefix)
        return self.inner.folders(prefix)

    def close(self) -> None:
        self.inner.close()
