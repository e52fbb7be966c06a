"""What goes is what nothing needs, from the beginning only; what stays has a reason each."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from applier.retention.plan import (
    COMPACTED_SECONDS,
    UNFINISHED_SECONDS,
    Need,
    Piece,
    Seed,
    is_given_up,
    needs_of_seeds,
    plan_seeds,
    plan_wal,
)

NOW = 1_000_000.0
DAY = 86_400.0


def piece(number: int, timeline: int = 1, *, age: float = 10 * DAY, **changes: bool) -> Piece:
    lsn = number * 10
    return Piece(f"{timeline}/{number:04}", timeline, lsn, lsn + 10, 7, NOW - age, **changes)


def gone(pieces: list[Piece], *needs: Need, window: float = DAY) -> list[str]:
    plan = plan_wal(pieces, needs, window_start=NOW - window, now=NOW)
    return [each.name for each in plan.remove]


def test_what_lies_below_all_needs_and_is_old_goes() -> None:
    pieces = [piece(number) for number in range(6)]
    assert gone(pieces, Need(1, 35, "the standby"), Need(1, 41, "a seed")) == [
        "1/0000",
        "1/0001",
        "1/0002",
    ]
    assert gone(pieces, Need(1, 40, "right at a segment's start")) == [
        f"1/{number:04}" for number in range(4)
    ]


def test_without_a_known_need_nothing_goes() -> None:
    plan = plan_wal([piece(1)], [], window_start=NOW, now=NOW)
    assert plan.remove == [] and plan.floors == {}
    assert plan.kept[0].why == "what is needed is not known"


def test_the_window_keeps_what_nothing_else_needs() -> None:
    pieces = [piece(0), piece(1, age=DAY / 2), piece(2), piece(3)]
    need = Need(1, 100, "the standby")
    assert gone(pieces, need) == ["1/0000"]
    assert gone(pieces, need, window=0) == ["1/0000", "1/0001", "1/0002", "1/0003"]


def test_a_later_timeline_is_needed_by_who_stands_on_an_earlier_one() -> None:
    pieces = [piece(4), piece(5), piece(5, 2), piece(6, 2), piece(6, 3)]
    assert gone(pieces, Need(1, 50, "the standby")) == ["1/0004"]
    assert gone(pieces, Need(2, 60, "the standby")) == ["1/0004", "1/0005", "2/0005"]
    assert gone(pieces, Need(3, 0, "the standby")) == ["1/0004", "1/0005", "2/0005", "2/0006"]


def test_small_objects_go_a_while_after_they_were_compacted() -> None:
    old, new = COMPACTED_SECONDS + 1, COMPACTED_SECONDS - 1
    pieces = [
        piece(5),
        piece(5, age=old, is_compacted=True)._replace(name="old"),
        piece(5, age=new, is_compacted=True)._replace(name="new"),
    ]
    plan = plan_wal(pieces, [Need(1, 0, "the standby")], window_start=NOW - DAY, now=NOW)
    assert [each.name for each in plan.remove] == ["old"]
    assert plan.floors == {}
    assert {group.first: group.why for group in plan.kept} == {
        "1/0005": "the standby",
        "new": "it was compacted a short while ago",
    }


PIECES = st.lists(
    st.builds(
        lambda number, timeline, age: piece(number, timeline, age=age),
        st.integers(0, 20),
        st.integers(1, 3),
        st.sampled_from([0.0, DAY / 2, 2 * DAY, 9 * DAY]),
    ),
    unique_by=lambda each: each.name,
)
NEEDS = st.lists(st.builds(Need, st.integers(1, 3), st.integers(0, 220), st.just("x")), min_size=1)


@given(PIECES, NEEDS, st.sampled_from([0.0, DAY, 30 * DAY]))
@settings(max_examples=300, deadline=None)
def test_no_need_is_ever_hurt(pieces: list[Piece], needs: list[Need], window: float) -> None:
    plan = plan_wal(pieces, needs, window_start=NOW - window, now=NOW)
    going = {each.name for each in plan.remove}
    for each in pieces:
        needed = any(
            (each.timeline, each.end) > (need.timeline, need.lsn)
            for need in needs
            if each.timeline >= need.timeline
        )
        if needed or each.modified_at >= NOW - window:
            assert each.name not in going
    ordered = sorted(pieces, key=lambda each: (each.timeline, each.lsn))
    stays = [each.name not in going for each in ordered]
    assert stays == sorted(stays), "only the beginning goes"
    assert sum(group.pieces for group in (*plan.kept, *plan.removed)) == len(pieces)
    assert all(group.why for group in (*plan.kept, *plan.removed))
    for each in ordered:
        assert (each.name in going) == (each.end <= plan.floors.get(each.timeline, 0))


def seed(number: int, age: float) -> Seed:
    return Seed(f"s{number}", 1, number * 100, 5, NOW - age)


@pytest.mark.parametrize(
    ("keep", "window", "stays"),
    [
        (2, None, ["s4", "s5"]),
        (0, None, []),
        (9, None, ["s1", "s2", "s3", "s4", "s5"]),
        (1, 3.5 * DAY, ["s2", "s3", "s4", "s5"]),
        (0, 3 * DAY, ["s3", "s4", "s5"]),
        (4, 0.5 * DAY, ["s2", "s3", "s4", "s5"]),
        (1, 99 * DAY, ["s1", "s2", "s3", "s4", "s5"]),
    ],
)
def test_seeds_stay_by_number_and_for_the_window(
    keep: int, window: float | None, stays: list[str]
) -> None:
    seeds = [seed(number, (6 - number) * DAY) for number in (3, 1, 2, 5, 4)]
    start = None if window is None else NOW - window
    plan = plan_seeds(seeds, keep=keep, window_start=start)
    assert [each.name for each in plan.keep] == stays
    assert sorted(each.name for each in (*plan.keep, *plan.remove)) == [
        "s1",
        "s2",
        "s3",
        "s4",
        "s5",
    ]
    assert len(plan.kept) == len(stays) and all(group.why for group in plan.kept)
    assert [need.lsn for need in needs_of_seeds(plan.keep)] == [int(n[1:]) * 100 for n in stays]


def test_an_unfinished_seed_is_given_up_after_a_day_of_silence() -> None:
    assert is_given_up(NOW - UNFINISHED_SECONDS - 1, NOW)
    assert not is_given_up(NOW - UNFINISHED_SECONDS + 1, NOW)
