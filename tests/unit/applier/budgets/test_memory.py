"""The rule by which memory is shared, and what a share becomes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from applier.budgets.memory import (
    LEAST_FLOOR_MB,
    SERVER_MB,
    MemoryRule,
    Shares,
    is_overdrawn,
    promoted_parameters,
    shares,
    standby_buffers_mb,
)

RULE = MemoryRule(total_mb=8000, floor_mb=64, promoted_share=0.5)
rules = st.builds(
    MemoryRule,
    total_mb=st.integers(1, 1 << 20),
    floor_mb=st.integers(LEAST_FLOOR_MB, 4096),
    promoted_share=st.floats(0, 0.9),
)
counts = st.integers(1, 200).flatmap(
    lambda instances: st.tuples(st.just(instances), st.integers(0, instances))
)


def test_half_is_for_the_standbys_and_half_for_who_is_promoted() -> None:
    assert shares(RULE, instances=10, promoted=0) == Shares(400, 4400)
    assert shares(RULE, instances=10, promoted=1) == Shares(400, 4400)
    assert shares(RULE, instances=10, promoted=10) == Shares(400, 800)


def test_a_floor_is_taken_from_what_is_held_back() -> None:
    assert shares(RULE, instances=100, promoted=1) == Shares(64, 64 + 1600)
    assert not is_overdrawn(RULE, 125)


def test_floors_that_do_not_fit_are_kept_and_said() -> None:
    assert shares(RULE, instances=200, promoted=1) == Shares(64, 64)
    assert is_overdrawn(RULE, 126)


@given(rule=rules, counts=counts)
def test_nobody_gets_less_than_the_floor_nor_all_together_more_than_there_is(
    rule: MemoryRule, counts: tuple[int, int]
) -> None:
    instances, promoted = counts
    found = shares(rule, instances=instances, promoted=promoted)
    assert found.promoted_mb >= found.standby_mb >= rule.floor_mb
    together = promoted * found.promoted_mb + (instances - promoted) * found.standby_mb
    assert together <= rule.total_mb or is_overdrawn(rule, instances)


@given(rule=rules, counts=counts)
def test_a_standbys_share_does_not_change_when_another_is_promoted(
    rule: MemoryRule, counts: tuple[int, int]
) -> None:
    instances, promoted = counts
    before = shares(rule, instances=instances, promoted=0)
    assert shares(rule, instances=instances, promoted=promoted).standby_mb == before.standby_mb


def test_one_instance_more_seldom_changes_the_buffers_of_the_others() -> None:
    sizes = {
        standby_buffers_mb(shares(RULE, instances=count, promoted=0).standby_mb)
        for count in range(20, 40)
    }
    assert sizes == {40, 48, 56, 64, 80}


@pytest.mark.parametrize(
    ("share_mb", "buffers_mb"), [(LEAST_FLOOR_MB, 8), (64, 24), (400, 192), (4400, 2048)]
)
def test_a_standby_has_half_of_what_its_server_leaves(share_mb: int, buffers_mb: int) -> None:
    assert standby_buffers_mb(share_mb) == buffers_mb


def test_what_a_promoted_server_makes_of_its_share() -> None:
    found = promoted_parameters(4400, max_connections=100, standby_buffers_mb=192)
    assert found.shared_buffers_mb == 1024
    assert found.reloadable() == {
        "work_mem": "28794kB",
        "maintenance_work_mem": "275MB",
        "autovacuum_work_mem": "91MB",
        "effective_cache_size": "3300MB",
    }


@given(
    share_mb=st.integers(LEAST_FLOOR_MB, 1 << 20),
    max_connections=st.integers(1, 5000),
)
def test_what_a_promoted_server_may_use_at_once_fits_into_its_share(
    share_mb: int, max_connections: int
) -> None:
    standby_mb = standby_buffers_mb(share_mb // 2)
    found = promoted_parameters(
        share_mb, max_connections=max_connections, standby_buffers_mb=standby_mb
    )
    assert found.shared_buffers_mb >= standby_mb
    if found.work_mem_kb > 1024:
        used_mb = (
            SERVER_MB
            + found.shared_buffers_mb
            + found.maintenance_work_mem_mb
            + 3 * found.autovacuum_work_mem_mb
            + found.work_mem_kb * max_connections // 1024
        )
        assert used_mb <= share_mb
