"""The host's memory, shared out among its standbys, and what a share becomes.

Part of the total is held back for promoted servers, all together.  So nobody's share shrinks on
the day of a disaster: no standby has to be started anew for another one's promotion, and what is
promised before a promotion is there.
"""

from __future__ import annotations

from typing import NamedTuple

SERVER_MB = 16
"""Of a share, what its server takes besides buffers: processes, lock tables, an idle one 7.5 MB."""
LEAST_BUFFERS_MB = 8
LEAST_FLOOR_MB = SERVER_MB + 2 * LEAST_BUFFERS_MB

_MAX_MAINTENANCE_MB = 1024
_AUTOVACUUM_WORKERS = 3
"""autovacuum_max_workers, as PostgreSQL has it by itself."""
_LEAST_WORK_MEM_KB = 1024
_STEPS = 4
"""Sizes of buffers between one power of two and the next."""


class MemoryRule(NamedTuple):
    """total_mb: of all standbys together.  floor_mb: what each has at least.  promoted_share: the
    part of the total (0 to 1) that is held back for promoted ones."""

    total_mb: int
    floor_mb: int
    promoted_share: float


class Shares(NamedTuple):
    """What each standby has, and each promoted server, its share as a standby included."""

    standby_mb: int
    promoted_mb: int


class MemoryParameters(NamedTuple):
    """What a share becomes.  PostgreSQL takes shared_buffers over when it starts, the others at
    once."""

    shared_buffers_mb: int
    work_mem_kb: int
    maintenance_work_mem_mb: int
    autovacuum_work_mem_mb: int
    effective_cache_size_mb: int

    def reloadable(self) -> dict[str, str]:
        """Those that need no restart, as postgresql.conf has them."""
        return {
            "work_mem": f"{self.work_mem_kb}kB",
            "maintenance_work_mem": f"{self.maintenance_work_mem_mb}MB",
            "autovacuum_work_mem": f"{self.autovacuum_work_mem_mb}MB",
            "effective_cache_size": f"{self.effective_cache_size_mb}MB",
        }


def shares(rule: MemoryRule, *, instances: int, promoted: int) -> Shares:
    """What each gets where `promoted` of all `instances` are promoted.

    Never less than the floor, even where the floors together are more than the total: see
    `is_overdrawn`.  Otherwise all shares together are the total at most.
    """
    count = max(instances, 1)
    standby_mb = max(rule.floor_mb, int(rule.total_mb * (1 - rule.promoted_share)) // count)
    held_back_mb = max(0, rule.total_mb - count * standby_mb)
    return Shares(standby_mb, standby_mb + held_back_mb // max(promoted, 1))


def is_overdrawn(rule: MemoryRule, instances: int) -> bool:
    """Whether the floors alone are more than there is."""
    return instances * rule.floor_mb > rule.total_mb


def standby_buffers_mb(share_mb: int) -> int:
    """shared_buffers of a standby: half of what its server leaves, as what it reads and writes
    is in the kernel's cache too.

    Rounded down to one of few sizes: one instance more must not change everybody's, as each
    would be started anew for it.
    """
    return _rounded_down(max(LEAST_BUFFERS_MB, (share_mb - SERVER_MB) // 2))


def share_of_buffers_mb(buffers_mb: int) -> int:
    """The least share that a server with such shared_buffers gets on with."""
    return SERVER_MB + 2 * buffers_mb


def promoted_parameters(
    share_mb: int, *, max_connections: int, standby_buffers_mb: int
) -> MemoryParameters:
    """What a promoted server makes of its share.

    A quarter is shared_buffers, as PostgreSQL's documentation has it, and no less than it had as
    a standby.  What maintenance leaves of the rest is for the work of every connection at once.
    """
    buffers_mb = max(standby_buffers_mb, _rounded_down(max(LEAST_BUFFERS_MB, share_mb // 4)))
    maintenance_mb = min(max(share_mb // 16, 16), _MAX_MAINTENANCE_MB)
    autovacuum_mb = max(maintenance_mb // _AUTOVACUUM_WORKERS, 8)
    taken_mb = SERVER_MB + buffers_mb + maintenance_mb + _AUTOVACUUM_WORKERS * autovacuum_mb
    work_mem_kb = max(share_mb - taken_mb, 0) * 1024 // max(max_connections, 1)
    return MemoryParameters(
        shared_buffers_mb=buffers_mb,
        work_mem_kb=max(work_mem_kb, _LEAST_WORK_MEM_KB),
        maintenance_work_mem_mb=maintenance_mb,
        autovacuum_work_mem_mb=autovacuum_mb,
        effective_cache_size_mb=max(share_mb * 3 // 4, buffers_mb),
    )


def _rounded_down(size_mb: int) -> int:
    step = max((1 << (size_mb.bit_length() - 1)) // _STEPS, 1)
    return size_mb - size_mb % step
