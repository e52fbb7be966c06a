"""Spans, chains and histories over a fake disk: what is refused, kept, served and recovered."""

from __future__ import annotations

import errno
from pathlib import Path

import crc32c
import pytest

from applier.store import layout
from applier.store.core import StoreCore, open_store
from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from logship.wal import WalLine, parse_history, segment_name
from tests.support.fake_disk import FakeDisk
from tests.support.wal_factory import MEGABYTE, WalFactory, wal_line

DIRECTORY = Path("/store")
LINE = wal_line()
START = 16 * MEGABYTE
FORK = START + MEGABYTE + 300_008
HISTORY = f"1\t{Lsn(FORK)}\treason\n".encode()
FACTORY = WalFactory(LINE, {2: parse_history(2, HISTORY)})


def open_core(disk: FakeDisk, keep_free_bytes: int = 0, *, read_only: bool = False) -> StoreCore:
    return open_store(disk, DIRECTORY, LINE, keep_free_bytes=keep_free_bytes, read_only=read_only)


def begun(disk: FakeDisk) -> StoreCore:
    core = open_core(disk)
    core.begin_chain(1, START, seed_id="seed", started_at=1.0)
    return core


def write(core: StoreCore, timeline: int, start: int, end: int) -> Position:
    position = Position(timeline, Lsn(start))
    while start < end:
        stop = min(end, start - start % MEGABYTE + MEGABYTE)
        position = core.write(timeline, start, FACTORY.wal(timeline, start, stop))
        start = stop
    return position


def flush(core: StoreCore) -> Position | None:
    return core.hardened(core.segments.run_flush(core.segments.prepare_flush()))


def refused(code: Code, core: StoreCore, timeline: int, start: int, data: bytes) -> LogshipError:
    assert core.positions is not None
    before = core.positions.written
    with pytest.raises(LogshipError) as caught:
        core.write(timeline, start, data)
    assert caught.value.code == code
    assert core.positions.written == before
    return caught.value


@pytest.fixture
def disk() -> FakeDisk:
    return FakeDisk()


def test_an_empty_store_takes_nothing_before_a_seed(disk: FakeDisk) -> None:
    core = open_core(disk)
    assert core.positions is None
    with pytest.raises(LogshipError) as caught:
        core.write(1, START, b"x")
    assert caught.value.code == Code.WAL_GAP


def test_a_gap_is_refused_and_says_where_to_go_on(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, START + 1000)
    error = refused(Code.WAL_GAP, core, 1, START + 1001, b"x")
    assert str(Lsn(START + 1000)) in error.what


def test_repeats_and_overlaps_write_only_what_is_new(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, START + 20_000)
    assert write(core, 1, START + 100, START + 9000) == Position(1, Lsn(START + 20_000))
    assert write(core, 1, START + 15_000, START + 25_000) == Position(1, Lsn(START + 25_000))
    assert core.read(1, START, 30_000) == FACTORY.wal(1, START, START + 25_000)


def test_other_bytes_at_a_known_place_are_refused_and_kept_aside(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, START + 20_000)
    other = bytearray(FACTORY.wal(1, START + 9000, START + 25_000))
    other[1234] ^= 1
    for _ in range(2):
        error = refused(Code.WAL_CONFLICT, core, 1, START + 9000, bytes(other))
        assert str(Lsn(START + 10_234)) in error.what
    assert core.read(1, START, 30_000) == FACTORY.wal(1, START, START + 20_000)
    (name,) = disk.names(DIRECTORY / "refused")
    assert disk.contents(DIRECTORY / "refused" / name) == other[:11_000]


def test_a_flood_of_conflicts_does_not_fill_the_disk(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, START + 20_000)
    for number in range(80):
        data = number.to_bytes(2, "little") * 10
        refused(Code.WAL_CONFLICT, core, 1, START + 9000, data)
    assert len(disk.names(DIRECTORY / "refused")) == 64


def test_a_bad_page_is_refused_and_the_good_one_taken_after_it(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, START + 8192 + 10)
    bad = bytearray(FACTORY.wal(1, START + 8202, START + 30_000))
    bad[0] ^= 0xFF
    refused(Code.BAD_WAL_PAGE, core, 1, START + 8202, bytes(bad))
    assert write(core, 1, START + 8202, START + 30_000).lsn == START + 30_000


