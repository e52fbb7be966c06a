"""The (LSN, time) index: what is found, kept, damaged, and found again."""

from __future__ import annotations

import asyncio
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from applier.store import Store, commit_indexing, commit_times
from applier.store.commit_indexing import CommitIndexing
from applier.store.commit_times import (
    FILE_NAME,
    CommitTimes,
    LastCommit,
    Times,
    finished_segments,
    last_commit,
)
from applier.store.positions import Extent
from logship.lsn import Lsn
from logship.wal import WAL_PAGE_BYTES
from logship.wal_records import Kind, marks_in
from tests.support.record_factory import RecordFactory
from tests.support.wal_factory import MEGABYTE, wal_line

START = 16 * MEGABYTE
NOON = 1_700_000_000_000_000
LINE = wal_line()


def recorded() -> tuple[RecordFactory, Times]:
    """Four segments and a bit: commits at the end, at the start only, none, and after a switch."""
    factory = RecordFactory(LINE, START)
    times: Times = {}
    while factory.end < START + MEGABYTE - 20_000:
        mark = factory.commit(NOON, more_bytes=900)
    times[1, START] = LastCommit(Lsn(mark.end_lsn), NOON)
    factory.filler(30_000)
    mark = factory.commit(NOON + 7)
    times[1, START + MEGABYTE] = LastCommit(Lsn(mark.end_lsn), NOON + 7)
    factory.filler(2 * MEGABYTE)
    times[1, START + 2 * MEGABYTE] = None
    mark = factory.commit(NOON + 9)
    times[1, START + 3 * MEGABYTE] = LastCommit(Lsn(mark.end_lsn), NOON + 9)
    factory.switch()
    factory.commit(NOON + 11)
    return factory, times


def index_of(path: Path) -> CommitTimes:
    index = CommitTimes(path, LINE)
    index.load()
    return index


def test_the_last_commit_of_a_segment_is_found_wherever_it_is() -> None:
    factory, times = recorded()

    def read(timeline: int, lsn: int, max_bytes: int) -> bytes:
        assert timeline == 1
        offset = lsn - START
        return bytes(factory.data[offset : offset + min(max_bytes, 5000)])

    extents = {1: Extent(Lsn(START), Lsn(factory.end))}
    segments = list(finished_segments(extents, MEGABYTE))
    assert segments == list(times)
    found = {segment: last_commit(read, LINE, *segment) for segment in segments}
    assert found == times


