"""Requests and bytes a month of a bucket, from a rate of WAL and the settings.  No I/O.

Everything that is not known is estimated upwards; docs/cost.md names the assumptions.
"""

from __future__ import annotations

import itertools
import math
from typing import Final, NamedTuple

MONTH_SECONDS: Final = 730 * 3600.0
"""The month that prices are given for."""
_MB: Final = 1e6
_GB: Final = 1e9
_PAGE: Final = 1000
"""Keys that one LIST names and one DELETE removes."""
_PART_BYTES: Final = 8 * 1024 * 1024
_EPOCH_SECONDS: Final = 1.0
"""The epoch is asked for so often at most, and only while something is put."""


class WalRate(NamedTuple):
    """How a primary writes."""

    bytes_per_second: float
    windows_per_second: float
    """How often something is put because `max_delay_seconds` are over; see `windows_of`."""
    segment_bytes: int


class Plan(NamedTuple):
    """The settings of both sides, and what stays for how long."""

    max_object_bytes: int
    appliers: int
    poll_seconds: float
    compression: float
    """Stored bytes for each byte of WAL."""
    seeds_per_month: float
    seed_bytes: float
    """One seed, compressed."""
    kept_hours: float
    """WAL stays so long; 0: for ever."""
    kept_seeds: int
    """So many stay; 0: all."""
    alive_every_seconds: float = 0.0
    """A sign of life is put so often; 0: none."""


class Estimate(NamedTuple):
    """A month.  With nothing ever removed, `stored_bytes` is what the first month adds."""

    put: float
    get: float
    get_polls: float
    """Those that find nothing."""
    list: float
    delete: float
    copy: float
    """Finished segments are put again from memory: none."""
    uploaded_bytes: float
    downloaded_bytes: float
    stored_bytes: float
    grows: bool
    """Whether it stores so much more each month."""


class Prices(NamedTuple):
    """Of whom you buy from; None: not given."""

    put_per_1000: float | None = None
    """PUT and LIST, as they are mostly sold."""
    get_per_1000: float | None = None
    stored_gb_month: float | None = None
    downloaded_gb: float | None = None


def windows_of(commits_per_second: float, max_delay_seconds: float) -> float:
    """How many times a second the delay runs out, for commits that come by chance.

    It starts with the first byte that waits and ends with an object; then there is a wait for
    the next commit.  Commits that come in bursts make fewer.
    """
    if commits_per_second <= 0:
        return 0.0
    return 1 / (max_delay_seconds + 1 / commits_per_second)


def windows_seen(samples: list[tuple[float, int]], max_delay_seconds: float) -> int:
    """How many times the delay ran out in a row of (seconds, position): each starts when the
    position is first seen to have moved."""
    windows = 0
    ends_at = -math.inf
    for (_, before), (at, position) in itertools.pairwise(samples):
        if position != before and at >= ends_at:
            windows += 1
            ends_at = at + max_delay_seconds
    return windows


def estimate(rate: WalRate, plan: Plan) -> Estimate:
    """What a month takes."""
    segments = rate.bytes_per_second / rate.segment_bytes
    by_size = rate.bytes_per_second / min(plan.max_object_bytes, rate.segment_bytes)
    # A segment's end ends an object as well.
    objects = max(rate.windows_per_second + segments, by_size)
    joined = segments if objects > segments else 0.0
    parts = plan.seeds_per_month * (plan.seed_bytes / _PART_BYTES + 4)
    signs = MONTH_SECONDS / plan.alive_every_seconds if plan.alive_every_seconds else 0.0
    put = (objects + joined) * MONTH_SECONDS + parts + signs
    epoch = min(objects, 1 / _EPOCH_SECONDS) * MONTH_SECONDS
    polls = plan.appliers * MONTH_SECONDS / plan.poll_seconds
    wal_bytes = rate.bytes_per_second * plan.compression * MONTH_SECONDS
    kept_seconds = plan.kept_hours * 3600 or MONTH_SECONDS
    kept_seeds = plan.kept_seeds or plan.seeds_per_month
    removes = plan.kept_hours > 0
    # Once a day, where something is removed.
    kept_objects = segments * kept_seconds + kept_seeds * plan.seed_bytes / _PART_BYTES
    listings = MONTH_SECONDS / 86400 * (3 + kept_objects / _PAGE) if removes else 0.0
    delete = (joined + objects / _PAGE) * MONTH_SECONDS if joined else 0.0
    if removes:
        delete += (segments * MONTH_SECONDS + parts) / _PAGE
    return Estimate(
        put=put,
        # A sign of life is preceded by a look at the epoch.
        get=plan.appliers * (objects * MONTH_SECONDS + signs) + epoch + signs,
        get_polls=polls,
        list=listings,
        delete=delete,
        copy=0.0,
        uploaded_bytes=wal_bytes * (2 if joined else 1) + plan.seeds_per_month * plan.seed_bytes,
        downloaded_bytes=wal_bytes * plan.appliers,
        stored_bytes=rate.bytes_per_second * plan.compression * kept_seconds
        + kept_seeds * plan.seed_bytes,
        grows=not removes,
    )


def price(estimated: Estimate, prices: Prices) -> float | None:
    """A month's bill; None if no price is given.  What has no price costs nothing here."""
    if not any(each is not None for each in prices):
        return None
    return (
        (estimated.put + estimated.list) / 1000 * (prices.put_per_1000 or 0)
        + (estimated.get + estimated.get_polls) / 1000 * (prices.get_per_1000 or 0)
        + estimated.stored_bytes / _GB * (prices.stored_gb_month or 0)
        + estimated.downloaded_bytes / _GB * (prices.downloaded_gb or 0)
    )


def shown(rate: WalRate, plan: Plan, estimated: Estimate, cost: float | None) -> list[str]:
    """For people."""
    stored = "stored" if not estimated.grows else "stored, more each month"
    lines = [
        f"{rate.bytes_per_second * 3600 / _MB:,.1f} MB of WAL an hour, "
        f"{rate.windows_per_second:.2f} objects a second by delay, {plan.appliers} applier(s)",
        "a month:",
        *(
            f"  {name:26}{number:16,.0f}"
            for name, number in (
                ("PUT", estimated.put),
                ("GET", estimated.get),
                ("GET that finds nothing", estimated.get_polls),
                ("LIST", estimated.list),
                ("DELETE", estimated.delete),
                ("copies", estimated.copy),
            )
        ),
        *(
            f"  {name:26}{size / _GB:16,.2f} GB"
            for name, size in (
                ("uploaded", estimated.uploaded_bytes),
                ("downloaded", estimated.downloaded_bytes),
                (stored, estimated.stored_bytes),
            )
        ),
    ]
    if cost is not None:
        lines.append(f"  {'at the prices given':26}{cost:16,.2f}")
    return lines
