"""Finding CREATE TABLESPACE: wherever it lies on the pages, however the WAL is cut."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logship.wal import PAGE_MAGIC, WAL_PAGE_BYTES
from logship.wal_tablespaces import LOOK_BACK_BYTES, TablespaceCreated, TablespaceScan
from tests.support.record_factory import RecordFactory
from tests.support.wal_factory import MEGABYTE, wal_line

START = 16 * MEGABYTE
LOCATIONS = (b"/mnt/fast", b"/srv/caf\xe9", b"/" + b"long/" * 190 + b"way", b"")
ORIGIN, TOP_LEVEL = b"\xfd\x01\x00", b"\xfc\x05\x00\x00\x00"


class Made(NamedTuple):
    record: TablespaceCreated
    end: int
    """Offset of what follows."""


def recorded(seed: int, major: int = 17) -> tuple[RecordFactory, list[Made]]:
    """Records of random sizes over a segment's end, and those among them that make tablespaces."""
    chosen = random.Random(seed)
    factory = RecordFactory(wal_line(major), START + MEGABYTE - 4 * WAL_PAGE_BYTES)
    made = []
    for number in range(60):
        kind = chosen.random()
        if kind < 0.3:
            before = chosen.choice((b"", ORIGIN, TOP_LEVEL, ORIGIN + TOP_LEVEL))
            location = chosen.choice(LOCATIONS)
            record = factory.create_tablespace(16384 + number, location, before=before)
            made.append(Made(record, len(factory.data)))
        elif kind < 0.4:
            factory.drop_tablespace(16384 + number)
        elif kind < 0.42:
            factory.switch()
        else:
            factory.filler(chosen.choice((0, 1, 7, 100, 250, 8100, 20_000)))
    return factory, made


def scanned(
    scan: TablespaceScan, factory: RecordFactory, cuts: int, at: int = 0
) -> list[TablespaceCreated]:
    chosen = random.Random(cuts)
    found = []
    while at < len(factory.data):
        size = chosen.choice((1, 24, 40, 300, 8192, 50_000))
        found += scan.feed(factory.start + at, bytes(factory.data[at : at + size]))
        at += size
    return found


@given(st.integers(0, 1 << 32), st.integers(0, 1 << 32), st.sampled_from(sorted(PAGE_MAGIC)))
def test_every_one_is_found_once_however_the_wal_is_cut(seed: int, cuts: int, major: int) -> None:
    factory, made = recorded(seed, major)
    found = scanned(TablespaceScan(factory.line), factory, cuts)
    assert found == [each.record for each in made]


@given(st.integers(0, 1 << 32), st.integers(0, 1 << 32), st.integers(0, 1 << 30))
def test_one_that_began_before_is_found_if_what_lies_before_is_known(
    seed: int, cuts: int, cut: int
) -> None:
    factory, made = recorded(seed)
    cut %= len(factory.data)
    before = max(0, cut - LOOK_BACK_BYTES)
    scan = TablespaceScan(factory.line)
    scan.prime(factory.start + before, bytes(factory.data[before:cut]))
    assert scan.follows(factory.start + cut)
    # Those of which at most the padding came later were found by whoever was fed them.
    later = [each.record for each in made if each.end - 8 >= cut]
    found = scanned(scan, factory, cuts, cut)
    assert found[-len(later) :] == later if later else len(found) <= 1
    assert len(found) <= len(later) + 1


@pytest.mark.parametrize("at", (4, 12, 17, 22, 26, 30, 39))
def test_a_changed_record_is_none(at: int) -> None:
    factory = RecordFactory(wal_line(17), START)
    record = factory.create_tablespace(16385, b"/mnt/fast")
    factory.filler(100)
    factory.data[record.start_lsn - START + at] ^= 0x01
    assert TablespaceScan(factory.line).feed(START, bytes(factory.data)) == []


def test_wal_that_does_not_go_on_joins_no_halves() -> None:
    factory = RecordFactory(wal_line(17), START)
    factory.filler(100)
    record = factory.create_tablespace(16385, b"/mnt/fast")
    middle = record.start_lsn - START + 20
    scan = TablespaceScan(factory.line)
    assert scan.feed(START, bytes(factory.data[:middle])) == []
    assert scan.feed(START + middle + MEGABYTE, bytes(factory.data[middle:])) == []


def test_one_is_found_whatever_looks_like_one_right_before_it() -> None:
    """From 5 TiB of WAL on, what points to the record before ends as the search begins."""
    factory = RecordFactory(wal_line(17), 0x500 << 32)
    factory.filler(10)
    made = [factory.create_tablespace(16385 + number, b"/mnt/fast") for number in range(500)]
    found = TablespaceScan(factory.line).feed(factory.start, bytes(factory.data))
    assert found == made
