"""WAL that nobody needs goes from the store, which never says that it holds what is gone."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from applier.store.core import StoreCore, open_store
from applier.store.positions import Extent
from applier.store.removal import trimmed
from applier.store.store import Store
from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from logship.wal import parse_history, segment_name
from tests.support.fake_disk import Crashed, FakeDisk
from tests.support.wal_factory import MEGABYTE, WalFactory, wal_line

DIRECTORY = Path("/store")
LINE = wal_line()
S = MEGABYTE
START = 16 * S
FORK = START + 5 * S + 300_008
HISTORY = f"1\t{Lsn(FORK)}\treason\n".encode()
FACTORY = WalFactory(LINE, {2: parse_history(2, HISTORY)})
ON_TWO = START + 5 * S
GAP = START + 40 * S


def reopened(disk: FakeDisk) -> StoreCore:
    return open_store(disk, DIRECTORY, LINE, keep_free_bytes=0)


def write(core: StoreCore, timeline: int, start: int, end: int) -> None:
    while start < end:
        stop = min(end, start - start % S + S)
        core.write(timeline, start, FACTORY.wal(timeline, start, stop))
        start = stop
    core.hardened(core.segments.run_flush(core.segments.prepare_flush()))


def filled(disk: FakeDisk, *, gap: bool = False) -> StoreCore:
    """Timeline 1 from START, 2 from its sixth segment, 4.5 segments of that; `b` continues `a`."""
    core = reopened(disk)
    core.begin_chain(1, START + 40, seed_id="a", started_at=0.0)
    write(core, 1, START, FORK + 500)
    core.add_history(2, HISTORY)
    write(core, 2, ON_TWO, ON_TWO + 4 * S + S // 2)
    core.begin_chain(2, ON_TWO + 2 * S + 9, seed_id="b", started_at=1.0)
    if gap:
        core.begin_chain(2, GAP, seed_id="c", started_at=2.0)
        write(core, 2, GAP, GAP + 3 * S + 77)
    return core


def held(core: StoreCore) -> list[Mapping[int, Extent]]:
    return [dict(run.extents) for run in core.runs()]


def check_bytes(core: StoreCore) -> None:
    for extents in held(core):
        for timeline, extent in extents.items():
            lsn = int(extent.start)
            while lsn < extent.end:
                data = core.read(timeline, lsn, S)
                assert data == FACTORY.wal(timeline, lsn, lsn + len(data))
                lsn += len(data)


def wal_files(disk: FakeDisk) -> set[str]:
    return {name for name in disk.names(DIRECTORY) if len(name.split(".")[0]) == 24}


def test_what_lies_below_is_gone_and_the_rest_is_served() -> None:
    disk = FakeDisk()
    core = filled(disk)
    gone = core.remove_below({1: START + 3 * S})
    assert gone == [segment_name(1, START + n * S, S) for n in range(3)]
    assert held(core) == [
        {
            1: Extent(Lsn(START + 3 * S), Lsn(FORK + 500)),
            2: Extent(Lsn(ON_TWO), Lsn(ON_TWO + 4 * S + S // 2)),
        }
    ]
    with pytest.raises(LogshipError) as caught:
        core.read(1, START + 3 * S - 1, 10)
    assert caught.value.code is Code.WAL_REMOVED
    check_bytes(core)
    assert core.durable_of("a") == core.durable_of("b") == (2, ON_TWO + 4 * S + S // 2)
    before = held(core), core.chains
    core.close()
    again = reopened(disk)
    assert (held(again), again.chains) == before
    assert again.remove_below({1: START + 3 * S}) == []
    write(again, 2, ON_TWO + 4 * S + S // 2, ON_TWO + 6 * S)


def test_an_older_timeline_goes_with_all_its_files() -> None:
    disk = FakeDisk()
    core = filled(disk)
    core.remove_below({1: GAP, 2: ON_TWO + 3 * S})
    assert core.positions is not None
    assert core.positions.start == (2, ON_TWO + 3 * S)
    assert {name[:8] for name in wal_files(disk)} == {"00000002"}
    assert core.durable_of("a") == core.durable_of("b") == core.positions.durable
    core.close()
    again = reopened(disk)
    assert again.positions is not None
    assert again.durable_of("a") == again.durable_of("b") == again.positions.durable
    check_bytes(again)


def test_nothing_goes_from_behind_what_is_kept() -> None:
    disk = FakeDisk()
    core = filled(disk)
    before = held(core), wal_files(disk)
    assert core.remove_below({2: ON_TWO + 3 * S}) == []
    assert (held(core), wal_files(disk)) == before


def test_the_end_stays_whatever_is_asked() -> None:
    disk = FakeDisk()
    core = filled(disk)
    core.remove_below({1: 100 * S, 2: 100 * S})
    end = ON_TWO + 4 * S + S // 2
    assert held(core) == [{2: Extent(Lsn(end - S // 2), Lsn(end))}]
    write(core, 2, end, ON_TWO + 5 * S)
    core.remove_below({1: 100 * S, 2: 100 * S})
    assert held(core) == [{2: Extent(Lsn(ON_TWO + 5 * S), Lsn(ON_TWO + 5 * S))}]
    assert wal_files(disk) == set()
    core.close()
    again = reopened(disk)
    assert again.positions is not None
    assert again.positions.durable == (2, ON_TWO + 5 * S)
    write(again, 2, ON_TWO + 5 * S, ON_TWO + 6 * S)


def test_of_a_chain_that_ended_only_what_is_asked_goes() -> None:
    disk = FakeDisk()
    core = filled(disk, gap=True)
    end = Position(2, Lsn(ON_TWO + 4 * S + S // 2))
    core.remove_below({1: 100 * S, 2: ON_TWO + 3 * S})
    assert core.durable_of("a") == core.durable_of("b") == end
    assert core.durable_of("c") == (2, GAP + 3 * S + 77)
    core.remove_below({2: GAP + S})
    assert held(core) == [{2: Extent(Lsn(GAP + S), Lsn(GAP + 3 * S + 77))}]
    assert core.durable_of("c") == (2, GAP + 3 * S + 77)
    assert len(wal_files(disk)) == 3
    check_bytes(core)


def test_a_seed_that_begins_again_after_a_cut_still_is_the_same_chain() -> None:
    disk = FakeDisk()
    core = filled(disk)
    core.remove_below({1: 100 * S, 2: ON_TWO + 2 * S})
    chains = core.chains
    core.begin_chain(2, ON_TWO + 2 * S + 9, seed_id="b", started_at=5.0)
    assert core.chains == chains


FLOORS: list[dict[int, int]] = [
    {1: START + 3 * S},
    {1: 100 * S, 2: ON_TWO + 3 * S},
    {1: 100 * S, 2: GAP + S},
]


def operations(gap: bool, floors: dict[int, int]) -> int:
    disk = FakeDisk()
    core = filled(disk, gap=gap)
    before = len(disk.operations)
    core.remove_below(floors)
    return len(disk.operations) - before


@pytest.mark.parametrize("gap", [False, True], ids=["whole", "gap"])
@pytest.mark.parametrize("floors", FLOORS, ids=["some", "a timeline", "nearly all"])
def test_a_crash_at_any_step_leaves_what_was_or_what_is_to_be(
    gap: bool, floors: dict[int, int]
) -> None:
    disk = FakeDisk()
    core = filled(disk, gap=gap)
    old = held(core)
    core.remove_below(floors)
    new, files = held(core), wal_files(disk)
    assert old != new
    for at in range(operations(gap, floors)):
        disk = FakeDisk(seed=at)
        core = filled(disk, gap=gap)
        disk.crash_at = len(disk.operations) + at
        with suppress(Crashed):
            core.remove_below(floors)
        (disk.kill if at % 3 == 2 else disk.crash)()
        again = reopened(disk)
        assert held(again) in (old, new)
        check_bytes(again)
        newest = "c" if gap else "b"
        assert again.durable_of(newest) == core.durable_of(newest)
        again.remove_below(floors)
        assert held(again) == new
        assert wal_files(disk) == files
        assert again.durable_of(newest) == core.durable_of(newest)
        again.close()
        reopened(disk).close()


_LSNS = st.integers(0, 12).map(lambda n: n * 8)


@given(
    st.dictionaries(
        st.integers(1, 4),
        st.tuples(st.integers(0, 80), st.integers(1, 30)).map(
            lambda pair: Extent(Lsn(pair[0] - pair[0] % 8), Lsn(pair[0] - pair[0] % 8 + pair[1]))
        ),
    ),
    st.dictionaries(st.integers(1, 4), _LSNS),
)
@settings(max_examples=300, deadline=None)
def test_what_is_left_is_the_end_of_what_was(
    extents: dict[int, Extent], floors: dict[int, int]
) -> None:
    left = trimmed(extents, floors)
    timelines = sorted(extents)
    assert sorted(left) == timelines[len(timelines) - len(left) :]
    for timeline, extent in left.items():
        assert extent.end == extents[timeline].end
        assert extents[timeline].start <= extent.start < extent.end
        if extent.start > extents[timeline].start:
            assert timeline == min(left) and extent.start == floors[timeline]
    for timeline in set(extents) - set(left):
        assert floors[timeline] >= extents[timeline].end


async def test_a_store_gives_up_what_is_on_the_real_disk(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "wal", LINE, keep_free_bytes=0)
    try:
        await store.begin_chain(1, START, seed_id="a")
        for number in range(4):
            at = START + number * S
            await store.append(1, at, FACTORY.wal(1, at, at + S))
        told: list[object] = []
        store.subscribe(lambda: told.append(store.start))
        assert len(await store.remove_below({1: START + 2 * S})) == 2
        assert told == [(1, START + 2 * S)] and store.start == (1, START + 2 * S)
        assert len(list((tmp_path / "wal").glob("0" * 7 + "1*"))) == 2
        assert store.read(1, START + 2 * S, 10) == FACTORY.wal(1, START + 2 * S, START + 2 * S + 10)
    finally:
        store.close()
