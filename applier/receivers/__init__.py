"""How WAL and seeds come in.

A receiver speaks a road's protocol (the link's, a bucket's) and hands what arrives to the
instance's `Intake`, in order.  It acknowledges nothing that the intake has not called durable.
Every implementation passes `tests/integration/receiver_contract.py`.

`link` is the ZeroMQ road, `bucket` the one through an object store; `seed` unpacks base
backups for any road.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from logship.bucket.sign_of_life import SignOfLife
from logship.errors import Code, LogshipError, RefusedError
from logship.frames import (
    GapFound,
    Hello,
    SeedBegin,
    SeedChunk,
    SeedEnd,
    ShipperHeartbeat,
)
from logship.identity import Incarnation, Profile
from logship.lsn import Lsn, Position


class Resume(NamedTuple):
    """Where an accepted sender goes on.  position None: a seed must come first."""

    position: Position | None
    known_timelines: tuple[int, ...]
    seed_wanted: bool
    seed_id: str
    seed_sequence: int
    seed_done: bool = False
    """The seed that the hello still held is in place: its end was not heard."""


class Positions(NamedTuple):
    """received ≥ durable on one timeline; applied 0 when not known."""

    received: Position
    durable: Position
    applied: Lsn


class Held(NamedTuple):
    """The current chain of a store, as it was in that moment.  May go to another thread."""

    timeline: int
    """Its newest."""
    start_lsn: Lsn
    """Where its WAL of that timeline starts."""
    end_lsn: Lsn
    is_needed: bool
    """Whether a standby is there, which may have to be recovered with it."""

    def has_from(self, position: Position) -> bool:
        """Whether it has WAL from `position` on, which a chain that begins there keeps."""
        return self._fits(position) and position.lsn < self.end_lsn

    def needed_up_to(self, start: Position) -> Position | None:
        """To where WAL must come again if a chain began at `start`, where a segment does: it
        would set that WAL aside, and a standby needs it.  None: nothing is lost."""
        end = Position(self.timeline, self.end_lsn)
        return None if not self.is_needed or self._fits(start) or start > end else end

    def _fits(self, position: Position) -> bool:
        same = position.timeline == self.timeline
        return same and self.start_lsn <= position.lsn <= self.end_lsn


class FencedError(RefusedError):
    """The instance was promoted (or is being): nothing of the old line is accepted."""

    def __init__(self, at: float, timeline: int, lsn: int) -> None:
        opened = f"opened on timeline {timeline} at {Lsn(lsn)}" if timeline else "being promoted"
        super().__init__(
            Code.FENCED,
            f"this instance is fenced: its standby was promoted ({opened})",
            "keep the old primary away from clients; shipper status shows the promotion",
        )
        self.at = at
        self.timeline = timeline
        self.lsn = lsn


class ShipperSign(NamedTuple):
    """The sign of life that a shipper puts into a bucket, by who looks at it."""

    sign: SignOfLife
    is_fresh: bool
    """It was seen to be renewed, and the shipper is not silent."""
    silent_after_seconds: float
    """For so long it may be unchanged."""
    silent: LogshipError | None
    """SHIPPER_SILENT, if none came for too long."""


class IntakeListener(Protocol):
    """What a receiver wants to be told while it feeds an intake.  Called in the loop."""

    def positions_changed(self) -> None:
        """`Intake.positions` moved, perhaps the durable one: somebody may wait for that."""

    def applied_changed(self) -> None:
        """The standby replayed more; nothing else moved.  Nobody waits for it."""

    def seed_requested(self, why: str) -> None:
        """A seed is wanted now."""

    def resume(self, position: Position, why: str) -> None:
        """What the sender could not send came by another road: go on from `position`."""

    def fenced(self, error: FencedError) -> None:
        """Send nothing more."""

    def failed(self, error: Exception) -> None:
        """The store failed outside a call: end the connection, it will come again."""


class Intake(Protocol):
    """One instance as a receiver sees it.  Calls come from one task at a time.

    All of them raise LogshipError; `retryable` tells whether the same sender may come again
    with the same thing.  FencedError may come from any of them.
    """

    async def hello(self, hello: Hello, listener: IntakeListener) -> Resume:
        """Identify the sender's cluster.  From here on `listener` is told until `lost`.

        Raises SYSTEM_IDENTIFIER_MISMATCH, MAJOR_MISMATCH, SEGMENT_SIZE_MISMATCH, …: tell
        the sender and end the connection.
        """

    async def history(self, timeline: int, content: bytes) -> None:
        """Keep a timeline's history file."""

    async def wal(self, timeline: int, start_lsn: int, data: bytes | memoryview) -> None:
        """Write WAL; returns when it may leave memory (written, not yet durable).

        Waits while the disk is full.  Raises WAL_GAP: send ResumeAt `positions().received`.
        The listener hears `positions_changed` once it is durable.
        """

    def wal_at_once(self, timeline: int, start_lsn: int, data: bytes | memoryview) -> bool:
        """`wal`, if that takes no waiting.  False: it does, nothing was done, call `wal`.

        Only while no other call runs.  Raises what `wal` does.
        """

    def heard_from(self, timeline: int, flush_lsn: int) -> None:
        """The primary's flush position, as the sender knows it."""

    def heard_with_span(self, timeline: int, flush_lsn: int, at: float = 0.0) -> None:
        """The flush position that came with WAL of `timeline`, perhaps not the newest one.

        at: when it was so, in seconds since the epoch by the sender's clock; 0: just now.
        """

    def heartbeat(self, heartbeat: ShipperHeartbeat) -> None: ...

    async def profile(self, profile: Profile) -> None:
        """The primary changed; comes before any WAL that it wrote since."""

    def gap_found(self, gap: GapFound) -> None:
        """The sender has no more WAL that joins what is stored."""

    async def seed_begin(self, frame: SeedBegin) -> None: ...

    async def seed_chunk(self, frame: SeedChunk, payload: bytes | memoryview) -> None: ...

    async def seed_end(self, frame: SeedEnd) -> None:
        """Verify, and put in place.  Returns when the seed is the standby's data directory."""

    async def seed_stopped(self, seed_id: str, code: str, what: str) -> None:
        """The sender gave the seed up."""

    def positions(self) -> Positions | None:
        """None while there is no chain of WAL (before the first seed)."""

    def lost(self, listener: IntakeListener, why: str) -> None:
        """The connection ended; `listener` is told nothing more."""


