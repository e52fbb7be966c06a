"""What a bucket takes in a month, in numbers that can be checked by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipper.commands.cost_estimate import (
    MONTH_SECONDS,
    Plan,
    Prices,
    WalRate,
    estimate,
    price,
    shown,
    windows_of,
    windows_seen,
)

SEGMENT = 16 << 20
PLAN = Plan(
    max_object_bytes=16 << 20,
    appliers=1,
    poll_seconds=1.0,
    compression=0.5,
    seeds_per_month=0,
    seed_bytes=0,
    kept_hours=0,
    kept_seeds=0,
)
IDLE = WalRate(0.0, 0.0, SEGMENT)


def test_an_idle_primary_takes_polls_alone() -> None:
    month = estimate(IDLE, PLAN)
    assert month.get_polls == MONTH_SECONDS
    assert (month.put, month.get, month.list, month.delete, month.copy) == (0, 0, 0, 0, 0)
    assert (month.uploaded_bytes, month.downloaded_bytes, month.stored_bytes) == (0, 0, 0)


def test_signs_of_life_are_put_and_read_whether_or_not_there_is_wal() -> None:
    month = estimate(IDLE, PLAN._replace(alive_every_seconds=10.0, appliers=2))
    assert month.put == MONTH_SECONDS / 10
    assert month.get == 3 * MONTH_SECONDS / 10  # each applier's, and the epoch before each


def test_a_busy_primary_puts_an_object_for_each_delay_and_each_segment() -> None:
    rate = WalRate(SEGMENT / 100, 0.5, SEGMENT)  # a segment in 100 s
    month = estimate(rate, PLAN)
    objects = (0.5 + 0.01) * MONTH_SECONDS
    joined = 0.01 * MONTH_SECONDS
    assert month.put == pytest.approx(objects + joined)
    assert month.get == pytest.approx(objects * 2)  # each object, and the epoch beside each
    # The small ones of a segment in one request, or in one for each thousand.
    assert month.delete == pytest.approx(joined + objects / 1000)
    wal_bytes = SEGMENT / 100 * MONTH_SECONDS * 0.5
    assert month.uploaded_bytes == pytest.approx(2 * wal_bytes)
    assert month.downloaded_bytes == pytest.approx(wal_bytes)
    assert month.stored_bytes == pytest.approx(wal_bytes) and month.grows


def test_bulk_load_puts_whole_segments_once() -> None:
    rate = WalRate(4 * SEGMENT, 0.0, SEGMENT)
    month = estimate(rate, PLAN)
    assert month.put == pytest.approx(4 * MONTH_SECONDS)
    assert month.delete == 0
    assert month.uploaded_bytes == pytest.approx(4 * SEGMENT * 0.5 * MONTH_SECONDS)


def test_what_is_removed_is_stored_for_its_time_and_listed_once_a_day() -> None:
    rate = WalRate(1000.0, 0.1, SEGMENT)
    plan = PLAN._replace(kept_hours=24, kept_seeds=2, seeds_per_month=4, seed_bytes=1e9)
    month = estimate(rate, plan)
    assert month.stored_bytes == pytest.approx(1000 * 0.5 * 86400 + 2e9)
    assert not month.grows
    assert 3 * 30 <= month.list <= 4 * 31
    assert month.uploaded_bytes > 4e9


def test_each_applier_reads_and_asks() -> None:
    rate = WalRate(1000.0, 0.1, SEGMENT)
    one, three = estimate(rate, PLAN), estimate(rate, PLAN._replace(appliers=3))
    assert three.get_polls == 3 * one.get_polls
    assert three.downloaded_bytes == 3 * one.downloaded_bytes
    assert three.put == one.put


def test_delays_run_out_as_often_as_commits_let_them() -> None:
    assert windows_of(0, 1) == 0
    assert windows_of(1e9, 1) == pytest.approx(1)
    assert windows_of(1 / 60, 1) == pytest.approx(1 / 61)
    assert windows_of(100, 0.2) == pytest.approx(1 / 0.21)


def test_delays_are_counted_as_they_were_seen() -> None:
    samples = [(0.0, 5), (0.2, 5), (0.4, 6), (0.6, 7), (1.4, 8), (1.6, 8), (3.0, 9)]
    assert windows_seen(samples, 1.0) == 3
    assert windows_seen(samples, 0.1) == 4
    assert windows_seen([], 1.0) == windows_seen([(0.0, 3)], 1.0) == 0


@given(
    st.floats(0, 1e9),
    st.floats(0, 1e5),
    st.floats(0.05, 3600),
    st.integers(0, 10),
    st.sampled_from([0.0, 24.0, 5000.0]),
)
def test_nothing_is_negative_and_more_wal_is_never_cheaper(
    written: float, commits: float, delay: float, appliers: int, kept_hours: float
) -> None:
    plan = PLAN._replace(appliers=appliers, kept_hours=kept_hours)
    months = [
        estimate(WalRate(factor * written, windows_of(factor * commits, delay), SEGMENT), plan)
        for factor in (1, 2)
    ]
    assert all(number >= 0 for number in months[0][:-1])
    for name in ("put", "list", "uploaded_bytes", "stored_bytes"):
        # A segment that is one object is not joined: at the edge twice as much takes less.
        assert getattr(months[1], name) >= getattr(months[0], name) / 2


def test_a_bill_is_made_of_the_prices_given_alone() -> None:
    month = estimate(WalRate(SEGMENT / 100, 0.5, SEGMENT), PLAN)
    assert price(month, Prices()) is None
    assert price(month, Prices(put_per_1000=1.0)) == pytest.approx(month.put / 1000)
    bill = price(month, Prices(stored_gb_month=2.0, downloaded_gb=3.0))
    assert bill == pytest.approx(month.stored_bytes / 1e9 * 2 + month.downloaded_bytes / 1e9 * 3)
    text = "\n".join(shown(IDLE, PLAN, estimate(IDLE, PLAN), 12.5))
    assert "12.50" in text and "2,628,000" in text
