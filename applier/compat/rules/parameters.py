"""Parameters of the primary that a standby must not have less of."""

from __future__ import annotations

from applier.compat.case import PASS, WARN, Answer, Case

# What a server reserves in shared memory for each session or prepared transaction, and for each
# lock: measured with `postgres -C shared_memory_size` of 17, at 100 to 5000 sessions.
_SESSION_BYTES = 24_000
_LOCK_BYTES = 400

_LARGE_BYTES = 512 << 20
"""From here on an idle standby takes a notable part of a recovery server."""


def parameter_floors(case: Case) -> Answer:
    primary = case.primary
    floors = {
        "max_connections": primary.max_connections,
        "max_worker_processes": primary.max_worker_processes,
        "max_wal_senders": primary.max_wal_senders,
        "max_prepared_transactions": primary.max_prepared_transactions,
        "max_locks_per_transaction": primary.max_locks_per_transaction,
    }
    shown = ", ".join(f"{name} {value}" for name, value in floors.items())
    sessions = sum(floors.values()) - primary.max_locks_per_transaction
    reserved_bytes = sessions * (_SESSION_BYTES + _LOCK_BYTES * primary.max_locks_per_transaction)
    if reserved_bytes < _LARGE_BYTES:
        return Answer(PASS, shown, "raised to these")
    return Answer(
        WARN,
        shown,
        f"raised to these: about {reserved_bytes >> 20} MB of shared memory",
        "see that the recovery server has this memory beside shared_buffers, or lower the "
        "parameters on the primary if they are higher than it needs",
        "A standby must have at least the primary's values, and reserves memory for all of "
        "them when it starts.",
    )
