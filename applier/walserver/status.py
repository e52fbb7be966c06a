"""What is known of a standby that streams, or tried to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from logship.errors import Code
from logship.lsn import Lsn


class StandbyState(StrEnum):
    """PostgreSQL's `pg_stat_replication.state`, and three of our own."""

    STARTUP = "startup"
    """Connected, not streaming: between commands, or changing timelines."""
    CATCHUP = "catchup"
    """Streaming, behind what is written here."""
    STREAMING = "streaming"
    """Has been sent all that is written here."""
    HELD = "held"
    """Has been sent all that the gate allows."""
    WAITING = "waiting"
    """Has all that there is for it here, or more: nothing to send until the store reaches it,
    or ever, if WAL is missing after what it has (a new seed replaces it then)."""
    REFUSED = "refused"
    """Can't follow: `refusal` says why.  It will connect and try again by itself."""
    DISCONNECTED = "disconnected"
    """Gone; reported once, to `on_status`."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a standby was turned away: code, what is wrong, what to do."""

    code: Code
    what: str
    hint: str
    at: float
    """When (monotonic seconds)."""


class StandbyStatus(NamedTuple):
    """One standby as of its last report.  Times are monotonic seconds of the event loop.

    sent_lsn ≥ write_lsn ≥ flush_lsn ≥ apply_lsn does not always hold: a walreceiver that
    has just started reports its replay position, and `sent_lsn` starts at the segment's
    start that it asked for.  Positions are 0/0 (false) until first reported.
    """

    application_name: str
    pid: int
    """Process at the other end of the socket: the standby's walreceiver."""
    state: StandbyState
    timeline: int
    """The timeline it streams, 0 if it does not."""
    sent_lsn: Lsn
    """End of what was handed to its socket."""
    write_lsn: Lsn
    """End of what it wrote to its pg_wal."""
    flush_lsn: Lsn
    """End of what it made durable: promoted now, it would replay at least to here."""
    apply_lsn: Lsn
    """End of what it replayed."""
    connected_at: float
    last_reply_at: float | None
    refusal: Refusal | None = None
