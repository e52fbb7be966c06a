"""An applier that dies at any step of a seed's arrival follows in the end, with no hand."""

from __future__ import annotations

import signal

import pytest

from tests.crash.dying import kind_of
from tests.crash.places import COUNT, NAME, ROWS, Place
from tests.support.pair import PATIENCE_SECONDS
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

FEW = 4
"""Fewer than elsewhere: a seed that was interrupted is tried again after some seconds only."""


def arrive(place: Place, at_step: int | str) -> None:
    """A first seed, to an applier that has nothing."""
    place.clear()
    place.start_dying_applier(at_step, counting_from="start")
    place.pair.shippers[NAME].start()


@pytest.mark.parametrize("place", [17], indirect=True)
def test_a_seed_that_died_at_any_step_is_followed(place: Place, at_most: int) -> None:
    """At the first step of each kind: how many there are of one differs from run to run."""
    arrive(place, 0)
    place.pair.wait_following(NAME)
    kinds = list(dict.fromkeys(map(kind_of, place.steps())))
    few = len(kinds) if at_most >= len(kinds) else FEW
    tried = [kinds[round(i * (len(kinds) - 1) / (few - 1))] for i in range(few)]
    died = 0
    for number, kind in enumerate(tried):
        arrive(place, f"kind:{kind}")
        # What one run does before the standby follows, another may do after it, or not at all.
        reached = place.wait_end_or_following()
        died += reached
        print(f"{'died before' if reached else 'followed without'}: {kind}", flush=True)
        place.pair.applier.stop(signal.SIGKILL)
        if number % 2:
            place.kill_standby()
        place.pair.applier.start()
        place.pair.wait_on_standby(NAME, COUNT, ROWS)
        status = place.pair.wait_following(NAME)
        assert status["gap"] is None
        wait_until(
            lambda: not place.pair.status(NAME)["alarms"], PATIENCE_SECONDS, "no alarm stays"
        )
    place.pair.shippers[NAME].stop(signal.SIGKILL)
    assert died >= len(tried) * 3 // 4
