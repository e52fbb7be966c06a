"""What the WAL server gives the standbys of one instance, and what they say of themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from applier.operations.apply_age import ApplyAge
from applier.store import Store
from applier.walserver.gate import Gate
from applier.walserver.status import StandbyStatus
from logship.errors import Code, LogshipError
from logship.lsn import Lsn

if TYPE_CHECKING:
    from applier.operations.instance import Instance

REFUSAL_CODES = (Code.STANDBY_AHEAD_OF_FORK, Code.WAL_REMOVED, Code.HISTORY_MISSING)
"""What the WAL server may turn a standby away with; over once it streams and reports."""


class Serving:
    """gate_of: how far standbys may be given what a store has, by what is known now."""

    def __init__(self, instance: Instance, gate_of: Callable[[Store], Gate]) -> None:
        self._instance = instance
        self._gate_of = gate_of
        self._is_served = False
        self.applied_lsn = Lsn(0)
        """What our standby has replayed; 0 before it says so."""
        self._apply_age = ApplyAge()

    def serve(self, store: Store) -> None:
        """Let standbys stream from `store`."""
        instance = self._instance
        profile = instance.record.profile
        assert profile is not None
        version = f"{profile.major}.{profile.minor}"
        gate = self._gate_of(store)
        self._is_served = True
        self.stored(store)
        instance.host.wal_server.serve(instance.name, store, version, gate)

    def withdraw(self) -> None:
        self._is_served = False
        self._instance.host.wal_server.withdraw(self._instance.name)

    def set_gate(self) -> None:
        """What standbys may be given may have changed."""
        instance = self._instance
        # A promotion withdraws it while the store stays open.
        if instance.store is not None and self._is_served:
            instance.host.wal_server.set_gate(instance.name, self._gate_of(instance.store))

    def chain_began(self) -> None:
        """A seed began another chain of WAL."""
        self.stored(self._instance.opened_store)
        self.set_gate()

    def stored(self, store: Store) -> None:
        """More of `store` became durable."""
        if store.durable is not None:
            self._apply_age.stored(store.durable.lsn, self.applied_lsn, time.monotonic())

    def apply_gap_seconds(self, durable_lsn: int) -> float | None:
        """How long the oldest WAL has been here that is stored and not replayed."""
        return self._apply_age.seconds(durable_lsn, self.applied_lsn, time.monotonic())

    def standby_status(self) -> StandbyStatus | None:
        """Our standby as the WAL server knows it; None before it ever came."""
        statuses = self._instance.host.wal_server.standbys(self._instance.name)
        return next((s for s in statuses if s.application_name == self._instance.name), None)

    def status_changed(self, status: StandbyStatus) -> None:
        """The WAL server heard from a standby of this instance."""
        instance = self._instance
        if status.application_name != instance.name:
            return
        if status.refusal is not None:
            refusal = status.refusal
            instance.alarms.raise_error(LogshipError(refusal.code, refusal.what, refusal.hint))
        elif status.timeline and status.last_reply_at is not None:
            # Not before it said where it is: by that it may be refused again, each time it comes.
            for code in REFUSAL_CODES:
                instance.alarms.clear(code)
        if status.apply_lsn and status.apply_lsn != self.applied_lsn:
            self.applied_lsn = status.apply_lsn
            instance.standby_moved()
        instance.former.standby_reported()
