"""A bucket in a directory."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from logship.errors import Code, LogshipError
from logship.objects import ObjectStore
from logship.objects.directory import DirectoryStore
from logship.objects.opening import open_store
from logship.settings_bucket import BucketSettings
from tests.integration.object_store_contract import HEAD, ObjectStoreContract, keys

pytestmark = pytest.mark.integration


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ObjectStore]:
    store = open_store(BucketSettings(url=f"file://{tmp_path}/bucket"))
    yield store
    store.close()


class TestDirectoryStore(ObjectStoreContract):
    """The contract."""


def test_objects_are_plain_files(store: ObjectStore, tmp_path: Path) -> None:
    store.put("main/wal/1", b"bytes", HEAD)
    assert (tmp_path / "bucket/main/wal/1").read_bytes() == b"bytes"
    assert store.name == f"file://{tmp_path}/bucket"


def test_what_a_crashed_writer_left_is_no_object(store: ObjectStore, tmp_path: Path) -> None:
    store.put("main/wal/1", b"bytes", HEAD)
    (tmp_path / "bucket/main/wal/.2.tmp").write_bytes(b"half")
    (tmp_path / "bucket/main/wal/2@").write_bytes(b"{}")
    assert keys(store, "") == ["main/wal/1"]
    assert store.get("main/wal/2") is None


def test_what_is_removed_while_it_is_listed_is_left_out(store: ObjectStore) -> None:
    for key in ("main/wal/1", "main/wal/2", "main/wal/3"):
        store.put(key, b"bytes", HEAD)
    listed = store.listing("main/")
    assert next(listed).key == "main/wal/1"
    store.delete(["main/wal/2"])
    assert [each.key for each in listed] == ["main/wal/3"]


@pytest.mark.parametrize("read", [DirectoryStore.get, DirectoryStore.describe])
def test_what_is_removed_while_it_is_read_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[ObjectStore, str], object]
) -> None:
    store = DirectoryStore(tmp_path)
    for key in ("main/wal/1", "main/wal/2"):
        store.put(key, b"bytes", HEAD if key.endswith("1") else None)
    metadata = DirectoryStore._metadata

    def too_late(self: DirectoryStore, path: Path) -> Mapping[str, str]:
        self.delete(["main/wal/1"])
        return metadata(self, path)

    monkeypatch.setattr(DirectoryStore, "_metadata", too_late)
    assert read(store, "main/wal/1") is None
    assert read(store, "main/wal/2") is not None, "it never had any metadata"


def test_damaged_metadata_is_named(store: ObjectStore, tmp_path: Path) -> None:
    store.put("object", b"bytes", HEAD)
    (tmp_path / "bucket/object@").write_bytes(b"{")
    with pytest.raises(LogshipError) as caught:
        store.get("object")
    assert caught.value.code is Code.OBJECT_DAMAGED
    assert "object@" in caught.value.what


def test_a_place_that_is_no_directory_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = open_store(BucketSettings(url=f"file://{tmp_path}/file/bucket"))
    with pytest.raises(LogshipError) as caught:
        store.put("object", b"")
    assert caught.value.code is Code.BUCKET_UNREACHABLE
    assert caught.value.retryable


@contextmanager
def as_somebody_else() -> Iterator[None]:
    """With no more rights than others have; root has them again afterwards."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_directory_of_others_is_reported(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    store = open_store(BucketSettings(url=f"file://{tmp_path}/closed/bucket"))
    with as_somebody_else(), pytest.raises(LogshipError) as caught:
        store.put("object", b"")
    assert caught.value.code is Code.BUCKET_REFUSED
    assert not caught.value.retryable
