"""Which chains make up one run of WAL."""

from __future__ import annotations

from applier.store.positions import Extent
from applier.store.runs import clipped, joined
from logship.lsn import Lsn, Position


def extents(**bounds: tuple[int, int]) -> dict[int, Extent]:
    return {int(name[1:]): Extent(Lsn(start), Lsn(end)) for name, (start, end) in bounds.items()}


def at(timeline: int, lsn: int) -> Position:
    return Position(timeline, Lsn(lsn))


def test_a_gap_ends_a_run_and_no_position_in_it_is_reached() -> None:
    old, new = joined([extents(t1=(10, 25)), extents(t1=(40, 50))])
    assert (old.end, new.end) == (at(1, 25), at(1, 50))
    assert old.reaches(at(1, 10))
    assert old.reaches(at(1, 25))
    assert not old.reaches(at(1, 26))
    assert not new.reaches(at(1, 39))


def test_a_chain_that_begins_inside_the_one_before_or_at_its_end_continues_it() -> None:
    for start in (20, 25):
        (run,) = joined([extents(t1=(10, 25)), extents(t1=(start, 60), t2=(50, 70))])
        assert run.extents == extents(t1=(10, 60), t2=(50, 70))
        assert run.end == at(2, 70)


def test_a_chain_on_a_newer_timeline_continues_nothing_by_itself() -> None:
    assert len(joined([extents(t1=(10, 25)), extents(t2=(20, 30))])) == 2


def test_a_chain_of_which_nothing_is_left_separates_nothing() -> None:
    (run,) = joined([extents(t1=(10, 25)), {}, extents(t1=(25, 30))])
    assert run.end == at(1, 30)
    assert joined([]) == []


def test_what_a_new_chain_sets_aside_is_no_longer_held() -> None:
    held = extents(t1=(10, 25), t2=(20, 40), t3=(30, 50))
    assert clipped(held, at(2, 30)) == extents(t1=(10, 25), t2=(20, 30))
    assert clipped(held, at(2, 20)) == extents(t1=(10, 25))
    assert clipped(held, at(2, 90)) == extents(t1=(10, 25), t2=(20, 40))
