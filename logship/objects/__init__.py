"""Object stores: named blobs with a little metadata, and conditional writes.

`ObjectStore` is what the second road needs of a bucket, and no more.  `s3` speaks to any S3
server, `directory` keeps a bucket in a directory (a mounted share, a local archive, a test).
Both pass `tests/integration/object_store_contract.py`.  `encryption` seals what lies in them.

Nothing here knows what the objects mean: that is `logship.bucket`.  All calls block, may come
from several threads at once, and are complete: a call that returned has stored its object
durably, a call that raised may or may not have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from logship.errors import Code, LogshipError

Bytes = bytes | bytearray | memoryview


class ObjectInfo(NamedTuple):
    """An object as a listing shows it."""

    key: str
    size_bytes: int
    modified_at: float
    """Seconds since the epoch, by the store's clock."""
    etag: str
    """Opaque.  Another for other bytes; writing the same bytes again may leave it as it is."""


class Fetched(NamedTuple):
    """An object: its bytes and what was said of them when it was put."""

    data: bytes
    metadata: Mapping[str, str]
    etag: str
    modified_at: float


class Described(NamedTuple):
    """`Fetched` without the bytes."""

    size_bytes: int
    metadata: Mapping[str, str]
    etag: str
    modified_at: float


class NotDeleted(NamedTuple):
    """A key that is still there after `delete`, and why (a lock, a permission)."""

    key: str
    why: str


class ConditionFailedError(LogshipError):
    """A conditional write was not made: the key holds something else than was supposed."""

    def __init__(self, store: str, key: str) -> None:
        super().__init__(
            Code.OBJECT_EXISTS,
            f"{store}: {key} is there already, or was changed by somebody else",
            "another writer has the same instance: shipper status shows who",
        )
        self.key = key


class ObjectStore(Protocol):
    """A bucket, or a prefix in one: keys are relative to it.

    A key is 1 to 900 characters of `A-Za-z0-9/._-`, with no empty, `.` or `..` part.
    Metadata: names of `a-z0-9-`, ASCII values, less than 2 kB in all.

    Every method raises LogshipError: BUCKET_UNREACHABLE (retryable: nobody answered, or the
    store is overloaded; the call itself has tried a few times), BUCKET_REFUSED (credentials,
    permissions, no such bucket), and OBJECT_DAMAGED where what came is not what is stored.
    """

    @property
    def name(self) -> str:
        """How to call it in messages: `s3://bucket/prefix`."""

    def get(self, key: str, *, unless_etag: str = "") -> Fetched | None:
        """The object, whole; None if there is none.

        unless_etag: also None while the object still has this etag (cheap, nothing is sent).
        """

    def describe(self, key: str) -> Described | None:
        """The object without its bytes; None if there is none."""

    def put(
        self,
        key: str,
        data: Bytes,
        metadata: Mapping[str, str] | None = None,
        *,
        only_if_absent: bool = False,
        only_if_etag: str = "",
    ) -> str:
        """Store the object, whole or not at all; returns its etag.

        Sent with a checksum that the store verifies.  only_if_absent: make, never replace.
        only_if_etag: replace just this one.  Raises ConditionFailedError where that does not
        hold; after a retry inside the call it may also mean that its own first try succeeded:
        compare with what is there.
        """

    def delete(self, keys: Sequence[str]) -> list[NotDeleted]:
        """Remove the objects; absent ones are fine.  Returns those that could not be."""

    def listing(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """All objects whose keys begin with `prefix`, by key in order of bytes, those after
        `start_after` only.  Pages are asked for as the iterator goes on."""

    def folders(self, prefix: str) -> list[str]:
        """The names between `prefix` (it ends with "/" or is "") and the next "/", in order."""

    def close(self) -> None:
        """Let go of connections."""
