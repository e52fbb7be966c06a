"""Percentiles and ratios say what they claim."""

from __future__ import annotations

import pytest

from tests.bench.samples import percentile, ratios, summarise


def test_a_percentile_is_a_sample_that_so_many_do_not_exceed() -> None:
    samples = [float(number) for number in range(100, 0, -1)]
    assert percentile(samples, 50) == 50
    assert percentile(samples, 99) == 99
    assert percentile(samples, 100) == 100
    assert percentile(samples, 0.1) == 1


def test_with_few_samples_the_99th_percentile_is_the_slowest() -> None:
    assert percentile([3.0, 1.0, 2.0], 99) == 3.0
    assert percentile([7.0], 99) == 7.0


@pytest.mark.parametrize("percent", [0, -1, 101])
def test_there_is_no_other_percentile(percent: float) -> None:
    with pytest.raises(ValueError, match="no percentile"):
        percentile([1.0], percent)


def test_nothing_has_no_percentile_and_no_summary() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 50)
    with pytest.raises(ValueError, match="no values"):
        summarise([])


def test_a_summary_has_median_least_most_and_the_number_of_repetitions() -> None:
    assert summarise([3.0, 1.0, 2.0, 10.0]) == (2.5, 1.0, 10.0, 4)


def test_ratios_are_taken_within_a_repetition() -> None:
    # The quotient of the medians would be 1.
    assert ratios([1.0, 4.0, 2.0], [2.0, 2.0, 1.0]) == [0.5, 2.0, 2.0]
    with pytest.raises(ValueError, match="argument 2"):
        ratios([1.0], [1.0, 2.0])
