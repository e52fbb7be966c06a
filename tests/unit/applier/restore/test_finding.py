"""Where to stop, in WAL that is made for it: clocks, names over pages, holes, one's own ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from applier.restore.finding import find_stop, named_points
from applier.restore.intervals import Interval
from applier.restore.kept import Kept
from applier.restore.records import Records
from applier.restore.seeds import SeedChoice
from applier.restore.serving import ServedWal
from applier.restore.targets import LATEST, Target
from applier.restore.window import Heard, Window, make_window
from applier.store import Store
from applier.store.commit_times import Times
from logship.bucket.keys import SeedName
from logship.bucket.seed_archive import SeedInfo
from logship.errors import Code, LogshipError
from logship.frames import SeedBegin, SeedEnd
from logship.lsn import Lsn
from logship.wal import History, segment_end
from logship.wal_records import Mark
from tests.support.record_factory import RecordFactory
from tests.support.wal_factory import MEGABYTE, wal_line

LINE = wal_line()
START = 16 * MEGABYTE
SECOND = 1_000_000
NOON = 1_700_000_000 * SECOND
ALONE = History(1, ())


def seed_choice(start: int, end: int) -> SeedChoice:
    seed_id = f"{start:x}"
    info = SeedInfo(
        name=SeedName(Lsn(start), seed_id),
        begin=SeedBegin(seed_id=seed_id, timeline=1, start_lsn=start, estimated_bytes=0),
        end=SeedEnd(seed_id=seed_id, sequence=0, timeline=1, end_lsn=end),
        timeline=1,
        start_lsn=Lsn(start),
        end_lsn=Lsn(end),
        raw_bytes=0,
        stored_bytes=0,
        begun_at=0.0,
        finished_at=0.0,
        profile=None,
        archives=(),
    )
    return SeedChoice(info, cast("object", None))  # type: ignore[arg-type]


class Made:
    """WAL from `start` on in a store, with a seed at its start."""

    def __init__(self, directory: Path, start: int = START) -> None:
        self.factory = RecordFactory(LINE, start)
        self.seed_end = 0
        self._directory = directory
        self._start = start

    def commit(self, seconds: float, *, more_bytes: int = 0) -> Mark:
        return self.factory.commit(NOON + int(seconds * SECOND), more_bytes=more_bytes)

    def seeded(self) -> None:
        self.seed_end = self.factory.filler(10).end_lsn

    def records(self, times: Times | None = None) -> tuple[Records, Callable[[], None]]:
        async def fill() -> None:
            store = Store.open(self._directory, LINE, keep_free_bytes=0)
            await store.begin_chain(1, self._start)
            lsn = self._start
            while lsn < self.factory.end:
                stop = min(self.factory.end, segment_end(lsn, MEGABYTE))
                data = bytes(self.factory.data[lsn - self._start : stop - self._start])
                await store.append(1, lsn, data)
                lsn = stop
            await store.flush()
            store.close()

        asyncio.run(fill())
        store = Store.open(self._directory, LINE, keep_free_bytes=0, read_only=True)
        return Records(Kept(LINE, store, None, None, times or {}), ALONE), store.close

    def window(self, records: Records, heard: Heard | None = None) -> Window:
        seed = seed_choice(self._start + 40, self.seed_end)
        return make_window(records.kept, ALONE, [seed], heard)


@pytest.fixture
def wal(tmp_path: Path) -> Made:
    made = Made(tmp_path / "wal")
    made.commit(0)
    made.seeded()
    return made


def at(seconds: float) -> Target:
    return Target("time", time=NOON + int(seconds * SECOND))


def test_a_time_stops_before_the_first_later_commit(wal: Made) -> None:
    marks = [wal.commit(number, more_bytes=50_000) for number in range(1, 100)]
    records, close = wal.records()
    window = wal.window(records)
    for number in (1, 17, 40, 98):
        stop = find_stop(records, window, at(number))
        assert stop.lsn == marks[number].start_lsn
        assert stop.replayed_lsn == marks[number - 1].end_lsn
        assert stop.last_commit_time == NOON + number * SECOND
        assert find_stop(records, window, at(number + 0.5)).lsn == stop.lsn
    assert find_stop(records, window, at(99)).lsn == marks[-1].end_lsn
    with pytest.raises(LogshipError, match="later than anything"):
        find_stop(records, window, at(99.5))
    assert find_stop(records, window, LATEST).lsn == marks[-1].end_lsn
    close()


def test_commits_out_of_order_are_taken_in_the_order_of_the_wal(wal: Made) -> None:
    wal.commit(1)
    later = wal.commit(3.5)
    wal.factory.filler(2 * MEGABYTE)  # so that the segment's last commit is the earlier one
    wal.commit(2.5)
    wal.factory.filler(MEGABYTE)
    wal.commit(9)
    records, close = wal.records()
    assert find_stop(records, wal.window(records), at(3)).lsn == later.start_lsn
    close()


def test_a_commit_over_a_segments_end_is_not_missed(wal: Made) -> None:
    wal.factory.fill_to(START + MEGABYTE - 40)
    crossing = wal.commit(5, more_bytes=300)
    assert crossing.start_lsn < START + MEGABYTE < crossing.end_lsn
    wal.commit(6)
    records, close = wal.records()
    assert find_stop(records, wal.window(records), at(4)).lsn == crossing.start_lsn
    close()


def test_damage_is_not_taken_for_the_end(wal: Made) -> None:
    first = wal.commit(1)
    wal.factory.filler(MEGABYTE)
    damaged_at = wal.factory.end + 8192 - wal.factory.end % 8192
    wal.factory.filler(MEGABYTE)
    last = wal.commit(2)
    wal.commit(2)
    # The page is as a disk gives it that lost a write.
    wal.factory.data[damaged_at - START : damaged_at - START + 8192] = bytes(8192)
    records, close = wal.records()
    window = wal.window(records)
    assert find_stop(records, window, LATEST).lsn > last.end_lsn
    with pytest.raises(LogshipError) as caught:
        find_stop(records, window, at(1.5))
    assert caught.value.code is Code.STORE_DAMAGED
    assert str(Lsn(damaged_at)) in caught.value.what
    assert find_stop(records, window, at(0.5)).lsn == first.start_lsn
    close()


def test_a_year_without_a_commit_is_passed_over(tmp_path: Path) -> None:
    empty = 3000
    start = START + empty * MEGABYTE
    made = Made(tmp_path / "wal", start)
    made.seeded()
    made.factory.filler(MEGABYTE)
    only = made.commit(1)
    made.commit(2)
    records, close = made.records({(1, START + n * MEGABYTE): None for n in range(empty)})
    window = made.window(records)
    (stretch,) = window.stretches
    longer = stretch._replace(
        wal=Interval(START, stretch.wal.end), earliest_lsn=Lsn(START), earliest_time=NOON
    )
    stop = find_stop(records, window._replace(stretches=(longer,)), at(0.5))
    assert stop.lsn == only.start_lsn
    close()


def test_what_was_heard_makes_a_quiet_time_reachable(wal: Made) -> None:
    last = wal.commit(1)
    records, close = wal.records()
    heard = Heard(1, last.end_lsn, NOON + 60 * SECOND)
    window = wal.window(records, heard)
    assert find_stop(records, window, at(59)).lsn == last.end_lsn
    ahead = Heard(1, last.end_lsn + 8, NOON + 60 * SECOND)
    with pytest.raises(LogshipError) as caught:
        find_stop(records, wal.window(records, ahead), at(59))
    assert caught.value.code is Code.TARGET_UNREACHABLE
    assert f"LSN {Lsn(last.end_lsn)}" in caught.value.hint
    close()


def test_an_lsn_inside_a_record_is_behind_it(wal: Made) -> None:
    wal.commit(1)
    big = wal.factory.filler(30_000)
    after = wal.commit(2)
    records, close = wal.records()
    window = wal.window(records)
    for lsn in (big.start_lsn + 8, big.start_lsn + 9000, big.end_lsn - 1, big.end_lsn):
        stop = find_stop(records, window, Target("lsn", lsn=Lsn(lsn)))
        assert (stop.lsn, stop.replayed_lsn) == (after.start_lsn, big.end_lsn)
    stop = find_stop(records, window, Target("lsn", lsn=Lsn(big.start_lsn)))
    assert stop.replayed_lsn == big.start_lsn
    close()


def test_an_lsn_in_the_padding_after_a_switch_is_at_its_end(wal: Made) -> None:
    wal.commit(1)
    switch = wal.factory.switch()
    wal.commit(2)
    records, close = wal.records()
    for lsn in (switch.start_lsn + 24, switch.start_lsn + 30_000, switch.end_lsn):
        stop = find_stop(records, wal.window(records), Target("lsn", lsn=Lsn(lsn)))
        assert stop.replayed_lsn == switch.end_lsn
    close()


@pytest.mark.parametrize("held_bytes", [24, 100, 3 * 8192, 20 * 8192])
def test_the_latest_is_before_a_switch_of_which_the_padding_is_not_held(
    wal: Made, held_bytes: int
) -> None:
    """held_bytes: from the start of the switch's record on."""
    last = wal.commit(1)
    switch = wal.factory.switch()
    del wal.factory.data[switch.start_lsn + held_bytes - START :]
    records, close = wal.records()
    window = wal.window(records)
    (stretch,) = window.stretches
    assert stretch.latest_lsn == last.end_lsn
    asked = [Target("lsn", lsn=Lsn(wal.factory.end)), Target("lsn", lsn=Lsn(last.end_lsn + 24))]
    for target in (LATEST, at(1), *asked):
        stop = find_stop(records, window, target)
        assert (stop.lsn, stop.replayed_lsn) == (last.end_lsn, last.end_lsn)
        ServedWal(records.kept, ALONE, None, START, stop.lsn)
    close()


