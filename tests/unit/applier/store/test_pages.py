"""No page header escapes, wherever spans are cut."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from applier.store.pages import PageScan
from logship.errors import Code, LogshipError
from tests.support.wal_factory import MEGABYTE, WalFactory, wal_line

LINE = wal_line()
START = 3 * MEGABYTE
PAGE = 8192
PAGES = 4
WAL = WalFactory(LINE).wal(1, START, START + PAGES * PAGE)


def scan(data: bytes, cuts: list[int]) -> PageScan:
    state = PageScan()
    edges = [0, *cuts, len(data)]
    for start, end in pairwise(edges):
        if start < end:
            state = state.advance(data[start:end], START + start, 1, LINE)
    return state


@pytest.mark.parametrize("seed", range(50))
def test_good_wal_passes_however_it_is_cut(seed: int) -> None:
    chosen = random.Random(seed)
    near_headers = [page * PAGE + chosen.randrange(60) for page in range(PAGES)]
    cuts = near_headers + [chosen.randrange(len(WAL)) for _ in range(10)]
    scan(WAL, sorted(cuts))


def test_good_wal_passes_byte_by_byte() -> None:
    scan(WAL[: PAGE + 100], list(range(1, PAGE + 100)))


@pytest.mark.parametrize("cut", [0, 1, 2, 8, 15, 23, 24, 30, 39, 40, 41])
@pytest.mark.parametrize("flaw", [0, 4, 8, 15, 24, 31, 32, 36])
def test_a_flaw_in_the_first_header_is_found_however_it_is_cut(cut: int, flaw: int) -> None:
    data = bytearray(WAL)
    data[flaw] ^= 0x40
    with pytest.raises(LogshipError):
        scan(bytes(data), [cut])


@pytest.mark.parametrize("cut", [0, 1, 2, 8, 15, 23, 24])
@pytest.mark.parametrize("flaw", [0, 1, 2, 4, 8, 15])
def test_a_flaw_in_a_later_header_is_found_however_it_is_cut(cut: int, flaw: int) -> None:
    data = bytearray(WAL)
    data[2 * PAGE + flaw] ^= 0x42
    with pytest.raises(LogshipError) as caught:
        scan(bytes(data), [2 * PAGE - 3, 2 * PAGE + cut])
    assert caught.value.code == Code.BAD_WAL_PAGE


@pytest.mark.parametrize("cut", [0, 1, 12, 23, 24, 25, 4000, 8191])
def test_a_page_without_a_header_must_be_empty_however_it_is_cut(cut: int) -> None:
    empty = WAL[:PAGE] + bytes(PAGE) + WAL[2 * PAGE :]
    scan(empty, [PAGE + cut])
    for flaw in (24, 5000, 8191):
        data = bytearray(empty)
        data[PAGE + flaw] = 1
        with pytest.raises(LogshipError):
            scan(bytes(data), [PAGE + cut, PAGE + cut + 1])


@pytest.mark.parametrize("end", [1, 23, 24, 39, 40, 41, 8191, 8192, 8193, 8200, 9000, 16384])
def test_the_state_read_back_from_the_last_page_is_the_state_that_was(end: int) -> None:
    state = scan(WAL[:end], [])
    assert PageScan.resume(WAL[end - end % PAGE : end]) == state
