"""What every object store must do; a new one subclasses `ObjectStoreContract`.

The subclass gives a `store` fixture: an empty store.  It is not collected by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from logship.errors import LogshipError
from logship.objects import ConditionFailedError, ObjectStore
from logship.objects.opening import prove_conditional_writes

HEAD = {"logship": '1a2b3c4d {"format":1,"timeline":1,"start_lsn":16777216}', "second": "2"}
EVERY_BYTE = bytes(range(256))


def keys(store: ObjectStore, prefix: str, start_after: str = "") -> list[str]:
    return [each.key for each in store.listing(prefix, start_after=start_after)]


class ObjectStoreContract:
    # --- one object ---------------------------------------------------------------------------

    @pytest.mark.parametrize("size_bytes", [0, 1, 1000, 5 << 20])
    def test_gives_back_what_was_put(self, store: ObjectStore, size_bytes: int) -> None:
        data = (EVERY_BYTE * (size_bytes // 256 + 1))[:size_bytes]
        before = time.time()
        etag = store.put("a/b/object", data, HEAD)
        fetched = store.get("a/b/object")
        assert fetched is not None
        assert fetched.data == data
        assert dict(fetched.metadata) == HEAD
        assert fetched.etag == etag != ""
        # Some stores count whole seconds.
        assert before - 1 <= fetched.modified_at <= time.time() + 1
        described = store.describe("a/b/object")
        assert described is not None
        assert described == (size_bytes, fetched.metadata, etag, fetched.modified_at)

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_takes_each_kind_of_bytes(
        self, store: ObjectStore, kind: Callable[[bytes], bytes]
    ) -> None:
        store.put("object", kind(EVERY_BYTE))
        fetched = store.get("object")
        assert fetched is not None
        assert (fetched.data, dict(fetched.metadata)) == (EVERY_BYTE, {})

    def test_metadata_may_be_nearly_2_kb(self, store: ObjectStore) -> None:
        metadata = {"logship": "x" * 1950}
        store.put("object", b"", metadata)
        described = store.describe("object")
        assert described is not None
        assert dict(described.metadata) == metadata

    def test_an_absent_object_is_none(self, store: ObjectStore) -> None:
        assert store.get("no/such") is None
        assert store.describe("no/such") is None
        store.put("no/such/thing", b"")
        assert store.get("no/such") is None, "a folder is no object"
        assert store.describe("no/such") is None

    def test_a_second_put_replaces_bytes_and_metadata(self, store: ObjectStore) -> None:
        first = store.put("object", b"first", HEAD)
        second = store.put("object", b"second")
        assert first != second
        fetched = store.get("object")
        assert fetched is not None
        assert (fetched.data, dict(fetched.metadata), fetched.etag) == (b"second", {}, second)

    def test_nothing_comes_while_the_etag_is_the_same(self, store: ObjectStore) -> None:
        etag = store.put("object", b"first")
        assert store.get("object", unless_etag=etag) is None
        store.put("object", b"second")
        fetched = store.get("object", unless_etag=etag)
        assert fetched is not None
        assert fetched.data == b"second"
        assert store.get("other", unless_etag=etag) is None

    @pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "a/../b", "a b", "ä", "a" * 901, "a@"])
    def test_what_can_name_no_object_is_refused(self, store: ObjectStore, key: str) -> None:
        for call in (store.get, store.describe, lambda each: store.put(each, b"")):
            with pytest.raises(LogshipError):
                call(key)

    # --- conditions ---------------------------------------------------------------------------

    def test_only_if_absent_makes_and_never_replaces(self, store: ObjectStore) -> None:
        etag = store.put("object", b"first", HEAD, only_if_absent=True)
        with pytest.raises(ConditionFailedError) as caught:
            store.put("object", b"second", only_if_absent=True)
        assert caught.value.key == "object"
        assert store.name in caught.value.what
        fetched = store.get("object")
        assert fetched is not None
        assert (fetched.data, dict(fetched.metadata), fetched.etag) == (b"first", HEAD, etag)
        store.delete(["object"])
        store.put("object", b"third", only_if_absent=True)

    def test_only_if_etag_replaces_just_that_one(self, store: ObjectStore) -> None:
        first = store.put("object", b"first")
        second = store.put("object", b"second", only_if_etag=first)
        with pytest.raises(ConditionFailedError):
            store.put("object", b"third", only_if_etag=first)
        with pytest.raises(ConditionFailedError):
            store.put("another", b"third", only_if_etag=second)
        assert store.get("another") is None
        fetched = store.get("object")
        assert fetched is not None
        assert (fetched.data, fetched.etag) == (b"second", second)

    @pytest.mark.parametrize("size_bytes", [0, 100])
    def test_of_many_makers_at_once_one_makes(self, store: ObjectStore, size_bytes: int) -> None:
        def make(number: int) -> int | None:
            try:
                store.put("object", bytes(size_bytes), {"by": str(number)}, only_if_absent=True)
            except ConditionFailedError:
                return None
            return number

        with ThreadPoolExecutor(8) as pool:
            made = [each for each in pool.map(make, range(24)) if each is not None]
        fetched = store.get("object")
        assert fetched is not None
        assert made == [int(fetched.metadata["by"])]

    def test_of_many_replacers_at_once_one_replaces(self, store: ObjectStore) -> None:
        etag = store.put("object", b"old")

        def replace(number: int) -> bytes | None:
            try:
                store.put("object", b"%d" % number, only_if_etag=etag)
            except ConditionFailedError:
                return None
            return b"%d" % number

        with ThreadPoolExecutor(8) as pool:
            made = [each for each in pool.map(replace, range(24)) if each is not None]
        fetched = store.get("object")
        assert fetched is not None
        assert made == [fetched.data]

    def test_the_proof_of_conditions_leaves_nothing(self, store: ObjectStore) -> None:
        prove_conditional_writes(store, "proof")
        assert keys(store, "") == []

    # --- many objects -------------------------------------------------------------------------

    def test_lists_by_key_with_what_is_known_of_each(self, store: ObjectStore) -> None:
        names = ["w/1/B", "w/1/A", "w/1/A.1", "w/10/A", "w/2/A", "x", "w/1/A-1", "w/1/a"]
        etags = {name: store.put(name, name.encode(), HEAD) for name in names}
        listed = list(store.listing(""))
        assert [each.key for each in listed] == sorted(names)
        for each in listed:
            described = store.describe(each.key)
            assert described is not None
            assert each.size_bytes == described.size_bytes == len(each.key)
            assert each.etag == etags[each.key]
            assert abs(each.modified_at - described.modified_at) <= 1
        assert keys(store, "w/1/") == ["w/1/A", "w/1/A-1", "w/1/A.1", "w/1/B", "w/1/a"]
        assert keys(store, "w/1") == sorted(name for name in names if name.startswith("w/1"))
        assert keys(store, "w/1/A") == ["w/1/A", "w/1/A-1", "w/1/A.1"]
        assert keys(store, "nothing/") == []

    def test_lists_what_comes_after_a_key(self, store: ObjectStore) -> None:
        for name in ("w/0001", "w/0002", "w/0003", "y"):
            store.put(name, b"")
        assert keys(store, "w/", "w/0001") == ["w/0002", "w/0003"]
        assert keys(store, "w/", "w/00015") == ["w/0002", "w/0003"]
        assert keys(store, "w/", "w/0003") == []
        assert keys(store, "", "w/0003") == ["y"]

    def test_lists_and_deletes_more_than_a_page(self, store: ObjectStore) -> None:
        names = [f"w/{number:06d}" for number in range(1234)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: store.put(name, b""), names))
        assert keys(store, "w/") == names
        assert keys(store, "w/", names[1000]) == names[1001:]
        assert store.delete(names[1:]) == []
        assert keys(store, "w/") == names[:1]

    def test_names_folders(self, store: ObjectStore) -> None:
        for name in ("b/1/x", "b/1/y", "b/2/x", "b/file", "a/x", "top"):
            store.put(name, b"")
        assert store.folders("") == ["a", "b"]
        assert store.folders("b/") == ["1", "2"]
        assert store.folders("b/1/") == []
        assert store.folders("none/") == []

    def test_deletes_what_is_there_and_minds_nothing_else(self, store: ObjectStore) -> None:
        store.put("w/1", b"", HEAD)
        store.put("w/2", b"", HEAD)
        assert store.delete(["w/1", "w/3", "other/1"]) == []
        assert store.get("w/1") is None
        assert keys(store, "") == ["w/2"]
        assert store.delete([]) == []
        # What was said of the one that was deleted is not said of the next.
        store.put("w/1", b"again")
        fetched = store.get("w/1")
        assert fetched is not None
        assert (fetched.data, dict(fetched.metadata)) == (b"again", {})

    def test_many_threads_may_use_it(self, store: ObjectStore) -> None:
        def round_trip(number: int) -> bool:
            data = EVERY_BYTE * (number + 1)
            store.put(f"w/{number:03d}", data, {"number": str(number)})
            fetched = store.get(f"w/{number:03d}")
            return (
                fetched is not None
                and fetched.data == data
                and dict(fetched.metadata) == {"number": str(number)}
            )

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(round_trip, range(64)))
        assert len(keys(store, "w/")) == 64
