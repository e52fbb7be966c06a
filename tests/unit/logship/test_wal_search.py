"""Where records of a resource manager may be: all that there are, and hardly any other place."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from logship.wal import WAL_PAGE_BYTES
from logship.wal_search import may_have, places_of
from tests.support.record_factory import RM_HEAP, RM_TABLESPACE, RM_XACT, RecordFactory
from tests.support.wal_factory import MEGABYTE, wal_line

START = 16 * MEGABYTE
LINE = wal_line()


def recorded(seed: int) -> tuple[RecordFactory, dict[int, int]]:
    """Records over a segment's end, and where each one's resource manager stands: LSN → rmgr."""
    chosen = random.Random(seed)
    factory = RecordFactory(LINE, START + MEGABYTE - 3 * WAL_PAGE_BYTES)
    places = {}
    for _ in range(400):
        rmgr = chosen.choice((RM_HEAP, RM_TABLESPACE, RM_XACT))
        written = factory.record(rmgr, 0x80, bytes(chosen.choice((8, 24, 32, 100, 131, 3000))))
        places[place_of_rmgr(written.start_lsn)] = rmgr
    return factory, places


def place_of_rmgr(start_lsn: int) -> int:
    page_end = start_lsn - start_lsn % WAL_PAGE_BYTES + WAL_PAGE_BYTES
    if start_lsn + 17 < page_end:
        return start_lsn + 17
    return start_lsn + 17 + (24 if page_end % MEGABYTE else 40)


@given(st.integers(0, 1 << 32), st.integers(0, 1 << 20), st.integers(0, 1 << 20))
def test_all_are_found_also_in_the_piece_that_has_one_only_in_part(
    seed: int, begin: int, size: int
) -> None:
    factory, places = recorded(seed)
    begin %= len(factory.data)
    data = bytes(factory.data[begin : begin + size])
    lsn = factory.start + begin
    for rmgr in (RM_HEAP, RM_TABLESPACE, RM_XACT):
        found = {lsn + offset for offset in places_of(rmgr, lsn, data)}
        assert found >= {
            place for place, of in places.items() if of == rmgr and 0 <= place - lsn < len(data)
        }


def test_what_only_looks_alike_is_passed_over() -> None:
    """Values of columns, anywhere in a page, are no records; what stands in a page where the
    rest of a split header may is looked at."""
    factory = RecordFactory(LINE, START)
    factory.filler(100)
    small = b"".join(number.to_bytes(8, "little") for number in range(0x100, 0x600, 0x80))
    factory.record(RM_HEAP, 0, small * 4000)
    commit = factory.commit(0)
    found = [START + offset for offset in places_of(RM_XACT, START, bytes(factory.data))]
    assert found[-1] == place_of_rmgr(commit.start_lsn)
    assert all(lsn % WAL_PAGE_BYTES < 57 for lsn in found[:-1])


def test_where_rows_look_alike_by_the_thousand_it_is_not_asked_of_each() -> None:
    rows = RecordFactory(LINE, START)
    rows.record(RM_HEAP, 0, (0x580).to_bytes(8, "little") * 100_000)
    assert may_have(RM_TABLESPACE, START, bytes(rows.data))
    noise = RecordFactory(LINE, START)
    noise.record(RM_HEAP, 0, random.Random(1).randbytes(MEGABYTE // 2))
    data = bytes(noise.data[: MEGABYTE // 2])
    places = [START + offset for offset in places_of(RM_TABLESPACE, START, data)]
    assert may_have(RM_TABLESPACE, START, data) is bool(places)
