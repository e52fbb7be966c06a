"""What an instance takes of the disk, between two looks at it."""

from __future__ import annotations

from applier.budgets.disk import MEASURE_FULL_SECONDS, MEASURE_SECONDS, DiskQuota

LIMIT = 1000


def measured(used_bytes: int, now: float = 0.0) -> DiskQuota:
    quota = DiskQuota(LIMIT)
    quota.measured(used_bytes, 0, now)
    return quota


def test_nothing_comes_before_it_was_measured() -> None:
    quota = DiskQuota(LIMIT)
    assert quota.is_measure_due(1, 0)
    assert not quota.has_room(1)
    assert quota.used_bytes is None


def test_what_came_counts_until_it_is_measured() -> None:
    quota = measured(600)
    assert quota.has_room(400)
    assert not quota.has_room(401)
    quota.came(300)
    assert quota.used_bytes == 900
    assert not quota.has_room(101)
    quota.measured(650, quota.came_bytes, 1)
    assert quota.used_bytes == 650, "the standby replayed some of it, and threw away the WAL"


def test_what_came_while_it_was_measured_is_not_forgotten() -> None:
    quota = measured(0)
    quota.came(100)
    before = quota.came_bytes
    quota.came(50)
    quota.measured(100, before, 1)
    assert quota.used_bytes == 150


def test_an_idle_instance_is_not_looked_at() -> None:
    quota = measured(100)
    assert not quota.is_measure_due(1, 100 * MEASURE_SECONDS)
    quota.came(1)
    assert quota.is_measure_due(1, MEASURE_SECONDS)
    assert not quota.is_measure_due(1, MEASURE_SECONDS - 1)


def test_one_without_room_for_what_is_to_come_is_looked_at_again_soon() -> None:
    quota = measured(LIMIT - 1)
    assert quota.is_measure_due(2, MEASURE_FULL_SECONDS)
    assert not quota.is_measure_due(1, MEASURE_FULL_SECONDS)
    quota = measured(LIMIT)
    assert not quota.is_measure_due(1, MEASURE_FULL_SECONDS - 1)
    assert quota.is_measure_due(1, MEASURE_FULL_SECONDS)
