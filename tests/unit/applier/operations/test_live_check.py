"""When a running standby is looked into: soon, now and then, and never while it is idle."""

from __future__ import annotations

import time

from applier.operations.instance import Instance
from applier.operations.live_check import LOOK_SECONDS, RETRY_SECONDS, LookTurn
from tests.support.link_frames import hello, profile
from tests.unit.applier.operations.conftest import Listener


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


async def test_a_sender_that_comes_again_is_no_reason_to_look_and_a_changed_primary_is(
    instance: Instance,
) -> None:
    """Each look is a process or more for every database: not at each cut of a bad network."""
    await instance.hello(hello(), Listener())
    live, lsn = instance.following.live, instance.following.serving.applied_lsn
    assert instance.record.profile is not None
    live.looked_at(instance.record.profile, lsn)
    await instance.hello(hello(), Listener())
    assert not live.is_due_at(time.monotonic())
    await instance.profile(profile(max_connections=300))
    assert live.is_due_at(time.monotonic())
