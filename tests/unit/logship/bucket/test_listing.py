"""The WAL among the keys of a bucket."""

from __future__ import annotations

from logship.bucket.keys import Keys, Place
from logship.bucket.listing import items_of
from logship.identity import Incarnation
from logship.lsn import Lsn
from tests.support.memory_store import MemoryStore

KEYS = Keys("main", Incarnation(7301234567890123456, 17))
S = 1 << 20


def test_wal_is_told_from_what_lies_beside_it_and_put_in_order() -> None:
    store = MemoryStore()
    places = [Place(1, Lsn(3 * S)), Place(1, Lsn(3 * S + 9)), Place(2, Lsn(3 * S))]
    for place in places:
        store.put(KEYS.wal(place), b"x")
    store.put(KEYS.wal(Place(1, Lsn(3 * S + 9), 1)), b"")
    store.put(KEYS.segment(1, 3 * S, S), b"all")
    own = set(store.objects)
    name = KEYS.segment(1, 2 * S, S).rpartition("/")[2]
    beside = ("README", "zz/README", "00000001/README", f"00000002/{name}", f"x/{name}", name)
    for strange in beside:
        for prefix in (KEYS.all_wal, KEYS.all_segments):
            store.put(prefix + strange, b"x")
    items = items_of(store.listing(""), KEYS, S)
    assert {item.key for item in items} == own
    assert [(item.place, item.is_segment, item.size_bytes) for item in items] == [
        (Place(1, Lsn(3 * S)), True, 3),
        (Place(1, Lsn(3 * S)), False, 1),
        (Place(1, Lsn(3 * S + 9)), False, 1),
        (Place(1, Lsn(3 * S + 9), 1), False, 0),
        (Place(2, Lsn(3 * S)), False, 1),
    ]
    assert items[0].modified_at == store.now
