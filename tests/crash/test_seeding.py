"""An applier that dies at any step of a seed's arrival follows in the end, with no hand."""

from __future__ import annotations

import re
import shutil
import signal

import pytest

from tests.crash.places import COUNT, NAME, ROWS, Place
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


def kinds(steps: list[str]) -> list[int]:
    """Numbers of the steps that are the first of their kind: a seed syncs a thousand files."""
    first: dict[str, int] = {}
    for number, step in enumerate(steps, start=1):
        kind = re.sub(r"(/data[^/]*)/.*/.*", r"\1/…", step)
        first.setdefault(re.sub(r"[0-9A-F]{4,}|\d+", "#", kind), number)
    return list(first.values())


@pytest.mark.parametrize("place", [17], indirect=True)
def test_a_seed_that_died_at_any_step_is_followed(place: Place, at_most: int) -> None:
    shipper = place.pair.shippers[NAME]

    def arrive(step: int) -> None:
        place.stop()
        shutil.rmtree(place.pair.directory / "applier")
        place.start_dying_applier(step, counting_from="start")
        shipper.start()

    arrive(0)
    place.pair.wait_following(NAME)
    steps = place.steps()
    numbers = kinds(steps)
    # Fewer than elsewhere: a seed that was interrupted is tried again after some seconds only.
    few = len(numbers) if at_most >= len(numbers) else 4
    for step in [numbers[round(i * (len(numbers) - 1) / (few - 1))] for i in range(few)]:
        print(f"dies before step {step} of {len(steps)}: {steps[step - 1]}", flush=True)
        arrive(step)
        place.wait_end()
        if step % 2:
            place.kill_standby()
        place.pair.applier.start()
        place.pair.wait_on_standby(NAME, COUNT, ROWS)
        status = place.pair.wait_following(NAME)
        assert status["gap"] is None
        wait_until(lambda: not place.pair.status(NAME)["alarms"], 60, "no alarm stays")
    shipper.stop(signal.SIGKILL)
