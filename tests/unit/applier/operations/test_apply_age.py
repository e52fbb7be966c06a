"""How old what is not replayed is: never understated, in a fixed amount of memory."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from applier.operations.apply_age import MAX_PIECES, PIECE_SECONDS, ApplyAge


def test_what_came_before_anything_was_remembered_has_no_known_age() -> None:
    age = ApplyAge()
    assert age.seconds(100, 50, now=7.0) is None
    age.stored(100, 50, now=7.0)
    assert age.seconds(100, 50, now=8.0) is None
    age.stored(200, 50, now=9.0)
    assert age.seconds(200, 50, now=10.0) is None, "50 to 100 was here before"
    assert age.seconds(200, 100, now=10.0) == 1.0


def test_it_is_the_age_of_the_oldest_that_waits() -> None:
    age = ApplyAge()
    age.stored(100, 100, now=0.0)
    assert age.seconds(100, 100, now=3600.0) == 0.0, "an idle cluster is not behind"
    for second in range(1, 11):
        age.stored(100 + 10 * second, 100, now=3600.0 + second)
    assert age.seconds(200, 100, now=3610.0) == 9.0
    assert age.seconds(200, 109, now=3610.0) == 9.0
    assert age.seconds(200, 110, now=3610.0) == 8.0
    assert age.seconds(200, 200, now=3610.0) == 0.0
    assert age.seconds(210, 200, now=3610.0) == 0.0, "it became durable in this moment"


def test_an_idle_hour_does_not_make_new_wal_old() -> None:
    age = ApplyAge()
    age.stored(100, 100, now=0.0)
    age.stored(110, 100, now=1.0)
    age.stored(120, 110, now=3601.0)
    assert age.seconds(120, 110, now=3602.0) == 1.0


def test_another_chain_begins_anew() -> None:
    age = ApplyAge()
    age.stored(1000, 1000, now=0.0)
    age.stored(1100, 1000, now=1.0)
    age.stored(500, 0, now=2.0)
    assert age.seconds(500, 0, now=3.0) is None
    age.stored(600, 500, now=3.0)
    assert age.seconds(600, 500, now=5.0) == 2.0


def test_memory_is_bounded_and_only_costs_precision() -> None:
    age = ApplyAge()
    age.stored(0, 0, now=0.0)
    seconds = 2 * 3600
    for number in range(1, 10 * seconds + 1):
        age.stored(number, 0, now=number / 10)
    assert len(age._pieces) <= MAX_PIECES
    for applied in (0, 1, 7 * seconds, 10 * seconds - 1):
        true_age = seconds - (applied + 1) / 10
        shown = age.seconds(10 * seconds, applied, now=float(seconds))
        assert shown is not None
        assert true_age <= shown + 1e-6
        assert shown <= true_age + 4 * seconds / MAX_PIECES


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 5), st.integers(1, 1000), st.floats(0, 1)), min_size=1, max_size=60
    )
)
@example(steps=[(2.7676615088360466, 1, 0.0), (0.01, 1, 0.5), (3.0, 1, 0.0), (5.0, 1, 0.0)])
def test_an_age_is_never_understated(steps: list[tuple[float, int, float]]) -> None:
    age = ApplyAge()
    age.stored(0, 0, now=0.0)
    now, durable, applied = 0.0, 0, 0
    arrivals: list[tuple[int, float]] = []
    for pause, grown, share in steps:
        now += pause
        durable += grown
        age.stored(durable, applied, now)
        arrivals.append((durable, now))
        applied = max(applied, int(durable * share))
        true_age = next((now - at for end, at in arrivals if end > applied), 0.0)
        shown = age.seconds(durable, applied, now)
        assert shown is not None
        assert true_age <= shown <= true_age + PIECE_SECONDS + 1e-6  # both are rounded


def test_the_clock_of_two_calls_makes_no_negative_age() -> None:
    age = ApplyAge()
    age.stored(0, 0, now=5.0)
    age.stored(10, 0, now=6.0)
    assert age.seconds(10, 0, now=5.5) == pytest.approx(0.0)
