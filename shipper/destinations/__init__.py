"""Where WAL goes.

A destination takes sealed spans, histories and seed chunks in order and says what became
durable at its far end.  It never says so from memory or after a time-out.  Every
implementation passes `tests/integration/destination_contract.py`.

`link` is the ZeroMQ road to an applier, `bucket` stores for whoever reads the bucket, `several`
is several destinations as one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from logship.errors import LogshipError
from logship.frames import GapFound, OtherRoad, SeedAborted, SeedBegin, SeedChunk, SeedEnd
from logship.identity import Profile
from logship.lsn import Lsn, Position
from logship.seal import Sealed


class Accepted(NamedTuple):
    """The far end takes our WAL.  position None: it has none yet and needs a seed."""

    position: Position | None
    known_timelines: frozenset[int]
    seed_wanted: bool
    max_span_bytes: int
    durable: Position | None = None
    """What the far end has on disk; None too while a seed begins, although `position` then says
    where its WAL starts."""
    seeding: bool | None = None
    """Whether it is still taking a seed that was begun; None: a SeedFinished tells that alone."""


class Acked(NamedTuple):
    """received ≥ durable; applied 0 when not known."""

    received: Position
    durable: Position
    applied: Lsn


class Rewind(NamedTuple):
    """Send WAL again from here: something was lost on the way, or a seed made a new start.

    Answer with `resume`; spans that are sent before it are dropped.
    """

    position: Position
    why: str


class SeedWanted(NamedTuple):
    why: str


class SeedFinished(NamedTuple):
    """The far end has the seed in place (error ""), or gave it up."""

    seed_id: str
    error: str


class Lost(NamedTuple):
    """The connection ended; `connect` again.  Nothing is in flight any more.

    error.retryable False: somebody must change something first (refused, fenced).
    """

    error: LogshipError


DestinationEvent = Acked | Rewind | SeedWanted | SeedFinished | Lost


class Facts(NamedTuple):
    """What a destination tells its far end about the primary."""

    profile: Profile
    timeline: int
    flush_lsn: Lsn
    reachable: bool
    sync_state: str
    slot_wal_status: str
    slot_restart_lsn: Lsn | None = None
    """The primary still has the WAL from here on; None: not known."""
    ships: bool = True
    """WAL can be had, whether or not the primary answers.  False: there is nothing to tell but
    that it is away."""
    other_roads: tuple[OtherRoad, ...] = ()
    """What becomes of the same WAL elsewhere; filled in by `several`."""


@runtime_checkable
class PushesAcks(Protocol):
    """A destination that can hand acks on in the step of the loop that received them."""

    on_acked: Callable[[Acked], None] | None
    """Called with acks, which `next_event` does not give then.  Must not raise."""


@runtime_checkable
class HasMembers(Protocol):
    """A destination that is several: connected as a whole, some of them may be away."""

    def away(self) -> Mapping[str, LogshipError | None]:
        """Those without which WAL has not its whole way now, by name, and why."""


@runtime_checkable
class MayStand(Protocol):
    """A destination that may be connected and take nothing until somebody acts."""

    def standing(self) -> LogshipError | None:
        """Why that is so now; None: it is not."""


class Destination(Protocol):
    """One far end.  Methods are called in one event loop."""

    @property
    def far_end(self) -> str:
        """What an operator calls it, for logs: "the applier", "the bucket"."""

    async def connect(self, facts: Facts) -> Accepted:
        """Try once to reach the far end and be accepted.

        `facts` with `reachable` False say that the primary is away: connect anew once it is
        back.  With `ships` WAL follows all the same, as an archiver left some, but no seed;
        without, nothing does, and the position is of no use.

        Raises LogshipError; `retryable` tells whether to try again soon (unreachable) or
        rarely (refused: somebody must change something first).
        """

    def tell(self, facts: Facts) -> None:
        """The primary's state changed, or time passed; cheap, may be called often."""

    async def room(self, size_bytes: int) -> None:
        """Wait until `size_bytes` more may be in flight.  Raises LogshipError(LINK_LOST).

        Also asked outside of a task, and given up where it begins to wait.
        """

    def resume(self, position: Position) -> None:
        """Spans go on at `position`: that of `Accepted` or of the last Rewind.

        Call it before the first span and after each Rewind.  With any other position the
        spans are dropped: a Rewind that says better is on its way then.
        """

    def send_span(self, timeline: int, start_lsn: int, sealed: Sealed, flush_lsn: int) -> None:
        """Ship WAL that never crosses a segment's end.  Wait for `room` first."""

    def send_history(self, timeline: int, content: bytes) -> None: ...

    def send_gap(self, gap: GapFound) -> None: ...

    async def send_seed(
        self, frame: SeedBegin | SeedChunk | SeedEnd | SeedAborted, payload: bytes | memoryview
    ) -> None:
        """Ship a part of a seed; waits for room, also over a cut of the connection.

        Raises LogshipError(SEED_FAILED) when the far end can't go on with this seed: stop
        making it.  A SeedFinished tells the same.
        """

    async def next_event(self) -> DestinationEvent:
        """What the far end said next.  Acks are merged: only the newest is given."""

    async def close(self, reason: str) -> None:
        """Say goodbye, let go."""