def test_page_checks_go_on_in_mid_header_after_reopening(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, START + 8192 + 10)
    flush(core)
    core.close()
    core = open_core(disk)
    bad = bytearray(FACTORY.wal(1, START + 8202, START + 9000))
    bad[0] ^= 0xFF
    refused(Code.BAD_WAL_PAGE, core, 1, START + 8202, bytes(bad))
    write(core, 1, START + 8202, START + 9000)


def test_spans_below_the_chains_start_are_dropped(disk: FakeDisk) -> None:
    core = begun(disk)
    assert core.write(1, START - 100, b"x" * 100) == Position(1, Lsn(START))


def test_a_completed_segment_is_a_plain_file_before_its_end_is_durable(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, START + MEGABYTE)
    name = segment_name(1, START, MEGABYTE)
    assert disk.names(DIRECTORY) >= {name + ".partial"}
    assert flush(core) == Position(1, Lsn(START + MEGABYTE))
    assert disk.contents(DIRECTORY / name) == FACTORY.wal(1, START, START + MEGABYTE)
    assert name + ".partial" not in disk.names(DIRECTORY)


def test_bytes_written_while_a_flush_runs_are_not_in_its_promise(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, START + 100)
    plan = core.segments.prepare_flush()
    write(core, 1, START + 100, START + 200)
    assert core.hardened(core.segments.run_flush(plan)) == Position(1, Lsn(START + 100))
    assert core.positions is not None
    assert core.positions.written.lsn == START + 200
    disk.kill()
    core = open_core(disk)
    assert core.positions is not None
    assert core.positions.durable.lsn == START + 100


def test_a_new_timeline_needs_its_history_first_and_keeps_the_old_bytes(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, FORK + 5000)
    first = FACTORY.wal(2, START + MEGABYTE, FORK + 10)
    refused(Code.HISTORY_MISSING, core, 2, START + MEGABYTE, first)
    core.add_history(2, HISTORY)
    core.add_history(2, HISTORY)
    assert core.write(2, START + MEGABYTE, first) == Position(2, Lsn(FORK + 10))
    assert core.read(1, FORK, 9000) == FACTORY.wal(1, FORK, FORK + 5000)
    refused(Code.SUPERSEDED, core, 1, FORK + 5000, b"x")
    write(core, 2, FORK + 10, START + 3 * MEGABYTE)
    flush(core)
    disk.crash()
    core = open_core(disk)
    assert core.positions is not None
    assert core.positions.durable == Position(2, Lsn(START + 3 * MEGABYTE))
    assert core.positions.end_of(1) == FORK + 5000
    assert core.history_contents[2] == HISTORY


def test_a_new_timeline_whose_copied_bytes_differ_is_refused(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, FORK)
    core.add_history(2, HISTORY)
    data = bytearray(FACTORY.wal(2, START + MEGABYTE, FORK + 10))
    data[5000] ^= 1
    refused(Code.WAL_CONFLICT, core, 2, START + MEGABYTE, bytes(data))
    write(core, 1, FORK, FORK + 10)


def test_another_history_of_a_known_timeline_is_refused(disk: FakeDisk) -> None:
    core = begun(disk)
    core.add_history(2, HISTORY)
    with pytest.raises(LogshipError) as caught:
        core.add_history(2, b"1\t0/1000000\tother\n")
    assert caught.value.code == Code.HISTORY_CONFLICT
    assert core.history_contents[2] == HISTORY
    for timeline, content in ((1, b""), (3, b"junk")):
        with pytest.raises(LogshipError) as caught:
            core.add_history(timeline, content)
        assert caught.value.code == Code.BAD_HISTORY


def test_a_chain_that_starts_in_the_partial_segment_goes_on_in_it(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, START + MEGABYTE + 5000)
    flush(core)
    core.begin_chain(1, START + MEGABYTE + 7000, seed_id="again", started_at=2.0)
    assert core.positions is not None
    assert core.positions.start == Position(1, Lsn(START + MEGABYTE))
    assert core.positions.durable == Position(1, Lsn(START + MEGABYTE + 5000))
    write(core, 1, START + MEGABYTE, START + MEGABYTE + 9000)
    assert core.read(1, START, 100) == FACTORY.wal(1, START, START + 100)  # still there by name
    flush(core)
    core.close()
    core = open_core(disk)
    assert core.positions is not None
    assert core.positions.durable.lsn == START + MEGABYTE + 9000
    assert [chain.seed_id for chain in core.chains] == ["seed", "again"]


