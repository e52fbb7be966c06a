"""One incarnation of an instance in a bucket, as its readers find it.  All of it blocks.

What a document says is believed if it is what was written: its length and checksum stand in its
metadata.  Errors name the object.
"""

from __future__ import annotations

import contextlib

from logship.bucket.documents import decode_profile, unpack_document
from logship.bucket.keys import Keys
from logship.bucket.seed_archive import Opens, list_seeds
from logship.bucket.wal_objects import damaged
from logship.identity import Incarnation, Profile
from logship.objects import ObjectStore


def incarnations(store: ObjectStore, instance: str) -> list[Incarnation]:
    """The clusters of which something is there."""
    found = []
    for name in store.folders(f"{instance}/"):
        with contextlib.suppress(ValueError):
            found.append(Incarnation.parse(name))
    return found


def shipped_at(store: ObjectStore, instance: str, incarnation: Incarnation) -> float:
    """When its newest profile came, by the store's clock; 0: none did."""
    infos = store.listing(Keys(instance, incarnation).profile(""))
    return max((info.modified_at for info in infos), default=0.0)


def newest_incarnation(store: ObjectStore, instance: str) -> Incarnation | None:
    """The cluster that was shipped last.  None: none is there, or it can't be told."""
    found = [(shipped_at(store, instance, each), each) for each in incarnations(store, instance)]
    last_at, last = max(found, default=(0.0, None))
    # Where seeds alone are kept no profile is.
    return last if last_at or len(found) == 1 else None


class Bucket:
    """Where one incarnation's objects are, and what opens them."""

    def __init__(self, store: ObjectStore, keys: Keys, identities: Opens) -> None:
        self.store = store
        self.keys = keys
        self.identities = identities

    def where(self, key: str) -> str:
        """How to call an object in messages."""
        return f"{self.store.name}: {key}"

    def newest_profile(self) -> Profile | None:
        """What the primary was when it was looked at last; None: nothing was ever shipped."""
        prefix = self.keys.profile("")
        infos = sorted(self.store.listing(prefix), key=lambda info: info.modified_at)
        if infos:
            return self.profile(infos[-1].key.removeprefix(prefix))
        # Where seeds alone are kept, they say it themselves.
        seeds = list_seeds(self.store, self.keys, self.identities, skip_sealed=True)
        return seeds[-1].profile if seeds else None

    def profile(self, digest: str) -> Profile:
        """Raises LogshipError: OBJECT_DAMAGED, also if it is of another cluster."""
        key = self.keys.profile(digest)
        profile = decode_profile(self._document(key), self.where(key))
        if profile.incarnation != self.keys.incarnation:
            raise damaged(self.where(key), f"it is of cluster {profile.incarnation}")
        return profile

    def history(self, timeline: int) -> bytes:
        """The `.history` file, byte for byte."""
        return self._document(self.keys.history(timeline))

    def _document(self, key: str) -> bytes:
        fetched = self.store.get(key)
        if fetched is None:
            raise damaged(self.where(key), "it is missing, and WAL that is there needs it")
        where = self.where(key)
        return unpack_document(self.identities.open(fetched.data, where), fetched.metadata, where)
