"""What is remembered survives, and what can't be read is never taken for nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from applier.operations.record import (
    FORMAT,
    Fence,
    Heard,
    InstanceRecord,
    load_record,
    record_path,
    save_record,
)
from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from tests.support.link_frames import profile

RECORD = InstanceRecord(
    name="orders",
    incarnation=profile().incarnation,
    profile=profile(),
    protection="sync",
    fence=Fence(at=1700000000.5, reason="promotion"),
    heard=Heard(timeline=2, lsn=Lsn(0xFFFF_FFFF_FFFF_FFF0), at=1700000000.25),
)


def test_a_fresh_instance_has_an_empty_record(tmp_path: Path) -> None:
    assert load_record(tmp_path, "orders") == InstanceRecord(name="orders")


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    save_record(tmp_path, RECORD)
    assert load_record(tmp_path, "orders") == RECORD
    assert record_path(tmp_path).stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir()] == ["instance.json"]


def test_saving_replaces_the_record_as_a_whole(tmp_path: Path) -> None:
    save_record(tmp_path, RECORD)
    save_record(tmp_path, InstanceRecord(name="orders"))
    assert load_record(tmp_path, "orders") == InstanceRecord(name="orders")


def test_people_can_read_it(tmp_path: Path) -> None:
    save_record(tmp_path, RECORD)
    text = record_path(tmp_path).read_text()
    assert '"fence": {' in text
    assert text.endswith("}\n")


@pytest.mark.parametrize(
    "damage",
    [b"", b"\0" * 4096, b'{"name": "orders"', b'{"name": 1}', b"[]", b'{"name": "\xff"}'],
    ids=["empty", "zeroes", "cut short", "a wrong type", "a list", "no UTF-8"],
)
def test_a_damaged_record_might_hide_a_fence_and_is_an_error(tmp_path: Path, damage: bytes) -> None:
    record_path(tmp_path).write_bytes(damage)
    with pytest.raises(LogshipError) as caught:
        load_record(tmp_path, "orders")
    assert caught.value.code is Code.STORE_DAMAGED
    assert str(record_path(tmp_path)) in caught.value.what
    assert "fenced" in caught.value.hint
    assert not caught.value.retryable


@pytest.mark.parametrize("fence", [b"null", b'["a form that is not known here"]'])
def test_a_newer_versions_record_is_told_from_a_damaged_one(tmp_path: Path, fence: bytes) -> None:
    newer = b'{"format": %d, "name": "orders", "fence": %s}' % (FORMAT + 1, fence)
    record_path(tmp_path).write_bytes(newer)
    with pytest.raises(LogshipError) as caught:
        load_record(tmp_path, "orders")
    assert caught.value.code is Code.STORE_DAMAGED
    assert f"format {FORMAT + 1}" in caught.value.what
    assert caught.value.hint == "run the newer version"


def test_keys_of_a_newer_version_in_the_same_format_do_no_harm(tmp_path: Path) -> None:
    save_record(tmp_path, RECORD)
    document = msgspec.json.decode(record_path(tmp_path).read_bytes())
    document["later"] = {"anything": 1}
    record_path(tmp_path).write_bytes(msgspec.json.encode(document))
    assert load_record(tmp_path, "orders") == RECORD
