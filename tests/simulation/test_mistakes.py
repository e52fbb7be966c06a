"""The simulation finds known bugs, each within its usual number of seeds."""

from __future__ import annotations

import pytest

from tests.simulation.mistakes import MISTAKES
from tests.simulation.scenario import run

WITHIN_SEEDS = {
    "ack_before_fsync": 30,
    "ack_segment_end_when_idle": 30,
    "accept_other_bytes": 120,
    "accept_a_gap": 500,
    "forget_the_fence": 400,
    "trust_page_headers": 80,
    "resume_from_received": 500,
    "drop_the_history": 80,
    "listen_to_whom_was_left_behind": 400,
}
"""Ten to thirty times what each takes on average (docs/simulation.md)."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_found(mistake: str) -> None:
    limit = WITHIN_SEEDS[mistake]
    found = next((seed for seed in range(limit) if run(seed, mistake=mistake).failure), None)
    assert found is not None, f"{mistake} was not found within {limit} seeds"
    assert not run(found).failure, "it is not the mistake that was found"
