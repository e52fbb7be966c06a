"""Makes the objects of one incarnation.  Blocking; called from several threads.

Every write is conditional, and made only while the epoch is ours.  What stands at a key already
is adopted if it is just what was to be written: our own retry, or an earlier process's.  Else
nothing is overwritten.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import structlog

from logship.bucket.documents import document_metadata, pack_document, unpack_document
from logship.bucket.epoch import Epoch
from logship.bucket.keys import Keys, Place
from logship.bucket.wal_objects import Head, Marker, metadata_of, opened, pack, read_head, unpack
from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from logship.objects import ConditionFailedError, Fetched, ObjectStore
from shipper.destinations.bucket.batches import Batch, Context

log = structlog.get_logger(__name__)

Seal = Callable[[bytes], bytes]

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class MetAnotherError(LogshipError):
    """Another object than expected stands at `place`: find out anew where the log ends."""

    def __init__(self, store: str, place: Place) -> None:
        super().__init__(
            Code.LINK_LOST,
            f"{store}: another object stands at {place} already",
            "the end of the log is looked for again",
            retryable=True,
        )
        self.place = place


def gone(where: str) -> LogshipError:
    """The store refuses to write what is there already, and it is not there: another request for
    it was under way, or it was removed in between."""
    return LogshipError(
        Code.BUCKET_UNREACHABLE,
        f"{where}: the store says that it is there, and then that it is not",
        "it is tried again",
        retryable=True,
    )


class PackedWal:
    """One batch on its way into the bucket; keeps its body over retries."""

    def __init__(self, objects: BucketObjects, batch: Batch) -> None:
        self.batch = batch
        self.body = b""
        """zstd frames, not sealed; there once it is stored."""
        self._objects = objects
        self._sealed = b""
        self._head: Head | None = None

    def put(self) -> None:
        """Raises LogshipError: WAL_CONFLICT, MetAnotherError, the epoch's and the store's."""
        if self.batch.existing is not None:
            self._objects.epoch.confirm()
            self.body, _, checksum = pack(self.batch.spans)
            self._objects.adopt_wal(self.batch, checksum)
            return
        if self._head is None:
            self.body, raw_bytes, checksum = pack(self.batch.spans)
            place = self.batch.place
            self._head = self._objects.head(
                place, self.batch.context, raw_bytes=raw_bytes, crc32c=checksum
            )
            self._sealed = self._objects.seal(self.body)
        self._objects.epoch.confirm()
        key = self._objects.keys.wal(self.batch.place)
        try:
            self._objects.store.put(key, self._sealed, metadata_of(self._head), only_if_absent=True)
        except ConditionFailedError:
            self._objects.adopt_wal(self.batch, self._head.crc32c)


class BucketObjects:
    """What is written in one bucket for one incarnation."""

    def __init__(
        self,
        store: ObjectStore,
        keys: Keys,
        epoch: Epoch,
        *,
        seal: Seal,
        segment_bytes: int,
        protection: str,
    ) -> None:
        self.store = store
        self.keys = keys
        self.epoch = epoch
        self.seal = seal
        self.segment_bytes = segment_bytes
        self._protection = protection

    def head(
        self,
        place: Place,
        context: Context,
        *,
        raw_bytes: int = 0,
        crc32c: int = 0,
        marker: Marker | None = None,
    ) -> Head:
        return Head(
            timeline=place.timeline,
            start_lsn=place.lsn,
            raw_bytes=raw_bytes,
            crc32c=crc32c,
            flush_lsn=context.flush_lsn,
            flush_timeline=context.flush_timeline,
            sent_at=time.time(),
            profile=context.profile,
            protection=self._protection,
            epoch=self.epoch.number,
            marker=marker,
        )

    def put_marker(self, place: Place, marker: Marker, context: Context) -> None:
        self.epoch.confirm()
        head = self.head(place, context, marker=marker)
        key = self.keys.wal(place)
        try:
            self.store.put(key, b"", metadata_of(head), only_if_absent=True)
        except ConditionFailedError:
            found = self.store.describe(key)
            where = self._where(key)
            if found is None:
                raise gone(where) from None
            if read_head(found.metadata, place, where).marker != marker:
                raise MetAnotherError(self.store.name, place) from None

    def put_history(self, timeline: int, content: bytes) -> None:
        """Raises LogshipError: HISTORY_CONFLICT, the epoch's and the store's."""
        key = self.keys.history(timeline)
        if not self._put_document(key, content):
            raise LogshipError(
                Code.HISTORY_CONFLICT,
                f"{self._where(key)} differs from the history of timeline {timeline} that the "
                "primary has",
                "two servers made the same timeline: find out which is the right one",
            )

    def put_profile(self, digest: str, content: bytes) -> None:
        # Its name is its digest: what stands there is the same.
        self._put_document(self.keys.profile(digest), content)

    def remove_stray(self, place: Place) -> None:
        """Remove a span that stands beyond a hole, so nobody ever followed the log to it, and
        that is of no line which goes on.

        Raises LogshipError: WAL_CONFLICT if it can't be, the epoch's and the store's.
        """
        self.epoch.confirm_now()
        key = self.keys.wal(place)
        kept = self.store.delete([key])
        log.warning("removed an object that was never reached", key=key, kept=bool(kept))
        if kept:
            raise LogshipError(
                Code.WAL_CONFLICT,
                f"{self._where(key)} is of a line that does not go on, and can't be removed: "
                f"{kept[0].why}",
                "remove it by hand: the log stops before it",
            )

    def adopt_wal(self, batch: Batch, checksum: int) -> None:
        """Return if the object at the batch's place holds just its bytes.

        Raises LogshipError: WAL_CONFLICT, MetAnotherError, OBJECT_DAMAGED, the epoch's and
        the store's.
        """
        key = self.keys.wal(batch.place)
        found = self.store.get(key)
        if found is None and batch.existing is None:
            raise gone(self._where(key))
        if found is None:
            raise MetAnotherError(self.store.name, batch.place)
        head = read_head(found.metadata, batch.place, self._where(key))
        if head.raw_bytes != batch.raw_bytes and batch.existing is None:
            raise MetAnotherError(self.store.name, batch.place)
        if (head.raw_bytes, head.crc32c) == (batch.raw_bytes, checksum) and self._holds(
            found, head, batch, key
        ):
            return
        self.epoch.confirm_now()
        raise LogshipError(
            Code.WAL_CONFLICT,
            f"{self._where(key)} holds other bytes than the primary's WAL from "
            f"{batch.place.timeline}:{Lsn(batch.place.lsn)} on",
            "nothing was overwritten; two primaries may have run: find out which is the right "
            "one, then ship it to another prefix",
        )

    # --- inside -----------------------------------------------------------------------------

    def _holds(self, found: Fetched, head: Head, batch: Batch, key: str) -> bool:
        """Compare byte by byte, where it is not sealed."""
        if not found.data.startswith(_ZSTD_MAGIC):
            return True
        raw = unpack(found.data, head, self.segment_bytes, self._where(key))
        return raw == b"".join(opened(span) for span in batch.spans)

    def _put_document(self, key: str, content: bytes) -> bool:
        """False: another document stands there."""
        self.epoch.confirm()
        metadata = document_metadata(content)
        try:
            body = self.seal(pack_document(content))
            self.store.put(key, body, metadata, only_if_absent=True)
        except ConditionFailedError:
            found = self.store.get(key)
            if found is None:
                raise gone(self._where(key)) from None
            return self._is_document(found, metadata, content, key)
        return True

    def _is_document(
        self, found: Fetched, metadata: Mapping[str, str], content: bytes, key: str
    ) -> bool:
        if not found.data.startswith(_ZSTD_MAGIC):
            return {name: found.metadata.get(name) for name in metadata} == dict(metadata)
        return unpack_document(found.data, found.metadata, self._where(key)) == content

    def _where(self, key: str) -> str:
        return f"{self.store.name}: {key}"