def test_files_of_an_earlier_chain_are_never_taken_for_the_new_ones(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, START + 3 * MEGABYTE + 500)
    flush(core)
    core.begin_chain(1, START - 5 * MEGABYTE, seed_id="back", started_at=2.0)
    start = START - 5 * MEGABYTE
    write(core, 1, start, START)
    flush(core)
    disk.crash()
    core = open_core(disk)
    assert core.positions is not None
    assert core.positions.durable == Position(1, Lsn(START))
    write(core, 1, START, START + 10)
    aside = disk.names(DIRECTORY / "superseded" / "1")
    assert segment_name(1, START, MEGABYTE) in aside
    assert len(aside) == 4


def test_the_same_chain_again_changes_nothing(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, START + 10)
    core.begin_chain(1, START, seed_id="seed", started_at=9.0)
    assert len(core.chains) == 1
    assert core.positions is not None
    assert core.positions.written.lsn == START + 10


def test_the_shape_changes_with_all_that_readers_are_told(disk: FakeDisk) -> None:
    core = open_core(disk)
    shapes = [core.shape()]

    def changed() -> bool:
        shapes.append(core.shape())
        return shapes[-1] != shapes[-2]

    core.begin_chain(1, START, seed_id="seed", started_at=1.0)
    assert changed()
    write(core, 1, START, FORK)
    assert changed()
    write(core, 1, START, FORK)
    flush(core)
    assert not changed()
    core.add_history(2, HISTORY)
    assert changed()
    write(core, 2, FORK - FORK % MEGABYTE, FORK + 100)
    assert changed()
    flush(core)
    core.begin_chain(2, FORK + 50, seed_id="within", started_at=2.0)
    assert changed()
    core.begin_chain(2, START + 9 * MEGABYTE, seed_id="beyond", started_at=3.0)
    assert changed()


def test_reading_ends_at_the_written_position_and_at_each_segments_end(disk: FakeDisk) -> None:
    core = begun(disk)
    assert core.read(1, START, 100) == b""
    write(core, 1, START, START + MEGABYTE + 100)
    assert len(core.read(1, START + MEGABYTE - 10, 100)) == 10
    assert len(core.read(1, START + MEGABYTE, 1000)) == 100
    assert core.read(1, START + MEGABYTE + 100, 100) == b""
    assert core.read(2, START, 100) == b""
    with pytest.raises(LogshipError) as caught:
        core.read(1, START - 1, 100)
    assert caught.value.code == Code.WAL_REMOVED


def test_readers_stay_few_and_follow_a_completed_segment(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, START + 100)
    assert core.read(1, START, 100) == FACTORY.wal(1, START, START + 100)
    for number in range(20):
        write(core, 1, START + number * MEGABYTE, START + (number + 1) * MEGABYTE)
        flush(core)
        lsn = START + number * MEGABYTE + 77
        assert core.read(1, lsn, 9) == FACTORY.wal(1, lsn, lsn + 9)
    assert len(disk._handles) <= 9


# --- seeded again, and WAL between is missing -------------------------------------------------

END = START + MEGABYTE + 5000
GAP_START = START + 9 * MEGABYTE


def seeded_again(disk: FakeDisk) -> StoreCore:
    """Chain "seed" from START to END, a gap, chain "later" from GAP_START on."""
    core = begun(disk)
    write(core, 1, START, END)
    flush(core)
    core.begin_chain(1, GAP_START, seed_id="later", started_at=2.0)
    write(core, 1, GAP_START, GAP_START + 7000)
    flush(core)
    return core


def check_both_chains(core: StoreCore) -> None:
    assert core.durable_of("seed") == Position(1, Lsn(END))
    assert core.durable_of("later") == Position(1, Lsn(GAP_START + 7000))
    assert core.durable_of("never") is None
    lsn, got = START, b""
    while data := core.read(1, lsn, 1 << 20):
        lsn, got = lsn + len(data), got + data
    assert got == FACTORY.wal(1, START, END)  # its last partial segment too, and no byte more
    assert core.read(1, GAP_START, 100) == FACTORY.wal(1, GAP_START, GAP_START + 100)
    for lsn in (START - 1, END + 1, START + 2 * MEGABYTE, GAP_START - 1):
        with pytest.raises(LogshipError) as caught:
            core.read(1, lsn, 100)
        assert caught.value.code == Code.WAL_REMOVED


