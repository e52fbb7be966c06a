"""The asyncio shell over a real disk: threads, shared flushes, the lock, subscribers."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from applier.store import Store
from logship.durable import RealDisk
from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from logship.wal import segment_name
from tests.support.refused_threads import refuse_next_thread
from tests.support.waiting import until
from tests.support.wal_factory import MEGABYTE, WalFactory, wal_line

LINE = wal_line()
START = 16 * MEGABYTE
FACTORY = WalFactory(LINE)


class GatedDisk(RealDisk):
    """A real disk whose fdatasync waits for `gate` and counts, and may be told to fail."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()
        self.syncs = 0
        self.error: int | None = None

    def datasync(self, fd: int) -> None:
        self.waiting.set()
        assert self.gate.wait(60)
        self.syncs += 1
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        super().datasync(fd)


def open_store(path: Path, disk: RealDisk | None = None) -> Store:
    return Store.open(path / "wal", LINE, keep_free_bytes=0, disk=disk)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = open_store(tmp_path)
    await opened.begin_chain(1, START)
    yield opened
    opened.close()


async def append(store: Store, start: int, end: int) -> None:
    while start < end:
        stop = min(end, start - start % MEGABYTE + MEGABYTE)
        await store.append(1, start, FACTORY.wal(1, start, stop))
        start = stop