@given(st.integers(0, 1 << 32))
@settings(max_examples=25)
def test_it_is_the_one_that_a_walk_of_the_whole_segment_finds(seed: int) -> None:
    """Also where records go over the end of the pieces that are looked at, or of the segment."""
    chosen = random.Random(seed)
    factory = RecordFactory(LINE, START)
    for number in range(chosen.randrange(1, 60)):
        factory.filler(chosen.choice((10, 8000, 65_000, 300_000)))
        piece_end = factory.end // WAL_PAGE_BYTES * WAL_PAGE_BYTES + WAL_PAGE_BYTES
        if chosen.random() < 0.7 and piece_end - factory.end > 200:
            factory.fill_to(piece_end - chosen.choice((8, 16, 24, 40)))
        if chosen.random() < 0.5:
            before = b"\xfd\x01\x00" if chosen.random() < 0.5 else b""
            factory.commit(NOON + number, before=before, more_bytes=chosen.choice((0, 900, 90_000)))
    while factory.end < START + MEGABYTE:
        factory.filler(100_000)

    def read(_timeline: int, lsn: int, max_bytes: int) -> bytes:
        return bytes(factory.data[lsn - START : lsn - START + max_bytes])

    for start in range(START, factory.end // MEGABYTE * MEGABYTE, MEGABYTE):
        marks, _ = marks_in([read(1, start, MEGABYTE)], LINE, start)
        ends = [mark for mark in marks if mark.kind is Kind.COMMIT and mark.time is not None]
        expected = LastCommit(Lsn(ends[-1].end_lsn), ends[-1].time or 0) if ends else None
        assert last_commit(read, LINE, 1, start) == expected


def test_what_was_added_is_there_after_a_restart(tmp_path: Path) -> None:
    _, times = recorded()
    index = index_of(tmp_path / FILE_NAME)
    for segment, found in times.items():
        index.add(segment, found)
    assert index_of(tmp_path / FILE_NAME).times == times


@pytest.mark.parametrize("damage", [-1, -17, 24 + 3])
def test_a_damaged_entry_is_no_entry_and_others_follow(tmp_path: Path, damage: int) -> None:
    _, times = recorded()
    path = tmp_path / FILE_NAME
    index = index_of(path)
    for segment, found in times.items():
        index.add(segment, found)
    data = bytearray(path.read_bytes())
    if damage < 0:
        del data[damage:]
        lost = list(times)[-1]
    else:
        data[damage] ^= 0xFF
        lost = next(iter(times))
    path.write_bytes(data)
    index = index_of(path)
    assert index.times == {each: times[each] for each in times if each != lost}
    index.add(lost, times[lost])
    assert index_of(path).times == times


def test_a_file_of_another_cluster_or_of_nothing_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    for content in (b"", b"rubbish", b"x" * 500):
        path.write_bytes(content)
        index = index_of(path)
        assert index.times == {}
        index.add((1, START), None)
        assert index_of(path).times == {(1, START): None}
    other = CommitTimes(path, LINE._replace(system_identifier=1))
    other.load()
    assert other.times == {}


def test_the_file_stays_bounded(tmp_path: Path) -> None:
    index = index_of(tmp_path / FILE_NAME)
    for number in range(1200):
        index.add((1, number * MEGABYTE), LastCommit(Lsn(number), NOON))
        index.keep_only([(1, number * MEGABYTE)])
    size_bytes = (tmp_path / FILE_NAME).stat().st_size
    assert size_bytes < 1100 * 40
    newest = LastCommit(Lsn(1199), NOON)
    assert index.times == {(1, 1199 * MEGABYTE): newest}
    assert index_of(tmp_path / FILE_NAME).times[1, 1199 * MEGABYTE] == newest


async def test_a_stores_segments_are_indexed_as_they_are_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It rests for a hundred times as long as a segment took, which a busy machine makes minutes.
    for share in ("_SHARE", "_SHARE_BESIDE_WAL"):
        monkeypatch.setattr(commit_indexing, share, 1.0)
    factory, times = recorded()
    store = Store.open(tmp_path / "wal", LINE, keep_free_bytes=0)
    await store.begin_chain(1, START)
    await append(store, factory, START, START + MEGABYTE + 5000)
    indexing = CommitIndexing(store)
    indexing.start()
    first = dict(list(times.items())[:1])
    await indexed(indexing, first)
    await append(store, factory, START + MEGABYTE + 5000, factory.end)
    await indexed(indexing, times)
    await indexing.stop()
    store.close()
    assert index_of(tmp_path / FILE_NAME).times == times


async def test_what_a_look_waits_for_others_is_not_rested_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for share in ("_SHARE", "_SHARE_BESIDE_WAL"):
        monkeypatch.setattr(commit_indexing, share, 0.002)
    monkeypatch.setattr(commit_times, "last_commit", lambda *_, **__: time.sleep(0.1))
    factory, times = recorded()
    store = Store.open(tmp_path / "wal", LINE, keep_free_bytes=0)
    await store.begin_chain(1, START)
    await append(store, factory, START, factory.end)
    indexing = CommitIndexing(store)
    indexing.start()
    await indexed(indexing, dict.fromkeys(times))
    await indexing.stop()
    store.close()


async def test_who_rests_from_indexing_keeps_none_of_the_threads_that_all_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_indexing, "_SHARE", 1e-6)  # it rests for long after each segment
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    factory, times = recorded()
    store = Store.open(tmp_path / "wal", LINE, keep_free_bytes=0)
    await store.begin_chain(1, START)
    await append(store, factory, START, START + MEGABYTE)
    indexing = CommitIndexing(store)
    indexing.start()
    await indexed(indexing, dict(list(times.items())[:1]))
    await asyncio.wait_for(asyncio.to_thread(int), 30)
    await asyncio.wait_for(indexing.stop(), 30)
    store.close()


async def append(store: Store, factory: RecordFactory, start: int, end: int) -> None:
    while start < end:
        stop = min(end, start - start % MEGABYTE + MEGABYTE)
        await store.append(1, start, bytes(factory.data[start - START : stop - START]))
        start = stop


async def indexed(indexing: CommitIndexing, times: Times) -> None:
    deadline = time.monotonic() + 60
    while indexing.index.times != times:
        assert time.monotonic() < deadline, indexing.index.times
        await asyncio.sleep(0.002)
