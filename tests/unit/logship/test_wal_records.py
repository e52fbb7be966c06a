"""Walking WAL records: laid over pages in every way, begun anywhere, and damaged."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logship.wal import PAGE_MAGIC, WAL_PAGE_BYTES
from logship.wal_records import Kind, Mark, RecordWalk, main_data, marks_in, record_end
from tests.support.record_factory import RM_XACT, RecordFactory, data_header
from tests.support.wal_factory import MEGABYTE, wal_line

START = 16 * MEGABYTE
NOON = 1_700_000_000_000_000


def recorded(seed: int, *, records: int = 300, major: int = 17) -> tuple[RecordFactory, list[Mark]]:
    """Records of random sizes from shortly before a segment's end, and the marks among them."""
    chosen = random.Random(seed)
    factory = RecordFactory(wal_line(major), START + MEGABYTE - 4 * WAL_PAGE_BYTES)
    marks = []
    for number in range(records):
        kind = chosen.random()
        if kind < 0.4:
            marks.append(factory.commit(NOON + number, more_bytes=chosen.choice((0, 40, 3000))))
        elif kind < 0.5:
            marks.append(factory.restore_point(NOON + number, f"point {number}"))
        elif kind < 0.51:
            marks.append(factory.switch())
        else:
            factory.filler(chosen.choice((0, 1, 7, 100, 250, 8100, 20_000)))
    return factory, marks


@given(st.integers(0, 1 << 32), st.integers(0, 1 << 32), st.sampled_from(sorted(PAGE_MAGIC)))
def test_every_mark_is_found_however_the_wal_is_cut(seed: int, cuts: int, major: int) -> None:
    factory, marks = recorded(seed, major=major)
    chosen = random.Random(cuts)
    pieces, at = [], 0
    while at < len(factory.data):
        size = chosen.choice((1, 24, 8192, 50_000, 300_000))
        pieces.append(bytes(factory.data[at : at + size]))
        at += size
    found, walk = marks_in(pieces, factory.line, factory.start)
    assert found == marks
    assert walk.end == factory.end
    assert walk.stopped == ""


@given(st.integers(0, 1 << 32), st.integers(0, 400))
def test_a_walk_may_begin_at_any_page(seed: int, page: int) -> None:
    factory, marks = recorded(seed)
    offset = page * WAL_PAGE_BYTES % len(factory.data)
    offset -= offset % WAL_PAGE_BYTES
    start = factory.start + offset
    found, walk = marks_in([bytes(factory.data[offset:])], factory.line, start)
    assert found == [mark for mark in marks if mark.start_lsn >= start]
    assert walk.stopped == ""


def test_zeros_are_the_end() -> None:
    factory, marks = recorded(1)
    padded = bytes(factory.data) + bytes(5 * WAL_PAGE_BYTES)
    found, walk = marks_in([padded], factory.line, factory.start)
    assert found == marks
    assert walk.end == factory.end
    assert walk.stopped.startswith("the end at ")


def test_a_record_that_is_not_all_there_is_no_record() -> None:
    factory = RecordFactory(wal_line(), START)
    first = factory.commit(NOON)
    factory.commit(NOON + 1, more_bytes=20_000)
    for missing_bytes in (16, 5000, 20_000):
        data = bytes(factory.data[:-missing_bytes])
        found, walk = marks_in([data], factory.line, START)
        assert found == [first]
        assert walk.end == first.end_lsn


def test_stale_records_behind_the_end_are_not_taken() -> None:
    factory, _ = recorded(2)
    before = factory.filler(100)
    # A segment file that was used before holds well-formed records of another place.
    factory._previous -= 8
    factory.commit(NOON)
    found, walk = marks_in([bytes(factory.data)], factory.line, factory.start)
    assert "does not follow" in walk.stopped
    assert walk.end == before.end_lsn
    assert found[-1].start_lsn < before.start_lsn


def test_a_record_that_a_crash_cut_short_is_passed_over() -> None:
    factory = RecordFactory(wal_line(), START)
    marks = [factory.commit(NOON)]
    factory.crash_inside(30_000)
    marks.append(factory.commit(NOON + 1))
    found, walk = marks_in([bytes(factory.data)], factory.line, START)
    assert found == marks
    assert walk.stopped == ""


@pytest.mark.parametrize("major", [14, 18])
def test_main_data_is_found_behind_blocks_images_and_origin(major: int) -> None:
    compressed = 0x02 if major == 14 else 0x08
    pieces = [
        struct.pack("<BBH", 0, 0x20, 5) + bytes(12 + 4),  # data, a relation, a block
        struct.pack("<BBHHHB", 1, 0x80 | 0x10, 0, 30, 8, 0x01 | compressed) + bytes(2 + 4),
        struct.pack("<BBHHHB", 2, 0x80 | 0x10, 3, 8000, 8, 0x01) + bytes(4),
        struct.pack("<BH", 253, 7),
        struct.pack("<BI", 252, 700),
        data_header(300),
    ]
    blocks = bytes(5 + 30 + 8003)
    record = bytes(24) + b"".join(pieces) + blocks + b"m" * 300
    assert main_data(record, len(record), major) == b"m" * 300
    assert main_data(record[:-100], len(record), major) == b"m" * 200
    assert main_data(record[:200], len(record), major) is None
    assert main_data(record, len(record) + 1, major) is None
    assert main_data(bytes(24), 24, major) == b""


def test_a_commit_with_origin_tells_its_time() -> None:
    factory = RecordFactory(wal_line(), START)
    mark = factory.commit(NOON, before=struct.pack("<BH", 253, 7))
    factory.record(RM_XACT, 0x30, data_header(4) + bytes(4))
    found, _ = marks_in([bytes(factory.data)], factory.line, START)
    assert found[0] == mark
    assert (found[1].kind, found[1].time) == (Kind.COMMIT, None)


@given(st.integers(0, 1 << 32), st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(max_size=9))))
def test_damage_ends_a_walk_and_nothing_else(seed: int, patches: list[tuple[int, bytes]]) -> None:
    factory, marks = recorded(seed, records=60)
    data = bytearray(factory.data)
    for at, patch in patches:
        at %= len(data)
        data[at : at + len(patch)] = patch
    del data[len(factory.data) :]
    pairs = zip(data, factory.data, strict=True)
    first_damage = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    found, walk = marks_in([bytes(data)], factory.line, factory.start)
    if first_damage is None:
        assert found == marks
        return
    place = factory.start + first_damage
    intact = [mark for mark in marks if mark.end_lsn <= place and mark.kind is not Kind.SWITCH]
    assert [mark for mark in found if mark in intact] == intact
    assert walk.end is None or walk.end <= factory.end + MEGABYTE


def test_a_walk_begins_at_a_page_of_a_known_major() -> None:
    with pytest.raises(ValueError, match="not the start of a WAL page"):
        RecordWalk(wal_line(), START + 8)
    with pytest.raises(ValueError, match="not supported"):
        RecordWalk(wal_line()._replace(major=13), START)


@pytest.mark.parametrize(
    ("insert", "end"),
    [
        (0x1000028, 0x1000000),
        (0x1002018, 0x1002000),
        (0x1002028, 0x1002028),
        (0x1000018, 0x1000018),
    ],
)
def test_a_position_behind_a_page_header_is_where_the_record_before_ended(
    insert: int, end: int
) -> None:
    assert record_end(insert, MEGABYTE) == end
