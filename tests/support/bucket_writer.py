"""What a shipper puts into a bucket, made by hand."""

from __future__ import annotations

import time
from typing import Any

from logship.bucket.documents import document_metadata, encode_profile, pack_document
from logship.bucket.keys import Keys, Place
from logship.bucket.seed_archive import PLAIN, Seals
from logship.bucket.wal_objects import Head, Marker, metadata_of, pack
from logship.identity import Profile
from logship.lsn import Lsn
from logship.objects import ConditionFailedError, ObjectStore
from logship.seal import Sealed, seal
from tests.support.link_frames import wal_bytes


class BucketWriter:
    """Writes one instance's objects; `place` is where the next one goes."""

    def __init__(
        self, store: ObjectStore, instance: str, profile: Profile, recipients: Seals = PLAIN
    ) -> None:
        self.store = store
        self.profile = profile
        self.keys = Keys(instance, profile.incarnation)
        self.recipients = recipients
        self.place: Place | None = None
        self.digest = ""
        self.write_profile(profile)

    @property
    def segment_bytes(self) -> int:
        return self.profile.wal_segment_size

    def write_profile(self, profile: Profile) -> None:
        """From here on heads name this one."""
        self.digest, content = encode_profile(profile)
        self._put_document(self.keys.profile(self.digest), content)

    def write_wal(self, timeline: int, start_lsn: int, raw: bytes, **head: Any) -> Head:
        """A span; the same again is fine."""
        return self.write_span(timeline, start_lsn, seal(raw), **head)

    def write_span(
        self, timeline: int, start_lsn: int, sealed: Sealed, *, step: int = 0, **head: Any
    ) -> Head:
        return self._write_body(Place(timeline, Lsn(start_lsn), step), sealed, **head)

    def write_segment(self, timeline: int, start_lsn: int, raw: bytes, **head: Any) -> Head:
        """A finished segment in one object."""
        key = self.keys.segment(timeline, start_lsn, self.segment_bytes)
        return self._write_body(Place(timeline, Lsn(start_lsn)), seal(raw), key=key, **head)

    def _write_body(self, place: Place, sealed: Sealed, *, key: str = "", **more: Any) -> Head:
        body, raw_bytes, checksum = pack([sealed])
        head = self._head(place, raw_bytes=raw_bytes, crc32c=checksum, **more)
        self._put(key or self.keys.wal(place), self.recipients.seal(body), head)
        if not key:
            self.place = head.following(place, self.segment_bytes)
        return head

    def write_marker(self, place: Place, marker: Marker, **head: Any) -> Head:
        made = self._head(place, marker=marker, **head)
        self._put(self.keys.wal(place), b"", made)
        self.place = made.following(place, self.segment_bytes)
        return made

    def write_history(self, timeline: int, content: bytes) -> None:
        self._put_document(self.keys.history(timeline), content)

    def _put_document(self, key: str, content: bytes) -> None:
        body = self.recipients.seal(pack_document(content))
        self.store.put(key, body, document_metadata(content))

    def write_many(self, timeline: int, start_lsn: int, end_lsn: int, object_bytes: int) -> None:
        """The made-up WAL of `wal_bytes`, in objects of that size that end with segments."""
        lsn = start_lsn
        while lsn < end_lsn:
            segment_end = (lsn // self.segment_bytes + 1) * self.segment_bytes
            end = min(lsn + object_bytes, segment_end, end_lsn)
            self.write_wal(timeline, lsn, wal_bytes(timeline, lsn, end - lsn))
            lsn = end

    def compact(self, timeline: int, segment_lsn: int, *, remove: bool = True) -> None:
        """Join the objects of a segment, as a shipper does once it is finished."""
        raw = wal_bytes(timeline, segment_lsn, self.segment_bytes)
        self.write_segment(timeline, segment_lsn, raw)
        end = segment_lsn + self.segment_bytes
        if remove:
            self.store.delete(
                [
                    info.key
                    for info in self.store.listing(self.keys.wal_of(timeline))
                    if segment_lsn <= Place.parse(info.key[len(self.keys.all_wal) :]).lsn < end
                    and info.size_bytes
                ]
            )

    def _head(self, place: Place, **fields: Any) -> Head:
        fields.setdefault("flush_lsn", place.lsn + fields.get("raw_bytes", 0))
        fields.setdefault("flush_timeline", place.timeline)
        fields.setdefault("sent_at", time.time())
        return Head(
            timeline=place.timeline,
            start_lsn=int(place.lsn),
            profile=self.digest,
            epoch=1,
            **fields,
        )

    def _put(self, key: str, body: bytes, head: Head) -> None:
        try:
            self.store.put(key, body, metadata_of(head), only_if_absent=True)
        except ConditionFailedError:
            assert self.store.get(key) is not None
