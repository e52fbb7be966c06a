"""The stage itself: one measure in its smallest size, so that the benchmark does not rot."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.measures import latency
from tests.bench.receivers import ToolFinder, installation_major
from tests.bench.site import Site
from tests.bench.sizes import QUICK
from tests.support.installations import MAJORS, postgres_dir

pytestmark = pytest.mark.integration


def test_both_roads_are_measured_in_turn_and_nothing_is_left(shared_tmp_path: Path) -> None:
    installation = postgres_dir(15)
    sizes = QUICK._replace(latency_samples=3, latency_warm_up=1, latency_repetitions=1)
    said: list[str] = []
    find_tool = ToolFinder(installation)
    with Site(shared_tmp_path, installation, find_tool, sizes, said.append) as site:
        outcome = latency.measure_visible(site)
        assert site.sql("select count(*) from pg_replication_slots") == [(0,)]
    figures = outcome.figures
    assert 0 < figures["visible_p50_ms"].median <= figures["visible_p99_ms"].median
    assert figures["native_visible_p50_ms"].median > 0
    assert len(said) == 2
    assert list(shared_tmp_path.iterdir()) == []


@pytest.mark.parametrize("major", MAJORS)
def test_the_major_of_an_installation_is_known(major: int) -> None:
    assert installation_major(postgres_dir(major)) == major