def test_a_chain_after_a_gap_takes_nothing_from_the_one_before(disk: FakeDisk) -> None:
    core = seeded_again(disk)
    check_both_chains(core)
    core.close()
    check_both_chains(open_core(disk))
    disk.crash()
    check_both_chains(open_core(disk))
    check_both_chains(open_core(disk, read_only=True))


def test_a_chain_that_goes_on_in_the_one_before_makes_one_run_with_it(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, END)
    flush(core)
    core.begin_chain(1, START + MEGABYTE, seed_id="later", started_at=2.0)
    write(core, 1, END, END + 500)
    flush(core)
    for _ in range(2):
        end = Position(1, Lsn(END + 500))
        assert core.durable_of("seed") == core.durable_of("later") == end
        assert [run.end for run in core.runs()] == [end]
        assert core.read(1, START + 10, 9) == FACTORY.wal(1, START + 10, START + 19)
        core.close()
        core = open_core(disk)
    core.begin_chain(1, GAP_START, seed_id="last", started_at=3.0)
    assert core.durable_of("seed") == core.durable_of("later") == end
    assert core.durable_of("last") == Position(1, Lsn(GAP_START))


def test_what_was_not_durable_when_a_chain_ended_is_not_promised(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, END)
    flush(core)
    write(core, 1, END, END + 100)
    core.begin_chain(1, GAP_START, seed_id="later", started_at=2.0)
    assert core.durable_of("seed") == Position(1, Lsn(END))


def test_a_chain_ends_where_a_later_one_set_its_files_aside(disk: FakeDisk) -> None:
    core = seeded_again(disk)
    core.begin_chain(1, START + 2 * MEGABYTE, seed_id="between", started_at=3.0)
    assert core.durable_of("seed") == Position(1, Lsn(END))
    assert core.durable_of("later") == Position(1, Lsn(GAP_START))  # nothing past its start
    core.begin_chain(1, START - MEGABYTE, seed_id="back", started_at=4.0)
    core.close()
    core = open_core(disk)
    assert core.durable_of("seed") == Position(1, Lsn(START))
    assert core.read(1, GAP_START, 10) == b""  # it may come again, on the new chain


def test_the_chain_of_a_left_timeline_is_readable_on_both_timelines(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, FORK + 5000)
    core.add_history(2, HISTORY)
    write(core, 2, START + MEGABYTE, FORK + 10)
    flush(core)
    core.begin_chain(2, GAP_START, seed_id="later", started_at=2.0)
    assert core.durable_of("seed") == Position(2, Lsn(FORK + 10))
    assert core.read(1, FORK, 9000) == FACTORY.wal(1, FORK, FORK + 5000)
    assert core.read(2, FORK, 9000) == FACTORY.wal(2, FORK, FORK + 10)


def test_a_read_while_a_chain_begins_gets_nothing_of_a_superseded_file(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, START + 100_000)
    flush(core)
    assert core.read(1, START, 10)
    reads: list[bytes] = []

    def read(operation: str) -> None:
        if operation == "rename":
            reads.append(core.read(1, START, 100))

    disk.on_operation = read
    core.begin_chain(1, START - MEGABYTE, seed_id="back", started_at=2.0)
    disk.on_operation = None
    assert reads == [b""]
    write(core, 1, START - MEGABYTE, START + 300_000)
    assert core.read(1, START + 200_000, 99) == FACTORY.wal(1, START + 200_000, START + 200_099)


