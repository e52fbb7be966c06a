"""What a listing of a bucket tells of its WAL, and fetching it."""

from __future__ import annotations

from pathlib import Path

import pytest

from applier.restore.bucket_wal import BucketWal
from applier.restore.intervals import Interval
from applier.restore.spool import Spool
from logship.bucket.keys import Keys, Place
from logship.bucket.reading import Bucket
from logship.bucket.seed_archive import PLAIN
from logship.bucket.wal_objects import Head, Marker, metadata_of, pack
from logship.errors import Code, LogshipError
from logship.identity import Incarnation
from logship.lsn import Lsn
from logship.objects.directory import DirectoryStore
from logship.seal import seal
from tests.support.wal_factory import MEGABYTE, SYSTEM_IDENTIFIER, WalFactory, wal_line

LINE = wal_line()
KEYS = Keys("main", Incarnation(SYSTEM_IDENTIFIER, LINE.major))
START = 16 * MEGABYTE
WAL = WalFactory(LINE)


class Filled:
    def __init__(self, directory: Path) -> None:
        self.bucket = Bucket(DirectoryStore(directory / "bucket"), KEYS, PLAIN)

    def put(self, start: int, end: int, *, whole: bool = False, claimed: int = 0) -> str:
        body, raw_bytes, checksum = pack([seal(WAL.wal(1, start, end))])
        head = Head(
            timeline=1,
            start_lsn=start,
            raw_bytes=raw_bytes,
            crc32c=checksum,
            flush_lsn=claimed or end,
            flush_timeline=1,
            sent_at=1000.0 + end,
        )
        place = Place(1, Lsn(start))
        key = KEYS.segment(1, start, MEGABYTE) if whole else KEYS.wal(place)
        self.bucket.store.put(key, body, metadata_of(head))
        return key

    def marker(self, lsn: int, kind: str) -> None:
        head = Head(timeline=1, start_lsn=lsn, marker=Marker(kind=kind))
        self.bucket.store.put(KEYS.wal(Place(1, Lsn(lsn))), b"", metadata_of(head))

    def look(self) -> BucketWal:
        return BucketWal.look(self.bucket, LINE)


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    return Filled(tmp_path)


def test_spans_and_whole_segments_are_one_piece(filled: Filled) -> None:
    filled.put(START, START + 5000)
    filled.put(START + 5000, START + MEGABYTE)
    filled.put(START + MEGABYTE, START + 2 * MEGABYTE, whole=True)
    filled.put(START + 2 * MEGABYTE, START + 2 * MEGABYTE + 777)
    found = filled.look()
    end = START + 2 * MEGABYTE + 777
    assert found.intervals(1) == [Interval(START, end)]
    assert found.intervals(2) == []
    assert (found.complete_until, found.complete_to) == (1000.0 + end, (1, end))
    for lsn in (START, START + 4999, START + 5000, START + MEGABYTE + 9, end - 1):
        one = found.covering(1, lsn)
        assert one is not None
        assert found.fetch(one) == WAL.wal(1, one.start, one.end)
    assert found.covering(1, end) is None


def test_an_end_at_which_the_primary_had_more_tells_no_time(filled: Filled) -> None:
    filled.put(START, START + 5000, claimed=START + 5001)
    assert filled.look().complete_until is None


def test_holes_are_seen_by_their_markers_and_by_what_is_not_there(filled: Filled) -> None:
    filled.put(START, START + 5000)
    filled.marker(START + 5000, "gap")
    filled.put(START + 9000, START + MEGABYTE)
    filled.put(START + 3 * MEGABYTE, START + 3 * MEGABYTE + 100)
    assert filled.look().intervals(1) == [
        Interval(START, START + 5000),
        Interval(START + 9000, START + MEGABYTE),
        Interval(START + 3 * MEGABYTE, START + 3 * MEGABYTE + 100),
    ]


def test_what_was_joined_since_the_listing_is_taken_from_its_segment(filled: Filled) -> None:
    keys = [
        filled.put(START, START + 5000),
        filled.put(START + 5000, START + MEGABYTE),
    ]
    found = filled.look()
    filled.put(START, START + MEGABYTE, whole=True)
    filled.bucket.store.delete(keys)
    one = found.covering(1, START + 5000)
    assert one is not None
    assert found.fetch(one) == WAL.wal(1, START + 5000, START + MEGABYTE)
    filled.bucket.store.delete([KEYS.segment(1, START, MEGABYTE)])
    with pytest.raises(LogshipError, match="not any more") as caught:
        found.fetch(one)
    assert caught.value.code is Code.OBJECT_DAMAGED


def test_an_object_that_holds_less_than_was_thought_is_told(filled: Filled) -> None:
    filled.put(START, START + 5000)
    filled.put(START + 6000, START + 7000)  # and no marker in between
    found = filled.look()
    one = found.covering(1, START)
    assert one is not None
    with pytest.raises(LogshipError, match=f"WAL is missing up to {Lsn(START + 6000)}"):
        found.fetch(one)


def test_a_spool_keeps_to_its_limit_and_fetches_again(filled: Filled, tmp_path: Path) -> None:
    for number in range(6):
        start = START + number * MEGABYTE
        filled.put(start, start + MEGABYTE, whole=True)
    found = filled.look()
    spool = Spool(found, tmp_path / "spool", 2 * MEGABYTE)
    for _ in range(2):
        for one in found.objects[1]:
            assert spool.read(one, one.start + 100, 50) == WAL.wal(
                1, one.start + 100, one.start + 150
            )
            assert len(list((tmp_path / "spool").iterdir())) <= 2
    last = found.objects[1][-1]
    slice_ = spool.share(last, last.start + 5, 10)
    assert slice_ is not None
    spool.drop(last)
    with slice_:
        assert slice_.read() == WAL.wal(1, last.start + 5, last.start + 15)
    assert spool.share(last, last.start, 10) is None
    spool.close()
    assert not (tmp_path / "spool").exists()


def test_strange_keys_are_passed_over(filled: Filled) -> None:
    filled.put(START, START + 5000)
    for prefix in (KEYS.all_histories, KEYS.all_wal, KEYS.all_segments):
        for name in ("README.t", "0001", "00000001/README"):
            filled.bucket.store.put(prefix + name, b"x")
    found = filled.look()
    assert found.intervals(1) == [Interval(START, START + 5000)]
    assert found.histories == {}
