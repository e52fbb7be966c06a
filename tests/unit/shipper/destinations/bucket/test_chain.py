"""Where the log in a bucket ends, with objects beside it that are not ours."""

from __future__ import annotations

from logship.bucket.keys import Keys, Place
from logship.bucket.wal_objects import Head, metadata_of, pack
from logship.identity import Incarnation
from logship.lsn import Lsn
from logship.seal import seal
from shipper.destinations.bucket.chain import look
from tests.support.memory_store import MemoryStore
from tests.support.wal_factory import MEGABYTE, SYSTEM_IDENTIFIER, WalFactory, wal_line

LINE = wal_line()
KEYS = Keys("main", Incarnation(SYSTEM_IDENTIFIER, LINE.major))
START = 16 * MEGABYTE


def test_strange_keys_are_passed_over() -> None:
    store = MemoryStore()
    body, raw_bytes, checksum = pack([seal(WalFactory(LINE).wal(1, START, START + 500))])
    head = Head(timeline=1, start_lsn=START, raw_bytes=raw_bytes, crc32c=checksum)
    store.put(KEYS.wal(Place(1, Lsn(START))), body, metadata_of(head))
    store.put(KEYS.history(2), b"x")
    for prefix in (KEYS.all_histories, KEYS.all_wal, KEYS.all_segments, KEYS.all_seeds):
        for name in ("README.t", "0001", "zz/README", "00000001/.README", "00000001/README"):
            store.put(prefix + name, b"x")
    found = look(store, KEYS, MEGABYTE)
    assert found.chain is not None
    assert found.chain.place == Place(1, Lsn(START + 500))
    assert found.timelines == {2}
    assert found.seeded_at is None
