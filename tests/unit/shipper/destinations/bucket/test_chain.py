"""Where the log in a bucket ends, with objects beside it that are not ours."""

from __future__ import annotations

from logship.bucket.keys import Keys, Place
from logship.bucket.wal_objects import Head, metadata_of, pack
from logship.identity import Incarnation
from logship.lsn import Lsn
from logship.seal import seal
from shipper.destinations.bucket.chain import find_end, look
from shipper.destinations.bucket.remembered import Remembered
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


def put(store: MemoryStore, start: int, end: int) -> None:
    body, raw_bytes, checksum = pack([seal(WalFactory(LINE).wal(1, start, end))])
    head = Head(timeline=1, start_lsn=Lsn(start), raw_bytes=raw_bytes, crc32c=checksum)
    store.put(KEYS.wal(Place(1, Lsn(start))), body, metadata_of(head))


def ends(store: MemoryStore, hint: Place) -> set[Place]:
    """By both ways of asking."""
    found = look(store, KEYS, MEGABYTE, hint=Remembered(hint))
    end = find_end(store, KEYS, MEGABYTE, Remembered(hint))
    assert found.chain is not None and end is not None
    return {found.chain.place, end}


def test_a_last_place_that_retention_has_passed_is_not_the_end() -> None:
    store = MemoryStore()
    for start in (START + 4000, START + 5000):
        put(store, start, start + 1000)
    for last in (START + 500, START + 3000, START - 1, START - 3 * MEGABYTE, 0):
        assert ends(store, Place(1, Lsn(last))) == {Place(1, Lsn(START + 6000))}


def test_what_stands_beyond_a_hole_is_not_joined_to_the_last_place() -> None:
    store = MemoryStore()
    for start in (START, START + 4000):
        put(store, start, start + 1000)
    for last in (START, START + 1000):
        assert ends(store, Place(1, Lsn(last))) == {Place(1, Lsn(START + 1000))}


def test_a_last_place_of_which_nothing_is_left_is_the_end() -> None:
    place = Place(1, Lsn(START + 500))
    assert ends(MemoryStore(), place) == {place}
