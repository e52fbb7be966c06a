"""Where WAL comes from.

A source gives one cluster's WAL as `SourceEvent`s, in order and without holes, from a
position the store asked for.  It is told what became durable (`acknowledge`) and must not
let the primary forget WAL above that.  Every implementation passes
`tests/integration/source_contract.py`.

`stream` is the replication protocol, `archive` an outbox directory.  `plan` decides, with no
I/O, which timeline to read and from where; `primary` asks the primary over SQL what it is and
what it thinks of us; `environment` what surrounds it; `primary_profile` reads both once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from logship.identity import Profile
from logship.lsn import Lsn, Position


class WalBytes(NamedTuple):
    """WAL of `timeline` from `start_lsn`.  `chunks` joined never cross a segment's end."""

    timeline: int
    start_lsn: Lsn
    chunks: Sequence[bytes | memoryview]
    size_bytes: int

    @property
    def end_lsn(self) -> Lsn:
        return Lsn(self.start_lsn + self.size_bytes)


class HistoryFile(NamedTuple):
    """A timeline's history; comes before any WAL of that timeline."""

    timeline: int
    content: bytes


class SourceIdentity(NamedTuple):
    """What the source reads from, as of `open`."""

    profile: Profile
    timeline: int
    flush_lsn: Lsn


class Observation(NamedTuple):
    """What the source's server says of itself and of us, for status and the version check."""

    profile: Profile
    sync_state: str
    """pg_stat_replication.sync_state of our stream, "" when not streaming or not known."""
    slot_wal_status: str
    slot_restart_lsn: Lsn | None


SourceEvent = WalBytes | HistoryFile


@runtime_checkable
class PushesWal(Protocol):
    """A source that can hand WAL on in the step of the loop that received it."""

    on_wal: Callable[[WalBytes], bool] | None
    """Called with WAL that comes while `read` waits, if it is little; true if that is done with
    it, else `read` returns it.  What it raises, `read` raises."""


class Source(Protocol):
    """One cluster's WAL.  Not for use by two tasks, except `acknowledge` and `observe`."""

    async def open(self) -> SourceIdentity:
        """Connect and identify; lets go of an earlier connection first.

        Raises LogshipError; after a retryable one (the primary is down) call it again.  A
        source that failed to open has forgotten what it knew: `start` refuses until it opens.
        """

    async def reserve(self) -> None:
        """From now on the server keeps its WAL for us.  Call before a seed; `start` does it.

        Raises LogshipError: SLOT_MISSING or SLOT_LOST when that needs the operator, and what
        `open` raises.
        """

    async def start(self, resume: Position, known_timelines: frozenset[int]) -> None:
        """Begin at `resume`; `known_timelines` need no history file again.

        Reads only from the server that `open` described: if it is another one by now, or has
        changed, a retryable error says so, and `open` tells what it has become.

        Raises LogshipError.  Only a seed continues after WAL_REMOVED and SLOT_LOST (the WAL
        at `resume` is gone), TIMELINE_DIVERGED, NOT_IN_HISTORY and PRIMARY_BEHIND (`resume`
        is not on the source's line).  SLOT_MISSING: the operator has to make it.  SLOT_IN_USE
        and what `open` raises: `open` again.  All may also come from `read`.
        """

    async def read(self, max_bytes: int) -> list[SourceEvent]:
        """The next events, waiting for the first; at most about `max_bytes` of WAL.

        An empty list means that only `flush_lsn` moved.  After an error call `open`.
        """

    @property
    def flush_lsn(self) -> Lsn:
        """The server's flush position as last heard."""

    @property
    def reachable(self) -> bool:
        """Whether the server was there when it was last asked.

        False only from a source that gives WAL all the same, of what was archived.  When the
        server is back `read` raises a retryable error, and `open` tells what it is.
        """

    def acknowledge(self, received: Position, durable: Position, applied: Lsn) -> None:
        """`durable` is on the applier's disk: the server may forget what is below.

        `received` and `applied` are for the server's own views (and `remote_apply`);
        applied 0 means not known.
        """

    async def observe(self) -> Observation:
        """Ask the server how it and our stream are.  Raises LogshipError."""

    async def close(self) -> None:
        """Let go of the server.  Its slot stays."""
