"""How much a run does.  A quick one shows that everything works; its figures mean nothing."""

from __future__ import annotations

from typing import NamedTuple

MB = 1_000_000
GB = 1_000 * MB


class Sizes(NamedTuple):
    """One row of a table is about 1 kB, and so is its WAL."""

    wal_rows: int
    """Rows of one generation of WAL: the rate measures write it once a repetition, the
    catch-up measures twice."""
    seed_rows: int
    """Rows of about 1 kB in the cluster that is seeded; as many bytes again in small rows."""
    latency_samples: int
    latency_warm_up: int
    latency_repetitions: int
    bucket_samples: int
    """Of a commit's way through a bucket, a second or two each."""
    repetitions: int
    """Of the measures that move much data."""
    promotions: int
    idle_seconds: float
    command_runs: int
    fleet_idle: int
    """Standbys of an applier that have nothing to do."""
    fleet_busy: int
    fleet_simulated: int
    """Instances without a server."""
    fleet_samples: int
    fleet_seconds: float
    """Of watching the fleet do nothing."""
    settle_seconds: float
    """At most waited before a measure for a machine that is busy."""
    touch_bytes: int
    """Memory touched and freed before a repetition."""
    needed_disk_bytes: int
    max_wal_size: str
    min_wal_size: str


FULL = Sizes(
    wal_rows=1_000_000,
    seed_rows=900_000,
    latency_samples=400,
    latency_warm_up=100,
    latency_repetitions=6,
    bucket_samples=60,
    repetitions=3,
    promotions=20,
    idle_seconds=30.0,
    command_runs=20,
    fleet_idle=100,
    fleet_busy=8,
    fleet_simulated=500,
    fleet_samples=800,
    fleet_seconds=20.0,
    settle_seconds=60.0,
    touch_bytes=5 * GB,
    needed_disk_bytes=30 * GB,
    max_wal_size="16GB",
    min_wal_size="4GB",
)

QUICK = Sizes(
    wal_rows=30_000,
    seed_rows=30_000,
    latency_samples=20,
    latency_warm_up=5,
    latency_repetitions=2,
    bucket_samples=3,
    repetitions=1,
    promotions=2,
    idle_seconds=2.0,
    command_runs=3,
    fleet_idle=3,
    fleet_busy=2,
    fleet_simulated=12,
    fleet_samples=20,
    fleet_seconds=2.0,
    settle_seconds=0.0,
    touch_bytes=100 * MB,
    needed_disk_bytes=4 * GB,
    max_wal_size="2GB",
    min_wal_size="128MB",
)
