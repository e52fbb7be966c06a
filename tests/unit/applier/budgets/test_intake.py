"""The rate at which WAL is taken in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from applier.budgets.intake import BURST_SECONDS, IntakeRate

RATE = 1_000_000


def test_a_second_worth_comes_at_once_and_then_by_the_rate() -> None:
    rate = IntakeRate(RATE, 100.0)
    rate.take(RATE, 100.0)
    assert rate.wait_seconds(100.0) == 0
    rate.take(RATE // 2, 100.0)
    assert rate.wait_seconds(100.0) == 0.5
    assert rate.wait_seconds(100.5) == 0


def test_a_piece_that_is_larger_than_any_burst_gets_in_and_is_waited_for_afterwards() -> None:
    rate = IntakeRate(RATE, 0.0)
    assert rate.wait_seconds(0.0) == 0
    rate.take(5 * RATE, 0.0)
    assert rate.wait_seconds(0.0) == 4
    assert rate.wait_seconds(3.0) == 1


def test_what_was_not_used_for_long_is_no_more_than_one_burst() -> None:
    rate = IntakeRate(RATE, 0.0)
    assert rate.wait_seconds(3600.0) == 0
    rate.take(2 * RATE, 3600.0)
    assert rate.wait_seconds(3600.0) == 1


@given(
    st.floats(1e3, 1e9),
    st.lists(st.tuples(st.integers(1, 4 << 20), st.floats(0, 2)), min_size=1, max_size=50),
)
def test_no_more_comes_in_than_the_rate_and_one_burst_and_one_piece_allow(
    per_second: float, pieces: list[tuple[int, float]]
) -> None:
    rate, now, total = IntakeRate(per_second, 0.0), 0.0, 0
    for size_bytes, pause in pieces:
        now += pause
        now += rate.wait_seconds(now)
        rate.take(size_bytes, now)
        total += size_bytes
        largest = max(size for size, _ in pieces)
        assert total <= (per_second * (now + BURST_SECONDS) + largest) * 1.000001
