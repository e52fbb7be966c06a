"""An object store that breaks on command, and counts what it is asked."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from logship.errors import Code, LogshipError
from logship.objects import Bytes, Described, Fetched, NotDeleted, ObjectInfo, ObjectStore

HELD_SECONDS = 60.0


class _Arrived(NamedTuple):
    data: bytes
    metadata: Mapping[str, str]


class RiggedStore:
    """See `logship.objects.ObjectStore`.

    Objects whose keys contain `held_part` (WAL) can be held up: on the way there
    (`stop_taking`), or there, but not stored yet (`hold`), until `release` or `cut`.
    """

    held_part = "/wal/"

    def __init__(self, real: ObjectStore) -> None:
        self.real = real
        self.calls: Counter[str] = Counter()
        """By method."""
        self.arrived: dict[str, _Arrived] = {}
        """What is held and not stored."""
        self.refusals: list[LogshipError] = []
        """What the next calls raise, one each."""
        self.after_put: list[tuple[str, Callable[[], None]]] = []
        """(end of a key, what to do once): runs when such an object is stored, before the
        caller hears of it."""
        self._changed = threading.Condition()
        self._away = False
        self._taking = True
        self._holding = False
        self._cuts = self._cuts_when_stopped = 0

    @property
    def name(self) -> str:
        return self.real.name

    # --- what it is told to do ----------------------------------------------------------------

    def vanish(self) -> None:
        with self._changed:
            self._away = True
            self._cuts += 1
            self._changed.notify_all()

    def come_back(self) -> None:
        with self._changed:
            self._away = False
            self._changed.notify_all()

    def cut(self) -> None:
        """What is on its way fails; what comes then is fine."""
        with self._changed:
            self._cuts += 1
            self._changed.notify_all()

    def take(self, taking: bool) -> None:
        with self._changed:
            self._taking = taking
            self._cuts_when_stopped = self._cuts
            self._changed.notify_all()

    def hold(self) -> None:
        self._holding = True

    def release(self, chosen: Callable[[str], bool]) -> None:
        """Store what is held and `chosen` by its key."""
        with self._changed:
            for key in sorted(filter(chosen, self.arrived)):
                held = self.arrived.pop(key)
                self.real.put(key, held.data, held.metadata, only_if_absent=True)
            self._changed.notify_all()

    # --- ObjectStore ----------------------------------------------------------------------------

    def get(self, key: str, *, unless_etag: str = "") -> Fetched | None:
        self._call("get")
        return self.real.get(key, unless_etag=unless_etag)

    def describe(self, key: str) -> Described | None:
        self._call("describe")
        return self.real.describe(key)

    def put(
        self,
        key: str,
        data: Bytes,
        metadata: Mapping[str, str] | None = None,
        *,
        only_if_absent: bool = False,
        only_if_etag: str = "",
    ) -> str:
        self._call("put")
        if self.held_part in key:
            self._hold_up(key, bytes(data), metadata or {})
            if self._holding:
                described = self.real.describe(key)
                assert described is not None
                return described.etag
        etag = self.real.put(
            key, data, metadata, only_if_absent=only_if_absent, only_if_etag=only_if_etag
        )
        for number, (end, action) in enumerate(self.after_put):
            if key.endswith(end):
                del self.after_put[number]
                action()
                break
        return etag

    def delete(self, keys: Sequence[str]) -> list[NotDeleted]:
        self._call("delete")
        return self.real.delete(keys)

    def listing(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        self._call("listing")
        return self.real.listing(prefix, start_after=start_after)

    def folders(self, prefix: str) -> list[str]:
        self._call("folders")
        return self.real.folders(prefix)

    def close(self) -> None:
        self.real.close()

    # --- inside -----------------------------------------------------------------------------

    def _call(self, name: str) -> None:
        with self._changed:
            self.calls[name] += 1
            refusal = self.refusals.pop(0) if self.refusals else None
        if refusal is not None:
            raise refusal
        if self._away:
            raise unreachable()

    def _hold_up(self, key: str, data: bytes, metadata: Mapping[str, str]) -> None:
        with self._changed:
            # A cut reaches all that would be on its way since nothing is taken any more.
            cuts = self._cuts if self._taking else self._cuts_when_stopped
            self._changed.wait_for(lambda: self._taking or self._cuts > cuts, HELD_SECONDS)
            if self._cuts > cuts or self._away:
                raise unreachable()
            if self._holding:
                self.arrived[key] = _Arrived(data, metadata)
                self._changed.wait_for(
                    lambda: key not in self.arrived or self._cuts > cuts, HELD_SECONDS
                )
                if key in self.arrived:
                    raise unreachable()


def unreachable() -> LogshipError:
    return LogshipError(
        Code.BUCKET_UNREACHABLE, "nobody answers", "look at the bucket", retryable=True
    )
