"""How fast a seed comes, and when it is here."""

from __future__ import annotations

import pytest

from applier.operations.pace import WINDOW_SECONDS, Pace

MB = 1 << 20


def steady(seconds: int, rate_bytes: int) -> Pace:
    pace = Pace()
    for tenth in range(10 * seconds + 1):
        pace.arrived(tenth * rate_bytes // 10, tenth / 10)
    return pace


def test_nothing_is_said_before_it_can_be() -> None:
    pace = Pace()
    assert pace.bytes_per_second(0.0) is None
    pace.arrived(0, 0.0)
    pace.arrived(MB, 0.01)
    assert pace.bytes_per_second(0.02) is None, "a rate of one moment is none"
    assert pace.seconds_left(10 * MB, 0.02) is None


@pytest.mark.parametrize("seconds", [2, 15, 100])
def test_a_steady_stream(seconds: int) -> None:
    pace = steady(seconds, 10 * MB)
    assert pace.bytes_per_second(float(seconds)) == pytest.approx(10 * MB, rel=0.01)
    left = pace.seconds_left((seconds + 30) * 10 * MB, float(seconds))
    assert left == pytest.approx(30, rel=0.01)


def test_only_the_last_seconds_count() -> None:
    pace = steady(100, 10 * MB)
    for tenth in range(1, 10 * int(WINDOW_SECONDS) + 20):
        pace.arrived(1000 * MB + tenth * MB // 10, 100 + tenth / 10)
    assert pace.bytes_per_second(100 + WINDOW_SECONDS + 2) == pytest.approx(MB, rel=0.1)


def test_a_seed_that_stands_still_has_no_end() -> None:
    pace = steady(10, 10 * MB)
    now = 10 + WINDOW_SECONDS / 2
    slower = pace.bytes_per_second(now)
    assert slower is not None and 0 < slower < 10 * MB
    now = 10 + WINDOW_SECONDS + 1
    assert pace.bytes_per_second(now) == 0.0
    assert pace.seconds_left(1000 * MB, now) is None


def test_an_estimate_that_was_passed_or_never_made_foretells_nothing() -> None:
    pace = steady(10, 10 * MB)
    assert pace.seconds_left(50 * MB, 10.0) is None
    assert pace.seconds_left(0, 10.0) is None
