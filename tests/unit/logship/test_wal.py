"""Names, pages and histories as PostgreSQL has them."""

from __future__ import annotations

import struct

import pytest

from logship import wal
from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from tests.support.wal_factory import MEGABYTE, SYSTEM_IDENTIFIER, WalFactory, wal_line

SIZES = [MEGABYTE << shift for shift in range(11)]


@pytest.mark.parametrize("segment_bytes", SIZES)
def test_every_segment_size_of_postgresql_is_known(segment_bytes: int) -> None:
    assert wal.check_segment_size(segment_bytes) == segment_bytes


@pytest.mark.parametrize("segment_bytes", [0, 1, MEGABYTE - 1, 3 * MEGABYTE, 2 << 30, -MEGABYTE])
def test_other_segment_sizes_are_refused(segment_bytes: int) -> None:
    with pytest.raises(ValueError, match="not a WAL segment size"):
        wal.check_segment_size(segment_bytes)


@pytest.mark.parametrize(
    ("timeline", "lsn", "segment_mb", "name"),
    [
        (1, "0/1000000", 16, "000000010000000000000001"),
        (1, "0/1FFFFFF", 16, "000000010000000000000001"),
        (1, "1/0", 16, "000000010000000100000000"),
        (1, "0/FFFFFFFF", 16, "0000000100000000000000FF"),
        (10, "2/345678", 1, "0000000A0000000200000003"),
        (1, "3/FFF00000", 1, "000000010000000300000FFF"),
        (1, "5/C0000000", 1024, "000000010000000500000003"),
        (0xFFFFFFFF, "FFFFFFFF/FF000000", 16, "FFFFFFFFFFFFFFFF000000FF"),
    ],
)
def test_segments_are_named_as_postgresql_names_them(
    timeline: int, lsn: str, segment_mb: int, name: str
) -> None:
    size = segment_mb * MEGABYTE
    at = Lsn.parse(lsn)
    assert wal.segment_name(timeline, at, size) == name
    assert wal.parse_segment_name(name, size) == (timeline, wal.segment_start(at, size))
    assert wal.segment_start(at, size) <= at < wal.segment_end(at, size)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "00000001000000000000000",
        "0000000100000000000000011",
        "00000001000000000000000g",
        "00000001000000000000000a",
        "000000000000000000000001",
        "000000010000000000000100",
        "000000010000000000000001.partial",
        "000000010000000000000001\n",
    ],
)
def test_other_names_are_no_segments(name: str) -> None:
    with pytest.raises(ValueError, match="WAL segment"):
        wal.parse_segment_name(name, 16 * MEGABYTE)


def test_history_names() -> None:
    assert wal.history_name(0x1F) == "0000001F.history"
    assert wal.parse_history_name("0000001F.history") == 0x1F
    with pytest.raises(ValueError, match="not a timeline history name"):
        wal.parse_history_name("1F.history")


@pytest.mark.parametrize("major", sorted(wal.PAGE_MAGIC))
@pytest.mark.parametrize("segment_mb", [1, 16, 64])
def test_pages_of_each_major_pass(major: int, segment_mb: int) -> None:
    line = wal_line(major, segment_mb * MEGABYTE)
    start = 3 * line.segment_bytes - 5 * 8192 - 100
    data = WalFactory(line).wal(2, start, 3 * line.segment_bytes)
    wal.check_pages(data, start, 2, line)
    start = 3 * line.segment_bytes
    data = WalFactory(line).wal(2, start, start + 20_000)
    wal.check_pages(data, start, 2, line)


START = 3 * MEGABYTE
LINE = wal_line()


def flawed(offset: int, patch: bytes) -> bytes:
    data = bytearray(WalFactory(LINE).wal(2, START, START + 3 * 8192))
    data[offset : offset + len(patch)] = patch
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (flawed(0, struct.pack("<H", wal.PAGE_MAGIC[16])), "magic"),
        (flawed(8192, struct.pack("<H", 0xD000)), "magic"),
        (flawed(8, struct.pack("<Q", START + 8192)), "it says it is page"),
        (flawed(8192 + 8, struct.pack("<Q", START)), "it says it is page"),
        (flawed(8192 + 4, struct.pack("<I", 3)), "of timeline 3"),
        (flawed(8192 + 4, struct.pack("<I", 0)), "of timeline 0"),
        (flawed(2, struct.pack("<H", 0)), "no long header"),
        (flawed(8192 + 2, struct.pack("<H", 2)), "long header in mid-segment"),
        (flawed(32, struct.pack("<I", 2 * MEGABYTE)), "segments of 2097152"),
        (flawed(36, struct.pack("<I", 4096)), "pages of 4096"),
        (flawed(0, bytes(8192)), "magic 0000"),
        (flawed(8192, bytes(24)), "not empty"),
    ],
)
def test_a_wrong_page_is_refused_and_named(data: bytes, why: str) -> None:
    with pytest.raises(LogshipError, match=why) as caught:
        wal.check_pages(data, START, 2, LINE)
    assert caught.value.code == Code.BAD_WAL_PAGE
    assert "0/30" in caught.value.what