async def test_what_is_appended_and_flushed_is_there_after_reopening(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert (store.start, store.written, store.durable) == (None, None, None)
    await store.begin_chain(1, START + 5000, seed_id="s1")
    await append(store, START, START + MEGABYTE + 300_000)
    assert store.written == Position(1, Lsn(START + MEGABYTE + 300_000))
    assert store.durable == store.start == Position(1, Lsn(START))
    assert await store.flush() == store.written
    store.close()
    store.close()
    complete = tmp_path / "wal" / segment_name(1, START, MEGABYTE)
    assert complete.read_bytes() == FACTORY.wal(1, START, START + MEGABYTE)
    store = open_store(tmp_path)
    assert store.durable == Position(1, Lsn(START + MEGABYTE + 300_000))
    assert store.end_of(1) == START + MEGABYTE + 300_000
    assert store.end_of(2) is None
    await append(store, START + MEGABYTE + 300_000, START + 3 * MEGABYTE)
    assert await store.flush() == Position(1, Lsn(START + 3 * MEGABYTE))
    store.close()


async def test_callers_during_a_flush_share_the_next_one(tmp_path: Path) -> None:
    disk = GatedDisk()
    store = open_store(tmp_path, disk)
    await store.begin_chain(1, START)
    await append(store, START, START + 1000)
    disk.gate.clear()
    disk.waiting.clear()
    before = disk.syncs
    first = asyncio.create_task(store.flush())
    assert await asyncio.to_thread(disk.waiting.wait, 60)
    await append(store, START + 1000, START + 2000)
    others = [asyncio.create_task(store.flush()) for _ in range(10)]
    await asyncio.sleep(0)
    assert not first.done()
    assert store.durable == store.start
    disk.gate.set()
    assert await first is not None
    for position in await asyncio.gather(*others):
        assert position == Position(1, Lsn(START + 2000))
    spare_syncs = 1
    assert disk.syncs - before <= 2 + spare_syncs
    store.close()


async def test_a_flush_of_nothing_costs_nothing(tmp_path: Path) -> None:
    disk = GatedDisk()
    store = open_store(tmp_path, disk)
    assert await store.flush() is None
    await store.begin_chain(1, START)
    await append(store, START, START + 10)
    await store.flush()
    store._spare_thread.shutdown(wait=True)
    syncs = disk.syncs
    assert await store.flush() == Position(1, Lsn(START + 10))
    assert disk.syncs == syncs
    store.close()


async def test_a_failed_sync_reaches_every_waiter_and_stops_the_store(tmp_path: Path) -> None:
    disk = GatedDisk()
    store = open_store(tmp_path, disk)
    await store.begin_chain(1, START)
    await append(store, START, START + 10)
    disk.error = errno.EIO
    results = await asyncio.gather(*(store.flush() for _ in range(3)), return_exceptions=True)
    for result in results:
        assert isinstance(result, LogshipError)
        assert result.code == Code.STORE_FAILED
    assert store.failure is not None
    disk.error = None
    for work in (
        store.flush(),
        store.append(1, START + 10, b"x"),
        store.begin_chain(1, START, seed_id="x"),
    ):
        with pytest.raises(LogshipError) as caught:
            await work
        assert caught.value.code == Code.STORE_FAILED
    assert store.read(1, START, 10) == FACTORY.wal(1, START, START + 10)
    store.close()
    store = open_store(tmp_path)
    assert store.durable is not None
    assert store.durable.lsn in (START, START + 10)
    await append(store, START, START + 20)
    assert (await store.flush()) == Position(1, Lsn(START + 20))
    store.close()


async def test_a_cancelled_append_lets_nobody_write_beside_it(store: Store) -> None:
    data = FACTORY.wal(1, START, START + MEGABYTE)
    task = asyncio.create_task(store.append(1, START, data))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await append(store, START, START + MEGABYTE + 100)  # a repeat, in part
    assert store.written == Position(1, Lsn(START + MEGABYTE + 100))
    assert store.read(1, START, MEGABYTE) == data


async def test_a_cancelled_append_still_wakes_the_subscribers(store: Store) -> None:
    heard: list[Position | None] = []
    store.subscribe(lambda: heard.append(store.written))
    task = asyncio.create_task(store.append(1, START, FACTORY.wal(1, START, START + 500_000)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert heard == [Position(1, Lsn(START + 500_000))]


async def test_a_cancelled_chain_still_wakes_the_subscribers(store: Store) -> None:
    heard: list[Position | None] = []
    store.subscribe(lambda: heard.append(store.start))
    task = asyncio.create_task(store.begin_chain(1, START + 5 * MEGABYTE, seed_id="later"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert heard[-1:] == [Position(1, Lsn(START + 5 * MEGABYTE))]
    assert store.current_seed_id == "later"


async def test_a_seeds_standby_can_be_recovered_to_its_own_chains_end(store: Store) -> None:
    await append(store, START, START + 1000)
    await store.begin_chain(1, START + 5 * MEGABYTE, seed_id="later")
    assert store.durable_of("") == Position(1, Lsn(START + 1000))
    assert store.durable_of("later") == store.durable == Position(1, Lsn(START + 5 * MEGABYTE))
    assert store.durable_of("never") is None
    assert [run.end for run in store.runs()] == [store.written, store.durable_of("")]


async def test_a_cancelled_flush_leaves_the_others_waiting(store: Store) -> None:
    await append(store, START, START + 10)
    first, second = asyncio.create_task(store.flush()), asyncio.create_task(store.flush())
    await asyncio.sleep(0)
    first.cancel()
    assert await second == Position(1, Lsn(START + 10))


async def test_many_writers_and_flushers_leave_one_contiguous_line(store: Store) -> None:
    lsn = START
    flushes = []
    for size_bytes in (100, 70_000, 3, 200_000, 65_536, 9000) * 8:
        await append(store, lsn, lsn + size_bytes)
        lsn += size_bytes
        flushes.append(asyncio.create_task(store.flush()))
        await asyncio.sleep(0)
    positions = await asyncio.gather(*flushes)
    assert positions[-1] == Position(1, Lsn(lsn))
    assert positions == sorted(positions)
    read, got = START, b""
    while data := store.read(1, read, 1 << 20):
        read, got = read + len(data), got + data
    assert got == FACTORY.wal(1, START, lsn)


async def test_subscribers_hear_of_each_change_until_they_leave(store: Store) -> None:
    heard: list[Position | None] = []
    leave = store.subscribe(lambda: heard.append(store.written))
    await append(store, START, START + 10)
    await append(store, START, START + 10)
    await store.flush()
    await append(store, START + 10, START + 100_000)
    assert heard == [Position(1, Lsn(START + 10)), Position(1, Lsn(START + 100_000))]
    leave()
    leave()
    await append(store, START + 100_000, START + 100_001)
    assert len(heard) == 2


async def test_a_second_opener_is_refused_and_told_which_directory(
    store: Store, tmp_path: Path
) -> None:
    with pytest.raises(LogshipError) as caught:
        open_store(tmp_path)
    assert caught.value.code == Code.STORE_LOCKED
    assert str(tmp_path / "wal") in caught.value.what


async def test_a_look_is_possible_beside_a_running_store(store: Store, tmp_path: Path) -> None:
    await append(store, START, START + 5000)
    await store.flush()
    look = Store.open(tmp_path / "wal", None, keep_free_bytes=0, read_only=True)
    assert look.line == LINE
    assert look.durable == Position(1, Lsn(START + 5000))
    assert look.read(1, START, 5000) == FACTORY.wal(1, START, START + 5000)
    look.close()


async def test_a_store_that_could_not_be_opened_leaves_no_lock(tmp_path: Path) -> None:
    (tmp_path / "wal").mkdir()
    (tmp_path / "wal" / "chains.json").write_text("{")
    with pytest.raises(LogshipError) as caught:
        open_store(tmp_path)
    assert caught.value.code == Code.STORE_DAMAGED
    (tmp_path / "wal" / "chains.json").unlink()
    open_store(tmp_path).close()


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.close()
    for work in (store.append(1, START, b"x"), store.flush(), store.begin_chain(1, START)):
        with pytest.raises(LogshipError, match="is closed"):
            await work


async def test_histories_are_kept_byte_for_byte(tmp_path: Path) -> None:
    content = b"1\t0/3000000\tbecause\n"
    store = open_store(tmp_path)
    await store.add_history(2, content)
    store.close()
    assert (tmp_path / "wal" / "00000002.history").read_bytes() == content
    store = open_store(tmp_path)
    assert store.history_content(2) == content
    assert store.history_content(3) is None
    assert store.histories()[2].end_of(1) == Lsn.parse("0/3000000")
    store.close()


class Flushed:
    """What `keep_flushing` tells, and a way to wait for it."""

    def __init__(self) -> None:
        self.told: list[LogshipError | None] = []
        self.came = asyncio.Event()

    def __call__(self, error: LogshipError | None) -> None:
        self.told.append(error)
        self.came.set()


async def test_a_store_that_keeps_flushing_is_durable_without_being_asked(tmp_path: Path) -> None:
    disk = GatedDisk()
    store = open_store(tmp_path, disk)
    await store.begin_chain(1, START)
    await append(store, START, START + 10)
    flushed = Flushed()
    store.keep_flushing(flushed)
    async with asyncio.timeout(60):
        while store.durable != Position(1, Lsn(START + 10)):
            await flushed.came.wait()
            flushed.came.clear()
        disk.gate.clear()
        disk.waiting.clear()
        await append(store, START + 10, START + 20)
        assert await asyncio.to_thread(disk.waiting.wait, 60)
        # Written while one runs: neither counts before its own sync has ended.
        await append(store, START + 20, START + 30)
        assert store.durable == Position(1, Lsn(START + 10))
        disk.gate.set()
        while store.durable != Position(1, Lsn(START + 30)):
            await flushed.came.wait()
            flushed.came.clear()
    assert set(flushed.told) == {None}
    store.close()


async def test_a_sync_that_fails_by_itself_is_told_once_and_not_repeated(tmp_path: Path) -> None:
    disk = GatedDisk()
    store = open_store(tmp_path, disk)
    await store.begin_chain(1, START)
    flushed = Flushed()
    store.keep_flushing(flushed)
    await append(store, START, START + 10)
    async with asyncio.timeout(60):
        while store.durable != store.written:
            await flushed.came.wait()
            flushed.came.clear()
    store._spare_thread.shutdown(wait=True)
    flushed.told.clear()
    disk.error = errno.EIO
    syncs = disk.syncs
    await append(store, START + 10, START + 20)
    async with asyncio.timeout(60):
        await flushed.came.wait()
    (error,) = flushed.told
    assert error is not None and error.code == Code.STORE_FAILED
    assert store.durable == Position(1, Lsn(START + 10))
    for _ in range(5):
        await asyncio.sleep(0)
    assert disk.syncs == syncs + 1
    store.close()


async def test_a_flush_that_got_no_thread_is_told_and_the_next_one_runs(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = Flushed()
    store.keep_flushing(flushed)
    refuse_next_thread(monkeypatch, "store-sync")
    await append(store, START, START + 10)
    async with asyncio.timeout(10):
        await flushed.came.wait()
        (error,) = flushed.told
        assert error is not None and error.code == Code.STORE_FAILED
        assert store.durable == Position(1, Lsn(START))
        assert await store.flush() == store.written


async def test_a_spare_that_got_no_thread_is_made_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)
    refuse_next_thread(monkeypatch, "store-spare")
    await store.begin_chain(1, START)
    await append(store, START, START + 10)
    await until(lambda: not store._core.segments.spare_wanted, "the spare is made")
    store.close()


async def test_a_flush_that_ends_after_the_store_was_closed_is_not_told(tmp_path: Path) -> None:
    disk = GatedDisk()
    store = open_store(tmp_path, disk)
    await store.begin_chain(1, START)
    await append(store, START, START + 10)
    await store.flush()
    store._spare_thread.shutdown(wait=True)
    flushed = Flushed()
    store.keep_flushing(flushed)
    disk.gate.clear()
    disk.waiting.clear()
    await append(store, START + 10, START + 20)
    assert await asyncio.to_thread(disk.waiting.wait, 60)
    store._closed = True  # as `close`, from another thread, begins
    disk.gate.set()
    await asyncio.to_thread(store._sync_thread.close)
    for _ in range(5):
        await asyncio.sleep(0)
    assert flushed.told == []


async def test_what_needs_no_waiting_is_written_at_once(store: Store) -> None:
    first = FACTORY.wal(1, START, START + 200)
    # It opens a file.
    assert store.append_at_once(1, START, first) is None
    assert store.written == Position(1, Lsn(START))
    await store.append(1, START, first)
    woken = []
    store.subscribe(lambda: woken.append(store.written))
    second = FACTORY.wal(1, START + 200, START + 300)
    end = Position(1, Lsn(START + 300))
    assert store.append_at_once(1, START + 200, second) == end
    assert store.written == end
    assert woken == [end]
    assert store.read(1, START, 1000) == first + second
    for elsewhere in (START + 200, START + 400):
        assert store.append_at_once(1, elsewhere, second) is None
    page = START + 8192
    await append(store, START + 300, page)
    with pytest.raises(LogshipError) as caught:
        store.append_at_once(1, page, bytes(7) + b"no page header" * 10)
    assert caught.value.code == Code.BAD_WAL_PAGE
    assert store.written == Position(1, Lsn(page))


async def test_nothing_is_written_at_once_beside_another_writer(store: Store) -> None:
    await append(store, START, START + 200)
    big = asyncio.create_task(append(store, START + 200, START + 200_000))
    await asyncio.sleep(0)
    between = FACTORY.wal(1, START + 200, START + 300)
    assert store.append_at_once(1, START + 200, between) is None
    await big
    assert store.read(1, START, 200_000) == FACTORY.wal(1, START, START + 200_000)
