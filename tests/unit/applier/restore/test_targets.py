"""What may be asked for, and ranges of LSNs."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from applier.restore.intervals import Interval, clip, holding, union
from applier.restore.targets import LATEST, Target, make_target, parse_time, shown_time
from logship.errors import UsageError
from logship.lsn import Lsn

NOON = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-03-01T12:00:00Z", NOON),
        ("2026-03-01 12:00:00", NOON),  # without a zone: UTC
        ("2026-03-01 13:00:00+01:00", NOON),
        ("2026-03-01 13:00:00.000001+01", NOON + 1),
        ("2026-03-01 06:30:00-0530", NOON),
        ("2026-03-01", NOON - 43_200_000_000),
        ("1969-12-31 23:59:59.5Z", -500_000),
    ],
)
def test_times_are_read_as_iso_and_postgresql_write_them(text: str, time: int) -> None:
    assert parse_time(text) == time
    assert parse_time(shown_time(time)) == time


@pytest.mark.parametrize(
    "text", ["", "noon", "12:00", "2026-02-30", "2026-03-01 25:00", "2026-03-01 12:00 CET"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no time"):
        parse_time(text)


def target(**given: object) -> Target:
    options: dict[str, object] = {"to_time": None, "to_lsn": None, "to_name": None, "latest": False}
    return make_target(**{**options, **given})  # type: ignore[arg-type]


def test_one_target_is_given() -> None:
    assert target(latest=True) == LATEST
    assert target(to_lsn="1/2") == Target("lsn", lsn=Lsn((1 << 32) + 2))
    assert target(to_name="before the release").name == "before the release"
    assert target(to_time="2026-03-01T12:00Z").time == NOON
    for wrong in (
        {},
        {"latest": True, "to_lsn": "1/2"},
        {"to_lsn": "12"},
        {"to_name": ""},
        {"to_name": "é" * 32},
    ):
        with pytest.raises(UsageError):
            target(**wrong)


intervals = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=12).map(
    lambda pairs: [Interval(start, start + size) for start, size in pairs]
)


@given(intervals, st.integers(0, 70), st.integers(0, 70))
def test_ranges_hold_the_bytes_that_they_are_made_of(
    made: list[Interval], start: int, end: int
) -> None:
    there = {lsn for each in made for lsn in range(each.start, each.end)}
    joined = union(made)
    assert {lsn for each in joined for lsn in range(each.start, each.end)} == there
    assert all(before.end < after.start for before, after in pairwise(joined))
    clipped = {lsn for each in clip(joined, start, end) for lsn in range(each.start, each.end)}
    assert clipped == {lsn for lsn in there if start <= lsn < end}
    if start < end:
        assert (holding(joined, start, end) is not None) == (set(range(start, end)) <= there)