def test_another_clusters_page_is_refused_as_such() -> None:
    data = flawed(24, struct.pack("<Q", SYSTEM_IDENTIFIER + 1))
    with pytest.raises(LogshipError, match=str(SYSTEM_IDENTIFIER + 1)) as caught:
        wal.check_pages(data, START, 2, LINE)
    assert caught.value.code == Code.SYSTEM_IDENTIFIER_MISMATCH


def test_a_page_of_an_older_timeline_passes() -> None:
    wal.check_pages(flawed(8192 + 4, struct.pack("<I", 1)), START, 2, LINE)


def test_the_empty_pages_after_a_segment_switch_pass() -> None:
    wal.check_pages(flawed(8192, bytes(2 * 8192)), START, 2, LINE)


def test_a_segment_s_first_page_tells_whether_any_of_it_was_written() -> None:
    other = WalFactory(LINE._replace(system_identifier=SYSTEM_IDENTIFIER + 1))
    pages = {
        "old": WalFactory(LINE).wal(1, MEGABYTE, MEGABYTE + 8192),
        "own": WalFactory(LINE).wal(1, 3 * MEGABYTE, 3 * MEGABYTE + 8192),
        "later": WalFactory(LINE).wal(1, 4 * MEGABYTE, 4 * MEGABYTE + 8192),
        "inner": WalFactory(LINE).wal(1, MEGABYTE + 8192, MEGABYTE + 2 * 8192),
        "another cluster's": other.wal(1, MEGABYTE, MEGABYTE + 8192),
        "empty": bytes(8192),
        "almost empty": bytes(8191) + b"x",
        "cut": bytes(8191),
        "noise": b"noise!!!" * 1024,
    }
    never = {name for name, page in pages.items() if wal.was_never_written(page, 3 << 20, LINE)}
    assert never == {"old", "empty"}


def test_an_unknown_major_is_refused() -> None:
    with pytest.raises(LogshipError, match="13 is not supported"):
        wal.check_pages(b"", START, 1, LINE._replace(major=13))


HISTORY = b"1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tbefore 2026-01-01\n"


def test_histories_read_as_postgresql_reads_them() -> None:
    history = wal.parse_history(3, HISTORY)
    assert history.ancestors == ((1, Lsn.parse("0/3000148")), (2, Lsn.parse("0/5000000")))
    assert history.end_of(1) == Lsn.parse("0/3000148")
    assert history.end_of(3) is None
    assert history.end_of(9) is None
    assert history.contains(1)
    assert history.contains(3)
    assert not history.contains(4)
    assert history.successor_of(1) == 2
    assert history.successor_of(2) == 3
    assert history.successor_of(3) is None
    assert history.timeline_at(Lsn.parse("0/3000147")) == 1
    assert history.timeline_at(Lsn.parse("0/3000148")) == 2
    assert history.timeline_at(Lsn.parse("0/5000000")) == 3


def test_comments_and_missing_reasons_are_fine() -> None:
    assert wal.parse_history(2, b"# said somebody\n1\t0/1000000\n").end_of(1) == 0x1000000
    assert wal.parse_history(2, b"").ancestors == ()


def test_a_restore_points_name_may_hold_any_character_but_a_line_feed() -> None:
    reason = 'at restore point "a\v\f\x1c\x85\u2028b"'
    assert wal.parse_history(2, f"1\t0/1000000\t{reason}\n".encode()).end_of(1) == 0x1000000


@pytest.mark.parametrize(
    "content",
    [
        b"x\t0/1\n",
        b"1\n",
        b"1\t01\n",
        b"2\t0/1\n1\t0/2\n",
        b"1\t0/2\n1\t0/3\n",
        b"1\t0/9\n2\t0/3\n",
        b"3\t0/1\n",
        b"4\t0/1\n",
        b"0\t0/1\n",
        b"0\t0/1\n1\t0/2\n",
        b"-1\t0/1\n1\t0/2\n",
        "٢\t0/1\n".encode(),
        b"\xff\xfe\n",
        b"#" * (wal.MAX_HISTORY_BYTES + 1),
    ],
)
def test_what_postgresql_would_not_read_is_refused(content: bytes) -> None:
    with pytest.raises(LogshipError) as caught:
        wal.parse_history(3, content)
    assert caught.value.code == Code.BAD_HISTORY
