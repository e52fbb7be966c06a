"""One member of `several`: what is known of it, and how long others wait for it.  No I/O."""

from __future__ import annotations

from enum import StrEnum

from logship.errors import LogshipError
from logship.frames import GapFound, OtherRoad
from logship.lsn import Position
from shipper.destinations import Accepted, Acked, Facts

PATIENCE_SHARE = 0.1
"""An optional member may slow the others down by so much of their time in the long run, and by
its budget at once."""
FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 300.0


class Role(StrEnum):
    """What the others, and the slot, owe a member."""

    REQUIRED = "required"
    """The slot waits for what is durable there."""
    OPTIONAL = "optional"
    """It gets what can be had without the others waiting for it."""
    SPILL = "spill"
    """It is used while the first member can't keep up, and stands in for it then."""


class Member:
    """A destination as the others see it."""

    def __init__(self, name: str, role: Role, *, budget_seconds: float) -> None:
        self.name = name
        self.role = role
        self.connected = False
        self.telling = False
        """The connection only says that the primary is away."""
        self.greeted_away = False
        """It was said when the connection was made that the primary is away."""
        self.next: Position | None = None
        """Where what it is sent goes on.  None: nowhere before a seed, or a place is looked for."""
        self.durable: Position | None = None
        """What survives there; kept over cuts."""
        self.received: Position | None = None
        self.applied = 0
        self.known_timelines: set[int] = set()
        self.max_span_bytes = 0
        self.gap: GapFound | None = None
        """It can't go on: it misses this, until it asks for another place."""
        self.error: LogshipError | None = None
        """Why it is not connected."""
        self.standing: LogshipError | None = None
        """Why it takes nothing though it is."""
        self.lost_at: float | None = None
        self.aside_until: float | None = None
        """It is sent nothing until then, and until it has taken what it was sent."""
        self.behind = False
        """It was left behind, and has not caught up since."""
        self.times_behind = 0
        self._budget_seconds = budget_seconds
        self._patience_seconds = budget_seconds
        self._patient_at: float | None = None
        self._pause_seconds = FIRST_PAUSE_SECONDS

    @property
    def takes(self) -> bool:
        """Whether WAL is sent to it now."""
        return (
            self.connected
            and not self.telling
            and self.next is not None
            and self.gap is None
            and self.aside_until is None
        )

    @property
    def drained(self) -> bool:
        """It has taken all that it was sent."""
        return self.next is None or self.received is None or self.received >= self.next

    def accepted(self, accepted: Accepted, facts: Facts) -> None:
        """... what was said with `facts`."""
        self.connected = True
        self.telling, self.greeted_away = not facts.ships, not facts.reachable
        self.next = accepted.position
        self.durable = self.received = accepted.durable
        self.known_timelines = set(accepted.known_timelines)
        self.max_span_bytes = accepted.max_span_bytes
        self.gap = self.error = self.lost_at = self.aside_until = None

    def parted(self, error: LogshipError | None, now: float) -> None:
        """There is no connection (any more)."""
        if self.lost_at is None:
            self.lost_at = now
        self.connected = self.telling = self.greeted_away = False
        self.next = self.gap = self.aside_until = None
        self.error = error

    def acked(self, acked: Acked) -> None:
        self.received, self.durable, self.applied = acked

    def seed_began(self) -> None:
        """Acks of the chain before the seed count no more."""
        self.durable = self.received = None

    # --- patience -------------------------------------------------------------------------

    def patience_seconds(self, now: float) -> float:
        """How long the others may wait for it now."""
        if self._patient_at is not None:
            more = PATIENCE_SHARE * (now - self._patient_at)
            self._patience_seconds = min(self._budget_seconds, self._patience_seconds + more)
        self._patient_at = now
        return max(0.0, self._patience_seconds)

    def kept_waiting(self, seconds: float, now: float) -> bool:
        """The others waited for it.  True: for too long."""
        self._patience_seconds = self.patience_seconds(now) - seconds
        return self._patience_seconds <= 0

    def leave_behind(self, now: float) -> None:
        """Go on without it, for longer each time that it does not catch up in between."""
        self.aside_until = now + self._pause_seconds
        self._pause_seconds = min(LONGEST_PAUSE_SECONDS, 2 * self._pause_seconds)
        self._patience_seconds = self._budget_seconds
        self.behind = True
        self.times_behind += 1

    def caught_up(self) -> None:
        self.behind = False
        self._pause_seconds = FIRST_PAUSE_SECONDS

    # --- for the status -------------------------------------------------------------------

    def road(self, *, idle: bool, spilling_since: Position | None) -> OtherRoad:
        """What the far end of another member is told of this one.  idle: it is not needed."""
        state, what, since, available = "connected", "", 0, 0
        if idle:
            state = "idle"
        elif not self.connected:
            refused = self.error is not None and not self.error.retryable
            state, what = ("refused" if refused else "lost"), self.error.what if self.error else ""
        elif self.standing is not None:
            state, what = "refused", self.standing.what
        elif self.gap is not None:
            state, what = "gap", self.gap.what
            since, available = self.gap.from_lsn, self.gap.available_lsn
        elif self.role is Role.SPILL and spilling_since is not None:
            state, since = "spilling", spilling_since.lsn
        elif self.behind:
            state, what = "behind", f"it was left behind {self.times_behind} times"
        durable = self.durable
        return OtherRoad(
            name=self.name,
            role=str(self.role),
            state=state,
            timeline=durable.timeline if durable is not None else 0,
            durable_lsn=durable.lsn if durable is not None else 0,
            since_lsn=since,
            available_lsn=available,
            what=what,
        )