@pytest.mark.parametrize("room_bytes", range(8, 112, 8))
def test_a_name_is_found_however_its_record_is_cut(wal: Made, room_bytes: int) -> None:
    """room_bytes: what is left of the page, or segment, in which its record begins."""
    factory = wal.factory
    points = []
    for page_end in (START + 3 * 8192, START + MEGABYTE):
        factory.fill_to(page_end - room_bytes)
        points.append(factory.restore_point(NOON + SECOND, f"to {page_end}"))
        factory.restore_point(NOON + SECOND, f"to {page_end} and more")
    wal.commit(2)
    records, close = wal.records()
    window = wal.window(records)
    (stretch,) = window.stretches
    for point in points:
        assert list(named_points(records, stretch, point.name)) == [point]
        stop = find_stop(records, window, Target("name", name=point.name))
        assert stop.replayed_lsn == point.end_lsn
    # Bytes that look like a name are none.
    assert list(named_points(records, stretch, "to ")) == []
    close()


def test_a_seed_is_of_use_only_with_its_wal(wal: Made) -> None:
    wal.commit(1)
    records, close = wal.records()
    seeds = [
        seed_choice(START - MEGABYTE, START + 100),
        seed_choice(START + 40, wal.seed_end),
        seed_choice(START + 40, wal.factory.end + 8),
    ]
    window = make_window(records.kept, ALONE, seeds, None)
    (stretch,) = window.stretches
    assert stretch.seeds == (seeds[1],)
    assert window.unused_seeds == (seeds[0], seeds[2])
    assert stretch.wal == Interval(START, wal.factory.end)
    assert stretch.earliest_lsn == wal.seed_end
    assert stretch.latest_commit_time == NOON + SECOND
    close()