class BucketIntake(Intake, Protocol):
    """One instance as the reader of its bucket sees it.  The link may feed the same instance:
    the store takes WAL from both, compares where they overlap, and refuses gaps."""

    @property
    def incarnation(self) -> Incarnation | None:
        """The cluster that the instance is; None: not known yet."""

    @property
    def accepted(self) -> Incarnation | None:
        """Another one that may take its place, if it is there."""

    def read_from(self) -> float | None:
        """When the bucket is wanted (monotonic seconds; now, if that is past).  None: not
        before the reader is woken, which is to be asked for nothing meanwhile."""

    def promoted(self) -> FencedError | None:
        """The instance was promoted for good: who still writes to the bucket is to be told."""

    def held(self) -> Held | None:
        """What the store has; None: nothing."""

    def bucket_failed(self, error: LogshipError) -> None:
        """The bucket, or an object in it, can't be used; it is tried again."""

    def bucket_answers(self) -> None:
        """What the reader asks for, it gets again."""

    def bucket_sealed(self, error: LogshipError | None) -> None:
        """Something in the bucket can't be opened, whether or not it is asked for; None: all
        can be, as far as was looked."""

    def signed(self, seen: ShipperSign | None) -> None:
        """The shipper's sign of life was looked at.  None: there is none, or nobody looks."""

    def bucket_dry(self) -> None:
        """All that is in the bucket was handed on; nothing of it is missing."""
