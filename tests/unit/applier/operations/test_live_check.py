"""When a running standby is looked into: soon, now and then, and never while it is idle."""

from __future__ import annotations

from applier.operations.live_check import LOOK_SECONDS, RETRY_SECONDS, LookTurn


def test_the_first_look_is_due_at_once_and_an_idle_standby_is_left_alone() -> None:
    turn = LookTurn()
    assert turn.is_due(1.0, 100)
    turn.looked(1.0, 100)
    assert not turn.is_due(1.0 + 10 * LOOK_SECONDS, 100), "it replayed nothing"
    assert not turn.is_due(2.0, 200), "it is soon after the last look"
    assert turn.is_due(1.0 + LOOK_SECONDS, 200)


def test_a_look_that_failed_is_repeated_although_nothing_was_replayed() -> None:
    turn = LookTurn()
    turn.failed(1.0)
    assert not turn.is_due(2.0, 100)
    assert turn.is_due(1.0 + RETRY_SECONDS, 100)


def test_a_change_of_the_primary_makes_it_due() -> None:
    turn = LookTurn()
    turn.looked(1.0, 100)
    turn.again()
    assert turn.is_due(1.0, 100)
