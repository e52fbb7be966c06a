"""The measures, by the names that `--only` takes.

Each is a function of the site: it makes what it needs on the site, removes it,
and returns its figures.  None depends on another having run.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.bench.measures import (
    archives,
    bucket,
    catchup,
    fleet,
    footprint,
    latency,
    promotion,
    rate,
    seeding,
)
from tests.bench.results import Outcome
from tests.bench.site import Site

MEASURERS: dict[str, Callable[[Site], Outcome]] = {
    "cli": footprint.measure_commands,
    "idle": footprint.measure_idle,
    "visible": latency.measure_visible,
    "sync": latency.measure_sync,
    "rate": rate.measure,
    "catchup": catchup.measure,
    "archives": archives.measure,
    "seed": seeding.measure,
    "promote": promotion.measure,
    "bucket": bucket.measure,
    "fleet": fleet.measure,
}
