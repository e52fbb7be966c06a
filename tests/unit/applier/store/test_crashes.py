"""Crash after every single disk operation of a scripted history, and look what reopening says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from applier.store.core import StoreCore, open_store
from applier.store.positions import Extent
from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from logship.wal import parse_history
from tests.support.fake_disk import Crashed, FakeDisk
from tests.support.wal_factory import MEGABYTE, WalFactory, wal_line

DIRECTORY = Path("/store")
LINE = wal_line()
START = 16 * MEGABYTE
FORK = START + 2 * MEGABYTE + 300_008
HISTORY = f"1\t{Lsn(FORK)}\tno recovery target specified\n".encode()
FACTORY = WalFactory(LINE, {2: parse_history(2, HISTORY)})
GAP_START = START + 40 * MEGABYTE
BACK_START = START - MEGABYTE


def reopen(disk: FakeDisk) -> StoreCore:
    return open_store(disk, DIRECTORY, LINE, keep_free_bytes=0)


class Story:
    """What happened to a store, and what it had promised when it stopped."""

    def __init__(self, disk: FakeDisk) -> None:
        self.disk = disk
        self.chains = 0
        self.promised: dict[int, Position] = {}
        self.core = reopen(disk)

    def begin(self, timeline: int, lsn: int, *, keeps: bool = False) -> None:
        promised = self.promised.get(self.chains)
        if keeps and promised is not None:
            self.promised[self.chains + 1] = promised
        seed_id = str(self.chains + 1)
        self.core.begin_chain(timeline, lsn, seed_id=seed_id, started_at=0.0)
        self.chains += 1
        self.promise()

    def write(self, timeline: int, size_bytes: int, *, start: int | None = None) -> None:
        if start is None:
            assert self.core.positions is not None
            start = self.core.positions.end_of(timeline)
            assert start is not None
        end = min(start + size_bytes, start - start % MEGABYTE + MEGABYTE)
        self.core.write(timeline, start, FACTORY.wal(timeline, start, end))

    def flush(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        plan = self.core.segments.prepare_flush()
        meanwhile()
        self.core.hardened(self.core.segments.run_flush(plan))
        self.promise()

    def promise(self) -> None:
        assert self.core.positions is not None
        self.promised[self.chains] = self.core.positions.durable

    def restart(self) -> None:
        self.core.close()
        self.core = reopen(self.disk)
        self.promise()


def first_chain(story: Story) -> None:
    story.begin(1, START + 77)
    story.core.segments.make_spare()
    story.write(1, 5000)
    story.flush(lambda: story.write(1, 20_001))
    story.flush(lambda: story.write(1, 100_000))
    story.flush()
    story.write(1, MEGABYTE)
    story.flush(lambda: story.write(1, 70_000))
    story.write(1, MEGABYTE)
    story.write(1, 300_000)
    story.flush()
    story.write(1, 100_000)
    story.core.add_history(2, HISTORY)
    story.write(2, 40_000, start=START + 2 * MEGABYTE)
    story.flush()
    story.write(2, MEGABYTE)
    story.restart()


def later_chains(story: Story) -> None:
    story.write(2, 9000)
    story.flush()
    story.begin(2, START + 2 * MEGABYTE + 5, keeps=True)
    story.write(2, MEGABYTE)
    story.flush()
    story.begin(2, GAP_START)
    story.write(2, MEGABYTE)
    story.write(2, 12_345)
    story.flush()
    story.begin(1, BACK_START)
    story.write(1, 30_000)
    story.flush()


def play(story: Story) -> None:
    first_chain(story)
    later_chains(story)


def check(core: StoreCore, promised: dict[int, Position]) -> None:
    """All that was promised is there, contiguous and byte-identical."""
    number = len(core.chains)
    assert number >= max(promised, default=0) - 1
    if not number:
        return
    assert core.positions is not None
    assert core.positions.durable == core.positions.written
    if number in promised:
        assert core.positions.durable >= promised[number]
    if number == 3 and 2 in promised:  # after a gap: all that the standby of before it has
        assert core.durable_of("1") == core.durable_of("2") == promised[2]
    for run in core.runs():
        check_bytes(core, run.extents)


def check_bytes(core: StoreCore, extents: Mapping[int, Extent]) -> None:
    for timeline, extent in extents.items():
        lsn = int(extent.start)
        while data := core.read(timeline, lsn, 1 << 20):
            assert data == FACTORY.wal(timeline, lsn, lsn + len(data))
            lsn += len(data)
        assert lsn == extent.end


def go_on(core: StoreCore) -> Position | None:
    """Whatever happened, the store takes the next bytes and completes a segment."""
    if core.positions is None:
        return None
    for size_bytes in (10_000, MEGABYTE, MEGABYTE, 777):
        timeline, start = core.positions.written
        end = min(start + size_bytes, start - start % MEGABYTE + MEGABYTE)
        core.write(timeline, start, FACTORY.wal(timeline, start, end))
        core.hardened(core.segments.run_flush(core.segments.prepare_flush()))
    return core.positions.durable


def operations_of_a_quiet_life() -> int:
    disk = FakeDisk()
    play(Story(disk))
    return len(disk.operations)


def stop_at(number: int, seed: int) -> tuple[FakeDisk, Story]:
    disk = FakeDisk(seed)
    story = Story(disk)
    disk.crash_at = len(disk.operations) + number
    with suppress(Crashed):
        play(story)
    return disk, story


TOTAL = operations_of_a_quiet_life()


def test_the_script_covers_what_can_be_interrupted() -> None:
    disk = FakeDisk()
    story = Story(disk)
    play(story)
    kinds = {operation.split()[0] for operation in disk.operations}
    assert {"pwrite", "datasync", "truncate", "rename", "allocate", "write_file"} <= kinds
    assert story.chains == 4
    names = disk.names(DIRECTORY / "superseded" / "3")
    assert "00000002.history" in names
    assert any(name.endswith(".partial") for name in names)


@pytest.mark.parametrize("number", range(TOTAL))
def test_a_crash_at_any_operation_loses_nothing_promised(number: int) -> None:
    for seed in range(2):
        disk, story = stop_at(number, seed * 1000 + number)
        disk.crash()
        core = reopen(disk)
        check(core, story.promised)
        reached = go_on(core)
        promised = {} if reached is None else {len(core.chains): reached}
        disk.crash()
        check(reopen(disk), promised)


@pytest.mark.parametrize("number", range(0, TOTAL, 3))
def test_a_crash_during_recovery_from_a_crash_loses_nothing_promised(number: int) -> None:
    disk, story = stop_at(number, number)
    disk.crash()
    before = len(disk.operations)
    core = reopen(disk)
    recovery_operations = len(disk.operations) - before
    core.close()
    for at in range(recovery_operations):
        disk, story = stop_at(number, number)
        disk.crash()
        disk.crash_at = len(disk.operations) + at
        with pytest.raises(Crashed):
            reopen(disk)
        disk.crash()
        check(reopen(disk), story.promised)


@pytest.mark.parametrize("number", range(0, TOTAL, 2))
def test_what_recovery_reports_durable_after_a_kill_survives_a_power_cut(number: int) -> None:
    disk, story = stop_at(number, number)
    disk.kill()
    core = reopen(disk)
    check(core, story.promised)
    promised = {}
    if core.positions is not None:
        promised = {len(core.chains): core.positions.durable}
    disk.crash()
    check(reopen(disk), promised)


@pytest.mark.parametrize("seed", range(40))
def test_a_failed_sync_stops_the_store_and_reopening_finds_what_is_really_there(
    seed: int,
) -> None:
    disk = FakeDisk(seed)
    story = Story(disk)
    story.begin(1, START)
    disk.fail_next("datasync", 5, skip=1 + seed % 9)  # the first is the spare's
    with pytest.raises(LogshipError) as caught:
        first_chain(story)
    assert caught.value.code == Code.STORE_FAILED
    syncs = sum(operation.startswith("datasync") for operation in disk.operations)
    for attempt in (
        lambda: story.core.write(1, START, b"x"),
        lambda: story.core.segments.run_flush(story.core.segments.prepare_flush()),
    ):
        with pytest.raises(LogshipError) as again:
            attempt()
        assert again.value.code == Code.STORE_FAILED
    assert syncs == sum(operation.startswith("datasync") for operation in disk.operations)
    disk.kill()  # the same machine goes on: its cache holds bytes that are on no disk
    core = reopen(disk)
    check(core, story.promised)
    assert core.positions is not None
    promised = {len(core.chains): core.positions.durable}
    disk.crash()
    core = reopen(disk)
    check(core, promised)
    go_on(core)