@pytest.mark.parametrize("operation", ["pread", "open"])
def test_a_disk_that_cant_be_read_is_an_error_of_ours(
    disk: FakeDisk, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = begun(disk)
    write(core, 1, START, START + 100)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(disk, operation, fail)
        with pytest.raises(LogshipError) as caught:
            core.read(1, START, 100)
    assert caught.value.code == Code.STORE_FAILED
    assert caught.value.retryable
    assert core.read(1, START, 100) == FACTORY.wal(1, START, START + 100)


# --- timelines that were left -----------------------------------------------------------------


def forked(disk: FakeDisk, parent_end: int) -> StoreCore:
    core = begun(disk)
    write(core, 1, START, parent_end)
    flush(core)
    core.add_history(2, HISTORY)
    write(core, 2, START + MEGABYTE, FORK + 1000)
    return core


def test_a_rewind_across_a_timeline_switch_is_taken_as_a_repeat(disk: FakeDisk) -> None:
    core = forked(disk, FORK - 100_000)
    again = FACTORY.wal(1, FORK - 100_500, FORK)
    assert core.write(1, FORK - 100_500, again) == Position(2, Lsn(FORK + 1000))
    for changed in (5, 600, len(again) - 1):
        other = bytearray(again)
        other[changed] ^= 1
        error = refused(Code.WAL_CONFLICT, core, 1, FORK - 100_500, bytes(other))
        assert str(Lsn(FORK - 100_500 + changed)) in error.what
    refused(Code.SUPERSEDED, core, 1, FORK - 5, b"x" * 6)


def test_a_fork_from_before_the_chain_says_that_the_lines_diverged(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, START + 1000)
    core.add_history(2, f"1\t{Lsn(START - 5000)}\tx\n".encode())
    error = refused(Code.TIMELINE_DIVERGED, core, 2, START - MEGABYTE, b"x")
    assert not error.retryable


def test_a_left_timelines_segment_is_closed_at_the_next_flush(disk: FakeDisk) -> None:
    core = forked(disk, FORK)
    flush(core)
    write(core, 2, FORK + 1000, FORK + 2000)
    flush(core)
    assert len(core.segments._segments) == 1


# --- room ---------------------------------------------------------------------------------


def test_a_full_disk_counts_nothing_and_the_same_span_succeeds_later(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, START + 1000)
    disk.fail_next("pwrite", errno.ENOSPC)
    error = refused(
        Code.DISK_FULL, core, 1, START + 1000, FACTORY.wal(1, START + 1000, START + 9000)
    )
    assert error.retryable
    flush(core)
    disk.kill()
    core = open_core(disk)
    assert core.positions is not None
    assert core.positions.durable.lsn == START + 1000
    write(core, 1, START + 1000, START + 9000)
    assert core.read(1, START, 9000) == FACTORY.wal(1, START, START + 9000)


@pytest.mark.parametrize("operation", ["allocate", "pwrite", "open"])
def test_a_full_disk_at_a_new_segment_leaves_nothing_behind(disk: FakeDisk, operation: str) -> None:
    core = begun(disk)
    write(core, 1, START, START + MEGABYTE)
    flush(core)
    for skip in (0, 1) if operation == "pwrite" else (0,):
        names = disk.names(DIRECTORY)
        disk.fail_next(operation, errno.ENOSPC, skip=skip)
        data = FACTORY.wal(1, START + MEGABYTE, START + MEGABYTE + 100)
        refused(Code.DISK_FULL, core, 1, START + MEGABYTE, data)
        assert disk.names(DIRECTORY) == names
    write(core, 1, START + MEGABYTE, START + MEGABYTE + 100)
    assert flush(core) == Position(1, Lsn(START + MEGABYTE + 100))


def test_a_full_disk_at_a_fork_lets_the_old_timeline_go_on(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, FORK)
    core.add_history(2, HISTORY)
    disk.fail_next("pwrite", errno.ENOSPC, skip=1)
    refused(Code.DISK_FULL, core, 2, START + MEGABYTE, FACTORY.wal(2, START + MEGABYTE, FORK))
    write(core, 1, FORK, FORK + 10)
    flush(core)
    write(core, 2, START + MEGABYTE, FORK + 10)
    flush(core)
    disk.crash()
    core = open_core(disk)
    assert core.positions is not None
    assert core.positions.durable == Position(2, Lsn(FORK + 10))


def test_room_to_keep_free_is_checked_before_a_segment_is_made() -> None:
    disk = FakeDisk(capacity_bytes=3 * MEGABYTE)
    core = open_core(disk, keep_free_bytes=MEGABYTE)
    core.begin_chain(1, START, seed_id="", started_at=0.0)
    write(core, 1, START, START + MEGABYTE)
    data = FACTORY.wal(1, START + MEGABYTE, START + MEGABYTE + 100)
    operations = len(disk.operations)
    error = refused(Code.DISK_FULL, core, 1, START + MEGABYTE, data)
    assert error.retryable
    assert len(disk.operations) == operations
    disk.capacity_bytes += MEGABYTE
    core.write(1, START + MEGABYTE, data)


def test_no_spare_is_made_of_room_that_is_to_stay_free() -> None:
    disk = FakeDisk(capacity_bytes=2 * MEGABYTE)
    core = open_core(disk, keep_free_bytes=MEGABYTE)
    core.begin_chain(1, START, seed_id="", started_at=0.0)
    assert core.segments.spare_wanted
    core.segments.make_spare()
    assert layout.SPARE_NAME not in disk.names(DIRECTORY)


def test_a_spare_is_used_wanted_after_small_flushes_and_removed_at_the_next_start(
    disk: FakeDisk,
) -> None:
    core = begun(disk)
    core.segments.make_spare()
    assert not core.segments.spare_wanted
    write(core, 1, START, START + 1000)
    assert layout.SPARE_NAME not in disk.names(DIRECTORY)
    for lsn in range(START + 1000, START + 600_000, 50_000):
        flush(core)
        write(core, 1, lsn, lsn + 50_000)
    assert core.segments.spare_wanted
    core.segments.make_spare()
    disk.kill()
    open_core(disk)
    assert layout.SPARE_NAME not in disk.names(DIRECTORY)


@pytest.mark.parametrize("error", [errno.EIO, errno.EROFS])
@pytest.mark.parametrize("operation", ["pwrite", "datasync", "truncate", "rename"])
def test_a_failing_disk_stops_the_store_for_good(
    disk: FakeDisk, operation: str, error: int
) -> None:
    core = begun(disk)
    write(core, 1, START, START + 500_000)
    flush(core)
    disk.fail_next(operation, error)
    with pytest.raises(LogshipError) as caught:
        write(core, 1, START + 500_000, START + MEGABYTE)
        flush(core)
    assert caught.value.code == Code.STORE_FAILED
    assert caught.value.retryable  # by then the applier has opened it again
    for work in (
        lambda: write(core, 1, START + 500_000, START + 500_001),
        lambda: flush(core),
        lambda: core.begin_chain(1, START, seed_id="x", started_at=0.0),
        lambda: core.add_history(2, HISTORY),
    ):
        with pytest.raises(LogshipError) as caught:
            work()
        assert caught.value.code == Code.STORE_FAILED
    core.close()
    core = open_core(disk)
    assert core.positions is not None
    assert core.positions.durable.lsn >= START + 500_000


# --- what may stand in the directory ---------------------------------------------------------


def stored(disk: FakeDisk, end: int) -> None:
    core = begun(disk)
    write(core, 1, START, end - 1)
    flush(core)
    write(core, 1, end - 1, end)
    flush(core)
    core.close()


def damaged(disk: FakeDisk) -> str:
    with pytest.raises(LogshipError) as caught:
        open_core(disk)
    assert caught.value.code == Code.STORE_DAMAGED
    return caught.value.what


def test_good_looking_bytes_past_the_slots_end_are_not_counted(disk: FakeDisk) -> None:
    stored(disk, START + 9000)
    path = DIRECTORY / (segment_name(1, START, MEGABYTE) + ".partial")
    content = bytearray(disk.contents(path))
    content[9000:50_000] = FACTORY.wal(1, START + 9000, START + 50_000)
    disk.put(path, bytes(content))
    core = open_core(disk)
    assert core.positions is not None
    assert core.positions.written.lsn == START + 9000


def test_a_flipped_bit_in_a_partial_segment_is_found(disk: FakeDisk) -> None:
    stored(disk, START + 9000)
    path = DIRECTORY / (segment_name(1, START, MEGABYTE) + ".partial")
    content = bytearray(disk.contents(path))
    content[100] ^= 1
    disk.put(path, bytes(content))
    assert path.name in damaged(disk)


@pytest.mark.parametrize("number", [0, 1])
def test_a_missing_segment_is_found(disk: FakeDisk, number: int) -> None:
    stored(disk, START + 2 * MEGABYTE + 10)
    disk.remove(DIRECTORY / segment_name(1, START + number * MEGABYTE, MEGABYTE))
    assert segment_name(1, START + (number + 1) * MEGABYTE, MEGABYTE) in damaged(disk)


def test_a_short_segment_is_found(disk: FakeDisk) -> None:
    stored(disk, START + MEGABYTE)
    path = DIRECTORY / segment_name(1, START, MEGABYTE)
    disk.put(path, disk.contents(path)[:-1])
    assert path.name in damaged(disk)


def test_a_partial_file_beside_the_complete_one_is_put_aside(disk: FakeDisk) -> None:
    stored(disk, START + MEGABYTE)
    name = segment_name(1, START, MEGABYTE)
    disk.put(DIRECTORY / f"{name}.partial", b"whatever")
    core = open_core(disk)
    assert core.positions is not None
    assert core.positions.durable.lsn == START + MEGABYTE
    assert disk.names(DIRECTORY / "refused") == {f"{name}.partial"}


def test_a_partial_file_whose_slot_says_full_is_completed(disk: FakeDisk) -> None:
    stored(disk, START + MEGABYTE)
    path = DIRECTORY / segment_name(1, START, MEGABYTE)
    content = disk.contents(path)
    disk.remove(path)
    slot = layout.Slot(1, Lsn(START), Lsn(START + MEGABYTE), 7, crc32c.crc32c(content))
    tail = bytes(layout.SLOT_BYTES) + layout.encode_slot(slot, LINE)
    disk.put(path.with_suffix(".partial"), content + tail)
    core = open_core(disk)
    assert core.positions is not None
    assert core.positions.durable.lsn == START + MEGABYTE
    assert disk.contents(path) == content


def test_a_directory_of_another_cluster_is_refused(disk: FakeDisk) -> None:
    stored(disk, START + 10)
    for line, code in (
        (LINE._replace(system_identifier=1), Code.SYSTEM_IDENTIFIER_MISMATCH),
        (LINE._replace(major=18), Code.MAJOR_MISMATCH),
        (LINE._replace(segment_bytes=16 * MEGABYTE), Code.SEGMENT_SIZE_MISMATCH),
    ):
        with pytest.raises(LogshipError) as caught:
            open_store(disk, DIRECTORY, line, keep_free_bytes=0)
        assert caught.value.code == code


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"format": 1'])
def test_unreadable_chains_are_refused(disk: FakeDisk, content: bytes) -> None:
    stored(disk, START + 10)
    disk.put(DIRECTORY / "chains.json", content)
    assert "chains.json" in damaged(disk)


def test_segments_without_chains_are_refused(disk: FakeDisk) -> None:
    stored(disk, START + 10)
    disk.remove(DIRECTORY / "chains.json")
    assert "chains.json is missing" in damaged(disk)


def test_looking_changes_nothing_and_writes_nothing(disk: FakeDisk) -> None:
    core = begun(disk)
    write(core, 1, START, START + MEGABYTE + 5000)
    flush(core)
    operations = len(disk.operations)
    line: WalLine | None = None
    look = open_store(disk, DIRECTORY, line, keep_free_bytes=0, read_only=True)
    assert look.line == LINE
    assert look.positions is not None
    assert look.positions.written.lsn == START + MEGABYTE + 5000
    assert look.read(1, START + MEGABYTE, 9000) == FACTORY.wal(
        1, START + MEGABYTE, START + MEGABYTE + 5000
    )
    with pytest.raises(LogshipError):
        look.write(1, START, b"x")
    done = {operation.split()[0] for operation in disk.operations[operations:]}
    assert done <= {"open"}


def test_looking_for_a_store_that_is_not_there_says_so(disk: FakeDisk) -> None:
    with pytest.raises(LogshipError, match="holds no store"):
        open_store(disk, DIRECTORY, None, keep_free_bytes=0, read_only=True)


@pytest.mark.parametrize("size_bytes", [0, 10, 59, 60, 4096])
def test_torn_slots_are_no_slots(size_bytes: int) -> None:
    slot = layout.Slot(1, Lsn(START), Lsn(START + 5), 3, 99)
    data = layout.encode_slot(slot, LINE)
    assert len(data) == 4096
    assert layout.decode_slot(data, 1, START, LINE) == slot
    torn = data[:size_bytes].ljust(4096, b"\xaa")
    expected = slot if size_bytes >= 60 else None
    assert layout.decode_slot(torn, 1, START, LINE) == expected
    assert layout.decode_slot(data, 2, START, LINE) is None
    assert layout.decode_slot(data, 1, START + MEGABYTE, LINE) is None
    assert layout.decode_slot(data, 1, START, LINE._replace(system_identifier=5)) is None
