"""Which cluster a bucket is read for, and the documents that are believed."""

from __future__ import annotations

import msgspec
import pytest

from logship.bucket.documents import document_metadata, encode_profile, pack_document
from logship.bucket.keys import Keys
from logship.bucket.reading import Bucket, newest_incarnation
from logship.bucket.seed_archive import PLAIN
from logship.errors import Code, LogshipError
from logship.identity import Incarnation, Profile
from tests.support.link_frames import profile
from tests.support.memory_store import MemoryStore

OLD = profile()
NEW = msgspec.structs.replace(OLD, system_identifier=OLD.system_identifier - 5)


def put_profile(store: MemoryStore, shown: Profile, under: Incarnation, *, at: float) -> str:
    store.now = at
    digest, content = encode_profile(shown)
    key = Keys("orders", under).profile(digest)
    store.put(key, pack_document(content), document_metadata(content))
    return key


def test_the_cluster_that_was_shipped_last_is_read() -> None:
    store = MemoryStore()
    assert newest_incarnation(store, "orders") is None
    store.put(f"{Keys('orders', OLD.incarnation).root}seeds/x/begin", b"x")
    store.put("orders/epoch", b"x")
    assert newest_incarnation(store, "orders") == OLD.incarnation
    store.put(f"{Keys('orders', NEW.incarnation).root}seeds/x/begin", b"x")
    assert newest_incarnation(store, "orders") is None  # which of them is not to be told
    put_profile(store, OLD, OLD.incarnation, at=5)
    assert newest_incarnation(store, "orders") == OLD.incarnation
    put_profile(store, NEW, NEW.incarnation, at=6)
    assert newest_incarnation(store, "orders") == NEW.incarnation


def test_a_profile_is_believed_if_it_is_whole_and_of_this_cluster() -> None:
    store = MemoryStore()
    bucket = Bucket(store, Keys("orders", OLD.incarnation), PLAIN)
    assert bucket.newest_profile() is None
    put_profile(store, OLD, OLD.incarnation, at=5)
    assert bucket.newest_profile() == OLD
    other = put_profile(store, NEW, OLD.incarnation, at=6)
    with pytest.raises(LogshipError) as caught:
        bucket.newest_profile()
    assert caught.value.code is Code.OBJECT_DAMAGED and other in caught.value.what
    store.put(other, pack_document(b"{}"), document_metadata(b"[]"))
    with pytest.raises(LogshipError) as caught:
        bucket.newest_profile()
    assert caught.value.code is Code.OBJECT_DAMAGED
