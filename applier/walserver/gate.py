"""The gate: up to where a standby may be served.

Pause, delayed apply and a common end for a group of instances are all one question, asked
before every send.  A gate is a value: to change it, set another (`WalServer.set_gate`).
"""

from __future__ import annotations

from dataclasses import dataclass

from logship.lsn import Lsn


@dataclass(frozen=True, slots=True)
class Gate:
    """Serve bytes below `hold_at_lsn`; None is an open gate.

    A gate can't take back what a standby already has: one that is past the hold gets
    nothing more until the gate moves beyond it.
    """

    hold_at_lsn: Lsn | None = None

    def limit(self, now: float, end: Lsn) -> Lsn:
        """How far a standby may be served at `now` (monotonic seconds) when `end` is there.

        Never more than `end`.  A timeline that ended at S may be left only if
        `limit(now, S + 1) > S`: a held standby must not learn of a timeline that begins
        at or past its hold, or its own promotion there would write a false history.
        """
        if self.hold_at_lsn is None:
            return end
        return min(end, self.hold_at_lsn)


OPEN_GATE = Gate()
