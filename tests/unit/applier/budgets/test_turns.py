"""Who seeds and catches up, and who waits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from applier.budgets.turns import AGING_SECONDS, IDLE_SECONDS, Turns


def test_only_so_many_have_one_and_the_next_gets_what_is_given_back() -> None:
    turns = Turns(2)
    assert [turns.ask(name, 5, 0) for name in "abc"] == [True, True, False]
    assert turns.ask("a", 5, 1), "who has one keeps it"
    assert turns.is_waiting("c")
    assert turns.give_back("a", 2) == ["c"]
    assert turns.has("c")
    assert not turns.has("a")


def test_the_greater_priority_comes_first_and_then_who_waits_longest() -> None:
    turns = Turns(1)
    turns.ask("running", 5, 0)
    for now, (name, priority) in enumerate([("low", 1), ("mid", 5), ("late", 5), ("high", 9)]):
        assert not turns.ask(name, priority, now)
    order = ["running"]
    while turns.somebody_waits:
        order += turns.give_back(order[-1], 10)
    assert order == ["running", "high", "mid", "late", "low"]


def test_asking_again_does_not_lose_the_place() -> None:
    turns = Turns(1)
    turns.ask("running", 5, 0)
    turns.ask("first", 5, 1)
    turns.ask("second", 5, 2)
    turns.ask("first", 5, 3)
    assert turns.give_back("running", 4) == ["first"]


def test_who_gives_up_waiting_is_passed_over() -> None:
    turns = Turns(1)
    turns.ask("running", 5, 0)
    turns.ask("gone", 9, 1)
    turns.ask("there", 1, 1)
    assert turns.give_back("gone", 2) == []
    assert turns.give_back("running", 3) == ["there"]


def test_what_is_under_way_counts_although_it_is_one_too_many() -> None:
    turns = Turns(1)
    turns.ask("a", 5, 0)
    turns.take("resumed", 0)
    assert not turns.ask("b", 5, 0)
    assert turns.give_back("a", 1) == []
    assert turns.give_back("resumed", 2) == ["b"]


def test_a_turn_that_nothing_is_done_with_goes_to_who_waits() -> None:
    turns = Turns(2)
    turns.ask("idle", 5, 0)
    turns.ask("busy", 5, 0)
    assert turns.lapse(IDLE_SECONDS) == [], "nobody waits: nobody loses it"
    turns.ask("next", 5, IDLE_SECONDS)
    turns.use("busy", IDLE_SECONDS)
    assert turns.lapse(IDLE_SECONDS) == ["next"]
    assert (turns.has("idle"), turns.has("busy")) == (False, True)


@given(st.integers(1, 3), st.integers(0, 9))
def test_nobody_waits_for_ever_however_many_greater_ones_come(limit: int, priority: int) -> None:
    turns = Turns(limit)
    for number in range(limit):
        turns.ask(f"running-{number}", 9, 0)
    turns.ask("patient", priority, 0)
    now, running = 0.0, [f"running-{number}" for number in range(limit)]
    while "patient" not in running:
        now += 60
        assert now <= (9 - priority + 1) * AGING_SECONDS + 60
        turns.ask(f"new-{now}", 9, now)
        running += turns.give_back(running.pop(0), now)
        assert len(running) == limit
