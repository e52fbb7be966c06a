"""The sign of life as an object."""

from __future__ import annotations

import json

import msgspec
import pytest

from logship.bucket.sign_of_life import SignOfLife, put_sign, read_sign
from logship.errors import Code, LogshipError
from logship.lsn import Lsn, plain_lsn
from tests.support.memory_store import MemoryStore

SIGN = SignOfLife(
    epoch=7,
    sent_at=1700000000.5,
    every_seconds=30.0,
    cluster="7301234567890123456-17",
    reachable=False,
    timeline=3,
    flush_lsn=Lsn(0x16B374D848),
    heard_at=1699999998.25,
)


def test_it_is_read_as_it_was_put_and_replaced_by_the_next() -> None:
    store = MemoryStore()
    assert read_sign(store, "main") is None
    put_sign(store, "main", SIGN)
    assert read_sign(store, "main") == SIGN
    fetched = store.get("main/alive")
    assert fetched is not None
    assert json.loads(fetched.data) == {
        "format": 1,
        "epoch": 7,
        "sent_at": 1700000000.5,
        "every_seconds": 30.0,
        "cluster": "7301234567890123456-17",
        "reachable": False,
        "timeline": 3,
        "flush_lsn": 0x16B374D848,
        "heard_at": 1699999998.25,
    }


NO_TIME = json.dumps(msgspec.to_builtins(SIGN, enc_hook=plain_lsn) | {"sent_at": 1e300}).encode()


@pytest.mark.parametrize("data", [NO_TIME, b"", b"{}", b"\xff", b'{"format": 2}', b"[" * 100000])
def test_what_is_no_sign_is_named(data: bytes) -> None:
    store = MemoryStore()
    store.put("main/alive", data)
    with pytest.raises(LogshipError, match="main/alive") as caught:
        read_sign(store, "main")
    assert caught.value.code is Code.OBJECT_DAMAGED
